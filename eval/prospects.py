"""What the data of a task can decide, told from what the runs that there are vary by."""

import math

from graft.eval import power
from graft.eval.comparability import place
from graft.eval.comparison import Power, Result
from graft.eval.influence import flip
from graft.eval.paired import Components
from graft.eval.results import Question, unit_of

SEEDS = (2, 3, 5, 10, 20, 50)
"""Numbers of seeds for which a half-width is told, beside the number that there is."""


def prospect(result: Result, question: Question, methods: int) -> Power | None:
    """Tell how narrow an interval can become.

    Args:
        result: A method on one task.
        question: What is asked; without a margin nothing is said of deciding.
        methods: Methods that are compared with the reference on the task.

    Returns:
        Half-widths to expect, or none where the variance over seeds is not known: for the reference and single seeds.
    """
    if result.components is None:
        return None
    parts = Components(result.components.seed, result.components.example, result.components.residual)
    level, examples = question.level, result.examples
    counted = flip(result.metric)
    widths = {
        str(seeds): power.half_width(parts, seeds, examples, level, methods, counted)
        for seeds in sorted({*SEEDS, len(result.seeds)})
    }
    least = power.limit(parts, examples, level, methods, counted)
    if question.margin is None or result.size in ("equivalent", "not equivalent"):
        needed = None
    else:
        needed = power.examples_needed(parts, len(result.seeds), question.margin, level, methods, counted)
    return Power(
        task=result.task,
        model=result.model,
        method=result.method,
        half_widths=widths,
        limit=least,
        examples_needed=needed,
        sentence=_sentence(result, question, parts, widths[str(len(result.seeds))], least, needed, methods),
    )


def _sentence(
    result: Result,
    question: Question,
    parts: Components,
    width: float,
    least: float,
    needed: int | None,
    methods: int,
) -> str:
    """Say what would decide, in words."""
    unit = f" {unit}" if (unit := unit_of(result.metric)) else ""
    start = (
        f"{place(result.task, result.model)}, {result.method}: {result.examples:,} examples and "
        f"{len(result.seeds)} seeds give a half-width of about {_rounded(width)}{unit}, and no number of seeds less "
        f"than {_rounded(least)}"
    )
    margin = question.margin
    if margin is None:
        return start
    if result.size in ("equivalent", "not equivalent"):
        return f"{start}; ±{margin:g} is decided"
    if least < margin:
        seeds = power.seeds_needed(parts, result.examples, margin, question.level, methods, flip(result.metric))
        how = [f"about {seeds} seeds"] if seeds is not None else []
    else:
        start += f", so that ±{margin:g} cannot be decided by more seeds"
        how = []
    if needed is not None:
        how.append(f"about {needed:,} examples")
    what = " or ".join(how) if how else "neither more seeds nor more examples alone"
    return f"{start}; {what} would probably decide ±{margin:g} for a method that does not differ"


def _rounded(value: float) -> str:
    """A half-width with the digits that matter."""
    return f"{value:.1f}" if value >= 0.95 else f"{value:.{1 - math.floor(math.log10(value))}f}" if value > 0 else "0"
