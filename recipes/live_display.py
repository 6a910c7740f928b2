"""Progress that is redrawn in place wherever it is watched: on a terminal by rich, in a notebook as one output."""

import io
import multiprocessing
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import Progress

_WIDTH = 100
"""Characters of a line in a notebook, where nobody says how wide the page is."""

_SECONDS = 0.5
"""Between two drawings in a notebook: each is a message to the browser."""

_FORMAT = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;background:transparent;'
    "font-family:Menlo,'DejaVu Sans Mono',Consolas,'Courier New',monospace\">{code}</pre>"
)


def in_place(display: Progress | Live) -> AbstractContextManager[Any]:
    """Choose how a display is shown while a `with` statement lasts.

    In a notebook rich would need ipywidgets, whose outputs are empty where a notebook is only read. Here it is one
    plain output, which is replaced, and whose last state stays in the notebook.

    Args:
        display: Knows what is to be seen, and on which console.
    """
    if not display.console.is_jupyter:
        return display
    # What accelerate's notebook_launcher forks has the kernel's name but not its connection to the page.
    if multiprocessing.parent_process() is not None or (isinstance(display, Progress) and display.disable):
        return nullcontext()
    return CellOutput(display.get_renderable)


class CellOutput:
    """One output of a notebook's cell that is drawn again and again."""

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        """Prepare.

        Args:
            render: What is to be seen now.
        """
        self._render = render
        self._over = threading.Event()
        # What is displayed belongs to the cell that the context names.
        self._thread = threading.Thread(target=copy_context().run, args=(self._redraw,), daemon=True)

    def __enter__(self) -> Self:
        """Show it."""
        from IPython.display import display

        self._handle: Any = display(_bundle(self._render()), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state standing."""
        self._over.set()
        self._thread.join()
        self._handle.update(_bundle(self._render()), raw=True)

    def _redraw(self) -> None:
        while not self._over.wait(_SECONDS):
            self._handle.update(_bundle(self._render()), raw=True)


def _bundle(seen: RenderableType) -> dict[str, str]:
    """What is seen, as a page shows it and as plain text."""
    drawn = {"file": io.StringIO(), "force_terminal": True, "force_jupyter": False, "color_system": "truecolor"}
    console = Console(record=True, width=_WIDTH, **drawn)  # type: ignore[arg-type]
    console.print(seen)
    page = console.export_html(clear=False, inline_styles=True, code_format=_FORMAT)
    return {"text/html": page, "text/plain": console.export_text()}
