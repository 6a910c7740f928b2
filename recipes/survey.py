"""A first look through a whole file, so that what dooms the output is told before a model is loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from graft.errors import DataError, nearest
from graft.eval.formats import Table
from graft.eval.wording import listed, row_name
from graft.recipes.row_reading import UNNAMED, Row, Window, reading, windows
from graft.recipes.row_writing import ERROR, FLAT, cell


@dataclass(frozen=True)
class Survey:
    """What a file holds.

    Attributes:
        columns: Names of all columns of all rows; an unnamed one only where something is in it.
        rows: How many rows there are.
        types: Arrow types of the columns, where they have to be known before the first row is written.
    """

    columns: tuple[str, ...]
    rows: int
    types: dict[str, pa.DataType]


def survey(file: Path, out: Path, texts: Sequence[str]) -> Survey:
    """Look through a file.

    Args:
        file: What is read.
        out: What will be written; its suffix says what has to be known.
        texts: The columns that a prediction needs.

    Returns:
        What it holds.

    Raises:
        DataError: There are no rows, a column is missing in all of them, none of them can be read, or they hold what
            the output's format cannot.
    """
    to, source = out.suffix.lower(), file.suffix.lower()
    if source == ".parquet" and to != ".tsv":  # which says of itself what it holds
        with reading(file), pyarrow.parquet.ParquetFile(file) as opened:
            schema, rows = opened.schema_arrow, opened.metadata.num_rows
        found = Survey(tuple(Table(schema.empty_table(), str(file), {}).columns), rows, {})
    else:
        found = _look(file, to, texts)
    if not found.rows:
        raise DataError(f"{file}: no rows in it; add rows")
    for column in texts:
        if column not in found.columns:
            raise DataError(
                f"{file}: no column {column!r}{nearest(column, found.columns)}; it has {listed(found.columns)}"
                + _other_delimiter(source, found.columns)
            )
    return found


def _look(file: Path, to: str, texts: Sequence[str]) -> Survey:
    """Read the file through."""
    columns: dict[str, bool] = {}  # whether there is something in it
    types: dict[str, pa.DataType] = {}
    rows, unread = 0, None
    for window in windows(file, texts):
        for number, row in enumerate(window.rows, start=rows):
            for name, value in row.values.items():
                columns[name] = columns.get(name, False) or value not in ("", None)
            if not row.values and unread is None:
                unread = row.error
            if to == ".tsv":
                _refuse_breaks(file, number, row)
        if to == ".parquet":
            _widen(file, types, window, texts)
        rows += len(window.rows)
    if rows and not columns:
        raise DataError(f"{file}: none of its {rows} rows can be read; the first of them: {unread}")
    kept = tuple(name for name, filled in columns.items() if filled or not name.startswith(UNNAMED))
    return Survey(kept, rows, {name: types[name] for name in kept if name in types})


def _refuse_breaks(file: Path, number: int, row: Row) -> None:
    for name, value in row.values.items():
        if re.search(r"[\t\r\n]", cell(value)):
            raise DataError(
                f"{file}: {row_name(number)}, column {name!r} holds a tab or a line break, which a tsv cannot; "
                "write .csv, .jsonl or .parquet"
            )


def _widen(file: Path, types: dict[str, pa.DataType], window: Window, texts: Sequence[str]) -> None:
    """Find types that hold these rows, too; what is no text in a bad row's text column is written as text."""
    types |= dict.fromkeys(texts, pa.string())
    names = dict.fromkeys(name for row in window.rows for name in row.values)
    try:
        for name in names.keys() - set(texts):
            found = pa.array([row.values.get(name) for row in window.rows]).type
            both = [pa.schema([(name, kind)]) for kind in (types.get(name, pa.null()), found)]
            types[name] = pa.unify_schemas(both, promote_options="permissive").field(name).type
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{file}: a column holds several types of values ({error}); write .jsonl") from error


def refuse_taken(file: Path, found: Survey, added: Sequence[str]) -> None:
    """Refuse a file with a column that the output's own would hide.

    Raises:
        DataError: As the name says.
    """
    taken = [name for name in added if name in found.columns]
    if taken:
        what = "the reason of a bad row" if taken[0] == ERROR else "a prediction"
        raise DataError(f"{file}: has a column {taken[0]!r} already, which {what} would hide; rename it")


def _other_delimiter(suffix: str, columns: Sequence[Any]) -> str:
    """What to know about a table with one column whose name looks like several."""
    if suffix not in FLAT:
        return ""
    other = next((mark for mark in ";\t," if len(columns) == 1 and mark in columns[0]), None)
    if other is None:
        return " (its first line names the columns)"
    wanted = "commas" if suffix == ".csv" else "tabs"
    return f", which looks like several columns between {other!r}: save the file with {wanted}"
