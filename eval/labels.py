"""Turning a label column into class numbers or scores, whatever the file wrote them as."""

import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError, nearest
from graft.eval.formats import Table
from graft.eval.wording import listed, row_name, rows_counted, shown

logger = logging.getLogger(__name__)

Value = int | float | str

_MANY_CLASSES = 50
"""Classes above which whole numbers are more likely scores than classes."""

_ROWS_PER_CLASS = 3
"""Rows per class on average below which a column is more likely one of scores, or of something else."""


def read_values(values: Sequence[Any], origin: str, column: str, *, numbers: bool = True) -> list[Value]:
    """Read labels as integers where all are whole numbers, else as numbers where all are, else as strings.

    Strings that spell numbers count as numbers, so that csv and parquet give the same labels; and 1.0 is the integer
    that it was before a spreadsheet or a gap in the column made it a float.

    Args:
        values: The column's values.
        origin: Where they came from, for messages.
        column: The column's name, for messages.
        numbers: False reads all of them as strings: for a split whose training labels are names.

    Returns:
        Values of one type.

    Raises:
        DataError: A value is missing, not finite, or neither number nor string.
    """
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise DataError(f"{origin}: {rows_counted(missing)}: no label in column {column!r}; fill it in or drop the row")
    for row, value in enumerate(values):
        if not isinstance(value, (int, float, str)):
            raise DataError(
                f"{origin}: {row_name(row)}, column {column!r}: a label is a number or a string, not {shown(value)}"
            )
    if any(isinstance(value, bool) for value in values):
        return [str(value).lower() for value in values]
    found = [_number(value) for value in values] if numbers else [None]
    if any(number is None for number in found):
        return [str(value) for value in values]
    read = [number for number in found if number is not None]
    endless = [row for row, number in enumerate(read) if not abs(number) <= sys.float_info.max]  # so nan counts too
    if endless:
        raise DataError(
            f"{origin}: {rows_counted(endless)}, column {column!r}: {shown(values[endless[0]])} is no finite number, "
            "as the other labels are; fill it in or drop the row"
        )
    if all(_is_whole(number) for number in read):
        return [int(number) for number in read]
    return [float(number) for number in read]


def _is_missing(value: Any) -> bool:
    """Whether there is nothing: an empty field, or what a data frame puts in its place."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: int | float | str) -> int | float | None:
    """The number that a label is or spells; none for a word."""
    if not isinstance(value, str):
        return value
    if "_" in value:
        return None  # Python would read the name 1_0 as ten
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return None


def _is_whole(number: int | float) -> bool:
    """Whether a number has no fraction; infinity and nan are not whole."""
    return isinstance(number, int) or number.is_integer()


def scores(values: Sequence[Value], origin: str, column: str) -> NDArray[np.float32]:
    """Labels of a regression.

    Args:
        values: What `read_values` gave.
        origin: Where they came from, for messages.
        column: The column's name, for messages.

    Returns:
        float32 (examples,).

    Raises:
        DataError: A value is not a number, or too large for one of 32 bits.
    """
    for row, value in enumerate(values):
        number = _number(value)
        if number is None or not abs(number) <= float(np.finfo(np.float32).max):
            raise DataError(
                f"{origin}: {row_name(row)}, column {column!r}: {shown(value)} is not a number, as a regression needs"
            )
    return np.array([float(value) for value in values], dtype=np.float32)


def declared_classes(task: tuple[str, ...], tables: Mapping[str, Table], column: str) -> tuple[str, ...]:
    """Classes that the task, or else the training file, names in the order of their numbers.

    Args:
        task: The task's own classes; empty for a user's data.
        tables: The splits by name, "train" among them.
        column: The label column.

    Returns:
        The names; empty where the labels themselves must say.

    Raises:
        DataError: A file numbers the same classes in another order, which would exchange labels without a word.
    """
    names = task or tables["train"].class_names.get(column, ())
    for table in tables.values():
        theirs = table.class_names.get(column, names)
        if names and theirs != names and (not task or set(theirs) == set(names)):
            first = "the task" if task else tables["train"].origin
            raise DataError(
                f"{table.origin}: column {column!r} numbers its classes as {listed(theirs)}, and {first} as "
                f"{listed(names)}; write the labels as names, or in one order"
            )
    return names


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
    fraction = next((row for row, value in enumerate(values) if isinstance(value, float) and value % 1), None)
    if fraction is not None:
        raise DataError(
            f"{origin}: column {column!r} holds fractions ({row_name(fraction)}: {values[fraction]}); for scores, set "
            "--task.kind regression"
        )
    distinct = sorted(set(values))
    if distinct == [-1]:
        raise DataError(f"{origin}: every label is -1, as in a benchmark's hidden test set; training needs real labels")
    if len(distinct) < 2:
        only = f"the same, {distinct[0]!r}" if distinct else "missing"
        raise DataError(
            f"{origin}: all labels in column {column!r} are {only}; classification needs two classes or more"
        )
    return tuple(str(value) for value in distinct)


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
        number = _class_number(value, position, numbered=numbered)
        if number is None:
            hint = " (-1 marks a hidden test label)" if value == -1 else nearest(str(value), names)
            raise DataError(
                f"{origin}: {row_name(row)}, column {column!r}: label {shown(value)}{hint} is none of {listed(names)}; "
                "correct it, or give the class examples to train on"
            )
        out[row] = number
    return out


def _class_number(value: Value, position: Mapping[str, int], *, numbered: bool) -> int | None:
    """The number of a label's class; none where it is no class."""
    if isinstance(value, str) and value in position:
        return position[value]
    number = _number(value)  # one word in a column makes strings of all the numbers in it
    if number is None or not _is_whole(number):
        return None
    whole = int(number)
    if not numbered:
        return position.get(str(whole))
    return whole if 0 <= whole < len(position) else None


def warn_of_doubtful_classes(values: Sequence[Value], origin: str, column: str, *, chosen: bool) -> None:
    """Say where classes that were read from labels may be something else: scores, free text, or slips of the keyboard.

    Args:
        values: What `read_values` gave for the training split.
        origin: Where they came from, for messages.
        column: The column's name, for messages.
        chosen: Whether the recipe itself says that these are classes, so that their number raises no doubt.
    """
    distinct = set(values)
    many = len(distinct) > _MANY_CLASSES or (len(distinct) > 2 and len(values) < _ROWS_PER_CLASS * len(distinct))
    if many and not chosen:
        instead = (
            "for scores, set --task.kind regression"
            if isinstance(values[0], int)
            else "check that --task.label names the right column"
        )
        logger.warning(
            "%s: column %r has %d different labels in %d rows, and each of them becomes a class; %s",
            *(origin, column, len(distinct), len(values), instead),
        )
    names = sorted(value for value in distinct if isinstance(value, str))
    _warn_of_likenesses(names, origin, column)
    words = [name for name in names if _number(name) is None]
    if words and len(words) < len(names) / 2:
        logger.warning(
            "%s: column %r holds numbers, but also %s, so all its labels are read as names of classes; correct or drop "
            "these rows if that is not meant",
            *(origin, column, listed([repr(word) for word in words])),
        )


def _warn_of_likenesses(names: Sequence[str], origin: str, column: str) -> None:
    """Name labels that differ by white space or case alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(name.split()).casefold(), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            logger.warning(
                "%s: column %r has the labels %s, which differ by white space or case alone and become classes of "
                "their own; write them alike if they mean the same",
                *(origin, column, " and ".join(repr(name) for name in group)),
            )
