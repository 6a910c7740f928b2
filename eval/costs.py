"""What methods cost, beside the reference: parameters, bytes, memory and seconds, as far as they were measured."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from graft.eval.comparability import same_pace
from graft.eval.comparison import Cost
from graft.eval.folders import FoundRun

_ALONE = ("seconds_per_step", "peak_memory_bytes")
"""Figures that only a solitary process gives: neighbours, evaluations and caches spoil them."""


def costs(method: Sequence[FoundRun], reference: Sequence[FoundRun]) -> dict[str, Cost]:
    """Collect a method's costs.

    Args:
        method: Its final runs.
        reference: The reference's; the same runs for the reference itself.

    Returns:
        Name → figure and its ratio to the reference's. Parameter counts and bytes are the first seed's, seconds of
        training the mean over seeds, and what was not measured is left out. Figures of time and memory have no ratio
        where the hardware differs.
    """
    ours, theirs = _figures(method), _figures(reference)
    measured = [run for run in (_measured(method), _measured(reference)) if run is not None]
    alike = dict.fromkeys(_ALONE, same_pace(measured)) | {"train_seconds": same_pace([*method, *reference])}

    def ratio(name: str) -> float | None:
        if method is reference or not theirs.get(name) or not alike.get(name, True):
            return None
        return ours[name] / theirs[name]

    return {name: Cost(value=value, ratio=ratio(name)) for name, value in ours.items()}


def _figures(runs: Sequence[FoundRun]) -> dict[str, float]:
    record = runs[0].record
    figures: dict[str, float] = {
        "trainable": record.parameters.trainable,
        "trainable_without_head": record.parameters.trainable_without_head,
        "total": record.parameters.total,
    }
    sizes = [size for run in runs if (size := _folder_bytes(run.folder / "adapter"))]
    if sizes:
        figures["artefact_bytes"] = sizes[0]
    measured = _measured(runs)
    alone = (measured.record.cost if measured else None) or {}
    figures |= {name: alone[name] for name in _ALONE if name in alone}
    figures["train_seconds"] = statistics.fmean(run.record.train_seconds for run in runs)
    return figures


def _measured(runs: Sequence[FoundRun]) -> FoundRun | None:
    """The first run whose cost a solitary process measured."""
    return next((run for run in runs if run.record.cost), None)


def _folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder; 0 where it was not gathered with the record."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
