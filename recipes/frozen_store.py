"""Where outputs of frozen layers are kept: one safetensors file a split, mapped into memory, the oldest leaving first.

The folder is `GRAFT_CACHE`, or else `graft` in the user's cache folder. Whatever is in it can be deleted at any time,
also while it is in use. A file has its name only once it is whole, and says what its content hashes to. Each process
reads it once to see that this is so: what a disk has lost is computed again.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

log = logging.getLogger(__name__)

BOUND = 16 * 2**30
"""Bytes of all files together; those that were not used for longest are deleted."""
_ABANDONED = 24 * 3600.0
"""Seconds after which a file that nobody finished is deleted."""
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_PART, _WHOLE = ".part", ".safetensors"
_UNKNOWN = "0" * 64
_READ: set[tuple[Path, int, int]] = set()
"""Files, by path, inode and size, of which this process knows that they hold what was written."""


def cache_folder() -> Path:
    """Tell where graft keeps what it can compute again."""
    named = os.environ.get("GRAFT_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "graft"


class Rows:
    """The outputs for each example of a split, one below the other.

    Attributes:
        values: (all rows, width), mapped from a file: only what is looked at is held in memory.
        parts: Elements of the tuple that the layer returns; 0 where it returns a tensor.
    """

    def __init__(self, values: Tensor, starts: NDArray[np.int64], parts: int) -> None:
        """Take over a mapped tensor.

        Args:
            values: As above.
            starts: int64 (examples + 1,): where the rows of each example begin, and where the last one's end.
            parts: As above.
        """
        self.values, self.parts = values, parts
        self._starts = starts

    def of(self, row: int) -> Tensor:
        """An example's rows, (its number of rows, width)."""
        return self.values[int(self._starts[row]) : int(self._starts[row + 1])]


Fill = Callable[[], Iterator[tuple[int, Tensor, int]]]
"""Computes the rows of each example, in any order: number of the example, its rows, `parts` as in `Rows`."""


def kept(key: str, starts: NDArray[np.int64], fill: Fill) -> Rows:
    """Take the rows from the folder, or compute them and put them there.

    Processes that want the same rows at the same time wait for the one that computes them; where the file system has
    no locks, each computes its own, and the last one's stay.

    Args:
        key: Names content that is equal bit for bit wherever it is equal.
        starts: As for `Rows`.
        fill: Computes the rows where they are not there.

    Returns:
        The rows.

    Raises:
        OSError: There is no room for them, or the folder cannot be written.
    """
    folder = cache_folder() / "frozen"
    path = folder / f"{key}{_WHOLE}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{key}.lock"):
        found = _opened(path, starts)
        if found is None:
            with _part_in(folder, key) as part:
                found = _made(part, starts, fill)
                folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it meanwhile, with the part
                with contextlib.suppress(FileNotFoundError):
                    _seal(part, found)
                    part.replace(path)
            _evict(folder, path)
        else:
            with contextlib.suppress(OSError):  # it may just have been deleted, or be another user's
                os.utime(path)
    return found


def temporary(starts: NDArray[np.int64], fill: Fill) -> Rows:
    """Compute the rows into a file without a name, which is gone when nobody maps it any more.

    Args:
        starts: As for `Rows`.
        fill: Computes the rows.

    Raises:
        OSError: There is no room for them.
    """
    with _part_in(Path(tempfile.gettempdir()), "graft-frozen") as part:
        return _made(part, starts, fill)


@contextlib.contextmanager
def _part_in(folder: Path, name: str) -> Iterator[Path]:
    """A file of this process alone; deleted in the end, unless it has got another name."""
    handle, path = tempfile.mkstemp(_PART, f"{name}-", folder)
    os.close(handle)
    try:
        yield Path(path)
    finally:
        Path(path).unlink(missing_ok=True)


def _opened(path: Path, starts: NDArray[np.int64]) -> Rows | None:
    """Map a finished file; none where there is none, or where it is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            values, said = file.get_tensor("values"), file.metadata()
        parts, content = int(said["parts"]), said["sha256"]
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("%s: damaged (%s); it is computed again", path, error)
        return None
    if len(values) != starts[-1]:
        return None
    if (file_there := _identity(path)) not in _READ:
        if content != _content(values):
            log.warning("%s: damaged (its content is not what was written); it is computed again", path)
            return None
        _READ.add(file_there)
    return Rows(values, starts, parts)


def _identity(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_ino, status.st_size


def _made(part: Path, starts: NDArray[np.int64], fill: Fill) -> Rows:
    """Compute all rows into a file, and map it."""
    made: Rows | None = None
    for row, values, parts in fill():
        if made is None:
            mapped = _laid_out(part, int(starts[-1]), values.shape[1], values.dtype, parts)
            made = Rows(torch.from_numpy(mapped).view(values.dtype), starts, parts)
        made.of(row).copy_(values)
    assert made is not None
    return made


def _seal(part: Path, made: Rows) -> None:
    """Write into the head of a file what its content hashes to."""
    with part.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        head = file.read(size).replace(_UNKNOWN.encode(), _content(made.values).encode())
        file.seek(8)
        file.write(head)


def _content(values: Tensor) -> str:
    return hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _laid_out(part: Path, rows: int, width: int, dtype: torch.dtype, parts: int) -> NDArray[np.uint8]:
    """Write the head of a safetensors file, reserve the rest on disk, and map it; (rows, bytes of a row)."""
    size = rows * width * dtype.itemsize
    tensor = {"dtype": _NAMES[dtype], "shape": [rows, width], "data_offsets": [0, size]}
    head = json.dumps({"__metadata__": {"parts": str(parts), "sha256": _UNKNOWN}, "values": tensor}).encode()
    head += b" " * (-len(head) % 8)
    with part.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        if hasattr(os, "posix_fallocate"):  # a full disk is told here; a mapped file without room ends the process
            os.posix_fallocate(file.fileno(), 0, 8 + len(head) + size)
        else:
            file.truncate(8 + len(head) + size)
    return np.memmap(part, np.uint8, "r+", offset=8 + len(head), shape=(rows, width * dtype.itemsize))


def _evict(folder: Path, newest: Path) -> None:
    """Delete what was not used for longest, until all is within bounds; and what was never finished."""
    files, left = [], 0
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may delete at the same time
            status = path.stat()
            if path == newest:
                left = status.st_size
            elif path.suffix == _WHOLE:
                files.append((status.st_mtime, status.st_size, path))
            elif path.suffix == _PART and time.time() - status.st_mtime > _ABANDONED:
                path.unlink()
    for _, size, path in sorted(files, reverse=True):
        left += size
        if left > BOUND:
            path.unlink(missing_ok=True)
