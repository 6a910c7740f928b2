"""Reading a file of examples window by window, in constant memory; a row that cannot be read says why and is kept.

Training refuses a file with a defect, since what is trained on must be known. A trained model that reads a million
rows answers those that it can. What a format is, and how its defects are worded, is `graft.eval.formats`'.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from graft.errors import DataError
from graft.eval.delimited import refuse_equal_names, refuse_others
from graft.eval.formats import Table, read_object, refuse_list
from graft.eval.wording import listed, shown

WINDOW = 2048
"""Rows that are read, tokenised, predicted and written together."""

_WINDOW_CHARACTERS = 2**23
"""Longer texts make windows of fewer rows."""

_LONGEST = 2**22
"""Characters of a line or of a quoted field, at most; an opened quote that never closes ends there."""


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        values: What it holds, by column; what could be read of it, if it is bad.
        error: Why there is no prediction of it; none where there is one.
    """

    values: dict[str, Any]
    error: str | None = None


@dataclass(frozen=True)
class Window:
    """Rows that follow each other.

    Attributes:
        rows: The rows.
        table: The same rows with their types, where they came from parquet.
    """

    rows: list[Row]
    table: pa.Table | None = None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word what the system says of a file that is read.

    Raises:
        DataError: The file is not there, is no plain file, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe cannot be read twice
            raise DataError(f"{path}: is no plain file; name a file")
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(f"{path}: cannot be read as parquet ({reason}); write it again") from error


def windows(path: Path, texts: Sequence[str]) -> Iterator[Window]:
    """Read a file.

    Args:
        path: A file whose suffix is among `READERS`.
        texts: The columns that a prediction needs; a row without one of them is bad.

    Yields:
        At most `WINDOW` rows at a time, in their order. Every row is given, bad ones too; a blank line is none.

    Raises:
        DataError: The file cannot be read, is no such format at all, or two columns have one name.
    """
    with reading(path):
        yield from READERS[path.suffix.lower()](path, texts)


def _checked(values: dict[str, Any], texts: Sequence[str]) -> Row:
    """A row that could be read, and what it lacks for a prediction."""
    for column in texts:
        value = values.get(column)
        if isinstance(value, str):
            continue
        if value is not None:
            return Row(values, f"column {column!r} is {shown(value)}, not text")
        return Row(values, f"nothing in column {column!r}" if column in values else f"no column {column!r}")
    return Row(values)


def _collected(rows: Iterator[tuple[Row, int]]) -> Iterator[Window]:
    """Collect rows, each with its size in characters."""
    held: list[Row] = []
    size = 0
    for row, characters in rows:
        held.append(row)
        size += characters
        if len(held) == WINDOW or size >= _WINDOW_CHARACTERS:
            yield Window(held)
            held, size = [], 0
    if held:
        yield Window(held)


def _open(path: Path, newline: str) -> IO[str]:
    """Open a text file; bytes that are not UTF-8 become marks that `_is_utf8` finds."""
    with path.open("rb") as stream:
        refuse_others(path, stream.read(4))
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _lines(stream: IO[str]) -> Iterator[str | None]:
    """Lines; none for one that is too long to be one."""
    while line := stream.readline(_LONGEST):
        if len(line) < _LONGEST or line.endswith(("\n", "\r")):
            yield line
            continue
        while (rest := stream.readline(_LONGEST)) and not rest.endswith(("\n", "\r")):
            pass
        yield None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _repaired(text: str) -> str:
    """Put the sign for what cannot be read in the place of bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _read_jsonl(path: Path, texts: Sequence[str]) -> Iterator[Window]:
    with _open(path, "\n") as stream:
        yield from _collected(_objects(path, stream, texts))


def _objects(path: Path, stream: IO[str], texts: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Rows of a jsonl."""
    begun = False
    for number, line in enumerate(_lines(stream), start=1):
        if line is None:
            yield Row({}, f"line {number} is longer than {_LONGEST} characters"), 0
            continue
        if not line.strip():
            continue
        if not begun:
            refuse_list(path, number, line)
            begun = True
        if not _is_utf8(line):
            yield Row({}, f"line {number} is not UTF-8"), 0
            continue
        try:
            yield _checked(read_object(line.strip(), f"line {number}"), texts), len(line)
        except DataError as error:
            yield Row({}, str(error)), 0


def _read_csv(path: Path, texts: Sequence[str]) -> Iterator[Window]:
    with _open(path, "") as stream:
        yield from _collected(_table_rows(path, _records(stream, ","), texts))


def _read_tsv(path: Path, texts: Sequence[str]) -> Iterator[Window]:
    with _open(path, "") as stream:
        yield from _collected(_table_rows(path, _records(stream, "\t"), texts))


Record = tuple[int, list[str] | None, str]
"""The line that it begins at, its fields, and why there are none."""


def _records(stream: IO[str], delimiter: str) -> Iterator[Record]:
    """Split a csv, which may quote, or a tsv, which does not; after a defect, go on at the next line.

    A quote that is opened and never closed would swallow the rest of the file: only the line that opens it is bad,
    and the lines behind it are read again.
    """
    lines, again, taken = _lines(stream), deque[str | None](), list[str | None]()

    def source() -> Iterator[str]:
        while True:
            line = again.popleft() if again else next(lines, "")
            if line == "":
                return
            taken.append(line)
            if line is None:
                raise csv.Error(f"longer than {_LONGEST} characters")
            yield line

    def parser() -> Iterator[list[str]]:
        if delimiter == "\t":
            return csv.reader(source(), delimiter="\t", quoting=csv.QUOTE_NONE)
        return csv.reader(source(), delimiter=delimiter, strict=True)

    limit = csv.field_size_limit(_LONGEST)  # of the whole process, so it is put back
    try:
        number, parsed = 1, parser()
        while True:
            taken.clear()
            try:
                yield number, next(parsed), ""
                number += len(taken)
            except StopIteration:
                return
            except csv.Error as error:
                again.extendleft(reversed(taken[1:]))
                yield number, None, f"line {number}: {error}"
                number, parsed = number + 1, parser()
    finally:
        csv.field_size_limit(limit)


def _table_rows(path: Path, records: Iterator[Record], texts: Sequence[str]) -> Iterator[tuple[Row, int]]:
    """Rows below a header. A blank line is none, except in a file of a single column, and there not at the end."""
    names: list[str] | None = None
    blank = 0
    for number, fields, reason in records:
        if names is None:
            if fields != []:
                names = _header(path, number, fields, reason)
            continue
        if fields == []:
            blank += len(names) == 1
            continue
        for _ in range(blank):
            yield _checked({names[0]: ""}, texts), 0
        blank = 0
        yield _table_row(names, number, fields, reason, texts), sum(map(len, fields or ()))


def _header(path: Path, number: int, fields: list[str] | None, reason: str) -> list[str]:
    """Names of the columns; one without a name is called by its place, as pandas does."""
    if fields is None:
        raise DataError(f"{path}: {reason}; this line should name the columns")
    if not _is_utf8("".join(fields)):
        raise DataError(f"{path}: line {number} is not UTF-8; save the file again as UTF-8")
    refuse_equal_names(path, fields)
    return [name or f"{UNNAMED}{place}" for place, name in enumerate(fields)]


def _table_row(names: list[str], number: int, fields: list[str] | None, reason: str, texts: Sequence[str]) -> Row:
    """One row; of a ragged one, the fields that have a name."""
    if fields is None:
        return Row({}, reason)
    values = dict(zip(names, fields, strict=False))
    if not _is_utf8("".join(fields)):
        return Row({name: _repaired(field) for name, field in values.items()}, f"line {number} is not UTF-8")
    if len(fields) != len(names):
        return Row(values, f"line {number}: expected {len(names)} fields ({listed(names)}), found {len(fields)}")
    return _checked(values, texts)


UNNAMED = "Unnamed: "
"""How the name of a column begins that has none; spreadsheets leave such columns behind, blank all the way."""


def _read_parquet(path: Path, texts: Sequence[str]) -> Iterator[Window]:
    with pa.OSFile(str(path)) as stream, pyarrow.parquet.ParquetFile(stream) as file:
        Table(file.schema_arrow.empty_table(), str(path), {})  # refuses two columns of one name
        for batch in file.iter_batches(batch_size=WINDOW):
            yield _typed(pa.Table.from_batches([batch]), texts)


def _typed(table: pa.Table, texts: Sequence[str]) -> Window:
    """A window of parquet; strings that are not UTF-8 are repaired in both of its forms."""
    unreadable: dict[int, str] = {}
    columns: dict[str, list[Any]] = {}
    for place, name in enumerate(table.column_names):
        column = table.column(place)
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError:
            found = [_decoded(value) for value in column]
            unreadable |= {row: f"column {name!r} is not UTF-8" for row, (_, whole) in enumerate(found) if not whole}
            columns[name] = [value for value, _ in found]
            table = table.set_column(place, table.schema.field(place), pa.array(columns[name], column.type))
    values = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows = [
        Row(row, unreadable[place]) if place in unreadable else _checked(row, texts) for place, row in enumerate(values)
    ]
    return Window(rows, table)


def _decoded(scalar: Any) -> tuple[Any, bool]:
    """A value, and whether it is whole; nothing is left of a list or an object that holds a broken string."""
    try:
        return scalar.as_py(), True
    except UnicodeDecodeError:
        buffer = scalar.as_buffer() if hasattr(scalar, "as_buffer") else None
        return (None if buffer is None else buffer.to_pybytes().decode("utf-8", "replace")), False


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Window]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
