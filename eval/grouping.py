"""Which runs are one method: the same recipe but for the seed and the machine, under a label that tells it apart.

Hyper-parameters are chosen for each task by itself, so that what differs between tasks only splits no method.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import PurePath
from typing import Any

from graft.errors import RunError
from graft.eval.folders import FoundRun

Settings = Mapping[str, Any]
"""A recipe in one level: dotted key → value."""

LEARNING_RATE = "optim.lr"

_CONTENT = (
    *("task.name", "task.data", "task.text", "task.label", "task.kind", "task.metrics", "task.group"),
    *("task.train_size", "task.holdout", "task.split_seed", "model.name", "model.revision"),
)
"""Settings that only say which examples and weights are meant: their content is compared, wherever it lay."""

_MACHINE = (
    *("seed", "device", "threads", "budget.tokens"),
    *(f"speed.{name}" for name in ("precision", "buckets", "dropout", "attention", "cache")),
)
"""Settings that tell no two methods apart."""

_IGNORED = frozenset((*_CONTENT, *_MACHINE))


@dataclass(frozen=True)
class Group:
    """Final runs of one method on one task with one model, which differ in the seed.

    Attributes:
        task: The task's name.
        model: The model's name, the same wherever its weights lay.
        name: The method's name.
        settings: What its runs have in common, by dotted key, without seed and machine.
        runs: One per seed, in the order of seeds.
        label: Name, and what sets it apart from others of the name on the same task and model.
    """

    task: str
    model: str
    name: str
    settings: Settings
    runs: tuple[FoundRun, ...]
    label: str = ""


def flattened(nested: Settings, prefix: str = "") -> dict[str, Any]:
    """Spell nested settings out in one level of dotted keys; lists stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def settings_of(run: FoundRun) -> dict[str, Any]:
    """What makes a run's method, by dotted key: its recipe without content, seed and machine."""
    return {key: value for key, value in flattened(run.record.recipe).items() if key not in _IGNORED}


def identity(settings: Settings, without: Iterable[str] = ()) -> str:
    """Settings as a text that is equal where they are; one that an older record lacks equals none."""
    left_out = frozenset(without)
    told = {key: value for key, value in settings.items() if value is not None and key not in left_out}
    return json.dumps(told, sort_keys=True)


def name_models(runs: Sequence[FoundRun]) -> dict[str, str]:
    """Name each checkpoint once, though machines keep it in different folders.

    Args:
        runs: Any.

    Returns:
        Content hash of a checkpoint → the shortest name that runs give it; of a path, its last part.

    Raises:
        RunError: One name stands for different weights.
    """
    written: dict[str, dict[str, FoundRun]] = {}
    for run in runs:
        written.setdefault(run.written_model, {}).setdefault(run.record.checkpoint, run)
    names: dict[str, list[str]] = {}
    for name, holders in written.items():
        if len(holders) > 1:
            one, other = list(holders.values())[:2]
            raise RunError(
                f"{one.folder} and {other.folder} started from different weights under the name {name} "
                f"({one.record.checkpoint[:12]} and {other.record.checkpoint[:12]}), so they cannot be compared; "
                "give the folders of one of them, or train the others again"
            )
        names.setdefault(next(iter(holders)), []).append(name)
    short = {digest: min(map(_last_part, found), key=lambda name: (len(name), name)) for digest, found in names.items()}
    shared = {name for name, count in Counter(short.values()).items() if count > 1}
    return {digest: min(names[digest]) if name in shared else name for digest, name in short.items()}


def group_runs(runs: Sequence[FoundRun], models: Mapping[str, str]) -> tuple[list[Group], list[str]]:
    """Put final runs together that differ in the seed alone, and label the groups.

    Args:
        runs: Final runs.
        models: Content hash of a checkpoint → name, as `name_models` gave.

    Returns:
        The groups by task, model and label; and a warning for each run whose seed its method has twice.
    """
    members: dict[tuple[str, str, str, str], list[FoundRun]] = {}
    for run in runs:
        key = (run.task, models[run.record.checkpoint], run.method, identity(settings_of(run)))
        members.setdefault(key, []).append(run)
    groups, warnings = [], []
    for (task, model, name, _), found in members.items():
        kept, doubled = _one_per_seed(found)
        warnings += doubled
        groups.append(Group(task, model, name, settings_of(kept[0]), tuple(kept)))
    labelled = [
        Group(group.task, group.model, group.name, group.settings, group.runs, label)
        for group, label in zip(groups, labels(groups), strict=True)
    ]
    return sorted(labelled, key=lambda group: (group.task, group.model, group.label)), warnings


def _one_per_seed(runs: Sequence[FoundRun]) -> tuple[list[FoundRun], list[str]]:
    """Keep the first run of each seed, whatever its scores: nothing may be chosen by them."""
    first: dict[int, FoundRun] = {}
    warnings = []
    for run in runs:
        if (kept := first.setdefault(run.seed, run)) is not run:
            one, other = flattened(kept.record.recipe), flattened(run.record.recipe)
            differing = ", ".join(key for key in one if key in _MACHINE and one[key] != other.get(key))
            warnings.append(
                f"{run.folder} repeats seed {run.seed} of {kept.folder}"
                f"{f' with another {differing}' if differing else ''}; the first of them counts"
            )
    return [first[seed] for seed in sorted(first)], warnings


def labels(groups: Sequence[Group]) -> list[str]:
    """A label for each group, the same for one method on every task."""
    keys: dict[str, list[str]] = {}
    for group in groups:
        found = keys.setdefault(group.name, [])
        rivals = [
            other
            for other in groups
            if other is not group and (other.task, other.model, other.name) == (group.task, group.model, group.name)
        ]
        found += [key for other in rivals for key in _differing(group.settings, other.settings) if key not in found]
    labels = []
    for group in groups:
        order = sorted(keys[group.name], key=_rank)
        telling = [f"{_shortened(key)}={_worded(group.settings.get(key))}" for key in order]
        labels.append(", ".join([group.name, *telling]))
    return labels


def _differing(one: Settings, other: Settings) -> list[str]:
    """Keys that tell two groups apart; a learning rate, which is chosen for each, only where nothing else does."""
    found = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return [key for key in found if key != LEARNING_RATE] or found


def _rank(key: str) -> tuple[bool, bool, str]:
    """The method's own settings first, the learning rate last."""
    return key == LEARNING_RATE, not key.startswith("method."), key


def _shortened(key: str) -> str:
    if key.startswith("method."):
        return key.removeprefix("method.")
    return {LEARNING_RATE: "lr", "strategy.name": "strategy", "objective.terms": "terms"}.get(key, key)


def _worded(value: Any) -> str:
    """A setting's value as people write it: 5e-4, 16, mean, query+value."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if 0 < abs(value) < 0.01:
            sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
            whole, *part = map(str, digits)
            point = f".{''.join(part)}" if part else ""
            return f"{'-' * sign}{whole}{point}e{int(exponent) + len(digits) - 1}"
        return repr(value).removesuffix(".0")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}={_worded(part)}" for key, part in value.items() if key != "name")
        return f"{value.get('name', '')}({inner})" if inner else str(value.get("name", ""))
    if isinstance(value, list | tuple):
        return "+".join(map(_worded, value)) or "none"
    return str(value)


def _last_part(name: str) -> str:
    """A local path's last part; an alias or a Hub id as it is."""
    local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    return PurePath(name.replace("\\", "/")).name if local else name
