"""What a step costs, measured alone: a short process of its own, with nothing cached and no neighbour in it.

Peak memory never falls inside a process, and seconds are spoiled by evaluations and caches; figures that are compared
must therefore come from here.
"""

import json
import statistics
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator

from graft.recipes import hardware
from graft.recipes.building import build, gather
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import read_page, run_alone
from graft.recipes.state import RunState
from graft.recipes.step import train_step

STEPS = 20
_WARM_UP = 3


def measure(recipe: Recipe, *, steps: int = STEPS) -> dict[str, Any]:
    """Measure a recipe's training steps in a fresh solitary process.

    Args:
        recipe: What would be trained; its length and evaluations do not matter.
        steps: Steps to take; the first three are not timed. The second has the run's longest example, and the
            optimiser's moments are there by then: the peak is the run's.

    Returns:
        `peak_memory_bytes`, `memory_before_training_bytes` (model loaded, no step taken), `seconds_per_step`
        (median), `samples_per_second`, `steps`.

    Raises:
        TrainingError: The process failed; its last words are in the message.
    """
    return run_alone("graft.recipes.cost", recipe, str(steps))


def _main(recipe: Recipe, steps: int) -> dict[str, Any]:
    """Take the steps and look at the clock and the memory."""
    materials = gather(recipe)
    torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
    accelerator = Accelerator(mixed_precision="no", cpu=materials.recipe.device == "cpu")
    state = build(materials, accelerator.device)
    before = hardware.peak_memory(accelerator.device.type)
    seconds: list[float] = []
    for number in range(min(steps, state.total_steps)):
        state.step = largest_step(state) if number == 1 else number
        started = time.perf_counter()
        train_step([state], accelerator)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[_WARM_UP:] or seconds)
    return {
        "peak_memory_bytes": hardware.peak_memory(accelerator.device.type),
        "memory_before_training_bytes": before,
        "seconds_per_step": median,
        "samples_per_second": recipe.schedule.examples / median,
        "steps": len(seconds),
    }


def largest_step(state: RunState) -> int:
    """Find the step of the first epoch that holds the longest example."""
    longest = int(state.train.lengths.argmax())
    here = state.step
    try:
        for step in range(min(state.epoch_steps, state.total_steps)):
            state.step = step
            if longest in state.rows():
                return step
    finally:
        state.step = here
    return here


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(read_page(sys.argv[1]), int(sys.argv[2]))) + "\n")
