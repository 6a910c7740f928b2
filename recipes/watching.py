"""Who watches a run: one progress display on the terminal, and trackers through Accelerate."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol, Self

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from graft.errors import RunError, nearest
from graft.recipes.live_display import in_place
from graft.recipes.optimisation import schedule_factor
from graft.recipes.state import RunState


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that Accelerate would pass over in silence.

    Raises:
        RunError: A name is unknown, or its package is not installed.
    """
    known = sorted(LOGGER_TYPE_TO_CLASS)
    installed = {str(kind) for kind in get_available_trackers()}
    for name in names:
        if name not in known:
            raise RunError(f"--track: no tracker {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        if name not in installed:
            raise RunError(f"--track: the package of {name} is not installed; pip install {name}, or leave it out")


def flattened(nested: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Spell a recipe out in one level of dotted keys and plain values, as trackers want it."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return flat


class Watch(Protocol):
    """Is told what happens; never changes it."""

    def on_step(self, state: RunState) -> None:
        """A step is done."""

    def on_evaluation(self, state: RunState) -> None:
        """The holdout was scored."""


class Display:
    """One line of progress on standard error or below a notebook's cell, on the main process only."""

    def __init__(self, states: Sequence[RunState], *, visible: bool) -> None:
        """Prepare the display.

        Args:
            states: The runs that are trained together.
            visible: Whether to show anything.
        """
        self._states = states
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[score]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not visible,
        )
        several = len({state.recipe.optim.lr for state in states}) > 1
        self._bars = {
            id(state): self._progress.add_task(
                f"{state.recipe.task.name} {state.recipe.method.name} seed {state.recipe.seed}"
                + (f" rate {state.recipe.optim.lr:g}" if several else ""),
                total=state.total_steps,
                completed=state.step,
                loss="-",
                score="",
            )
            for state in states
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Show the display."""
        self._stack.enter_context(in_place(self._progress))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last line standing."""
        self._stack.close()

    def on_step(self, state: RunState) -> None:
        """Move the bar."""
        loss = f"{state.losses[-1]:.4f}" if state.losses else "-"
        self._progress.update(self._bars[id(state)], completed=state.step, loss=loss)

    def on_evaluation(self, state: RunState) -> None:
        """Show the newest score."""
        name, value = next(iter(state.evaluations[-1].scores.items()))
        self._progress.update(self._bars[id(state)], score=f"holdout {name} {value:.2f}")


class Trackers:
    """Hands losses, rates and scores to the trackers that Accelerate knows."""

    def __init__(self, accelerator: Accelerator) -> None:
        """Use an accelerator whose trackers are initialised."""
        self._accelerator = accelerator
        self._told: dict[int, int] = {}
        """Of each run, the steps whose losses are logged, or were when it was resumed."""

    def on_step(self, state: RunState) -> None:
        """Log the losses that have become known, and the learning rates of their steps."""
        peak = state.recipe.optim.lr
        assert peak is not None
        for step in range(self._told.setdefault(id(state), state.step - 1), len(state.losses)):
            rate = peak * schedule_factor(state.recipe.schedule, step, state.total_steps)
            self._accelerator.log({"train/loss": state.losses[step], "train/lr": rate}, step=step + 1)
        self._told[id(state)] = len(state.losses)

    def on_evaluation(self, state: RunState) -> None:
        """Log the holdout's scores."""
        newest = state.evaluations[-1]
        self._accelerator.log({f"holdout/{name}": value for name, value in newest.scores.items()}, step=newest.step)
