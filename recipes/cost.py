"""What a step costs, measured alone: a short process of its own, with nothing cached and no neighbour in it.

Peak memory never falls inside a process, and seconds are spoiled by evaluations and caches; figures that are compared
must therefore come from here.
"""

import statistics
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator

from graft.recipes import hardware
from graft.recipes.batching import Rows, epoch_plan
from graft.recipes.building import build, gather
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import answer, run_alone
from graft.recipes.state import RunState
from graft.recipes.step import train_step
from graft.recipes.strategies import Constant

STEPS = 20
_WARM_UP = 3


def measure(recipe: Recipe, *, steps: int = STEPS) -> dict[str, Any]:
    """Measure a recipe's training steps in a fresh solitary process.

    Args:
        recipe: What would be trained; its length and evaluations do not matter, nor does a strategy: all that may
            learn is learning, which is what costs most.
        steps: Steps to take; the first three are not timed. The second has the run's longest example, and the
            optimiser's moments are there by then: the peak is the run's.

    Returns:
        `peak_memory_bytes`, `memory_before_training_bytes` (model loaded, no step taken), `seconds_per_step`
        (median), `samples_per_second`, `steps`.

    Raises:
        GraftError: The recipe cannot be carried out.
        TrainingError: The process failed; its last words are in the message.
    """
    return run_alone("graft.recipes.cost", recipe, str(steps))


def _main(recipe: Recipe, steps: int) -> dict[str, Any]:
    """Take the steps and look at the clock and the memory."""
    materials = gather(recipe)
    torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
    accelerator = hardware.accelerator(materials.recipe.device)
    state = build(materials, accelerator.device)
    before = hardware.peak_memory(accelerator.device.type)
    trial = Trial(state, accelerator)
    plan = trial.epoch()
    seconds = [
        trial.take(trial.largest() if number == 1 else plan[number % len(plan)])
        for number in range(min(steps, state.total_steps))
    ]
    median = statistics.median(seconds[_WARM_UP:] or seconds)
    return {
        "peak_memory_bytes": hardware.peak_memory(accelerator.device.type),
        "memory_before_training_bytes": before,
        "seconds_per_step": median,
        "samples_per_second": recipe.schedule.examples / median,
        "steps": len(seconds),
    }


class Trial:
    """Steps for the sake of measuring: any examples, and all that a strategy ever lets learn is learning."""

    def __init__(self, state: RunState, accelerator: Accelerator) -> None:
        """Take over a run that is freshly built; it is of no other use afterwards."""
        state.recipe = state.recipe.model_copy(update={"strategy": Constant()})
        self._state = state
        self._accelerator = accelerator

    def epoch(self) -> list[Rows]:
        """The examples of each step of the first epoch."""
        recipe = self._state.recipe
        return epoch_plan(
            self._state.train.lengths,
            seed=recipe.seed,
            epoch=0,
            examples=recipe.schedule.examples,
            buckets=recipe.budget.buckets,
        )

    def largest(self) -> Rows:
        """The examples of that step which has the longest one."""
        longest = int(self._state.train.lengths.argmax())
        return next(rows for rows in self.epoch() if longest in rows)

    def take(self, rows: Rows) -> float:
        """Take a step and tell its seconds; the counter of steps stops before the run's end."""
        state = self._state
        state.step = min(state.step, state.total_steps - 1)
        started = time.perf_counter()
        train_step([state], self._accelerator, rows)
        if state.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


if __name__ == "__main__":
    answer(lambda recipe: _main(recipe, int(sys.argv[2])))
