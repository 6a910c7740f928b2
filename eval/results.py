"""The results of one task with one model: each method against the reference, with interval, costs and a sentence."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from graft.eval.choices import Choice
from graft.eval.comparability import FEW_EXAMPLES, place
from graft.eval.comparison import Missing, Result, VarianceComponents
from graft.eval.costs import costs
from graft.eval.evidence import Array, Evidence
from graft.eval.influence import flip
from graft.eval.metrics import METRICS
from graft.eval.paired import Bounds, simultaneous
from graft.eval.verdicts import Finding, Ratios, direction, sentence, size


@dataclass(frozen=True)
class Question:
    """What is asked of the runs.

    Attributes:
        reference: Label of the method that the others are compared with.
        margin: Differences within ± this count as none; none means that no size is judged.
        level: Probability of any wrong claim among the methods of a task, at this look at the data.
        models: How many models there are; with several, sentences name theirs.
    """

    reference: str
    margin: float | None
    level: float
    models: int = 1

    def where(self, what: str, model: str) -> str:
        """Name a task, or a mean over tasks, in a sentence."""
        return what if self.models == 1 else f"{what} with {model}"


@dataclass(frozen=True)
class Contrast:
    """A method beside the reference, on the seeds that both have.

    Attributes:
        method: The method's evidence.
        reference: The reference's.
    """

    method: Evidence
    reference: Evidence

    @property
    def pair(self) -> tuple[Array, Array, float]:
        """Contributions of both, (S, N) each, and what one example may change."""
        return self.method.contributions, self.reference.contributions, flip(self.method.metric)


@dataclass(frozen=True)
class TaskResults:
    """What one validation split of a task says about the methods.

    Attributes:
        results: The reference first, then the others by label.
        contrasts: Label → what its result was made of.
        missing: Methods that could not be compared.
        warnings: What a reader should know.
    """

    results: tuple[Result, ...]
    contrasts: Mapping[str, Contrast]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]


def judge(task: str, evidence: Sequence[Evidence], question: Question, choices: Mapping[str, Choice]) -> TaskResults:
    """Compare the methods of one task and model on one split.

    Args:
        task: The task's name as results show it.
        evidence: One of each method, the reference among them.
        question: What is asked.
        choices: Label → how its hyper-parameters were chosen.

    Returns:
        The results, and what had to be left out.
    """
    base = next(one for one in evidence if one.group.label == question.reference)
    where = place(task, base.group.model)
    contrasts: dict[str, Contrast] = {}
    missing, warnings = [], []
    for one in evidence:
        shared = [seed for seed in one.seeds if seed in base.seeds]
        if one is base:
            continue
        if not shared:
            reason = f"no seed in common with {question.reference}; train both with the same seeds"
            missing.append(Missing(what=f"{where}, {one.group.label}", reason=reason))
            continue
        if unshared := sorted({*one.seeds} ^ {*base.seeds}):
            warnings.append(
                f"{where}: {one.group.label} and {question.reference} do not share the seeds "
                f"{', '.join(map(str, unshared))}, which do not count in their difference"
            )
        contrasts[one.group.label] = Contrast(one.of_seeds(shared), base.of_seeds(shared))
    bounds = simultaneous([contrast.pair for contrast in contrasts.values()], question.level) if contrasts else []
    results = [_reference(task, base, question, choices)]
    results += [
        _result(task, contrast, found, question, choices)
        for contrast, found in zip(contrasts.values(), bounds, strict=True)
    ]
    warnings += _thin(where, results)
    return TaskResults(tuple(results), contrasts, tuple(missing), tuple(warnings))


def in_words(label: str) -> str:
    """A method's label as a sentence names it."""
    name, *rest = label.split(", ", 1)
    return ", ".join(["full fine-tuning" if name == "full" else name, *rest])


def unit_of(metric: str) -> str:
    """What is put behind figures that are no points."""
    return "nats" if metric == "loss" else ""


def finite(value: float | None) -> float | None:
    """A figure that JSON can say; none where there is no such."""
    return None if value is None or not math.isfinite(value) else value


def _reference(task: str, base: Evidence, question: Question, choices: Mapping[str, Choice]) -> Result:
    group, mean = base.group, statistics.fmean(base.scores)
    where = question.where(task, group.model)
    seeds = f"the mean of {len(base.seeds)} seeds" if len(base.seeds) > 1 else "a single seed"
    return Result(
        difference=0.0,
        low=None,
        high=None,
        standard_error=None,
        degrees_of_freedom=None,
        direction="reference",
        size="reference",
        mean=mean,
        sentence=f"{in_words(group.label)}: the reference, {base.metric} {mean:.1f} on {where}, {seeds}",
        **_described(task, base, choices),
        costs=costs(group.runs, group.runs),
    )


def _result(task: str, contrast: Contrast, bounds: Bounds, question: Question, choices: Mapping[str, Choice]) -> Result:
    method, estimate = contrast.method, bounds.paired
    better = METRICS[method.metric].higher_is_better
    found = costs(method.group.runs, contrast.reference.group.runs)
    ratios = [found[name].ratio if name in found else None for name in _SPOKEN_COSTS]
    finding = Finding(
        method=in_words(method.group.label),
        reference=in_words(question.reference),
        where=question.where(task, method.group.model),
        difference=estimate.difference,
        low=bounds.low,
        high=bounds.high,
        margin=question.margin,
        higher_is_better=better,
        seeds=len(method.seeds),
        unit=unit_of(method.metric),
    )
    parts = estimate.components
    return Result(
        difference=estimate.difference,
        low=bounds.low,
        high=bounds.high,
        standard_error=estimate.standard_error,
        degrees_of_freedom=finite(estimate.degrees_of_freedom),
        direction=direction(bounds.low, bounds.high, better),
        size=size(bounds.low, bounds.high, question.margin),
        mean=statistics.fmean(method.scores),
        components=None
        if parts is None
        else VarianceComponents(seed=parts.seed, example=parts.example, residual=parts.residual),
        mcnemar=mcnemar(method.right, contrast.reference.right),
        sentence=sentence(finding, Ratios(*ratios)),
        **_described(task, method, choices),
        costs=found,
    )


_SPOKEN_COSTS = ("trainable", "peak_memory_bytes", "seconds_per_step")
"""Costs that a sentence names, in the order of `Ratios`."""


def _described(task: str, evidence: Evidence, choices: Mapping[str, Choice]) -> dict[str, object]:
    """What the reference's result and the others have in common."""
    group = evidence.group
    choice = choices.get(group.label, Choice({}, 0))
    return {
        "task": task,
        "model": group.model,
        "method": group.label,
        "metric": evidence.metric,
        "higher_is_better": METRICS[evidence.metric].higher_is_better,
        "seeds": evidence.seeds,
        "examples": evidence.examples,
        "scores": evidence.scores,
        "runs": tuple(str(run.folder) for run in group.runs),
        "chosen": choice.values,
        "trials": choice.trials,
    }


def mcnemar(method: Array | None, reference: Array | None) -> tuple[float, ...]:
    """McNemar's (1947) exact test, seed by seed: do two runs err on different numbers of examples?

    Args:
        method: bool (S, N), whether each run is right; none for tasks without right and wrong.
        reference: bool (S, N), the same for the reference.

    Returns:
        Two-sided p of each seed, from the binomial distribution of the examples that only one of the two gets right.
    """
    if method is None or reference is None:
        return ()
    found = []
    for ours, theirs in zip(method, reference, strict=True):
        gained, lost = int(np.sum(ours & ~theirs)), int(np.sum(~ours & theirs))
        found.append(float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0)
    return tuple(found)


def _thin(where: str, results: Sequence[Result]) -> list[str]:
    """Warn of little evidence: few examples, a single seed."""
    warnings = []
    examples = results[0].examples
    if examples < FEW_EXAMPLES:
        widths = [
            f"{result.method} ±{(result.high - result.low) / 2:.1f}"
            for result in results
            if result.low is not None and result.high is not None
        ]
        told = f"; half-widths of the intervals: {', '.join(widths)}" if widths else ""
        warnings.append(f"{where}: only {examples} evaluation examples, too few to rely on{told}")
    if single := [result.method for result in results[1:] if len(result.seeds) == 1]:
        warnings.append(
            f"{where}: a single seed of {', '.join(single)}: the interval is over examples alone and says nothing of "
            "other seeds"
        )
    return warnings
