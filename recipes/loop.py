"""The one loop: steps, evaluations of the holdout, checkpoints, until no run has a step left."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from graft.errors import TrainingError
from graft.eval.metrics import goodness
from graft.recipes import converted
from graft.recipes.state import Evaluation, RunState
from graft.recipes.step import settle, train_step
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
    ended: Callable[[RunState], None] = lambda _: None,
) -> None:
    """Train runs together, each to its end, and leave in each model the weights that its recipe keeps.

    A run that fails does not keep others from their end.

    Args:
        states: The runs, freshly built or restored from a checkpoint.
        accelerator: Says which process of how many this is.
        score: Scores the holdout.
        save: Writes a checkpoint; none to write none.
        save_every: Steps between checkpoints; none means at every evaluation and every five minutes.
        watches: Told of every step and evaluation.
        interrupted: Asked between steps whether to stop; the runs are saved first.
        ended: Told of each run as soon as it has come to its end, with the weights that it keeps.

    Raises:
        TrainingError: See `train_step`; where there are several runs, at the end, and it names those that failed.
        KeyboardInterrupt: `interrupted` said so.
    """
    hooks = _Hooks(score, save, save_every, watches, ended)
    # What draws from torch's own generator is seeded at every step; the caller's stays as it is.
    with torch.random.fork_rng([accelerator.device] if accelerator.device.type == "cuda" else []):
        try:
            _train(states, accelerator, hooks, interrupted)
        finally:
            for state in states:
                converted.forget(state.model)
    failed = [state for state in states if state.failed is not None]
    if failed:
        told = "\n".join(f"seed {s.recipe.seed}, optim.lr {s.recipe.optim.lr}: {s.failed}" for s in failed)
        raise TrainingError(f"{len(failed)} of {len(states)} runs failed, the others are done:\n{told}")


@dataclass(frozen=True)
class _Hooks:
    """What is called between steps; as for `fit`."""

    score: Score
    save: Save | None
    save_every: int | None
    watches: Sequence[Watch]
    ended: Callable[[RunState], None]


def _train(
    states: Sequence[RunState], accelerator: Accelerator, hooks: _Hooks, interrupted: Callable[[], bool]
) -> None:
    """Take steps until no run has one left."""
    saved = time.monotonic()
    for state in states:
        if state.done:  # restored after its last step
            _end(state, hooks)
    while going := [state for state in states if not state.done]:
        _step(going, accelerator, alone=len(states) == 1)
        waits = hooks.save is not None and hooks.save_every is None and time.monotonic() - saved > SAVE_SECONDS
        stopping, overdue = _agreed(interrupted(), waits, accelerator)
        for state in going:
            if state.failed is None and (stopping or _evaluates(state) or _due(state, hooks, overdue=overdue)):
                _settle(state, accelerator, alone=len(states) == 1)
            if state.failed is None and _look_after(state, hooks, overdue=overdue, stopping=stopping):
                saved = time.monotonic()
        if stopping and not all(state.done for state in states):
            raise KeyboardInterrupt(_AGAIN if hooks.save is not None else "")


def _step(going: Sequence[RunState], accelerator: Accelerator, *, alone: bool) -> None:
    """Take a step in each run; one that fails keeps others from nothing."""
    try:
        train_step(going, accelerator)
    except TrainingError as error:
        if alone:
            raise
        for state in going:
            state.failed = error


def _settle(state: RunState, accelerator: Accelerator, *, alone: bool) -> None:
    """Know the losses of all steps before weights are scored or saved; a run that fails keeps others from nothing."""
    try:
        settle(state, accelerator)
    except TrainingError as error:
        if alone:
            raise
        state.failed = error


def _look_after(state: RunState, hooks: _Hooks, *, overdue: bool, stopping: bool) -> bool:
    """Tell of a run's step, score the holdout where it is due, and save the run, or end it.

    Returns:
        Whether it was saved.
    """
    for watch in hooks.watches:
        watch.on_step(state)
    evaluated = _evaluates(state)
    if evaluated and _evaluate(state, hooks.score):
        for watch in hooks.watches:
            watch.on_evaluation(state)
    if state.done:
        _end(state, hooks)
        return False
    if hooks.save is None or not (stopping or _due(state, hooks, overdue=overdue)):
        return False
    hooks.save(state)
    return True


def _end(state: RunState, hooks: _Hooks) -> None:
    """Put the weights in that the recipe keeps, and tell."""
    if state.best is not None:  # only where the recipe keeps the best
        state.load_learned(state.best)
    hooks.ended(state)


def _agreed(asked: bool, overdue: bool, accelerator: Accelerator) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and whether for any a checkpoint is overdue.

    Launchers pass a signal on to some processes, or to each at another step; and each has a clock of its own.
    """
    if accelerator.num_processes == 1:
        return asked, overdue
    flags = torch.tensor([float(asked), float(overdue)], device=accelerator.device)
    counts: torch.Tensor = accelerator.reduce(flags, reduction="sum")
    stopping, late = (counts > 0).tolist()
    return stopping, late


def _due(state: RunState, hooks: _Hooks, *, overdue: bool) -> bool:
    """Whether a checkpoint is due: after so many steps, or at every evaluation and when the last one is long ago."""
    if hooks.save_every is not None:
        return state.step % hooks.save_every == 0
    return overdue or _evaluates(state)


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
