"""How methods are told apart: by colour, by mark and by dash, so that none of them has to be seen."""

from dataclasses import dataclass

DARK_ON_LIGHT = ("#24292f", "#0b6cb3", "#b3470a", "#00795a", "#9c3a7e", "#7a6200", "#4f4fb8", "#a8222f")
"""On white: the reference first. Each has a contrast of at least 4.5, and lightness apart from its neighbours'."""

LIGHT_ON_DARK = ("#e6e8eb", "#63b3f3", "#f39a5c", "#4cc9a4", "#e79ac9", "#d8be4a", "#a9a9f5", "#ff8f8f")
"""The same on the dark page."""

MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "star", "triangle-down", "x", "pentagon")
"""Plotly's names. One more than there are colours, so that pairs of mark and colour repeat late."""

MATPLOTLIB_MARKS = {
    "circle": "o",
    "square": "s",
    "triangle-up": "^",
    "diamond": "D",
    "cross": "P",
    "star": "*",
    "triangle-down": "v",
    "x": "X",
    "pentagon": "p",
}

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
MATPLOTLIB_DASHES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
}


@dataclass(frozen=True)
class Style:
    """How one method is drawn.

    Attributes:
        colour: Number of its colour.
        mark: Plotly's name of its mark.
        dash: Plotly's name of its dash.
    """

    colour: int
    mark: str
    dash: str


def style(number: int) -> Style:
    """How the method of a number is drawn; the reference, number 0, keeps the text's colour for itself."""
    colour = 0 if number == 0 else 1 + (number - 1) % (len(DARK_ON_LIGHT) - 1)
    return Style(colour, MARKS[number % len(MARKS)], DASHES[number % len(DASHES)])
