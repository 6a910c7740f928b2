"""How many bytes of tensors are alive while something is computed, told for any batch from two and three examples.

Every operation's results are counted when they come and when they go. A computation does the same operations in the
same order whatever the number of examples, and each result is a constant or grows by the same amount with every
example; so does the sum of those alive at any one operation. The largest sum is not always at the same operation:
that is why it is found after, and not before, the extrapolation.
"""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FEW, _MORE = 2, 3
"""Not one example: torch leaves out operations over an axis of length one."""


def peak(work: Callable[[int], object], examples: int) -> int:
    """Tell the most bytes that are alive at a time in a computation over a batch, beyond what was there before it.

    Args:
        work: Does the computation over so many examples, all of the batch's largest length.
        examples: Of the batch.
    """
    if examples <= _MORE:
        return int(_alive(work, examples).max(initial=0))
    few, more = _alive(work, _FEW), _alive(work, _MORE)
    if len(few) != len(more):  # it branches on the number of examples: then the peaks are all there is to go by
        few, more = few.max(keepdims=True, initial=0), more.max(keepdims=True, initial=0)
    return int((few + (examples - _FEW) * (more - few)).max(initial=0))


def _alive(work: Callable[[int], object], examples: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Bytes alive after each operation, (operations,)."""
    with _Meter() as meter:
        work(examples)
    return np.array(meter.trace, dtype=np.int64)


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make and that are not gone yet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace: list[int] = []
        self._now = 0
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count what is new in its results; views and in-place results share a storage."""
        before = {id(storage) for storage in _storages((args, kwargs))}
        found = function(*args, **(kwargs or {}))
        for storage in _storages(found):
            if id(storage) not in self._known and id(storage) not in before:
                self._count(storage)
        self.trace.append(self._now)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Add a storage, and take it off again when it goes."""
        number, size = id(storage), storage.nbytes()

        def gone(_: object) -> None:
            self._now -= size
            self._known.pop(number, None)

        self._now += size
        self._known[number] = weakref.ref(storage, gone)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    found: list[torch.UntypedStorage] = []
    for leaf in tree_leaves(values):
        if isinstance(leaf, torch.Tensor):
            parts = (leaf._indices(), leaf._values()) if leaf.is_sparse else (leaf,)
            found += [part.untyped_storage() for part in parts]
    return found
