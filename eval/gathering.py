"""From run folders to a comparison: read what there is, refuse what cannot be compared, and judge the rest.

Nothing but run folders is read, so that runs made elsewhere and gathered count like any other.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import RunError, nearest
from graft.eval.choices import Choice, choices, uneven_search
from graft.eval.comparability import common, place, refuse_incomparable, shared_settings, warnings_about
from graft.eval.comparison import Comparison, Missing, Power, Protocol
from graft.eval.evidence import check_metric, read_evidence
from graft.eval.folders import FoundRuns, find_runs
from graft.eval.grouping import Group, group_runs, name_models
from graft.eval.prospects import prospect
from graft.eval.ranking import judge_suite
from graft.eval.results import Question, TaskResults, judge

INTERVAL = (
    "difference of means over shared seeds and examples; its variance is that of a crossed design of seeds by "
    "examples, with Student's critical values weighted by what seeds and what examples contribute; simultaneous over "
    "the methods of a task (single-step maximum)"
)
CONDITIONAL_ON = (
    "the training examples, the chosen hyper-parameters, the checkpoint and the tasks; seeds and evaluation examples "
    "are taken as drawn from many (with a single seed examples alone)"
)


@dataclass(frozen=True)
class Gathered:
    """Runs that can be compared.

    Attributes:
        groups: By task, model and method; each with one final run per seed.
        choices: How the hyper-parameters of each group came about, in their order.
        models: Content hash of a checkpoint → name.
        missing: Runs that cannot be used, and why.
        warnings: What a reader should know.
    """

    groups: tuple[Group, ...]
    choices: tuple[Choice, ...]
    models: Mapping[str, str]
    missing: tuple[Missing, ...]
    warnings: tuple[str, ...]


def gather(folders: Sequence[Path], tried: Collection[Path] = ()) -> Gathered:
    """Read the finished runs in some folders and put them together by method.

    Args:
        folders: Run folders, or folders that hold them one or two levels deep.
        tried: Folders of runs that count as trials, whatever their records say.

    Returns:
        The final runs by task, model and method, and what was chosen for each by trials.

    Raises:
        RunError: There are none, or runs on one task cannot be compared with each other.
    """
    found = find_runs(folders).with_trials(tried)
    if not found.finals:
        raise RunError(_nothing(folders, found))
    models = name_models(found.finals)
    refuse_incomparable(found.finals)
    groups, doubled = group_runs(found.finals, models)
    chosen = choices(groups, found.trials, models)
    warnings = (*found.warnings, *doubled, *uneven_search(groups, chosen))
    return Gathered(tuple(groups), tuple(chosen), models, found.missing, warnings)


def compare_runs(
    folders: Sequence[Path],
    *,
    margin: float | None = None,
    alpha: float = 0.05,
    reference: str = "full",
    metric: str | None = None,
    level: float | None = None,
    looks: int = 1,
    missing: Sequence[Missing] = (),
    tried: Collection[Path] = (),
) -> Comparison:
    """Say what finished runs support: every method against the reference, on every task and over all.

    Args:
        folders: Run folders, or folders that hold them one or two levels deep.
        margin: Differences within ± this count as none, in points; none means that no size is judged.
        alpha: Probability of any wrong claim among the methods of a task, between 0 and 0.5.
        reference: Label of the method that the others are compared with.
        metric: What to score by; none means each task's own.
        level: What is left of `alpha` for this look at the data, where there are several; none means all of it.
        looks: How often the data were looked at, this time included.
        missing: Runs that are known to be missing, as those that failed; they are passed on.
        tried: Folders of runs that count as trials here, whatever their records say: another comparison may have made
            them its final runs.

    Returns:
        The comparison.

    Raises:
        RunError: There is nothing to compare, the reference is not among it, runs cannot be compared, or a value is
            out of its range.
    """
    _check(margin, alpha, level)
    gathered = gather(folders, tried)
    runs = [run for group in gathered.groups for run in group.runs]
    check_metric(metric, runs)
    _check_reference(gathered.groups, reference)
    models = len({group.model for group in gathered.groups})
    question = Question(reference, margin, alpha if level is None else level, models)
    judged = _judge_tasks(gathered, question, metric)
    results = tuple(result for found in judged.tasks.values() for result in found.results)
    if not results:
        raise RunError(
            f"{_named(folders)}: no runs of {reference} could be read: "
            f"{'; '.join(f'{one.what}: {one.reason}' for one in judged.missing)}"
        )
    suites = [
        judge_suite(model, {task: judged.tasks[task, model] for task, its in judged.first if its == model}, question)
        for model in dict.fromkeys(model for _, model in judged.first)
    ]
    return Comparison(
        protocol=_protocol(gathered, question, alpha, looks),
        results=results,
        suite=tuple(result for suite in suites for result in suite.results),
        power=_prospects(judged, question),
        missing=(*gathered.missing, *judged.missing, *missing),
        warnings=(
            *gathered.warnings,
            *warnings_about(gathered.groups, reference),
            *(warning for found in judged.tasks.values() for warning in found.warnings),
            *(warning for suite in suites for warning in suite.warnings),
        ),
        versions={
            name: ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in common(run.record.versions for run in runs).items()
        },
        hardware=common(run.record.hardware for run in runs),
    )


def _protocol(gathered: Gathered, question: Question, alpha: float, looks: int) -> Protocol:
    """How it was done."""
    return Protocol(
        alpha=alpha,
        margin=question.margin,
        reference=question.reference,
        interval=INTERVAL,
        conditional_on=CONDITIONAL_ON,
        looks=looks,
        fingerprints={run.task: run.record.data.fingerprint for group in gathered.groups for run in group.runs},
        settings=shared_settings(gathered.groups),
    )


@dataclass(frozen=True)
class _Judged:
    """Results by (task, model); `first` are those of the tasks' first validation splits, which a suite is made of."""

    tasks: dict[tuple[str, str], TaskResults]
    first: list[tuple[str, str]]
    missing: list[Missing]


def _judge_tasks(gathered: Gathered, question: Question, metric: str | None) -> _Judged:
    """Judge each split of each task with each model."""
    judged = _Judged({}, [], [])
    for task, model in dict.fromkeys((group.task, group.model) for group in gathered.groups):
        own = [
            (group, choice)
            for group, choice in zip(gathered.groups, gathered.choices, strict=True)
            if (group.task, group.model) == (task, model)
        ]
        evidence, unreadable = read_evidence([group for group, _ in own], metric)
        judged.missing.extend(unreadable)
        chosen = {group.label: choice for group, choice in own}
        splits = dict.fromkeys(one.split for one in evidence)
        for number, split in enumerate(splits):
            name = f"{task}/{split}" if number else task
            part = [one for one in evidence if one.split == split]
            if all(one.group.label != question.reference for one in part):
                reason = f"no run of {question.reference} to compare with; train it, or give another --reference"
                judged.missing.append(Missing(what=place(name, model), reason=reason))
                continue
            judged.tasks[name, model] = found = judge(name, part, question, chosen)
            judged.missing.extend(found.missing)
            if number == 0:
                judged.first.append((task, model))
    return judged


def _prospects(judged: _Judged, question: Question) -> tuple[Power, ...]:
    """What the data of each task can decide, method by method."""
    return tuple(
        power
        for found in judged.tasks.values()
        for result in found.results
        if (power := prospect(result, question, methods=len(found.contrasts))) is not None
    )


def _check(margin: float | None, alpha: float, level: float | None) -> None:
    """Refuse values that mean nothing."""
    if margin is not None and not (margin > 0 and math.isfinite(margin)):
        raise RunError(f"margin: {margin:g} is no margin; give points above 0, such as 1.0, or leave it out")
    if not 0 < alpha < 0.5:
        raise RunError(f"alpha: {alpha:g} is no level; give a probability between 0 and 0.5, such as 0.05")
    if level is not None and not 0 < level <= alpha:
        raise RunError(f"level: {level:g} is not above 0 and at most alpha ({alpha:g})")


def _check_reference(groups: Sequence[Group], reference: str) -> None:
    """Refuse a reference that is on no task, or has nothing beside it."""
    labels = list(dict.fromkeys(group.label for group in groups))
    if reference not in labels:
        why = "" if reference != "full" else ", so there is no full fine-tuning to compare with"
        raise RunError(
            f"--reference {reference}: no runs of it{nearest(reference, labels)}{why}; give --reference with one of: "
            f"{'; '.join(labels)}"
        )
    if len(labels) == 1:
        raise RunError(f"there are runs of {reference} alone, and nothing to compare them with; add another method's")


def _nothing(folders: Sequence[Path], found: FoundRuns) -> str:
    trials = f"; {len(found.trials)} trials are there, which are scored on the holdout alone" if found.trials else ""
    reasons = Counter(one.reason for one in found.missing)
    damaged = "".join(f"; {reason}" for reason in reasons)
    return f"{_named(folders)}: no finished final run in it{trials}{damaged}; name folders that hold run folders"


def _named(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders)) or "no folder given"
