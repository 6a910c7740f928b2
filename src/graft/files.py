"""Files that are whole or absent, and names for content: atomic writes, SHA-256, canonical JSON.

This module imports nothing of ours, so that every folder may use it.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from graft.errors import GraftError


class _WriteError(GraftError):
    """Something could not be written; `reason` is the system's."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot write ({reason}); free some space or choose another folder")
        self.reason = reason


def sha256_file(path: Path) -> str:
    """Hash a file's bytes.

    Returns:
        64 lower-case hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Hash a value made of JSON types; equal values hash equally, whatever the order of their keys.

    Floats are written by `repr`, so that 0.1 and 0.1000000000000001 differ. NaN is refused.

    Returns:
        64 lower-case hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        GraftError: The disk is full or the folder cannot be written; the old file is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _WriteError(path, error.strerror or str(error)) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone already where all went well, or the place is no folder
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused, as JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Build a folder beside its final place and move it there when the block ends without an error.

    A folder that already stands at `path` is replaced; on an error it is left as it was.

    Args:
        path: Where the folder will stand.

    Yields:
        A fresh empty folder on the same file system, to be filled.

    Raises:
        GraftError: The disk is full or the place cannot be written.
    """
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
        if path.exists():
            old = _beside(path)
            path.replace(old)
            temporary.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            temporary.replace(path)
    except OSError as error:
        raise _WriteError(path, error.strerror or str(error)) from error
    except SafetensorError as error:  # wraps the system's own: "... I/O error: No space left on device (os error 28)"
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise _WriteError(path, os.strerror(int(number[1]))) from error
    except _WriteError as error:  # of a file in the temporary folder, whose name says nothing to anyone
        raise _WriteError(path, error.reason) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A hidden name of nothing yet, in the same folder; what is made there has the rights that the umask leaves."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def inside(folder: Path, relative: str) -> Path:
    """Join a name to a folder, refusing names that lead out of it.

    Raises:
        GraftError: The path is absolute or climbs out of the folder.
    """
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise GraftError(f"{relative!r} leads out of {folder}; use a path inside it")
    return path
