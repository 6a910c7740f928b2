"""Memory that a process holds beside its tensors: pieces of the heap, and what oneDNN prepared for shapes."""

import ctypes
import os
import sys

_PREPARED = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Sizes of oneDNN's own cache and torch's before it, in matrix products; both hold 1,024 by default."""
_FEW, _MANY = 64, 640
"""Products to keep: where to prepare one costs little; and where steps have few lengths because it costs much."""
LENGTHS = _MANY // 30
"""Lengths whose products are kept in the second case: LoRA's step has about thirty that differ."""
LENGTH_BYTES = 15 * 2**20
"""What those of one length take; 14 to 16 MB were measured, on MRPC with MiniLM and LoRA."""


def bound_caches() -> None:
    """Let oneDNN keep what it prepared for some shapes, not for all; what the user set stays.

    On a processor every length of a batch is a shape, for which all of a step's matrix products are prepared and kept.
    MiniLM's took 14 MB a length, half a gigabyte after forty steps. To prepare them again costs a few percent of a
    step; with tiles (AMX) an eighth, so there more are kept, and steps have fewer lengths (`speed.lengths`). It must
    come before the process's first matrix product in bf16.
    """
    import torch

    kept = _MANY if torch.cpu.get_capabilities().get("amx_bf16") else _FEW
    for name in _PREPARED:
        os.environ.setdefault(name, str(kept))


def give_back() -> None:
    """Give free memory back to the system, where the C library is glibc; elsewhere nothing happens.

    Steps of different lengths leave free pieces that fit nothing larger, and glibc keeps them resident. To give them
    back costs a step's time, since the next one has to ask for its memory anew; it pays around scoring and before a
    step that is larger than all before, where pieces fit least: MiniLM's peak on MRPC fell by 7 %.
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
