"""What a run costs, measured alone: a short process of its own, with nothing cached and no neighbour in it.

Peak memory never falls inside a process, and seconds are spoiled by evaluations and caches; figures that are compared
must therefore come from here. Seconds are those of steps; the peak is the run's, scoring and checkpoints included: the
C library gives little of what steps took back, so that what comes after them lies on top.
"""

import math
import statistics
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from graft.eval.encoding import Encoded
from graft.eval.predict import plan_batches
from graft.recipes import hardware
from graft.recipes.batching import Rows, epoch_plan, micro_batches
from graft.recipes.building import build, gather
from graft.recipes.optimisation import optimizer_state
from graft.recipes.recipe import Recipe
from graft.recipes.scoring import HOLDOUT
from graft.recipes.scoring import budget as scoring_budget
from graft.recipes.solitary import answer, run_alone
from graft.recipes.state import RunState
from graft.recipes.step import train_step
from graft.recipes.strategies import Constant

STEPS = 20
_WARM_UP = 3


def measure(recipe: Recipe, *, steps: int = STEPS) -> dict[str, Any]:
    """Measure a recipe's training steps in a fresh solitary process.

    Args:
        recipe: What would be trained. A strategy does not matter: all that may learn is learning, which costs most.
        steps: Steps to take; the first three are not timed. What makes the peak is rehearsed after them.

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
    trial = Trial(state, accelerator, materials.encoded)
    plan = trial.epoch()
    seconds = [trial.take(plan[number % len(plan)]) for number in range(min(steps, state.total_steps))]
    trial.rehearse()
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

    def __init__(self, state: RunState, accelerator: Accelerator, encoded: Mapping[str, Encoded] | None = None) -> None:
        """Take over a run that is freshly built; it is of no other use afterwards.

        Args:
            state: The run.
            accelerator: Where it is.
            encoded: Split → tokenised examples, for a rehearsal; those of `train` are the run's own.
        """
        state.recipe = state.recipe.model_copy(update={"strategy": Constant()})
        self._state = state
        self._accelerator = accelerator
        self._scored = {name: split for name, split in (encoded or {}).items() if name != "train"}

    def epoch(self) -> list[Rows]:
        """The examples of each step of the first epoch."""
        return next(epochs(self._state))

    def rehearse(self) -> None:
        """Do once all that makes a run's peak: its largest steps, the best weights kept, scoring, a checkpoint.

        Steps come between two rounds of scoring, as in a run: memory that one left in pieces may not do for the other.
        """
        state = self._state
        if keeps_best(state, self._scored):
            state.best = state.learned()
        self._score()
        for rows in largest_steps(state):
            self.take(rows)
        self._score()
        if state.total_steps > evaluation_steps(state):  # a run's last evaluation needs no checkpoint
            moments = optimizer_state(state.optimizer, state.learners).values()
            _ = [moment.to("cpu", copy=True) for moment in moments]  # all at once, as `checkpoints.save` does

    def _score(self) -> None:
        """Score the largest batches of every split."""
        state = self._state
        with state.evaluating():
            for encoded in self._scored.values():
                for rows in largest_batches(encoded.lengths, scoring_budget(state)):
                    batch = state.kind.collate(encoded, rows).to(state.device)
                    state.kind.scores(state.model(batch.inputs).logits, batch)

    def take(self, rows: Rows) -> float:
        """Take a step and tell its seconds; the counter of steps stops before the run's end."""
        state = self._state
        state.step = min(state.step, state.total_steps - 1)
        started = time.perf_counter()
        train_step([state], self._accelerator, rows)
        if state.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def epochs(state: RunState) -> Iterator[list[Rows]]:
    """Lay out the run, epoch by epoch: the examples of each step that it takes."""
    schedule, buckets = state.recipe.schedule, state.recipe.speed.buckets
    for epoch in range(math.ceil(state.total_steps / state.epoch_steps)):
        steps = epoch_plan(
            state.train.lengths, seed=state.recipe.seed, epoch=epoch, examples=schedule.examples, buckets=buckets
        )
        yield steps[: state.total_steps - epoch * state.epoch_steps]


def largest_steps(state: RunState) -> list[Rows]:
    """The steps of the run that have its largest micro-batches.

    The step with the longest example need not be one: it may be an epoch's last and short of examples, or hold fewer
    of the longest than the budget has room for of those a little shorter.
    """
    every = [rows for steps in epochs(state) for rows in steps]
    lengths = state.lengths_of(state.train)
    cut = [micro_batches(rows, lengths, tokens=state.tokens) for rows in every]
    parts = [(number, part) for number, step in enumerate(cut) for part in step]
    chosen = _largest([(len(part), int(lengths[part].max())) for _, part in parts])
    return [every[number] for number in sorted({parts[at][0] for at in chosen})]


def largest_batches(lengths: Rows, tokens: int) -> list[list[int]]:
    """The largest batches in which a split is scored.

    Args:
        lengths: Tokens of every example of the split, (N,).
        tokens: Budget of a batch, padding counted.
    """
    batches = plan_batches(lengths, tokens)
    return [batches[at] for at in _largest([(len(rows), int(lengths[rows].max())) for rows in batches])]


def _largest(sizes: Sequence[tuple[int, int]]) -> list[int]:
    """Which of several (examples, length) has the most tokens, and which the most pairs of tokens, padding counted."""
    return sorted({max(range(len(sizes)), key=lambda at: sizes[at][0] * sizes[at][1] ** power) for power in (1, 2)})


def keeps_best(state: RunState, splits: Container[str]) -> bool:
    """Whether the run holds a copy of the best weights beside those that learn."""
    return state.recipe.schedule.keep == "best" and HOLDOUT in splits


def evaluation_steps(state: RunState) -> int:
    """Optimiser steps between two evaluations."""
    return state.recipe.schedule.evaluate or state.epoch_steps


if __name__ == "__main__":
    answer(lambda recipe, steps: _main(recipe, int(steps)))
