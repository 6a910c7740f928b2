"""Reading one table: parquet, csv, tsv, json, jsonl, plain text, or a saved `datasets` folder.

Values of csv and tsv stay strings here, so that a text "NA" or "007" is not turned into something else; labels are
read as numbers later (`graft.eval.labels`), the same way for every format.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from graft.errors import DataError, nearest

logger = logging.getLogger(__name__)

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".txt")


@dataclass(frozen=True)
class Table:
    """One split as it was read.

    Attributes:
        data: The columns.
        origin: Where it came from, for messages.
        class_names: Names of a label column's classes, where the file declares them (`datasets.ClassLabel`).
    """

    data: pa.Table
    origin: str
    class_names: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.data.column_names)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.data.num_rows)

    def values(self, column: str) -> list[Any]:
        """A column's values as Python objects; None where missing.

        Raises:
            DataError: There is no such column.
        """
        if column not in self.data.column_names:
            raise DataError(
                f"{self.origin}: no column {column!r}{nearest(column, self.columns)}; it has {', '.join(self.columns)}"
            )
        return list(self.data.column(column).to_pylist())


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
    try:
        match path.suffix:
            case ".parquet":
                data = pyarrow.parquet.read_table(path, partitioning=None)
                return Table(data, str(path), _class_names(data.schema))
            case ".csv":
                data = _read_delimited(path, ",", None, lenient=False)
            case ".tsv":
                data = _read_tsv(path, layout)
            case ".jsonl":
                data = pyarrow.json.read_json(path)
            case ".json":
                data = _read_json(path)
            case ".txt":
                data = pa.table({"text": _documents(path.read_text(encoding="utf-8"))})
            case _:
                raise DataError(f"{path}: cannot read {path.suffix or 'a file without a suffix'}; use {_known()}")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error
    return Table(data, str(path), {})


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
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{folder}: cannot be read as a saved dataset: {error}") from error
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


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Class names that `datasets` leaves in a parquet file's metadata."""
    raw = (schema.metadata or {}).get(b"huggingface")
    if raw is None:
        return {}
    features = json.loads(raw).get("info", {}).get("features", {})
    return {name: tuple(feature["names"]) for name, feature in features.items() if "names" in feature}


def _read_delimited(path: Path, delimiter: str, header: tuple[str, ...] | None, *, lenient: bool) -> pa.Table:
    """Read csv or tsv with every value a string."""
    plain = delimiter == "\t"
    skipped: list[int] = []

    def skip(row: Any) -> str:
        skipped.append(row.number or 0)
        return "skip"

    parse = pyarrow.csv.ParseOptions(
        delimiter=delimiter,
        quote_char=False if plain else '"',
        newlines_in_values=not plain,
        invalid_row_handler=skip if lenient else None,
    )
    read = pyarrow.csv.ReadOptions(column_names=list(header) if header else None)
    with pyarrow.csv.open_csv(path, read_options=read, parse_options=parse) as stream:
        names = stream.schema.names
    skipped.clear()  # what the first look at the columns left out
    convert = pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in names})
    table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    if skipped:
        logger.warning("%s: %d rows lack columns and are left out", path, len(skipped))
    return table


def _read_tsv(path: Path, layout: TsvLayout | None) -> pa.Table:
    """Read a tsv, giving a benchmark's columns our names."""
    if layout is None:
        return _read_delimited(path, "\t", None, lenient=False)
    with path.open(encoding="utf-8-sig") as stream:
        first = stream.readline().rstrip("\r\n").split("\t")
    headed = layout.header is None or set(layout.columns) <= set(first)
    table = _read_delimited(path, "\t", None if headed else layout.header, lenient=True)
    renamed = {theirs: ours for ours, theirs in layout.columns.items()}
    if not set(renamed) <= set(table.column_names):
        return table  # a tsv of the user's, with our column names
    return table.select(list(renamed)).rename_columns([renamed[name] for name in renamed])


def _read_json(path: Path) -> pa.Table:
    """Read a list of objects."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise DataError(f"{path}: expected a list of objects; for one object a line, name the file .jsonl")
    return pa.Table.from_pylist(value)


def _documents(text: str) -> list[str]:
    """Documents separated by blank lines."""
    documents: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(lines) for lines in documents if lines]


def _known() -> str:
    """The suffixes that can be read, for messages."""
    return ", ".join(SUFFIXES)
