"""The one loop: steps, evaluations of the holdout, checkpoints, until no run has a step left."""

import time
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from graft.eval.metrics import goodness
from graft.recipes.state import Evaluation, RunState
from graft.recipes.step import train_step
from graft.recipes.watching import Watch

Score = Callable[[RunState], dict[str, float]]
"""Scores the holdout: metric → value, the primary metric first; empty where there is no holdout."""
Save = Callable[[RunState], None]
"""Writes a checkpoint."""

SAVE_SECONDS = 300.0
"""Without a number of steps between checkpoints, no more work than this is at stake."""

_AGAIN = "add --resume, or RunOptions(resume=True) in Python, to the same command to go on"


def fit(
    states: Sequence[RunState],
    accelerator: Accelerator,
    *,
    score: Score,
    save: Save | None = None,
    save_every: int | None = None,
    watches: Sequence[Watch] = (),
    interrupted: Callable[[], bool] = lambda: False,
) -> None:
    """Train runs together, each to its end, and leave in each model the weights that its recipe keeps.

    Args:
        states: The runs, freshly built or restored from a checkpoint.
        accelerator: Says which process of how many this is.
        score: Scores the holdout.
        save: Writes a checkpoint; none to write none.
        save_every: Steps between checkpoints; none means at every evaluation and every five minutes.
        watches: Told of every step and evaluation.
        interrupted: Asked between steps whether to stop; the runs are saved first.

    Raises:
        TrainingError: See `train_step`.
        KeyboardInterrupt: `interrupted` said so.
    """
    # What draws from torch's own generator is seeded at every step; the caller's stays as it is.
    with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []):
        _train(states, accelerator, score, save, save_every, watches, interrupted)
    for state in states:
        if state.best is not None:  # only where the recipe keeps the best
            state.load_learned(state.best)


def _train(
    states: Sequence[RunState],
    accelerator: Accelerator,
    score: Score,
    save: Save | None,
    save_every: int | None,
    watches: Sequence[Watch],
    interrupted: Callable[[], bool],
) -> None:
    """Take steps until no run has one left; arguments as for `fit`."""
    saved = time.monotonic()
    while going := [state for state in states if not state.done]:
        train_step(going, accelerator)
        stopping = _agreed(interrupted(), accelerator)
        for state in going:
            for watch in watches:
                watch.on_step(state)
            evaluated = _evaluates(state)
            if evaluated and _evaluate(state, score):
                for watch in watches:
                    watch.on_evaluation(state)
            late = evaluated or time.monotonic() - saved > SAVE_SECONDS
            due = late if save_every is None else state.step % save_every == 0
            if save is not None and (due or stopping) and not state.done:
                save(state)
                saved = time.monotonic()
        if stopping and not all(state.done for state in states):
            raise KeyboardInterrupt(_AGAIN if save is not None else "")


def _agreed(asked: bool, accelerator: Accelerator) -> bool:
    """Whether any process was asked to stop: launchers pass a signal on to some, or to each at another step."""
    if accelerator.num_processes == 1:
        return asked
    count: torch.Tensor = accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), reduction="sum")
    return bool(count)


def _evaluates(state: RunState) -> bool:
    """Whether the holdout is due: after so many steps, or at the end of an epoch, and always at the end."""
    every = state.recipe.schedule.evaluate or state.epoch_steps
    return state.step % every == 0 or state.done


def _evaluate(state: RunState, score: Score) -> bool:
    """Score the holdout, remember the best weights, and stop early when nothing better came for long enough.

    Weights that the method has not settled yet are scored, but neither kept nor waited for.

    Returns:
        Whether there was a holdout to score.
    """
    scores = score(state)
    if not scores:
        return False
    state.evaluations.append(Evaluation(state.step, scores))
    schedule = state.recipe.schedule
    if not state.attached.settled(state.step):
        return True
    ranked = [goodness(e.scores) for e in state.evaluations if state.attached.settled(e.step)]
    best = max(range(len(ranked)), key=lambda number: (ranked[number], -number))
    if best == len(ranked) - 1 and schedule.keep == "best":
        state.best, state.best_step = state.learned(), state.step
    state.stopped = schedule.patience is not None and len(ranked) - 1 - best >= schedule.patience
    return True
