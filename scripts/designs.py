"""Designs whose truth is known, to see how often intervals contain it: Gaussian components, metrics, families, looks.

Gaussian components are drawn as the mean squares of a balanced crossed design, which are independent scaled chi-squares
and independent of the mean; the others as single examples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from graft.eval.influence import contributions, flip
from graft.eval.paired import Bounds, MeanSquares, Paired, estimate, mean_of, paired, simultaneous
from graft.eval.sequential import Look, information, next_look
from graft.eval.verdicts import direction, size

Array = NDArray[np.float64]
Generator = np.random.Generator


@dataclass(frozen=True)
class Spread:
    """Standard deviations of one example's difference, in points: of seeds, examples, and both together."""

    seed: float
    example: float
    residual: float


@dataclass(frozen=True)
class Rates:
    """How often things happened among replicates.

    Attributes:
        coverage: The interval contained the truth.
        equivalent: It was shown to be within the margin, where the truth lay on the margin.
        width: Mean half-width, in points.
    """

    coverage: float
    equivalent: float
    width: float


def squares(generator: Generator, spread: Spread, seeds: int, examples: int, count: int) -> Iterator[MeanSquares]:
    """Draw analyses of variance of differences whose mean is zero."""
    seed, example, residual = spread.seed**2, spread.example**2, spread.residual**2
    by_seed, by_example = residual + examples * seed, residual + seeds * example
    deviation = math.sqrt((by_seed + by_example - residual) / (seeds * examples))
    free = (seeds - 1) * (examples - 1)
    draws = (
        generator.normal(0.0, deviation, count),
        by_seed * generator.chisquare(seeds - 1, count) / (seeds - 1),
        by_example * generator.chisquare(examples - 1, count) / (examples - 1),
        residual * generator.chisquare(free, count) / free,
    )
    for mean, first, second, third in zip(*(draw.tolist() for draw in draws), strict=True):
        yield MeanSquares(mean, first, second, third, seeds, examples)


def rates(estimates: Sequence[Paired], margin: float, alpha: float = 0.05) -> Rates:
    """Judge estimates of a difference that is zero; shifted by the margin, they tell of wrong equivalence."""
    halves = np.array([found.half_width(alpha) for found in estimates], dtype=np.float64)
    means = np.array([found.difference for found in estimates])
    wrong = [
        size(margin + mean - half, margin + mean + half, margin) == "equivalent"
        for mean, half in zip(means.tolist(), halves.tolist(), strict=True)
    ]
    return Rates(float(np.mean(np.abs(means) <= halves)), float(np.mean(wrong)), float(np.mean(halves)))


def components(
    generator: Generator, spread: Spread, seeds: int, examples: int, count: int, margins: Sequence[float] = (1.0,)
) -> list[Rates]:
    """Coverage of one contrast with Gaussian components, judged with each margin."""
    estimates = [estimate(one) for one in squares(generator, spread, seeds, examples, count)]
    return [rates(estimates, margin) for margin in margins]


def suite(generator: Generator, spreads: Sequence[Spread], seeds: int, examples: int, count: int) -> Rates:
    """Coverage of the mean over tasks with Gaussian components."""
    tasks = [squares(generator, spread, seeds, examples, count) for spread in spreads]
    return rates([mean_of([estimate(one) for one in parts]) for parts in zip(*tasks, strict=True)], 1.0)


def family(
    generator: Generator, spreads: Sequence[Spread], seeds: int, examples: int, count: int, alpha: float = 0.05
) -> float:
    """Rate of any direction claimed among methods that do not differ from their reference.

    Args:
        generator: Of everything.
        spreads: Of single runs: the reference's first, then the methods'.
        seeds: Of each.
        examples: Of each.
        count: Replicates.
        alpha: Of the family.
    """
    wrong = 0
    for replicate in range(count):
        runs = [crossed(generator, spread, seeds, examples) for spread in spreads]
        found = simultaneous([(run, runs[0]) for run in runs[1:]], alpha, draws=2_000, seed=replicate)
        wrong += any(direction(one.low, one.high) != "not shown" for one in found)
    return wrong / count


def crossed(generator: Generator, spread: Spread, seeds: int, examples: int) -> Array:
    """Draw contributions (S, N) about zero."""
    by_seed = generator.normal(0.0, spread.seed, (seeds, 1))
    by_example = generator.normal(0.0, spread.example, (1, examples))
    return by_seed + by_example + generator.normal(0.0, spread.residual, (seeds, examples))


@dataclass(frozen=True)
class Shape:
    """A task and two methods, by what makes their predictions right.

    A run's score of an example is its strength plus normal effects of the example (common to all runs), of method and
    example, and of the run and example; strength varies over seeds. A class is right where the score is above zero; a
    predicted value is strength times the label plus those effects.

    Attributes:
        metric: Its name.
        positives: Share of class 1.
        strengths: Of the reference and of the method.
        common: Standard deviation of examples.
        method: Of methods by examples.
        run: Of runs by examples.
        seed: Of strength over seeds.
    """

    metric: str
    positives: float
    strengths: tuple[float, float]
    common: float = 0.7
    method: float = 0.4
    run: float = 0.4
    seed: float = 0.04

    def truth(self) -> float:
        """Method less reference over all seeds and examples there may be, in points."""
        reference, method = (self._value(strength) for strength in self.strengths)
        return method - reference

    def draw(self, generator: Generator, seeds: int, examples: int) -> tuple[Array, Array]:
        """Draw contributions of method and reference, (S, N) each."""
        scores = [np.zeros((seeds, examples))] * 2
        common = generator.normal(0.0, self.common, examples)
        for side, strength in enumerate(self.strengths):
            own = generator.normal(0.0, self.method, examples)
            noise = generator.normal(0.0, self.run, (seeds, examples))
            scores[side] = common + own + noise
            strengths = generator.normal(strength, self.seed, (seeds, 1))
            if side == 0:
                labels = generator.normal(size=examples)
                classes = (generator.random(examples) < self.positives).astype(int)
            if self.positives:
                scores[side] = np.where(scores[side] + strengths > 0, classes, 1 - classes)
            else:
                scores[side] = scores[side] + strengths * labels
        truth = classes if self.positives else labels
        reference, method = (np.stack([self._contributions(run, truth) for run in side]) for side in scores)
        return method, reference

    def _contributions(self, found: Array, truth: Array) -> Array:
        """Of one run; with the metric's value from counts or numpy, which is faster than where it usually is from."""
        if not self.positives:
            sides = [side.argsort().argsort() if self.metric == "spearman" else side for side in (found, truth)]
            return contributions(self.metric, found, truth, 100.0 * float(np.corrcoef(*sides)[0, 1]))
        both, predicted, true = float(np.mean(found * truth)), float(found.mean()), float(truth.mean())
        value = 1.0 - predicted - true + 2.0 * both
        if self.metric == "f1":
            value = 2.0 * both / max(predicted + true, 1e-12)
        elif self.metric == "matthews":
            spread = math.sqrt(predicted * (1.0 - predicted) * true * (1.0 - true))
            value = (both - predicted * true) / spread if spread else 0.0
        return contributions(self.metric, found, truth, 100.0 * value)

    def _value(self, strength: float) -> float:
        """The metric of very many examples, in points, averaged over seeds by quadrature."""
        points, weights = np.polynomial.hermite_e.hermegauss(40)
        at = strength + self.seed * points
        noise = math.sqrt(self.common**2 + self.method**2 + self.run**2)
        if not self.positives:
            pearson = at / np.sqrt(at**2 + noise**2)
            value = pearson if self.metric == "pearson" else 6.0 / math.pi * np.arcsin(pearson / 2.0)
        else:
            right = 0.5 * (1.0 + np.array([math.erf(one / noise / math.sqrt(2.0)) for one in at]))
            value = _of_classes(self.metric, self.positives, right)
        return float(100.0 * np.sum(weights * value) / weights.sum())


def _of_classes(metric: str, positives: float, right: Array) -> Array:
    """A metric of classifiers that are right equally often on either class."""
    if metric == "accuracy":
        return right
    found = positives * right + (1.0 - positives) * (1.0 - right)  # predicted positive
    if metric == "f1":
        return 2.0 * positives * right / (found + positives)
    covariance = positives * right - found * positives
    return covariance / np.sqrt(found * (1.0 - found) * positives * (1.0 - positives))


def shaped(generator: Generator, shape: Shape, seeds: int, examples: int, count: int, alpha: float = 0.05) -> Rates:
    """Coverage of one contrast of a metric; equivalence is judged with the true difference as the margin."""
    truth, changed = shape.truth(), flip(shape.metric)
    estimates = [paired(*shape.draw(generator, seeds, examples), changed) for _ in range(count)]
    halves = np.array([found.half_width(alpha) for found in estimates], dtype=np.float64)
    means = np.array([found.difference for found in estimates])
    inside = (np.abs(means) + halves) < abs(truth)
    return Rates(float(np.mean(np.abs(means - truth) <= halves)), float(np.mean(inside)), float(np.mean(halves)))


@dataclass(frozen=True)
class Looking:
    """What came of looking again and again.

    Attributes:
        wrong: A direction was claimed at any look, where there is none.
        equivalent: Equivalence was claimed at any look, where the truth lay on the margin.
        single: A direction would have been claimed at any look, had each been the only one.
    """

    wrong: float
    equivalent: float
    single: float


def looks(
    generator: Generator,
    spreads: Sequence[Spread],
    at: Sequence[int],
    examples: int,
    count: int,
    margin: float,
    alpha: float = 0.05,
) -> Looking:
    """Add seeds until all methods are decided, with truths of zero (directions) and of the margin (equivalence).

    Args:
        generator: Of everything.
        spreads: Of single runs: the reference's first, then the methods'.
        at: Numbers of seeds at the looks.
        examples: Of each.
        count: Replicates.
        margin: In points.
        alpha: Over all looks and methods.
    """
    wrong = equivalent = single = 0
    for replicate in range(count):
        runs = [crossed(generator, spread, at[-1], examples) for spread in spreads]
        past: list[Look] = []
        claimed = near = naive = False
        for seeds in at:
            contrasts = [(run[:seeds], runs[0][:seeds]) for run in runs[1:]]
            parts = [found.components for found in (paired(*contrast) for contrast in contrasts) if found.components]
            share = information(parts, seeds, at[-1], examples)
            past.append(next_look(alpha, past, share, len(contrasts)))
            found = simultaneous(contrasts, past[-1].level, draws=2_000, seed=replicate)
            claimed |= any(direction(one.low, one.high) != "not shown" for one in found)
            near |= any(_equivalent_at(one, margin) for one in found)
            plain = simultaneous(contrasts, alpha, draws=2_000, seed=replicate)
            naive |= any(direction(one.low, one.high) != "not shown" for one in plain)
        wrong, equivalent, single = wrong + claimed, equivalent + near, single + naive
    return Looking(wrong / count, equivalent / count, single / count)


def _equivalent_at(found: Bounds, margin: float) -> bool:
    """Whether a truth on the margin would have been taken for equivalent."""
    if found.low is None or found.high is None:
        return False
    return size(found.low + margin, found.high + margin, margin) == "equivalent"


def looks_at_runs(generator: Generator, at: Sequence[int], count: int, alpha: float = 0.05) -> Looking:
    """The same for one method and very many examples, so that runs alone vary: Student's statistics of their means."""
    runs = generator.normal(size=(count, at[-1]))
    claimed, naive, past = np.zeros(count, bool), np.zeros(count, bool), []
    for seeds in at:
        past.append(next_look(alpha, past, seeds / at[-1]))
        error = runs[:, :seeds].std(axis=1, ddof=1) / math.sqrt(seeds)
        statistic = np.abs(runs[:, :seeds].mean(axis=1)) / error
        claimed |= statistic > stats.t.isf(past[-1].level / 2, seeds - 1)
        naive |= statistic > stats.t.isf(alpha / 2, seeds - 1)
    return Looking(float(claimed.mean()), math.nan, float(naive.mean()))
