"""Reading text columns: what a model can read, or which row to mend."""

from collections.abc import Sequence

from graft.errors import DataError
from graft.eval.formats import Table
from graft.eval.wording import row_name, rows_counted, shown

Texts = tuple[str, ...]


def read_texts(table: Table, columns: Sequence[str], *, blank: bool) -> tuple[Texts, ...]:
    """Read the text of every row.

    Args:
        table: The split.
        columns: One column, or two for pairs.
        blank: Whether a text may be empty or white space alone, as some of a benchmark's own are.

    Returns:
        One tuple of columns per row.

    Raises:
        DataError: A column or a text is missing, is no string or, unless `blank`, has nothing to read.
    """
    return tuple(zip(*(_read_column(table, column, blank=blank) for column in columns), strict=True))


def _read_column(table: Table, column: str, *, blank: bool) -> list[str]:
    """One column's texts."""
    values = table.values(column)
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            raise DataError(
                f"{table.origin}: {row_name(row)}, column {column!r} is {shown(value)}, not text; name a column of "
                "texts, or write its values as strings"
            )
    missing = [row for row, value in enumerate(values) if value is None]
    if missing:
        raise DataError(
            f"{table.origin}: {rows_counted(missing)}: nothing in column {column!r}; fill it in or drop the row"
        )
    empty = [] if blank else [row for row, text in enumerate(values) if not text.strip()]
    if empty:
        raise DataError(
            f"{table.origin}: {rows_counted(empty)}: empty text in column {column!r}; fill it in or drop the row"
        )
    return values


def read_groups(table: Table, columns: Sequence[str]) -> list[list[str]]:
    """Read the columns that rows are grouped by, as strings.

    Raises:
        DataError: A column or a value is missing: rows without one would make a group that means nothing.
    """
    groups = []
    for column in columns:
        values = table.values(column)
        missing = [row for row, value in enumerate(values) if value is None or value == ""]
        if missing:
            raise DataError(
                f"{table.origin}: {rows_counted(missing)}: no group in column {column!r}; fill it in, or name "
                "another column with --task.group"
            )
        groups.append([str(value) for value in values])
    return groups
