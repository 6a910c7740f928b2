"""What an interval lets one say, on two axes: which way a difference goes, and how large it is."""

from dataclasses import dataclass
from typing import Literal

_MINUS, _TO = "\N{MINUS SIGN}", "\N{HORIZONTAL ELLIPSIS}"
_DIRECTIONS = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}


def direction(
    low: float | None, high: float | None, higher_is_better: bool = True
) -> Literal["better", "worse", "not shown"]:
    """Tell whether an interval of the difference to the reference lies on one side of zero.

    Args:
        low: Lower end; none where nothing could be estimated.
        high: Upper end.
        higher_is_better: Whether a larger metric is the better one.
    """
    if low is None or high is None or low <= 0.0 <= high:
        return "not shown"
    return "better" if (low > 0.0) == higher_is_better else "worse"


def size(
    low: float | None, high: float | None, margin: float | None
) -> Literal["equivalent", "not equivalent", "not shown"]:
    """Tell whether an interval lies within ± a margin, or outside it.

    Within is two one-sided tests (Schuirmann 1987), each at half the interval's level, so that the verdict is always
    what the interval shows.

    Args:
        low: Lower end; none where nothing could be estimated.
        high: Upper end.
        margin: In points, above zero; none means that no size is judged.
    """
    if low is None or high is None or margin is None:
        return "not shown"
    if -margin < low and high < margin:
        return "equivalent"
    return "not equivalent" if low >= margin or high <= -margin else "not shown"


@dataclass(frozen=True)
class Finding:
    """What a sentence is about.

    Attributes:
        method: Its label.
        reference: The reference's label, as "full fine-tuning".
        where: A task's name, or such as "the mean over 6 tasks".
        difference: Method less reference, in points.
        low: Lower end of its interval; none where nothing could be estimated.
        high: Upper end.
        margin: In points; none means that no size is judged.
        higher_is_better: Whether a larger metric is the better one.
        seeds: How many runs were compared; a single one is said.
        unit: Put behind the difference where it is not points, as "nats".
    """

    method: str
    reference: str
    where: str
    difference: float
    low: float | None
    high: float | None
    margin: float | None = None
    higher_is_better: bool = True
    seeds: int | None = None
    unit: str = ""


@dataclass(frozen=True)
class Ratios:
    """Costs, each as a ratio to the reference's; none where one was not measured.

    Attributes:
        parameters: That learn.
        memory: At the peak of training.
        time: Of a training step.
    """

    parameters: float | None = None
    memory: float | None = None
    time: float | None = None


def sentence(finding: Finding, ratios: Ratios | None = None) -> str:
    """Say what the evidence supports in one sentence, true to both axes.

    Returns:
        Such as "lora: better than full fine-tuning on mrpc, +0.7 (+0.1 … +1.3), size undecided at ±1;
        1.4 % of the parameters, 55 % of the memory, 107 % of the time a step".
    """
    way = direction(finding.low, finding.high, finding.higher_is_better)
    unit = f" {finding.unit}" if finding.unit else ""
    number = f"{signed(finding.difference)}{unit}"
    if finding.low is not None and finding.high is not None:
        number += f" ({signed(finding.low)} {_TO} {signed(finding.high)})"
    parts = [f"{_DIRECTIONS[way]} {finding.reference} on {finding.where}", number]
    if finding.low is None:
        parts.append("too few examples for an interval")
    elif finding.margin is not None:
        parts.append(_size_clause(size(finding.low, finding.high, finding.margin), finding.margin, unit))
    if finding.seeds == 1:
        parts.append("of a single seed, so that other seeds may say otherwise")
    costs = "" if ratios is None else _cost_clause(ratios)
    return f"{finding.method}: {', '.join(parts)}{'; ' if costs else ''}{costs}"


def signed(value: float) -> str:
    """Write a difference with its sign and one decimal, or more where one would hide it."""
    digits = 1 if abs(value) >= 0.05 or value == 0 else 2 if abs(value) >= 0.005 else 3
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else _MINUS) + text


def _size_clause(verdict: str, margin: float, unit: str) -> str:
    """The second axis, in words."""
    within = f"±{margin:g}{unit}"
    if verdict == "equivalent":
        return f"equivalent within {within}"
    return f"not equivalent within {within}" if verdict == "not equivalent" else f"size undecided at {within}"


def _cost_clause(ratios: Ratios) -> str:
    """Costs that were measured, in words."""
    named = ((ratios.parameters, "parameters"), (ratios.memory, "memory"), (ratios.time, "time a step"))
    return ", ".join(f"{_percent(value)} of the {name}" for value, name in named if value is not None)


def _percent(ratio: float) -> str:
    """A ratio in percent, with as many digits as matter."""
    percent = 100.0 * ratio
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %" if percent >= 0.095 else f"{percent:.2g} %"
