"""Difference of two methods that share seeds and examples, with what it is uncertain by (docs/statistics.md).

The difference of one run and one example is D[s, i] = mu + a[s] + b[i] + e[s, i]: a crossed design, in which both seeds
and examples are drawn from many. Few seeds say little about how seeds vary, so the critical value is Student's for the
part of the variance that seeds judge, and nearly normal for the part that examples judge (Cochran & Cox 1957, p. 101).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[Any]

LEAST_SHARE = 0.5
"""Least variance taken for true, as a share of what examples alone give: with few seeds the estimate now and then falls
far below it. At one half no coverage of the grid in docs/statistics.md leaves 95 to 97.5 %."""


@dataclass(frozen=True)
class Components:
    """Variance components of one example's difference, in squared points; zero where an estimate is negative.

    Attributes:
        seed: Between seeds.
        example: Between examples.
        residual: Seed by example, and what else is left.
    """

    seed: float
    example: float
    residual: float


@dataclass(frozen=True)
class Uncertainty:
    """Variance of a mean difference, and how well each part of it is known.

    Attributes:
        variance: Estimate, in squared points.
        seed_share: Part of `variance` that is judged by as few values as there are seeds, 0 to 1.
        seed_degrees: Degrees of freedom of that part.
        example_degrees: Degrees of freedom of the rest.
        examples_only: Variance that examples would give if seeds did not vary.
        unseen: What a single example more can change in the mean, in points, for metrics that count; zero for others.
    """

    variance: float
    seed_share: float
    seed_degrees: float
    example_degrees: float
    examples_only: float
    unseen: float = 0.0

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's (1946) degrees of freedom of `variance`."""
        rest = 1.0 - self.seed_share
        inverse = self.seed_share**2 / self.seed_degrees + rest**2 / self.example_degrees
        return 1.0 / inverse

    def critical(self, level: float) -> float:
        """Cochran and Cox's two-sided critical value: Student's quantiles, weighted by shares of the variance."""
        few, many = (_quantile(level, degrees) for degrees in (self.seed_degrees, self.example_degrees))
        return self.seed_share * few + (1.0 - self.seed_share) * many

    def half_width(self, level: float) -> float:
        """Half-width of the two-sided interval, in points.

        Args:
            level: Probability of missing the truth, as 0.05.
        """
        least = _quantile(level, self.example_degrees) * math.sqrt(LEAST_SHARE * self.examples_only)
        rare = -math.log(level / 2.0) * self.unseen  # what occurs in no example seen is no more frequent than this
        return max(self.critical(level) * math.sqrt(self.variance), least, rare)


@dataclass(frozen=True)
class Paired:
    """A method's mean less its reference's.

    Attributes:
        difference: In points.
        standard_error: In points; none where there are too few examples to tell.
        degrees_of_freedom: Satterthwaite's, of the standard error.
        components: What makes single differences vary; none for one seed, and for a mean over tasks.
        seeds: How many; 1 means that the interval is over examples alone, for these very runs.
        examples: How many.
        uncertainty: What intervals are made of; none where there are too few examples.
    """

    difference: float
    standard_error: float | None
    degrees_of_freedom: float | None
    components: Components | None
    seeds: int
    examples: int
    uncertainty: Uncertainty | None

    def half_width(self, level: float) -> float | None:
        """Half-width of this contrast's own interval, in points."""
        return None if self.uncertainty is None else self.uncertainty.half_width(level)


@dataclass(frozen=True)
class Bounds:
    """A difference with its interval, simultaneous over the contrasts it was made with.

    Attributes:
        paired: The difference.
        low: Lower end; none where nothing can be estimated.
        high: Upper end.
        critical: Half-width in standard errors; none with the ends, or where the standard error is zero.
        level: Level of this interval alone that makes all of them hold together.
    """

    paired: Paired
    low: float | None
    high: float | None
    critical: float | None
    level: float


Contrast = tuple[Array, Array] | tuple[Array, Array, float]
"""The arguments of `paired`."""


@dataclass(frozen=True)
class MeanSquares:
    """The analysis of variance of (S, N) differences: all that intervals are made of.

    Attributes:
        mean: Of all differences.
        seed: Between seeds, S - 1 degrees of freedom; none for a single seed.
        example: Between examples, N - 1 degrees of freedom.
        residual: Seed by example, (S - 1) (N - 1) degrees of freedom; none for a single seed.
        seeds: S.
        examples: N, at least 2.
    """

    mean: float
    seed: float | None
    example: float
    residual: float | None
    seeds: int
    examples: int


def paired(method: Array, reference: Array, flip: float = 0.0) -> Paired:
    """Estimate a difference from contributions of the same seeds and examples.

    Args:
        method: float64 (S, N): a row per seed, whose mean is that run's metric.
        reference: float64 (S, N), rows and columns in the same order.
        flip: What one example decided otherwise changes in a sum of N, in points: 100 for metrics that count right and
            wrong (`influence.flip`); zero for those that hardly ever stay unmoved.

    Returns:
        The mean difference and its uncertainty over seeds and examples.

    Raises:
        ValueError: The shapes differ, or there is nothing in them.
    """
    differences = _differences(method, reference)
    seeds, examples = differences.shape
    if examples < 2:
        return Paired(float(differences.mean()), None, None, None, seeds, examples, None)
    return estimate(mean_squares(differences), flip)


def mean_squares(differences: Array) -> MeanSquares:
    """Analyse the variance of a crossed design.

    Args:
        differences: float64 (S, N), N at least 2.
    """
    seeds, examples = differences.shape
    mean = float(differences.mean())
    by_seed, by_example = differences.mean(axis=1), differences.mean(axis=0)  # (S,), (N,)
    example = seeds * float(by_example.var(ddof=1))
    if seeds == 1:
        return MeanSquares(mean, None, example, None, seeds, examples)
    residuals = differences - by_seed[:, None] - by_example[None, :] + mean
    residual = float(np.sum(residuals**2)) / ((seeds - 1) * (examples - 1))
    return MeanSquares(mean, examples * float(by_seed.var(ddof=1)), example, residual, seeds, examples)


def estimate(squares: MeanSquares, flip: float = 0.0) -> Paired:
    """Make an estimate of its mean squares.

    Args:
        squares: Of the differences.
        flip: As for `paired`: methods that agree on all examples seen need not agree on all there are.
    """
    seeds, examples = squares.seeds, squares.examples
    examples_only = squares.example / (seeds * examples)
    if squares.seed is None or squares.residual is None:
        uncertainty = Uncertainty(examples_only, 0.0, math.inf, examples - 1, examples_only, flip / examples)
        return _report(squares.mean, uncertainty, None, seeds, examples)
    between_examples = max(squares.example - squares.residual, 0.0)
    components = Components(
        max((squares.seed - squares.residual) / examples, 0.0), between_examples / seeds, squares.residual
    )
    total = squares.seed + between_examples
    share = squares.seed / total if total > 0 else 0.0
    variance = total / (seeds * examples)
    uncertainty = Uncertainty(variance, share, seeds - 1, examples - 1, examples_only, flip / examples)
    return _report(squares.mean, uncertainty, components, seeds, examples)


def mean_of(parts: Sequence[Paired]) -> Paired:
    """Mean of estimates that are independent of each other, as of several tasks."""
    if len(parts) == 1:
        return parts[0]
    mean = float(np.mean([part.difference for part in parts]))
    seeds, examples = min(part.seeds for part in parts), sum(part.examples for part in parts)
    known = [part.uncertainty for part in parts if part.uncertainty is not None]
    if len(known) < len(parts):
        return Paired(mean, None, None, None, seeds, examples, None)
    few = [part.variance * part.seed_share for part in known]
    many = [part.variance * (1.0 - part.seed_share) for part in known]
    total = sum(few) + sum(many)
    uncertainty = Uncertainty(
        total / len(parts) ** 2,
        sum(few) / total if total > 0 else 0.0,
        _pooled(few, [part.seed_degrees for part in known]),
        _pooled(many, [part.example_degrees for part in known]),
        sum(part.examples_only for part in known) / len(parts) ** 2,
        max(part.unseen for part in known) / len(parts),
    )
    return _report(mean, uncertainty, None, seeds, examples)


def simultaneous(contrasts: Sequence[Contrast], alpha: float, *, draws: int = 100_000, seed: int = 0) -> list[Bounds]:
    """Make intervals that hold together: all of them contain the truth with probability 1 - alpha.

    Args:
        contrasts: Pairs (method, reference), or with a flip, as for `paired`, on the same examples; seeds may differ.
        alpha: Probability that any of the intervals misses.
        draws: Normal vectors from which the common level is taken.
        seed: Of those draws.

    Returns:
        In the order of the contrasts.

    Raises:
        ValueError: Shapes differ, or alpha is not between 0 and 1.
    """
    return mean_over_tasks([[contrast] for contrast in contrasts], alpha, draws=draws, seed=seed)


def mean_over_tasks(
    per_method: Sequence[Sequence[Contrast]], alpha: float, *, draws: int = 100_000, seed: int = 0
) -> list[Bounds]:
    """Make simultaneous intervals of mean differences over tasks.

    The tasks are taken as given, their examples and seeds as drawn apart.

    Args:
        per_method: For each method its contrast with the reference on each task, tasks in the same order.
        alpha: Probability that any of the intervals misses.
        draws: Normal vectors from which the common level is taken.
        seed: Of those draws.

    Returns:
        In the order of the methods; with more than one task, without variance components.

    Raises:
        ValueError: Methods differ in tasks or examples, or alpha is not between 0 and 1.
    """
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    if len({len(tasks) for tasks in per_method}) > 1:
        raise ValueError("the methods differ in their number of tasks")
    estimates = [mean_of([paired(*contrast) for contrast in tasks]) for tasks in per_method]
    differences = [[contrast[0] - contrast[1] for contrast in tasks] for tasks in per_method]
    level = _common_level(_correlations(differences, estimates), alpha, draws, seed)
    return [_bounds(estimate, level) for estimate in estimates]


def _differences(method: Array, reference: Array) -> Array:
    """Method less reference, (S, N)."""
    if method.shape != reference.shape or method.ndim != 2 or method.size == 0:
        raise ValueError(
            f"contributions of {method.shape} and {reference.shape} are not of the same seeds and examples"
        )
    return np.asarray(method, dtype=np.float64) - np.asarray(reference, dtype=np.float64)


def _report(mean: float, uncertainty: Uncertainty, components: Components | None, seeds: int, examples: int) -> Paired:
    """Put an estimate together."""
    error, degrees = math.sqrt(uncertainty.variance), uncertainty.degrees_of_freedom
    return Paired(mean, error, degrees, components, seeds, examples, uncertainty)


def _pooled(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances."""
    inverse = sum(variance**2 / freedom for variance, freedom in zip(variances, degrees, strict=True))
    return sum(variances) ** 2 / inverse if inverse > 0 else min(degrees)


def _correlations(differences: Sequence[Sequence[Array]], estimates: Sequence[Paired]) -> Array:
    """Correlations of the estimates through the examples, (K, K).

    What they share through seeds is left out: three seeds cannot tell it, and leaving it out errs to the wide side.
    """
    covariance = np.zeros((len(differences), len(differences)))
    for task in zip(*differences, strict=True):
        if len({part.shape[1] for part in task}) > 1:
            raise ValueError("the contrasts of a task differ in their number of examples")
        means = np.stack([part.mean(axis=0) for part in task])  # (K, N)
        means -= means.mean(axis=1, keepdims=True)
        examples = means.shape[1]
        covariance += means @ means.T / (examples * max(examples - 1, 1))
    own = covariance.diagonal() / len(differences[0]) ** 2 if differences else np.zeros(0)
    variances = [0.0 if part.uncertainty is None else part.uncertainty.variance for part in estimates]
    scale = np.sqrt(np.maximum(np.array(variances), own))
    scale[scale == 0] = 1.0
    correlation = covariance / len(differences[0]) ** 2 / np.outer(scale, scale) if differences else covariance
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _common_level(correlation: Array, alpha: float, draws: int, seed: int) -> float:
    """Level of each interval with which all hold together: never above alpha, never below Sidak's."""
    count = len(correlation)
    if count < 2:
        return alpha
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0.0))  # root @ root.T is the correlation
    normal = np.random.default_rng(seed).standard_normal((draws, count)) @ root.T
    largest = np.quantile(np.abs(normal).max(axis=1), 1.0 - alpha)
    return float(np.clip(2.0 * stats.norm.sf(largest), -math.expm1(math.log1p(-alpha) / count), alpha))


def _bounds(estimate: Paired, level: float) -> Bounds:
    """The interval at a level."""
    half = estimate.half_width(level)
    if half is None:
        return Bounds(estimate, None, None, None, level)
    critical = half / estimate.standard_error if estimate.standard_error else None
    return Bounds(estimate, estimate.difference - half, estimate.difference + half, critical, level)


@functools.cache
def _quantile(level: float, degrees: float) -> float:
    """Student's two-sided critical value; the normal's for infinitely many degrees of freedom."""
    if math.isinf(degrees):
        return float(stats.norm.isf(level / 2))
    return float(stats.t.isf(level / 2, degrees))
