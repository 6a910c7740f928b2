"""What a picture shows, apart from how it is drawn: the interactive and the static one are made of the same."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: What is measured, with its unit.
        log: Whether equal ratios take equal room.
        from_zero: Whether zero belongs to the axis.
    """

    title: str
    log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Series:
    """Points or a line.

    Attributes:
        label: Whose it is.
        style: Number of the method, for its colour, mark and dash; none for what is no method's.
        x: Where the points are.
        y: Their values.
        low: Lower ends of their intervals, or of the band around the line; none where there are none.
        high: Upper ends.
        hover: What is said of each point: lines of text.
        form: Single points with their names beside them, a line, a line with a mark at each point, or the line of
            steps that joins the best.
        hollow: Whether the marks are drawn as rings.
    """

    label: str
    style: int | None
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: Values = ()
    high: Values = ()
    hover: tuple[tuple[str, ...], ...] = ()
    form: Literal["points", "line", "marked line", "front"] = "points"
    hollow: bool = False


@dataclass(frozen=True)
class Level:
    """A straight line across a chart, or a band where there are two values.

    Attributes:
        label: What it stands for.
        values: One height, or the lower and the upper end of a band.
    """

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """A picture with two axes.

    Attributes:
        name: For the file and for links: letters, digits and dashes.
        title: What it is.
        reading: How it is read, for the caption.
        told: What it shows, for those who do not see it.
        subject: The task, or the mean, that it is about.
        note: What is special about this one, for the caption; empty where nothing is.
        x: The horizontal axis.
        y: The vertical axis.
        series: What is drawn.
        levels: What runs across.
    """

    name: str
    title: str
    reading: str
    told: str
    subject: str
    note: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True)
class HeatMap:
    """Differences, a row per method and a column per task.

    Attributes:
        name: As a chart's.
        title: As a chart's.
        reading: As a chart's.
        told: As a chart's.
        rows: Labels of the methods.
        columns: Labels of the tasks.
        values: How much better than the reference, a row per method; none where there is no result.
        cells: What is written into each cell: lines.
        hover: What is said of each cell: lines.
        unit: Of the values.
    """

    name: str
    title: str
    reading: str
    told: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[Values, ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...]
    hover: tuple[tuple[tuple[str, ...], ...], ...]
    unit: str


@dataclass(frozen=True)
class Ranks:
    """Average ranks, each with half the critical difference to both sides.

    Attributes:
        name: As a chart's.
        title: As a chart's.
        reading: As a chart's.
        told: As a chart's.
        labels: Of the methods, the best first.
        styles: Numbers of the methods.
        ranks: Their average ranks.
        critical: The critical difference.
        hover: What is said of each: lines.
    """

    name: str
    title: str
    reading: str
    told: str
    labels: tuple[str, ...]
    styles: tuple[int, ...]
    ranks: tuple[float, ...]
    critical: float
    hover: tuple[tuple[str, ...], ...]


Picture = Chart | HeatMap | Ranks


def full_title(picture: Picture) -> str:
    """A picture's title where it stands alone, with the task that it is about."""
    return f"{picture.subject}: {picture.title}" if isinstance(picture, Chart) else picture.title


def caption(picture: Picture, known: set[str]) -> str:
    """What stands below a picture: how it is read, unless a picture before it said so, and what is special about it.

    Args:
        picture: The picture.
        known: What was said already; what is said now is added.
    """
    reading = "" if picture.reading in known else picture.reading
    known.add(picture.reading)
    note = picture.note if isinstance(picture, Chart) else ""
    return " ".join(part for part in (reading, note) if part)


def named(kind: str, *of: str, taken: Sequence[str] = ()) -> str:
    """Name a picture so that the name can be a file's and a link's, whatever the task is called.

    Args:
        kind: What kind of picture.
        of: What it is about.
        taken: Names that are given away already.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", "-".join((kind, *of)).lower()).strip("-")[:80]
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name
