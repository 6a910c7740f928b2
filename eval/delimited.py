"""Reading csv and tsv: every value a string, every defect named by its line.

The standard library's parser knows the line it is at and can be told to take fields of any length; Arrow's does
neither.
"""

import codecs
import csv
import io
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from graft.errors import DataError
from graft.eval.wording import listed

logger = logging.getLogger(__name__)

# How files begin that are renamed and opened as text all the same.
_OTHERS = {
    codecs.BOM_UTF16_LE: "is UTF-16, not UTF-8; save the file again as UTF-8",
    codecs.BOM_UTF16_BE: "is UTF-16, not UTF-8; save the file again as UTF-8",
    b"PK\x03\x04": "is a spreadsheet or a zip archive; export it as csv, or unpack it",
    b"\x1f\x8b": "is compressed; unpack it with gunzip",
    b"PAR1": "is parquet; name the file .parquet",
}


def read_text(path: Path) -> str:
    """Read a whole text file, with or without a byte order mark; line ends stay as they are.

    Raises:
        DataError: The file is not UTF-8, or no text at all.
        OSError: The file cannot be opened.
    """
    content = path.read_bytes()
    refuse_others(path, content)
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not UTF-8 (byte {error.object[error.start]:#04x}); save the file again as UTF-8, "
            f"such as with: iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
        ) from error


def refuse_others(path: Path, beginning: bytes) -> None:
    """Refuse a file that begins as no text does.

    Args:
        path: The file, for the message.
        beginning: Its first bytes, four at least where it has so many.

    Raises:
        DataError: It is another format under a text's name.
    """
    for mark, found in _OTHERS.items():
        if beginning.startswith(mark):
            raise DataError(f"{path}: {found}")


def read_delimited(
    path: Path, delimiter: str, header: Sequence[str] | None = None, *, lenient: bool = False
) -> dict[str, list[str]]:
    """Read csv, which may quote, or tsv, which has one row a line and no quoting.

    Args:
        path: The file.
        delimiter: A comma or a tab.
        header: Names of the columns where the file has no header line.
        lenient: Leave rows out that have too few or too many fields, with a warning, instead of refusing them.

    Returns:
        The columns by name; one without a name is called by its place, as pandas does, and left out where it is blank
        all the way. A blank line is no row, except in a file of a single column.

    Raises:
        DataError: The file is empty or not UTF-8, two columns have one name, a quote does not close, or a row has
            too few or too many fields.
        OSError: The file cannot be opened.
    """
    rows = _parse(path, delimiter)
    while rows and not rows[-1][1]:
        rows.pop()
    while rows and not rows[0][1]:
        rows.pop(0)
    if not rows:
        raise DataError(f"{path}: the file is empty; its first line should name the columns, the others be examples")
    names = list(header) if header else rows.pop(0)[1]
    refuse_equal_names(path, names)
    rows = [(line, row or [""]) for line, row in rows if row or len(names) == 1]
    whole = [row for _, row in rows if len(row) == len(names)]
    if len(whole) < len(rows):
        if not lenient:
            line, row = next(found for found in rows if len(found[1]) != len(names))
            remedy = "no field may hold a tab" if delimiter == "\t" else "quote a field that holds a comma"
            raise DataError(
                f"{path}: line {line} (the header is line 1): expected {len(names)} fields ({listed(names)}), found "
                f"{len(row)}; {remedy}"
            )
        logger.warning("%s: %d rows lack columns and are left out", path, len(rows) - len(whole))
    columns = {name or f"Unnamed: {place}": [row[place] for row in whole] for place, name in enumerate(names)}
    named = set(names)
    return {name: values for name, values in columns.items() if name in named or any(values)}


def _parse(path: Path, delimiter: str) -> list[tuple[int, list[str]]]:
    """Rows, blank ones as empty lists, each with the line it begins at, from 1."""
    text = read_text(path)
    stream = io.StringIO(text, newline="")
    if delimiter == "\t":
        reader = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(max(len(text), 1))  # of the whole process, so it is put back
    rows: list[tuple[int, list[str]]] = []
    begun = 1
    try:
        for row in reader:
            rows.append((begun, row))
            begun = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: the row that begins at line {begun}: {error}; a quoted field ends with a quote, and a quote "
            'inside it is written twice ("")'
        ) from error
    finally:
        csv.field_size_limit(limit)
    return rows


def refuse_equal_names(path: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name; spreadsheets leave unnamed ones behind, which nobody can ask for."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(f"{path}: two columns are named {twice[0]!r}; rename or delete one of them")
