"""Rows of different lengths in one array: eight bytes a row beyond their values."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True)
class Ragged:
    """Rows of numbers.

    Attributes:
        values: All rows, one after the other.
        starts: int64 (rows + 1,): where each row begins in `values`, and where the last one ends.
    """

    values: NDArray[Any]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Sequence[int] | NDArray[Any]], dtype: DTypeLike) -> "Ragged":
        """Put rows together."""
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.fromiter(chain.from_iterable(rows), dtype, int(starts[-1])), starts)

    @classmethod
    def joined(cls, parts: Iterable["Ragged"], dtype: DTypeLike) -> "Ragged":
        """Put the rows of several one after the other."""
        parts = list(parts)
        lengths = np.concatenate([np.zeros(0, np.int64), *(part.lengths for part in parts)])
        values = np.concatenate([np.zeros(0, dtype), *(part.values for part in parts)])
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Numbers in each row, int64 (rows,)."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        """One row, which shares its memory with the others."""
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Each row in turn."""
        return (self[row] for row in range(len(self)))

    def padded(
        self, rows: NDArray[np.int64], fill: int, length: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Copy some rows, filled up on the right to one length.

        Args:
            rows: Which ones, int64 (B,).
            fill: What to fill up with.
            length: Of all rows; none for that of the longest, which it must not fall short of.

        Returns:
            The numbers, int64 (B, length), and 1 where there is one, else 0, likewise.
        """
        lengths = self.starts[rows + 1] - self.starts[rows]
        columns = np.arange(lengths.max() if length is None else length)
        there = columns < lengths[:, None]
        padded = np.full(there.shape, fill, dtype=np.int64)
        padded[there] = self.values[(self.starts[rows][:, None] + columns)[there]]
        return padded, there.astype(np.int64)
