"""The C library's heap: memory that tensors gave back, and that the process still holds in pieces."""

import ctypes
import sys


def give_back() -> None:
    """Give free memory back to the system, where the C library is glibc; elsewhere nothing happens.

    Steps of different lengths leave free pieces that fit nothing larger, and glibc keeps them resident: by its own
    accord a run grows by a third over what it uses. To give them back costs a step's time, since the next one has to
    ask for its memory anew; it pays before a step or a scoring that is larger than all before, where pieces fit least.
    See malloc_trim(3).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


def _trim() -> "ctypes._NamedFuncPointer | None":
    """Find glibc's malloc_trim; none where another C library runs the process."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
