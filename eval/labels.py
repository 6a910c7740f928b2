"""Turning a label column into class numbers or scores, whatever the file wrote them as."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError

Value = int | float | str


def read_values(values: Sequence[Any], origin: str, column: str) -> list[Value]:
    """Read labels as integers where all are, else as numbers where all are, else as strings.

    Strings that spell numbers count as numbers, so that csv and parquet give the same labels.

    Args:
        values: The column's values.
        origin: Where they came from, for messages.
        column: The column's name, for messages.

    Returns:
        Values of one type.

    Raises:
        DataError: A value is missing, not finite, or neither number nor string.
    """
    for row, value in enumerate(values):
        if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
            raise DataError(f"{origin}: row {row} has no label in column {column!r}; fill it in or drop the row")
        if not isinstance(value, (int, float, str)):
            raise DataError(f"{origin}: row {row}, column {column!r}: a label is a number or a string, not {value!r}")
    if any(isinstance(value, bool) for value in values):
        return [str(value).lower() for value in values]
    try:
        return [_whole(value) for value in values]
    except ValueError:
        pass
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return [str(value) for value in values]
    return list(numbers) if all(math.isfinite(number) for number in numbers) else [str(value) for value in values]


def _whole(value: Any) -> int:
    """An integer that is written as one; 1.0 is not."""
    return int(repr(value)) if isinstance(value, float) else int(value)  # int("1.0") is refused, int(1.0) is not


def scores(values: Sequence[Value], origin: str, column: str) -> NDArray[np.float32]:
    """Labels of a regression.

    Args:
        values: What `read_values` gave.
        origin: Where they came from, for messages.
        column: The column's name, for messages.

    Returns:
        float32 (examples,).

    Raises:
        DataError: A value is not a number.
    """
    for row, value in enumerate(values):
        if isinstance(value, str) and not _is_number(value):
            raise DataError(f"{origin}: row {row}, column {column!r}: {value!r} is not a number, as a regression needs")
    return np.array([float(value) for value in values], dtype=np.float32)


def _is_number(text: str) -> bool:
    """Whether a string spells a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def class_names(values: Sequence[Value], origin: str, column: str) -> tuple[str, ...]:
    """Names of the classes that occur in training labels, in order: by number, or by the alphabet.

    Args:
        values: What `read_values` gave for the training split.
        origin: Where they came from, for messages.
        column: The column's name, for messages.

    Returns:
        The names; for integers 0 to k - 1 their position is their value.

    Raises:
        DataError: Fewer than two classes, or every label is -1 (a hidden test set).
    """
    distinct = sorted({_as_class(value, origin, column) for value in values})
    if distinct == [-1]:
        raise DataError(f"{origin}: every label is -1, as in a benchmark's hidden test set; training needs real labels")
    if len(distinct) < 2:
        only = f"the same, {distinct[0]!r}" if distinct else "missing"
        raise DataError(
            f"{origin}: all labels in column {column!r} are {only}; classification needs two classes or more"
        )
    return tuple(str(value) for value in distinct)


def _as_class(value: Value, origin: str, column: str) -> int | str:
    """A whole number or a name."""
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(f"{origin}: column {column!r} holds fractions ({value}); for scores, set kind: regression")
        return int(value)
    return value


def class_numbers(
    values: Sequence[Value], names: Sequence[str], origin: str, column: str, *, numbered: bool
) -> NDArray[np.int64]:
    """Number the labels by the classes' names.

    Args:
        values: What `read_values` gave.
        names: The classes.
        origin: Where they came from, for messages.
        column: The column's name, for messages.
        numbered: Whether integers are positions in `names`; otherwise they are names themselves.

    Returns:
        int64 (examples,), each in 0 to len(names) - 1.

    Raises:
        DataError: A label is none of the classes; -1 is named as a hidden test label.
    """
    position = {name: number for number, name in enumerate(names)}
    out = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        label = _as_class(value, origin, column)
        number = label if numbered and isinstance(label, int) else position.get(str(label), -1)
        if not 0 <= number < len(names):
            hint = " (-1 marks a hidden test label)" if label == -1 else ""
            raise DataError(
                f"{origin}: row {row}, column {column!r}: label {label!r}{hint} is none of {', '.join(names)}"
            )
        out[row] = number
    return out
