"""Numbers as a reader wants them: with the digits that matter, and never a zero for what was not measured."""

import math

from graft.eval.comparison import Interval
from graft.eval.metrics import METRICS
from graft.eval.tables import digits_of, interval

NOT_MEASURED = "not measured"

_MINUS = "\N{MINUS SIGN}"

COSTS = {
    "trainable": "parameters that learn",
    "trainable_without_head": "of them outside the head",
    "total": "all parameters",
    "artefact_bytes": "artefact",
    "peak_memory_bytes": "peak memory",
    "seconds_per_step": "time a step",
    "train_seconds": "training time",
}
"""What each cost is called, in the order of the tables."""


def number(value: float | None, digits: int = 3) -> str:
    """Write a number to significant digits, without trailing zeros or exponents."""
    if value is None:
        return NOT_MEASURED
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{abs(value):,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return (_MINUS if value < 0 else "") + text


def score(value: float, metric: str) -> str:
    """Write a metric with its usual decimals."""
    return f"{value:.{digits_of(metric)}f}".replace("-", _MINUS)


def difference(found: Interval, metric: str) -> str:
    """Write a difference with its interval; the reference has none."""
    return interval(found, digits_of(metric))


def cost(name: str, value: float | None) -> str:
    """Write a cost with its unit."""
    if value is None:
        return NOT_MEASURED
    if name.endswith("_bytes"):
        return size(value)
    if name == "seconds_per_step":
        return f"{number(value * 1000)} ms"
    return duration(value) if name == "train_seconds" else f"{value:,.0f}"


def size(value: float) -> str:
    """Write bytes in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{number(value)} {unit}"
        value /= 1024
    return f"{number(value)} GiB"


def duration(seconds: float) -> str:
    """Write seconds, or minutes or hours where they are many."""
    if seconds < 120:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if seconds < 7200 else f"{number(seconds / 3600)} h"


def probability(value: float) -> str:
    """Write a p-value."""
    return "< 0.0001" if value < 1e-4 else number(value, 2)


def percent(ratio: float | None) -> str:
    """Write a ratio in percent; empty where there is none."""
    return "" if ratio is None else f"{number(100 * ratio, 2 if ratio < 1 else 3)} %"


def unit(metric: str) -> str:
    """Name what a metric counts in."""
    if metric not in METRICS:
        return ""
    row = METRICS[metric]
    return "points" if row.scale == 100.0 else "nats" if metric == "loss" else ""


def counted(many: int, one: str, more: str | None = None) -> str:
    """Write a number of things: 1 seed, 5 seeds."""
    return f"{many:,} {one if many == 1 else more or one + 's'}"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """Join names as people do: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
