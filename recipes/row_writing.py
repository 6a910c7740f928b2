"""Writing rows with their predictions, window by window, into a file that is whole or absent."""

import contextlib
import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet

from graft.errors import GraftError
from graft.recipes.row_reading import Window

if TYPE_CHECKING:
    from graft.recipes.run import Prediction

FLAT = (".csv", ".tsv")
"""Formats whose cells hold text alone, so that each class's probability has a column of its own."""

ERROR = "error"
"""The column, or field, that says why a row has no prediction."""


@dataclass(frozen=True)
class Layout:
    """The columns of an output.

    Attributes:
        columns: The input's.
        types: Arrow types of the input's columns, where its rows do not bring them.
        classes: Names of the classes; none for scores.
    """

    columns: Sequence[str]
    types: Mapping[str, pa.DataType]
    classes: Sequence[str]


Write = Callable[[Window, Sequence["Prediction | None"]], None]
"""Writes a window with a prediction for each of its rows; none for a bad one."""


def added(classes: Sequence[str], *, flat: bool) -> list[str]:
    """Names of the columns that predictions add."""
    if flat:
        return ["prediction", *(f"probabilities.{name}" for name in classes), ERROR]
    return ["prediction", "probabilities", ERROR] if classes else ["prediction", ERROR]


def fields(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as what it adds to an object."""
    return {"prediction": prediction.value} | (
        {"probabilities": prediction.probabilities} if prediction.probabilities else {}
    )


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file that is whole or absent.

    Yields:
        The name to write under, beside the final one.

    Raises:
        GraftError: The disk is full or the folder cannot be written; an old file is untouched.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise GraftError(f"--out {path}: cannot write ({error.strerror or error}); choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # there is none, or the disk is gone
            partial.unlink()


@contextlib.contextmanager
def _jsonl(path: Path, layout: Layout) -> Iterator[Write]:
    """Write an object a line; numbers that JSON cannot say become null, dates and the like text."""
    kept = frozenset(layout.columns)
    with path.open("w", encoding="utf-8") as stream:

        def write(window: Window, predictions: Sequence["Prediction | None"]) -> None:
            for row, prediction in zip(window.rows, predictions, strict=True):
                values = {name: value for name, value in row.values.items() if name in kept}
                new = {ERROR: row.error} if prediction is None else fields(prediction)
                stream.write(_json(values | new) + "\n")

        yield write


def _json(value: Any) -> str:
    return json.dumps(_sayable(value), ensure_ascii=False, allow_nan=False, default=str)


def _sayable(value: Any) -> Any:
    """A value without the numbers that JSON cannot say, also inside of lists and objects."""
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _csv(path: Path, layout: Layout) -> Iterator[Write]:
    """Write comma-separated values, quoted where they need it."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        yield _delimited(csv.writer(stream, lineterminator="\n"), layout)


@contextlib.contextmanager
def _tsv(path: Path, layout: Layout) -> Iterator[Write]:
    """Write a row a line, without quoting, as our reader and GLUE's files have it."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        yield _delimited(writer, layout)


def _delimited(writer: Any, layout: Layout) -> Write:
    writer.writerow([*layout.columns, *added(layout.classes, flat=True)])
    nothing = [""] * (1 + len(layout.classes))

    def write(window: Window, predictions: Sequence["Prediction | None"]) -> None:
        for row, prediction in zip(window.rows, predictions, strict=True):
            cells = [cell(row.values.get(name)) for name in layout.columns]
            if prediction is None:
                writer.writerow([*cells, *nothing, " ".join((row.error or "").split())])
            else:
                writer.writerow([*cells, prediction.value, *prediction.probabilities.values(), ""])

    return write


def cell(value: Any) -> str:
    """A value as text; lists and objects as JSON."""
    if value is None:
        return ""
    return _json(value) if isinstance(value, list | dict) else str(value)


@contextlib.contextmanager
def _parquet(path: Path, layout: Layout) -> Iterator[Write]:
    """Write parquet; columns that came from parquet keep their types."""
    value = pa.string() if layout.classes else pa.float64()
    kinds = pa.struct([(name, pa.float64()) for name in layout.classes])
    with contextlib.ExitStack() as stack:
        writer = None

        def write(window: Window, predictions: Sequence["Prediction | None"]) -> None:
            nonlocal writer
            part = _typed(window, layout) if window.table is None else window.table
            part = part.append_column("prediction", pa.array([found and found.value for found in predictions], value))
            if layout.classes:
                chances = pa.array([found and found.probabilities for found in predictions], kinds)
                part = part.append_column("probabilities", chances)
            part = part.append_column(ERROR, pa.array([row.error for row in window.rows], pa.string()))
            if writer is None:
                writer = stack.enter_context(pyarrow.parquet.ParquetWriter(path, part.schema))
            writer.write_table(part)

        yield write


def _typed(window: Window, layout: Layout) -> pa.Table:
    """Rows that came without types as columns with them."""
    columns: dict[str, pa.Array] = {}
    for name in layout.columns:
        kind, values = layout.types.get(name, pa.string()), [row.values.get(name) for row in window.rows]
        if kind == pa.string():
            values = [value if value is None or isinstance(value, str) else cell(value) for value in values]
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


WRITERS: dict[str, Callable[[Path, Layout], contextlib.AbstractContextManager[Write]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
"""By suffix. Each opens a file and gives what writes into it."""
