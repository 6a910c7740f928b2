"""Another forward pass for some modules, for as long as a block lasts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def stand_ins(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let calls of modules end in other functions; afterwards each has again what it had.

    Args:
        modules: None of them twice.
        forwards: What each one's `forward` is within the block.
    """
    own = [module.__dict__.get("forward") for module in modules]  # a wrapper that recomputes, say
    for module, forward in zip(modules, forwards, strict=True):
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, before in zip(modules, own, strict=True):
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before
