"""Which hyper-parameters were chosen on the holdout, and among how many trials: read off the trials that there are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.eval.folders import FoundRun
from graft.eval.grouping import LEARNING_RATE, Group, identity, settings_of

_LENGTH = ("schedule.epochs", "schedule.steps")
"""What trials of successive halving differ in, and what is not chosen by them."""


@dataclass(frozen=True)
class Choice:
    """How a method's hyper-parameters came about.

    Attributes:
        values: The chosen ones by dotted name; empty where nothing was searched.
        trials: Different settings among which they were chosen; 0 where there are none.
    """

    values: dict[str, Any]
    trials: int


def choices(groups: Sequence[Group], trials: Sequence[FoundRun], models: Mapping[str, str]) -> list[Choice]:
    """Tell what was chosen for each method.

    A trial belongs to that method of its name, on its task, data and model, whose settings are nearest to its own, the
    learning rate aside. The chosen trial itself is usually no longer there: it became the final run of its seed.

    Args:
        groups: The methods.
        trials: Runs that were scored on the holdout alone.
        models: Content hash of a checkpoint → name.

    Returns:
        In the order of the groups.
    """
    assigned: list[list[FoundRun]] = [[] for _ in groups]
    for trial in trials:
        candidates = [number for number, group in enumerate(groups) if _may_own(group, trial, models)]
        if candidates:
            assigned[min(candidates, key=lambda number: _distance(groups[number], trial))].append(trial)
    return [_choice(group, own) for group, own in zip(groups, assigned, strict=True)]


def uneven_search(groups: Sequence[Group], found: Sequence[Choice]) -> list[str]:
    """Warn of methods on one task and model that were chosen among different numbers of trials."""
    warnings = []
    for task, model in dict.fromkeys((group.task, group.model) for group in groups):
        counts = {
            group.label: choice.trials
            for group, choice in zip(groups, found, strict=True)
            if (group.task, group.model) == (task, model)
        }
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{label} {count}" for label, count in counts.items())
            warnings.append(f"{task}, {model}: the methods had different numbers of trials to choose from: {told}")
    return warnings


def _may_own(group: Group, trial: FoundRun, models: Mapping[str, str]) -> bool:
    theirs = (trial.task, models.get(trial.record.checkpoint), trial.method, trial.record.data.fingerprint)
    return theirs == (group.task, group.model, group.name, group.runs[0].record.data.fingerprint)


def _distance(group: Group, trial: FoundRun) -> int:
    """In how many settings a trial differs from a method, the learning rate aside."""
    theirs = settings_of(trial)
    keys = {**group.settings, **theirs}.keys() - {LEARNING_RATE}
    return sum(group.settings.get(key) != theirs.get(key) for key in keys)


def _choice(group: Group, trials: Sequence[FoundRun]) -> Choice:
    if not trials:
        return Choice({}, 0)
    tried = [settings_of(trial) for trial in trials]
    values = {
        key: value
        for key, value in group.settings.items()
        if key not in _LENGTH and len({json.dumps(settings.get(key)) for settings in (*tried, group.settings)}) > 1
    }
    seeds = {trial.seed for trial in trials}
    different = {identity(settings, _LENGTH) for settings in tried}
    if any(run.seed in seeds for run in group.runs):  # the chosen trial became a final run
        different.add(identity(group.settings, _LENGTH))
    return Choice(values, len(different))
