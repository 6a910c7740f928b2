"""Texts of many examples outside of Python's memory: it takes 100 bytes for a string of no letters, disk none."""

import itertools
import mmap
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError

Texts = tuple[str, ...]

_SMALL = 1 << 20
"""Bytes below which a file is not worth while."""
_CHUNK = 2048
"""Examples that are Python objects at a time."""


class StoredTexts(Sequence[Texts]):
    """One tuple of text columns per example, kept in a file without a name that goes with the process.

    A slice is a tuple of examples, which are Python objects; iterating makes few of them at a time.
    """

    def __init__(self, examples: Iterable[Texts]) -> None:
        """Store examples.

        Raises:
            DataError: There is no room for them.
            ValueError: Examples differ in their number of columns.
        """
        lengths: list[NDArray[np.int64]] = []
        self._columns = 0
        try:
            with tempfile.SpooledTemporaryFile(_SMALL) as file:
                for chunk in _chunks(examples):
                    self._columns = self._columns or len(chunk[0])
                    if any(len(texts) != self._columns for texts in chunk):
                        raise ValueError(f"an example has not {self._columns} columns, as the first one has")
                    encoded = [text.encode("utf-8", "surrogatepass") for texts in chunk for text in texts]
                    lengths.append(np.fromiter(map(len, encoded), np.int64, len(encoded)))
                    file.write(b"".join(encoded))
                self._starts = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
                self._bytes = _kept(file, int(self._starts[-1]))
        except OSError as error:
            raise DataError(
                f"no room for the task's texts in the folder for temporary files ({error}); make some, or set TMPDIR "
                "to another folder"
            ) from error

    def __reduce__(self) -> tuple[type["StoredTexts"], tuple[tuple[Texts, ...]]]:
        """Travel to other processes as plain examples."""
        return StoredTexts, (tuple(self),)

    def __len__(self) -> int:
        """Number of examples."""
        return (len(self._starts) - 1) // max(1, self._columns)

    @overload
    def __getitem__(self, rows: int) -> Texts: ...

    @overload
    def __getitem__(self, rows: slice) -> tuple[Texts, ...]: ...

    def __getitem__(self, rows: int | slice) -> Texts | tuple[Texts, ...]:
        """One example, or a tuple of some."""
        if isinstance(rows, slice):
            found = tuple(self._texts(row) for row in range(len(self))[rows])
            self._give_back()
            return found
        return self._texts(range(len(self))[rows])

    def __iter__(self) -> Iterator[Texts]:
        """Each example in turn."""
        for start in range(0, len(self), _CHUNK):
            yield from self[start : start + _CHUNK]

    def __eq__(self, other: object) -> bool:
        """Whether another sequence holds the same examples."""
        if not isinstance(other, (StoredTexts, tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal to tuples, whose hash would need all texts

    def __repr__(self) -> str:
        """The first examples."""
        first = ", ".join(map(repr, self[:3]))
        return f"StoredTexts({first}{', …' if len(self) > 3 else ''}; {len(self):,})"

    def _texts(self, row: int) -> Texts:
        first = row * self._columns
        starts = self._starts[first : first + self._columns + 1].tolist()
        pairs = itertools.pairwise(starts)
        return tuple(self._bytes[start:end].decode("utf-8", "surrogatepass") for start, end in pairs)

    def _give_back(self) -> None:
        """Let the system have the memory of what was read back; the file stays."""
        if isinstance(self._bytes, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._bytes.madvise(mmap.MADV_DONTNEED)


def _kept(file: "tempfile.SpooledTemporaryFile[bytes]", size: int) -> bytes | mmap.mmap:
    """What was written: in memory if it is small, else mapped, so that the file may be closed."""
    if size <= _SMALL:
        file.seek(0)
        return file.read()
    file.rollover()
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _chunks(examples: Iterable[Texts]) -> Iterator[list[Texts]]:
    chunk: list[Texts] = []
    for texts in examples:
        chunk.append(texts)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
