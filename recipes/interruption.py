"""Ctrl-C and SIGTERM between two steps instead of in the middle of one, so that a run stops in a state worth saving."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        """Whether to stop before the next step."""
        return self.asked


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Note the first signal and act on it between steps; a second one interrupts at once.

    Outside of the main thread, where Python lets nobody handle signals, nothing is changed.

    Yields:
        What to ask between steps.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        if interruption.asked:
            raise KeyboardInterrupt
        interruption.asked = True

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
