"""Reading one table: parquet, csv, tsv, json, jsonl, plain text, or a saved `datasets` folder.

Values of csv and tsv stay strings here, so that a text "NA" or "007" is not turned into something else; labels are
read as numbers later (`graft.eval.labels`), the same way for every format.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from graft.errors import DataError, nearest
from graft.eval.delimited import read_delimited, read_text
from graft.eval.wording import listed, row_name, shown

_OBJECT = '{"text": "...", "label": 0}'

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".txt")


@dataclass(frozen=True)
class Table:
    """One split as it was read.

    Attributes:
        data: Values of each column by its name, as lists or Arrow arrays; an Arrow table is taken apart.
        origin: Where it came from, for messages.
        class_names: Names of a label column's classes, where the file declares them (`datasets.ClassLabel`).
        naming: Where the names of the columns come from, for messages; empty where that is plain.
    """

    data: Mapping[str, Sequence[Any]] | pa.Table
    origin: str
    class_names: Mapping[str, tuple[str, ...]]
    naming: str = ""

    def __post_init__(self) -> None:
        """Give every format's columns one form.

        Raises:
            DataError: Two columns have one name.
        """
        if isinstance(self.data, pa.Table):
            object.__setattr__(self, "data", _columns(self.data, self.origin))

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.data)

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self.data.values()), ()))

    def values(self, column: str) -> list[Any]:
        """A column's values as Python objects; None where missing.

        Raises:
            DataError: There is no such column.
        """
        if column not in self.data:
            raise DataError(
                f"{self.origin}: no column {column!r}{nearest(column, self.columns)}; it has {listed(self.columns)}"
                f"{self.naming}"
            )
        values = self.data[column]
        return list(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)


@dataclass(frozen=True)
class TsvLayout:
    """How a benchmark's own tsv files name their columns.

    Attributes:
        columns: From our column name to the file's.
        header: The file's columns where it has no header line.
    """

    columns: Mapping[str, str]
    header: tuple[str, ...] | None = None


def read_table(path: Path, layout: TsvLayout | None = None) -> Table:
    """Read one file.

    A tsv has one row a line and no quoting, as GLUE's files need. Rows that lack columns are refused, except in a
    benchmark's own tsv (QQP has a few), where they are left out as in the Hub's copy. A csv may quote. Plain text
    holds documents separated by blank lines, in a column named text.

    Args:
        path: The file; its suffix says what it is.
        layout: Column names of a benchmark's own tsv.

    Returns:
        The table.

    Raises:
        DataError: The file is unreadable, malformed, or of an unknown format.
    """
    suffix = path.suffix.lower()
    try:
        match suffix:
            case ".parquet":
                return _read_parquet(path)
            case ".csv":
                data = read_delimited(path, ",")
            case ".tsv":
                data = _read_tsv(path, layout)
            case ".jsonl":
                data = _read_lines(path)
            case ".json":
                data = _read_json(path)
            case ".txt":
                data = {"text": _documents(read_text(path))}
            case _:
                raise DataError(f"{path}: cannot read {suffix or 'a file without a suffix'}; use {listed(SUFFIXES)}")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Table(data, str(path), {}, _naming(suffix, list(data)))


def read_saved(folder: Path) -> dict[str, Table]:
    """Read what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        folder: Holds `state.json` or `dataset_dict.json`.

    Returns:
        A table per split; a lone dataset counts as "train".

    Raises:
        DataError: The folder is incomplete or of a version that cannot be read.
    """
    import datasets  # takes seconds to import, so only where it is needed

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: cannot be read as a saved dataset ({_first_line(error)}); save it again with save_to_disk"
        ) from error
    parts = loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    return {str(name): from_dataset(part, f"{folder} ({name})") for name, part in parts.items()}


def from_dataset(dataset: Any, origin: str) -> Table:
    """Take the columns of a `datasets.Dataset`, class names included.

    Args:
        dataset: A `datasets.Dataset`.
        origin: Where it came from, for messages.

    Returns:
        The table.
    """
    names = {
        column: tuple(feature.names)
        for column, feature in dataset.features.items()
        if type(feature).__name__ == "ClassLabel"
    }
    return Table(dataset.with_format("arrow")[:], origin, names)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _read_parquet(path: Path) -> Table:
    """Read parquet, with the class names that `datasets` leaves in it."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # takes columns of one name, so that they can be named
            data = file.read()
    except pa.ArrowException as error:
        raise DataError(
            f"{path}: cannot be read as parquet ({_first_line(error)}); it was cut short or is of another format: "
            "write it again"
        ) from error
    return Table(data, str(path), _class_names(data.schema))


def _columns(data: pa.Table, origin: str) -> dict[str, Sequence[Any]]:
    """An Arrow table's columns by name."""
    twice = [name for name, count in Counter(data.column_names).items() if count > 1]
    if twice:
        raise DataError(f"{origin}: two columns are named {twice[0]!r}; rename or delete one of them")
    return dict(zip(data.column_names, data.columns, strict=True))


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Class names that `datasets` leaves in a parquet file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: tuple(feature["names"]) for name, feature in features.items() if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}  # somebody else's metadata; the labels speak for themselves


def _read_tsv(path: Path, layout: TsvLayout | None) -> dict[str, list[str]]:
    """Read a tsv, giving a benchmark's columns our names."""
    if layout is None:
        return read_delimited(path, "\t")
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        first = stream.readline().rstrip("\r\n").split("\t")
    headed = layout.header is None or set(layout.columns) <= set(first)
    data = read_delimited(path, "\t", None if headed else layout.header, lenient=True)
    if not set(layout.columns.values()) <= data.keys():
        return data  # a tsv of the user's, with our column names
    return {ours: data[theirs] for ours, theirs in layout.columns.items()}


def _read_lines(path: Path) -> dict[str, list[Any]]:
    """Read one object a line."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        if not rows:
            refuse_list(path, number, line)
        rows.append(read_object(line, f"{path}: line {number}"))
    if not rows:
        raise DataError(f"{path}: the file is empty; expected an object a line, such as {_OBJECT}")
    return _by_column(rows)


def refuse_list(path: Path, number: int, line: str) -> None:
    """Refuse a file whose first line with anything in it begins a list, which is JSON but not an object a line.

    Raises:
        DataError: As the name says.
    """
    if line.lstrip().startswith("["):
        raise DataError(f"{path}: line {number} begins a list; for a list of objects, name the file .json")


def read_object(line: str, place: str) -> dict[str, Any]:
    """Read one line of a jsonl.

    Args:
        line: The line.
        place: Where it is, for messages.

    Raises:
        DataError: It is not JSON, or no object.
    """
    value = _parse_json(line, place)
    if not isinstance(value, dict):
        raise DataError(f"{place} is {shown(value)}; expected an object such as {_OBJECT}")
    return value


def _read_json(path: Path) -> dict[str, list[Any]]:
    """Read a list of objects."""
    text = read_text(path)
    if not text.strip():
        raise DataError(f"{path}: the file is empty; expected a list of objects such as {_OBJECT}")
    value = _parse_json(text, str(path))
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a list of objects; for one object a line, name the file .jsonl")
    for row, item in enumerate(value):
        if not isinstance(item, dict):
            raise DataError(f"{path}: {row_name(row)} is {shown(item)}; expected an object such as {_OBJECT}")
    return _by_column(value)


def _parse_json(text: str, place: str) -> Any:
    """Parse JSON whose strings can be written as UTF-8 again."""
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and error.lineno > 1:
            raise DataError(f"{place}: more than one value; for one object a line, name the file .jsonl") from error
        where = f"line {error.lineno}, " if "\n" in text else ""
        raise DataError(
            f"{place}: not JSON ({where}column {error.colno}: {error.msg}); was the file cut short? Write it again"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: a string holds half of a surrogate pair (\\ud800 to \\udfff); remove it") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: cannot be read as JSON ({_first_line(error)})") from error
    return value


def _by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; None where a row lacks a key."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _documents(text: str) -> list[str]:
    """Documents separated by blank lines."""
    documents: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(lines) for lines in documents if lines]


def _naming(suffix: str, columns: Sequence[str]) -> str:
    """What to know about a format's column names when one is not found."""
    if suffix == ".txt":
        return ", as plain text has no other; use csv or jsonl for examples with labels"
    if suffix not in (".csv", ".tsv"):
        return ""
    other = next((mark for mark in ";\t," if len(columns) == 1 and mark in columns[0]), None)
    if other is not None:
        wanted = "commas" if suffix == ".csv" else "tabs"
        return f", which looks like several columns between {other!r}: save the file with {wanted}"
    return " (its first line names the columns)"


def _first_line(error: Exception) -> str:
    """The first line of another library's message, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
