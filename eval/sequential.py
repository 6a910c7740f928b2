"""Looking more than once: seeds are added until a comparison is decided, and the level still holds.

Each look may spend a part of alpha, as much as the information gained allows (Lan & DeMets 1983, Biometrika 70:659,
with their spending function of the type of O'Brien & Fleming). Estimates with more and more seeds on the same
examples have the covariances of a process with independent increments, so that levels follow from one-dimensional
integrals (Armitage, McPherson & Rowe 1969).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from graft.eval import power
from graft.eval.paired import Bounds, Components

Array = NDArray[np.float64]
Outcome = Literal["go on", "decided", "cannot be decided"]

_POINTS = (64, 128, 256, 512, 1024)
"""How many points integrals may have: as many as a gain in information is narrow, for levels to four digits."""
_STEADINESS = 0.95
"""Factor of the correlation between two looks: that of Student's statistics of few seeds is a little smaller. Chosen by
simulation: without it, looks at every seed from 3 to 10 err in 5.7 % of cases (scripts/coverage.py)."""
_UNDERRATED = 0.2
"""Chance that seeds vary by more than what is reckoned with in telling information."""


@dataclass(frozen=True)
class Look:
    """One look at the data.

    Attributes:
        information: Share of what will be known at the last look, 0 to 1.
        spent: What of one method's share of alpha is spent by now, this look included.
        level: Level at which this look's intervals hold together over the methods: the alpha to compare at.
    """

    information: float
    spent: float
    level: float


def information(components: Sequence[Components], seeds: int, most: int, examples: int) -> float:
    """Tell how much of what `most` seeds would tell is known with some of them.

    Args:
        components: Of each method's paired difference.
        seeds: There are now.
        most: There may be.
        examples: How many.

    Returns:
        The share for the method that has least, 0 to 1.
    """
    shares = [_share(part, seeds, most, examples) for part in components]
    return min(shares, default=min(seeds / most, 1.0))


def next_look(alpha: float, past: Sequence[Look], share: float, methods: int = 1) -> Look:
    """Take another look.

    Args:
        alpha: Probability of any wrong claim, over all looks and methods.
        past: Looks so far, the first first.
        share: Information now, as `information` gives it; 1 at the last look.
        methods: Contrasts with the reference.

    Returns:
        The look, with the level to compare at.

    Raises:
        ValueError: Alpha or the share is out of range.
    """
    if not 0.0 < alpha < 1.0 or not 0.0 < share <= 1.0:
        raise ValueError(f"alpha {alpha} and information {share} must lie between 0 and 1")
    single = -math.expm1(math.log1p(-alpha) / methods)
    share = max([share, *(look.information for look in past)])
    shares = [*(look.information for look in past), share]
    singles = [-math.expm1(math.log1p(-look.level) / methods) for look in past]
    spent = past[-1].spent if past else 0.0
    affordable = max(_spend(single, share) - spent, 0.0)
    level = _level(shares, singles, affordable) if affordable > 0 else 0.0
    return Look(share, spent + affordable, max(-math.expm1(methods * math.log1p(-level)), 1e-12))


def decide(bounds: Bounds, *, margin: float | None, alpha: float, last: bool = False, methods: int = 1) -> Outcome:
    """Tell whether a method needs more seeds.

    Args:
        bounds: Its interval at this look's level.
        margin: In points; none means that a direction decides.
        alpha: Of the whole comparison.
        last: Whether there may be no further seeds.
        methods: Contrasts with the reference.

    Returns:
        Decided where the interval shows a size (without a margin: a direction). Cannot be decided where even the
        interval after any number of seeds, wherever these may still move it, would not; also at the last look.
    """
    low, high = bounds.low, bounds.high
    if low is not None and high is not None and _shows(low, high, margin):
        return "decided"
    components = bounds.paired.components
    if last or (low is None and components is None):
        return "cannot be decided"
    if components is None:
        return "go on"  # a single seed tells nothing of others
    seeds, examples = bounds.paired.seeds, bounds.paired.examples
    narrowest = power.limit(components, examples, alpha, methods)
    degrees = max(seeds - 1, 1)
    moves = (components.seed + components.residual / examples) / seeds
    reach = float(stats.t.isf(0.5 * alpha, degrees)) * math.sqrt(moves)
    nearest = max(abs(bounds.paired.difference) - reach, 0.0)
    farthest = abs(bounds.paired.difference) + reach
    within = 0.0 if margin is None else margin
    hopeless = nearest > within - narrowest and farthest < within + narrowest
    return "cannot be decided" if hopeless else "go on"


def _shows(low: float, high: float, margin: float | None) -> bool:
    """Whether an interval decides."""
    if margin is None:
        return low > 0.0 or high < 0.0
    return (-margin < low and high < margin) or low >= margin or high <= -margin


def _share(components: Components, seeds: int, most: int, examples: int) -> float:
    """Variance at the last look, as a share of the variance now, if seeds vary as much as they well may."""
    over_seeds = components.seed + components.residual / examples
    if seeds > 1:  # else chance would spend most where few seeds happen to agree, and intervals are narrow by luck
        over_seeds *= (seeds - 1) / float(special.chdtri(seeds - 1, 1.0 - _UNDERRATED))
    now, then = (components.example / examples + over_seeds / count for count in (seeds, most))
    # Runs that agree on everything tell nothing of how they vary: the seeds are counted, so that some of alpha is left.
    return min(then / now, 1.0) if now > 0 else min(seeds / most, 1.0)


def _spend(alpha: float, share: float) -> float:
    """Lan and DeMets' spending function of the O'Brien-Fleming type, half of alpha on either side."""
    return 2.0 * _two_sided(_critical(alpha / 2.0) / math.sqrt(share))


def _level(shares: Sequence[float], past: Sequence[float], affordable: float) -> float:
    """Two-sided level at which crossing for the first time at the last of the shares has the affordable probability."""
    if len(shares) == 1:
        return affordable
    where, weights = _undecided(shares[:-1], past)
    kept, spread = _step(shares[-2], shares[-1])

    def crossing(critical: float) -> float:
        beyond = special.ndtr((kept * where - critical) / spread) + special.ndtr(-(kept * where + critical) / spread)
        return float(weights @ beyond) - affordable

    if crossing(0.0) <= 0.0:
        return 0.0
    return _two_sided(optimize.brentq(crossing, 0.0, 12.0))


def _undecided(shares: Sequence[float], levels: Sequence[float]) -> tuple[Array, Array]:
    """Where an estimate in standard errors may be that has not crossed yet: points (G,), with probabilities (G,)."""
    where, weights, before = np.zeros(1), np.ones(1), 0.0
    for share, level in zip(shares, levels, strict=True):
        bound = min(_critical(level), 8.0)
        kept, spread = _step(before, share)
        points, widths = _quadrature(next((n for n in _POINTS if n * spread >= 6.0 * bound), _POINTS[-1]))
        distances = (bound * points[:, None] - kept * where[None, :]) / spread
        density = np.exp(-0.5 * distances**2) / (spread * math.sqrt(2.0 * math.pi))
        where, weights, before = bound * points, bound * widths * (density @ weights), share
    return where, weights


def _step(before: float, after: float) -> tuple[float, float]:
    """Correlation of two looks' estimates, and the standard deviation of what it leaves."""
    kept = _STEADINESS * math.sqrt(before / after)
    return kept, math.sqrt(1.0 - kept**2)


@functools.cache
def _quadrature(count: int) -> tuple[Array, Array]:
    """Gauss and Legendre's points and weights on -1 to 1, which take long to find."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return points, weights


def _critical(level: float) -> float:
    """The normal's two-sided critical value."""
    return -float(special.ndtri(level / 2.0))


def _two_sided(critical: float) -> float:
    """The level of a critical value."""
    return 2.0 * float(special.ndtr(-critical))
