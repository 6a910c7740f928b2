"""How messages about data name a row, a value and a list, the same way everywhere."""

from collections.abc import Collection, Sequence
from typing import Any

_LONGEST_VALUE = 60  # characters
_LONGEST_LIST = 12  # names


def row_name(row: int) -> str:
    """Name a row by its number, counted as the ids of predictions are; a header line is no row."""
    return f"row {row} (the first is 0)"


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    return _cut(repr(value))


def listed(names: Collection[Any]) -> str:
    """Names behind each other, the first few of them where they are many."""
    first = ", ".join(_cut(" ".join(str(name).split())) for name in list(names)[:_LONGEST_LIST])
    return first if len(names) <= _LONGEST_LIST else f"{first}, ... ({len(names)} in all)"


def _cut(text: str) -> str:
    """The beginning of a text, where it is long."""
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def rows_counted(rows: Sequence[int]) -> str:
    """Rows with the same defect: the first of them, and how many there are.

    Args:
        rows: Their numbers, rising; at least one.

    Returns:
        Such as "row 5 (the first is 0)", followed by " and 2 more rows" where there are more.
    """
    others = len(rows) - 1
    more = f" and {others} more row{'s' if others > 1 else ''}" if others else ""
    return row_name(rows[0]) + more
