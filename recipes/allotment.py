"""How many learning rates each method may try where the search is given minutes instead of trials."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graft.errors import RecipeError, TrainingError
from graft.files import fingerprint, write_json
from graft.recipes.cells import Cell
from graft.recipes.comparison_config import MOST_GRID
from graft.recipes.execution import Executor, Job
from graft.recipes.recipe import canonical

MOST = 100
"""Trials of a cell, at most."""


def allot(minutes: float, cells: Sequence[Cell], executor: Executor, out: Path, page: Path) -> list[Cell]:
    """Give each cell the trials that fit into the minutes, at least one: all methods may train for equally long.

    What a run takes is measured once, by a few steps, and written down: a comparison that goes on, or asks for more
    seeds or another margin, has the same trials.

    Args:
        minutes: Of training, for each cell.
        cells: Of the comparison.
        executor: Takes the steps; a single process.
        out: Folder of the run folders.
        page: Where the numbers are kept.

    Returns:
        The cells, in the same order.

    Raises:
        RecipeError: There would be more trials than a grid takes, and Optuna is not installed.
        TrainingError: A cell's steps failed.
    """
    try:
        known: dict[str, int] = json.loads(page.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    names = [_name(cell, minutes) for cell in cells]
    jobs = [
        (cell, name, executor.submit(Job(cell.recipe, "calibration", out.absolute())))
        for cell, name in zip(cells, names, strict=True)
        if name not in known
    ]
    for cell, name, job in jobs:
        outcome = job.result()
        if not outcome.figures:
            raise TrainingError(
                f"{cell.place}: how long a trial takes could not be measured ({outcome.failure}); give `trials` "
                "instead of `minutes`"
            )
        runs = 60 * minutes / outcome.figures["seconds"]
        known[name] = max((n for n in range(1, MOST + 1) if replace(cell, trials=n).length <= runs), default=1)
    if jobs:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_json(page, known)
    allotted = [replace(cell, trials=known[name]) for cell, name in zip(cells, names, strict=True)]
    most = max(allotted, key=lambda cell: cell.trials)
    if most.trials > MOST_GRID and importlib.util.find_spec("optuna") is None:
        raise RecipeError(
            f"minutes: {minutes:g} make {most.trials} trials of {most.place}; more than {MOST_GRID} are searched by a "
            "sampler, and Optuna is not installed: pip install 'graft-nlp[search]', or give fewer minutes"
        )
    return allotted


def _name(cell: Cell, minutes: float) -> str:
    """Name what decides how many trials there are."""
    return fingerprint({"recipe": canonical(cell.recipe), "minutes": minutes, "halving": cell.halving})
