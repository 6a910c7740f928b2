"""A suite of tasks as one: the mean over tasks with its interval, average ranks, and wins, ties and losses."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from graft.eval.comparison import Direction, SuiteResult
from graft.eval.metrics import METRICS
from graft.eval.paired import Bounds, mean_over_tasks
from graft.eval.results import Question, TaskResults, finite, in_words, unit_of
from graft.eval.verdicts import Finding, direction, sentence, size
from graft.eval.wording import listed


@dataclass(frozen=True)
class Suite:
    """What one model's tasks say together.

    Attributes:
        results: The reference first, then the others by label; empty where there is no mean to speak of.
        warnings: What was left out, and why.
    """

    results: tuple[SuiteResult, ...]
    warnings: tuple[str, ...]


def judge_suite(model: str, tasks: Mapping[str, TaskResults], question: Question) -> Suite:
    """Compare methods by their means over the tasks of one model.

    Args:
        model: The model's name.
        tasks: Task → its results, the reference's among them; a task's further splits do not belong here.
        question: What is asked.

    Returns:
        A result for each method that was compared on every task.
    """
    if len(tasks) < 2:
        return Suite((), ())
    metrics = {found.results[0].metric for found in tasks.values()}
    if len({(METRICS[name].scale, METRICS[name].higher_is_better) for name in metrics}) > 1:
        told = f"{model}: no mean over tasks, since their metrics ({', '.join(sorted(metrics))}) are in different units"
        return Suite((), (told,))
    labels = list(dict.fromkeys(result.method for found in tasks.values() for result in found.results))
    whole = [label for label in labels if all(label in _means(found) for found in tasks.values())]
    partial = [
        f"{model}: {label} has no result on {listed(lacking)}, so there is no mean over tasks of it"
        for label in labels
        if (lacking := [name for name, found in tasks.items() if label not in _means(found)])
    ]
    others = [label for label in whole if label != question.reference]
    pairs = [[found.contrasts[label].pair for found in tasks.values()] for label in others]
    bounds = mean_over_tasks(pairs, question.level) if others else []
    ranks = _ranks([question.reference, *others], tasks)
    results = [_reference(model, tasks, question, ranks[question.reference])]
    results += [
        _result(model, label, tasks, bound, question, ranks[label]) for label, bound in zip(others, bounds, strict=True)
    ]
    return Suite(tuple(results), tuple(partial))


def _means(found: TaskResults) -> dict[str, float]:
    """Label → mean score on a task."""
    return {result.method: result.mean for result in found.results}


def _ranks(labels: Sequence[str], tasks: Mapping[str, TaskResults]) -> dict[str, float]:
    """Average rank of each method over the tasks, 1 the best; ties share their ranks."""
    rows = []
    for found in tasks.values():
        sign = -1.0 if found.results[0].higher_is_better else 1.0
        means = _means(found)
        rows.append(stats.rankdata([round(sign * means[label], 9) for label in labels]))
    return dict(zip(labels, np.mean(rows, axis=0).tolist(), strict=True))


def _reference(model: str, tasks: Mapping[str, TaskResults], question: Question, rank: float) -> SuiteResult:
    mean = _mean(question.reference, tasks)
    where = question.where(f"the mean over {len(tasks)} tasks", model)
    return SuiteResult(
        difference=0.0,
        low=None,
        high=None,
        standard_error=None,
        degrees_of_freedom=None,
        direction="reference",
        size="reference",
        model=model,
        method=question.reference,
        tasks=tuple(tasks),
        mean=mean,
        rank=rank,
        wins=0,
        ties=0,
        losses=0,
        sentence=f"{in_words(question.reference)}: the reference, {mean:.1f} on {where}",
    )


def _result(
    model: str, label: str, tasks: Mapping[str, TaskResults], bounds: Bounds, question: Question, rank: float
) -> SuiteResult:
    results = [next(one for one in found.results if one.method == label) for found in tasks.values()]
    metric, better = results[0].metric, results[0].higher_is_better
    ways: list[Direction] = [result.direction for result in results]
    finding = Finding(
        method=in_words(label),
        reference=in_words(question.reference),
        where=question.where(f"the mean over {len(tasks)} tasks", model),
        difference=bounds.paired.difference,
        low=bounds.low,
        high=bounds.high,
        margin=question.margin,
        higher_is_better=better,
        seeds=min(len(result.seeds) for result in results),
        unit=unit_of(metric),
    )
    return SuiteResult(
        difference=bounds.paired.difference,
        low=bounds.low,
        high=bounds.high,
        standard_error=bounds.paired.standard_error,
        degrees_of_freedom=finite(bounds.paired.degrees_of_freedom),
        direction=direction(bounds.low, bounds.high, better),
        size=size(bounds.low, bounds.high, question.margin),
        model=model,
        method=label,
        tasks=tuple(tasks),
        mean=_mean(label, tasks),
        rank=rank,
        wins=ways.count("better"),
        ties=ways.count("not shown"),
        losses=ways.count("worse"),
        sentence=sentence(finding),
    )


def _mean(label: str, tasks: Mapping[str, TaskResults]) -> float:
    """Mean of the tasks' means."""
    return statistics.fmean(_means(found)[label] for found in tasks.values())
