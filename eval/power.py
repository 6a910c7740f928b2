"""What a comparison can decide, from variance components: guessed before training, estimated after it."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from graft.eval.metrics import METRICS
from graft.eval.paired import Components, Uncertainty

CHANCE = 0.8
"""Chance of a decision that is asked of a design: the usual one (Cohen 1988)."""

_POINTS = 64
"""Quantiles of the seeds' mean square over which is averaged: a half-width to three digits."""
_MANY = 10**9
"""Examples, or seeds, that stand for any number of them."""


def half_width(
    components: Components, seeds: int, examples: int, alpha: float, methods: int = 1, flip: float = 0.0
) -> float:
    """Half-width of the interval to expect, in points.

    Args:
        components: Of the paired difference.
        seeds: How many.
        examples: How many.
        alpha: Probability that any of the intervals misses.
        methods: Contrasts with the reference that hold together, at Sidak's level.
        flip: As for `paired`: what one example decided otherwise changes in a sum over examples.

    Returns:
        The mean over what may be observed.
    """
    level = _single_level(alpha, methods)
    return float(np.mean([outcome.half_width(level) for outcome in _outcomes(components, seeds, examples, flip)]))


def limit(components: Components, examples: int, alpha: float, methods: int = 1, flip: float = 0.0) -> float:
    """Half-width that no number of seeds gets below, in points."""
    variance = components.example / examples
    known = Uncertainty(variance, 0.0, math.inf, examples - 1, variance, flip / examples)
    return known.half_width(_single_level(alpha, methods))


def chance(
    components: Components, seeds: int, examples: int, margin: float, alpha: float, methods: int = 1, flip: float = 0.0
) -> float:
    """Probability that a method which does not differ is shown to be equivalent within ± the margin.

    Args:
        components: Of the paired difference.
        seeds: How many.
        examples: How many.
        margin: In points.
        alpha: Probability that any of the intervals misses.
        methods: Contrasts with the reference that hold together, at Sidak's level.
        flip: As for `paired`: what one example decided otherwise changes in a sum over examples.
    """
    level = _single_level(alpha, methods)
    deviation = math.sqrt(_variance(components, seeds, examples))
    room = [margin - outcome.half_width(level) for outcome in _outcomes(components, seeds, examples, flip)]
    inside = [0.0 if left <= 0 else 1.0 - 2.0 * stats.norm.sf(left / deviation) if deviation else 1.0 for left in room]
    return float(np.mean(inside))


def examples_needed(
    components: Components, seeds: int, margin: float, alpha: float, methods: int = 1, flip: float = 0.0
) -> int | None:
    """Tell with how many examples as many seeds would probably show equivalence.

    Returns:
        The smallest number for which `chance` is 0.8; none if no number of examples is enough.
    """
    return _smallest(lambda examples: chance(components, seeds, examples, margin, alpha, methods, flip) >= CHANCE, 2)


def seeds_needed(
    components: Components, examples: int, margin: float, alpha: float, methods: int = 1, flip: float = 0.0
) -> int | None:
    """Tell with how many seeds as many examples would probably show equivalence.

    Returns:
        The smallest number, 2 or more, for which `chance` is 0.8; none if no number of seeds is enough.
    """
    return _smallest(lambda seeds: chance(components, seeds, examples, margin, alpha, methods, flip) >= CHANCE, 2)


def expected_components(metric: str, examples: int, level: float) -> Components:
    """Guess variance components of a paired difference before anything is trained.

    Rules of thumb, set so that a run on 408 examples (MRPC) has a standard deviation of 1.3 points over seeds, and its
    interval half-widths of 2.9 and 2.3 points with 5 and 10 seeds. Of one example's variance under its score, 0.3
    differs between the methods whatever the seed, and 0.5 anew with each pair of runs. Seeds move a run by one point
    at 408 examples beyond that, and by less where there are more: large tasks have more to train on too.

    Args:
        metric: Its name in `METRICS`.
        examples: Of the validation split.
        level: Score to expect, in the metric's unit, as 85 for an accuracy.

    Returns:
        A guess, to be replaced by estimates once there are runs.

    Raises:
        KeyError: There is no such metric.
    """
    row = METRICS[metric]
    if not row.higher_is_better:  # losses of blocks: most of their variance is common to all methods
        return Components((0.005 * level) ** 2, (0.03 * level) ** 2, (0.02 * level) ** 2)
    share = min(max(abs(level) / row.scale, 0.0), 0.99)
    if "regression" in row.kinds:
        single = (1.0 - share**2) ** 2  # of a correlation between normal scores, per example
    elif metric == "matthews":
        single = 1.0 - share**2  # of two classes alike in size
    else:
        single = max(share, 0.5) * (1.0 - max(share, 0.5))
    seeds = 2.0 * min(408 / examples, 4.0)
    return Components(seeds, 0.3 * row.scale**2 * single, 0.5 * row.scale**2 * single)


def _single_level(alpha: float, methods: int) -> float:
    """Sidak's level of one interval among several."""
    return -math.expm1(math.log1p(-alpha) / max(methods, 1))


def _variance(components: Components, seeds: int, examples: int) -> float:
    """Of the mean difference."""
    return components.seed / seeds + components.example / examples + components.residual / (seeds * examples)


def _outcomes(components: Components, seeds: int, examples: int, flip: float) -> list[Uncertainty]:
    """What may be estimated, at evenly spaced quantiles of the seeds' mean square; example squares hardly vary."""
    judged_by_examples = components.example / examples
    examples_only = judged_by_examples + components.residual / (seeds * examples)
    if seeds < 2:
        return [Uncertainty(examples_only, 0.0, math.inf, examples - 1, examples_only, flip / examples)]
    expected = components.seed / seeds + components.residual / (seeds * examples)
    squares = stats.chi2.ppf((np.arange(_POINTS) + 0.5) / _POINTS, seeds - 1) / (seeds - 1)
    found = []
    for judged_by_seeds in expected * squares:
        total = judged_by_seeds + judged_by_examples
        share = judged_by_seeds / total if total else 0.0
        found.append(Uncertainty(total, share, seeds - 1, examples - 1, examples_only, flip / examples))
    return found


def _smallest(enough: Callable[[int], bool], start: int) -> int | None:
    """The smallest number that is enough, as larger ones then are too; none if a billion is not."""
    if not enough(_MANY):
        return None
    high = start
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1 and high > start:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
