"""How many learning rates each method may try where the search is given minutes instead of trials."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graft.errors import TrainingError
from graft.files import write_json
from graft.recipes.cells import Cell
from graft.recipes.comparison_config import ComparisonConfig
from graft.recipes.execution import Executor, Job

MOST = 100
"""Trials of a cell, at most."""


def allot(config: ComparisonConfig, cells: Sequence[Cell], executor: Executor, out: Path, page: Path) -> list[Cell]:
    """Give each cell the trials that fit into the minutes, at least one: all methods may train for equally long.

    What a run takes is measured once, by a few steps, and written down: an interrupted comparison goes on with the same
    trials.

    Args:
        config: The comparison; nothing is done where it names a number of trials.
        cells: Of the comparison.
        executor: Takes the steps.
        out: Folder of the run folders.
        page: Where the numbers are kept.

    Returns:
        The cells, in the same order.

    Raises:
        TrainingError: A cell's steps failed.
    """
    if config.minutes is None:
        return list(cells)
    try:
        known: dict[str, int] = json.loads(page.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    jobs = [
        (cell, executor.submit(Job(cell.recipe, "calibration", out.absolute())))
        for cell in cells
        if cell.place not in known
    ]
    for cell, job in jobs:
        outcome = job.result()
        if not outcome.figures:
            raise TrainingError(
                f"{cell.place}: how long a trial takes could not be measured ({outcome.failure}); give `trials` "
                "instead of `minutes`"
            )
        runs = 60 * config.minutes / outcome.figures["seconds"]
        known[cell.place] = max(
            (trials for trials in range(1, MOST + 1) if length(replace(cell, trials=trials)) <= runs), default=1
        )
    if jobs:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_json(page, known)
    return [replace(cell, trials=known[cell.place]) for cell in cells]


def length(cell: Cell) -> float:
    """How many whole runs a cell's search takes."""
    return sum(rung.trials * rung.share for rung in cell.rungs)
