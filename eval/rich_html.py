"""How objects look in a notebook: small tables as HTML that fit a light and a dark page, and need no other package.

Nothing has a colour of its own but the page's text, more or less faint, and whatever comes from a user is escaped.
"""

from collections.abc import Iterable, Sequence
from html import escape

from graft.eval.comparison import Comparison
from graft.eval.tables import sections

_RULE = "1px solid rgba(128,128,128,.35)"
_TABLE = "border-collapse:collapse;margin:.3em 0;font-variant-numeric:tabular-nums;border:none"
_CELL = "padding:.15em 1em .15em 0;vertical-align:top;border:none;background:transparent"
_WORDS = frozenset({"method", "direction", "size", "split"})
"""Headings of columns that hold words; the others hold numbers, which stand at the right."""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Lay a table out; the first cell of a row names it.

    Args:
        headings: One per column; where all are empty there is no heading row.
        rows: Cells: text, not HTML.
        caption: What stands above; empty for nothing.
    """
    sides = ["left" if not heading or heading in _WORDS else "right" for heading in headings]
    space = "nowrap" if any(headings) else "normal"  # a table of columns scrolls sideways instead
    sides = [f"text-align:{side};white-space:{space}" for side in sides]
    head = "".join(_cell("th", heading, side) for heading, side in zip(headings, sides, strict=True))
    body = "".join(
        f'<tr style="border-top:{_RULE};background:transparent">'
        + "".join(
            _cell("td" if number else "th", cell, side)
            for number, (cell, side) in enumerate(zip(row, sides, strict=True))
        )
        + "</tr>"
        for row in rows
    )
    above = f'<div style="opacity:.75;margin-top:.6em">{escape(caption)}</div>' if caption else ""
    top = f'<thead><tr style="background:transparent">{head}</tr></thead>' if any(headings) else ""
    return f'{above}<div style="overflow-x:auto"><table style="{_TABLE}">{top}<tbody>{body}</tbody></table></div>'


def _cell(tag: str, text: str, style: str) -> str:
    weight = "600" if tag == "th" else "400"
    return f'<{tag} style="{_CELL};{style};font-weight:{weight}">{escape(text)}</{tag}>'


def folded(title: str, inside: str) -> str:
    """HTML that is seen when its title is clicked.

    Args:
        title: Text.
        inside: HTML.
    """
    return f'<details style="margin:.3em 0"><summary style="cursor:pointer">{escape(title)}</summary>{inside}</details>'


def listed(sentences: Iterable[str]) -> str:
    """Sentences below each other; nothing where there are none."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul style="margin:.3em 0;padding-left:1.2em">{items}</ul>' if items else ""


def comparison_html(comparison: Comparison) -> str:
    """A comparison: a sentence for each method, the tables, and, folded, what else there is to know."""
    said = [result.sentence for result in comparison.results if result.direction != "reference"]
    said += [mean.sentence for mean in comparison.suite if mean.direction != "reference"]
    tables = "".join(table(headings, rows, caption) for caption, headings, rows in sections(comparison))
    notes = [
        ("What the data can decide", [power.sentence for power in comparison.power]),
        ("Warnings", comparison.warnings),
        ("Missing runs", [f"{missing.what}: {missing.reason}" for missing in comparison.missing]),
    ]
    below = "".join(folded(f"{title} ({len(lines)})", listed(lines)) for title, lines in notes if lines)
    return f"<div>{listed(said)}{tables}{below}</div>"
