"""The frame of a chart, interactive or static: where its axes end, what stands on them, and on which side labels do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graft.eval.report.pictures import Axis, Chart

_WIDTH, _HEIGHT = 400.0, 300.0
"""Of a chart's inside, in the units of `_LETTER`: pixels of a picture that is half a page wide."""
_LETTER, _LINE, _MARK = 7.0, 14.0, 12.0
"""Width of a letter, height of a line and size of a mark, in the same."""

SIDES = ("top right", "top left", "bottom right", "bottom left", "middle right", "middle left")
"""Where a label may stand, the favourite first."""

_NAMES_AT_MOST = 16
"""Letters of a label beside a point; the whole label is in the hover text and the tables."""


@dataclass(frozen=True)
class Scale:
    """One axis as it is drawn.

    Attributes:
        low: Where it begins; of a logarithmic axis, the exponent of ten.
        high: Where it ends.
        ticks: Values with a mark; none where the drawing program may choose.
    """

    low: float
    high: float
    ticks: tuple[float, ...] | None


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """Say where the axes of a chart end, and what stands on them."""
    lines = any(one.form in ("line", "marked line") for one in chart.series)
    across = [value for one in chart.series for value in one.x]
    up = [value for one in chart.series for part in (one.y, one.low, one.high) for value in part if value is not None]
    up += [value for level in chart.levels for value in level.values]
    return _scale(chart.x, across, 0.02 if lines and not chart.x.log else 0.08), _scale(chart.y, up, 0.06)


def _scale(axis: Axis, values: Sequence[float], air: float) -> Scale:
    if axis.log:
        return _logarithmic(values, air)
    low, high = min(values, default=0.0), max(values, default=1.0)
    if axis.from_zero:
        low = min(low, 0.0)
    room = air * (high - low) or (0.0 if high > low else 1.0)
    return Scale(_rounded(low if axis.from_zero and low == 0.0 else low - room), _rounded(high + room), None)


def _logarithmic(values: Sequence[float], air: float) -> Scale:
    """Ticks at 1, 2 and 5 where few powers of ten are spanned, else at the powers; zero has no place here."""
    logs = [math.log10(value) for value in values if value > 0] or [0.0]
    room = air * (max(logs) - min(logs)) or 0.3
    low, high = min(logs) - room, max(logs) + room
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return Scale(_rounded(low), _rounded(high), tuple(tick for tick in ticks if low <= math.log10(tick) <= high))


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def in_short(value: float) -> str:
    """A round number in a few letters: 100 k, 22 M."""
    for limit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def shortened(label: str) -> str:
    """A label that fits beside a point."""
    return label if len(label) <= _NAMES_AT_MOST else f"{label[: _NAMES_AT_MOST - 1]}…"


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "_Box") -> float:
        """Area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, wide) * max(0.0, high)


def sides(chart: Chart) -> list[str]:
    """Choose a side of each single point for its label, so that labels cover little of each other and of the marks.

    Returns:
        One of `SIDES` for each series of points, in their order.
    """
    x, y = scales(chart)
    points = [one for one in chart.series if one.form == "points"]
    places = [(_along(one.x[0], chart.x, x) * _WIDTH, _along(one.y[0], chart.y, y) * _HEIGHT) for one in points]
    half = _MARK / 2
    taken = [_Box(across - half, up - half, across + half, up + half) for across, up in places]
    chosen = []
    for one, (across, up) in zip(points, places, strict=True):
        boxes = {side: _label_box(side, across, up, len(shortened(one.label)) * _LETTER) for side in SIDES}
        best = min(SIDES, key=lambda side: (round(_covered(boxes[side], taken)), SIDES.index(side)))
        taken.append(boxes[best])
        chosen.append(best)
    return chosen


def _along(value: float, axis: Axis, scale: Scale) -> float:
    """Where on the axis a value lies, from 0 to 1."""
    found = (math.log10(value) if value > 0 else scale.low) if axis.log else value
    return (found - scale.low) / (scale.high - scale.low)


def _label_box(side: str, across: float, up: float, width: float) -> _Box:
    away = _MARK / 2
    left = across + away if "right" in side else across - away - width
    bottom = up + (2 if "top" in side else -2 - _LINE if "bottom" in side else -_LINE / 2)
    return _Box(left, bottom, left + width, bottom + _LINE)


def _covered(box: _Box, taken: Sequence[_Box]) -> float:
    """Area of a label that covers something or lies outside, where it would be cut off."""
    inside = box.overlap(_Box(0.0, 0.0, _WIDTH, _HEIGHT))
    outside = (box.right - box.left) * (box.top - box.bottom) - inside
    return 4.0 * outside + sum(box.overlap(other) for other in taken)
