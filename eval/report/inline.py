"""The report's pictures as plotly's own figures: for notebooks, and for whoever wants to change them."""

import re
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from graft.errors import GraftError
from graft.eval.comparison import Comparison
from graft.eval.report.contents import compose
from graft.eval.report.interactive import figure, plain
from graft.eval.report.pictures import Picture, caption, full_title
from graft.eval.report.sources import collect
from graft.eval.report.styles import DARK_ON_LIGHT
from graft.eval.report.writing import missing_packages

_LINE = 120
"""Characters of a caption's line."""

_TITLE, _CAPTION = 44, 18
"""Pixels above a picture: for its title, and for each line of its caption."""


def figures(comparison: Comparison, folders: Sequence[Path] = ()) -> list[Any]:
    """Draw the pictures of a comparison's report.

    They are on white paper, as a figure cannot know whether the page around it is light or dark.

    Args:
        comparison: What was found.
        folders: Where the runs lie, if not where the comparison says; learning curves are read off them.

    Returns:
        `plotly.graph_objects.Figure`s, in the order of the report; a notebook shows each with its `show()`.

    Raises:
        GraftError: plotly is not installed.
    """
    if "plotly" in missing_packages():
        raise GraftError("pictures need plotly; install it with: pip install 'graft-nlp[report]'")
    known: set[str] = set()
    return [_drawn(picture, caption(picture, known)) for picture in compose(collect(comparison, folders)).all_pictures]


def _drawn(picture: Picture, below: str) -> Any:
    """A picture with its title and its caption, which the report's page has outside of it."""
    from plotly.graph_objects import Figure

    palette = _palette()
    spec = _painted(figure(picture), palette)
    layout, lines = spec["layout"], textwrap.wrap(below, _LINE)
    above = _TITLE + _CAPTION * len(lines)
    layout["title"] = {
        "text": plain(full_title(picture)),
        "subtitle": {"text": "<br>".join(map(plain, lines)), "font": {"color": palette["muted"], "size": 12}},
        "font": {"color": palette["text"], "size": 15},
        "x": 0,
        "xanchor": "left",
        "xref": "container",
        "y": 1,
        "yanchor": "top",
        "yref": "container",
        "pad": {"t": 8, "l": 8},
        "automargin": False,
    }
    layout["margin"]["t"] += above
    layout["height"] += above
    return Figure(spec).update_layout(paper_bgcolor=palette["paper"], plot_bgcolor=palette["paper"])


def _palette() -> dict[str, str]:
    """The colours of the page where it is light, by name."""
    css = (files("graft.eval.report") / "templates" / "report.css").read_text(encoding="utf-8")
    light, _, _ = css.partition("@media")
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", light)) | {f"m{n}": c for n, c in enumerate(DARK_ON_LIGHT)}


def _painted(value: Any, palette: dict[str, str], key: str = "") -> Any:
    """Put colours in place of their names; only what stands under a colour's key is one, as on the page."""
    if isinstance(value, str):
        named = value.startswith("@") and re.search(r"color(scale)?$", key)
        return _colour(value, palette) if named else value
    if isinstance(value, list):
        return [_painted(part, palette, key) for part in value]
    if isinstance(value, dict):
        return {name: _painted(part, palette, name) for name, part in value.items()}
    return value


def _colour(name: str, palette: dict[str, str]) -> str:
    """A colour by its name, with a "/" and an opacity where it is not whole."""
    plain_name, _, opacity = name[1:].partition("/")
    colour = palette[plain_name]
    if not opacity:
        return colour
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({','.join(map(str, parts))},{opacity})"
