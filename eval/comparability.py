"""Which runs can be compared at all, and what a reader must know of those that can.

Runs on other examples, splits or metrics are refused, since a difference between them means nothing. Other hardware,
arithmetic or library versions, and protocols that treat one method better than another, are warned of.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graft.errors import RunError
from graft.eval.folders import FoundRun
from graft.eval.grouping import Group, flattened
from graft.eval.wording import listed

FEW_EXAMPLES = 50
"""Evaluation examples below which intervals rest on too little to be trusted far."""

_HARDWARE = ("device", "gpu", "cpu", "cpu_capability", "cores", "threads", "processes", "together")
_PACE = ("device", "gpu", "cpu", "cpu_capability", "threads", "processes", "together")
"""Of the hardware, what seconds and memory depend on."""


def refuse_incomparable(runs: Sequence[FoundRun]) -> None:
    """Refuse runs of one task that were not trained and scored on the same examples, in the same way.

    Args:
        runs: Final runs of any tasks.

    Raises:
        RunError: Two runs differ in their data, splits, row version or metrics; it names both folders.
    """
    first: dict[str, FoundRun] = {}
    for run in runs:
        one = first.setdefault(run.task, run)
        if reasons := list(_differences(one, run)):
            raise RunError(
                f"{one.folder} and {run.folder}: both on {run.task}, but not comparable: {'; '.join(reasons)}. Give "
                "the folders of one kind only; data of your own gets a name with --task NAME"
            )


def _differences(one: FoundRun, other: FoundRun) -> Iterable[str]:
    """What makes two runs of a task incomparable, in words."""
    ours, theirs = one.record.data, other.record.data
    plain: dict[str, tuple[Any, Any]] = {
        "kind of task": (ours.kind, theirs.kind),
        "classes": (listed(ours.label_names), listed(theirs.label_names)),
        "version of the task": (ours.task_version, theirs.task_version),
        "metric": (one.record.primary_metric, other.record.primary_metric),
        "length of blocks, task.max_length": (_block(one), _block(other)),
    }
    yield from (f"the {what} ({values[0]}; {values[1]})" for what, values in plain.items() if values[0] != values[1])
    for split in {**ours.fingerprints, **theirs.fingerprints}:
        sizes = ours.sizes.get(split), theirs.sizes.get(split)
        if sizes[0] != sizes[1]:
            yield f"the size of {split} ({sizes[0] or 0} examples, {sizes[1] or 0})"
        elif ours.fingerprints.get(split) != theirs.fingerprints.get(split):
            yield f"the examples in {split}"
    if ours.fingerprint != theirs.fingerprint and ours.fingerprints == theirs.fingerprints:
        yield "the rows that the splits were made of"
    if one.record.holdout_trained_on != other.record.holdout_trained_on:
        yield "whether the holdout was trained on"


def _block(run: FoundRun) -> Any:
    """Tokens of a language model's blocks, which are its examples; none for other tasks."""
    return run.record.recipe["task"].get("max_length") if run.record.data.kind == "causal_lm" else None


def warnings_about(groups: Sequence[Group], reference: str) -> list[str]:
    """Say where runs were made under conditions that differ.

    Args:
        groups: The methods on each task and model.
        reference: Label of the reference.

    Returns:
        A sentence for each thing that a reader should know.
    """
    runs = [run for group in groups for run in group.runs]
    warnings = [
        *_varying("hardware", runs, lambda run: {key: run.record.hardware.get(key) for key in _HARDWARE}),
        *_varying("precision", runs, lambda run: {"precision": run.record.recipe.get("speed", {}).get("precision")}),
        *_varying("library versions", runs, lambda run: run.record.versions),
    ]
    for group in groups:
        base = next((other for other in groups if _same_place(group, other) and other.label == reference), None)
        if base is not None and (unlike := _unlike(group, base)):
            warnings.append(
                f"{place(group.task, group.model)}: {group.label} was trained otherwise than {reference}, in {unlike}"
            )
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.record.warnings:
            notes.setdefault(note, []).append(run.folder.name)
    return warnings + [f"{note} ({listed(names)})" for note, names in notes.items()]


def place(task: str, model: str) -> str:
    """Name a task and a model in a message."""
    return f"{task}, {model}"


def common(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What mappings say alike; where they differ, all that they say, in order.

    Returns:
        Key → the value, or the list of the values that there are.
    """
    values: dict[str, list[Any]] = {}
    for part in parts:
        for key, value in part.items():
            if value not in (found := values.setdefault(key, [])):
                found.append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def same_pace(runs: Sequence[FoundRun]) -> bool:
    """Whether seconds and memory of these runs were measured on hardware of one kind."""
    kinds = {tuple(repr(run.record.hardware.get(key)) for key in _PACE) for run in runs}
    return len(kinds) == 1


def _varying(what: str, runs: Sequence[FoundRun], look: Callable[[FoundRun], Mapping[str, Any]]) -> list[str]:
    """Name what runs were not made alike in."""
    varying = {key: value for key, value in common(map(look, runs)).items() if isinstance(value, list)}
    if not varying:
        return []
    told = "; ".join(f"{key} {listed(values)}" for key, values in varying.items())
    return [f"the runs were made with different {what}: {told}"]


def _same_place(one: Group, other: Group) -> bool:
    return (one.task, one.model) == (other.task, other.model)


def _unlike(group: Group, base: Group) -> str:
    """Settings that two methods should share and do not: neither the method's own nor the optimiser's."""
    ours, theirs = group.settings, base.settings
    differing = [
        f"{key} ({ours.get(key)}, {theirs.get(key)})"
        for key in {**ours, **theirs}
        if not key.startswith(("method.", "optim.", "strategy.", "objective.")) and ours.get(key) != theirs.get(key)
    ]
    return listed(differing)


def shared_settings(groups: Sequence[Group]) -> dict[str, Any]:
    """What all runs have in common, as a nested recipe without task, model, method, seed and learning rate."""
    recipes = [flattened(run.record.recipe) for group in groups for run in group.runs]
    nested: dict[str, Any] = {}
    for key in recipes[0] if recipes else ():
        part, _, name = key.rpartition(".")
        if part in ("task", "model", "method") or key in ("seed", "optim.lr"):
            continue
        if all(key in recipe and recipe[key] == recipes[0][key] for recipe in recipes):
            (nested.setdefault(part, {}) if part else nested)[name] = recipes[0][key]
    return nested
