"""Writing a report: collect what there is, put it together, and lay it out as a page and as Markdown."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from graft.errors import GraftError
from graft.eval.comparison import Comparison
from graft.eval.report.contents import compose
from graft.eval.report.sources import collect
from graft.files import write_atomically

PAGE = "report.html"
MARKDOWN = "report.md"

_NEEDED = ("jinja2", "plotly")
_NEEDED_TO_DRAW = ("matplotlib",)


def missing_packages(*, figures: bool = False) -> list[str]:
    """Name the packages that a report needs and that are not installed.

    Args:
        figures: Whether static pictures are wanted too.
    """
    needed = (*_NEEDED, *(_NEEDED_TO_DRAW if figures else ()))
    return [name for name in needed if importlib.util.find_spec(name) is None]


def write_report(
    comparison: Comparison, folders: Sequence[Path], out: Path, *, figures: Path | None = None
) -> list[Path]:
    """Write a report of a comparison.

    Args:
        comparison: What was found.
        folders: Where the runs lie, if not where the comparison says; learning curves, examples and commands are read
            off them.
        out: Folder to write to; made if it is not there.
        figures: Folder for every picture as SVG; none means that none is written.

    Returns:
        The files: `report.html`, which holds all that it needs, `report.md`, then the pictures.

    Raises:
        GraftError: A package is not installed, or a folder cannot be written.
    """
    if absent := missing_packages(figures=figures is not None):
        raise GraftError(f"the report needs {' and '.join(absent)}; install it with: pip install 'graft-nlp[report]'")
    from graft.eval.report.markdown import markdown
    from graft.eval.report.page import page

    contents = compose(collect(comparison, folders))
    drawn: list[Path] = []
    if figures is not None:
        from graft.eval.report.static import draw

        drawn = draw(contents.all_pictures, figures)
    write_atomically(out / PAGE, page(contents))
    write_atomically(out / MARKDOWN, markdown(contents, out, drawn))
    return [out / PAGE, out / MARKDOWN, *drawn]
