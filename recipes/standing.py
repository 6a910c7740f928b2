"""How a comparison stands, while it is made: one live display on a terminal or in a notebook, else a line a run."""

import logging
import os
import statistics
import time
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from graft.eval.folders import FoundRun
from graft.recipes.cells import Cell, Planned
from graft.recipes.execution import Outcome
from graft.recipes.live_display import in_place
from graft.recipes.prospect import Prospect, duration
from graft.recipes.scheduling import Schedule

log = logging.getLogger(__name__)

_SHOWN = 8
"""Runs that are under way, and failures, that the display has room for."""


class Standing:
    """Shows what is done, what is under way, what failed, the scores so far and the time left."""

    def __init__(self, schedule: Schedule, prospect: Prospect, workers: int, *, live: bool) -> None:
        """Prepare.

        Args:
            schedule: The runs.
            prospect: How long each will take.
            workers: Runs at a time.
            live: Whether to redraw a terminal or a cell; else there is a line for each finished run.
        """
        self._schedule, self._workers = schedule, workers
        self._there = prospect.there
        self._seconds = {cell: [value] for cell, value in prospect.seconds.items()}
        self._measured: dict[Cell, list[float]] = {}
        self._under_way: dict[Planned, Future[Outcome]] = {}
        self._begun: dict[Planned, float] = {}
        self._failed: list[str] = []
        console = Console(stderr=True)
        self._live = None
        if live and (console.is_terminal or console.is_jupyter) and os.environ.get("RANK", "0") == "0":
            self._live = Live(console=console, get_renderable=self.render, refresh_per_second=2, transient=True)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Show the display."""
        if self._live is not None:
            self._stack.enter_context(in_place(self._live))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take it away; the comparison itself says how it ended."""
        self._stack.close()

    def on_submit(self, planned: Planned, future: "Future[Outcome]") -> None:
        """Remember a run that waits for a worker."""
        self._under_way[planned] = future

    def on_finish(self, planned: Planned, outcome: Outcome, run: FoundRun | None) -> None:
        """Note how a run ended."""
        self._under_way.pop(planned, None)
        self._begun.pop(planned, None)
        if run is None:
            reason = outcome.failure or "interrupted"
            self._failed.append(f"{planned.what}: {reason}")
            log.warning("%s: failed: %s", planned.what, reason)
            return
        if outcome.seconds >= run.record.train_seconds:  # else it was trained before, and only scored now
            self._measured.setdefault(planned.cell, []).append(outcome.seconds / planned.share)
        if self._live is None:
            done, total = self.counts()
            left = f"; about {duration(self.seconds_left())} left" if done < total else ""
            log.info("%d of %d: %s: %s%s", done, total, planned.what, _score(run), left)

    def counts(self) -> tuple[int, int]:
        """Runs that are settled, and runs in all."""
        each = [self._schedule.progress(cell) for cell in self._schedule.cells]
        return sum(done for done, _ in each), sum(total for _, total in each)

    def seconds_left(self) -> float:
        """Time that the rest will take."""
        work = 0.0
        every = [value for values in (*self._measured.values(), *self._seconds.values()) for value in values]
        for cell in self._schedule.cells:
            known = self._measured.get(cell) or self._seconds.get(cell) or every or [0.0]
            work += self._schedule.work_left(cell) * statistics.fmean(known)
        return work / self._workers

    def render(self) -> Group:
        """Draw the display."""
        done, total = self.counts()
        running = self._running()
        words = [f"{done} of {total} runs done"]
        words += [f"{self._there} were there"] if self._there else []
        words += [f"{len(running)} running"]
        words += [f"{len(self._failed)} failed"] if self._failed else []
        words += [f"about {duration(self.seconds_left())} left"] if done < total else []
        lines = [Text("; ".join(words), style="bold")]
        now = time.monotonic()
        lines += [Text(f"  {run.what} ({duration(now - self._begun[run])})") for run in running[:_SHOWN]]
        lines += [Text(f"  failed: {failure}", style="red") for failure in self._failed[-_SHOWN:]]
        return Group(*lines, self._table())

    def _running(self) -> list[Planned]:
        now = time.monotonic()
        running = [run for run, future in self._under_way.items() if future.running()]
        for run in running:
            self._begun.setdefault(run, now)
        return running

    def _table(self) -> Table:
        """Means so far, by task and method."""
        headings = ("task", "method", "runs", "score so far")
        table = Table(*(Column(Text(heading)) for heading in headings), box=None, pad_edge=False)
        for cell in self._schedule.cells:
            done, total = self._schedule.progress(cell)
            place = (
                cell.task if len({other.model for other in self._schedule.cells}) == 1 else f"{cell.task}, {cell.model}"
            )
            table.add_row(*map(Text, (place, cell.label, f"{done}/{total}", self._so_far(cell))))
        return table

    def _so_far(self, cell: Cell) -> str:
        found = [self._schedule.ledger.found(run) for run in self._schedule.finals(cell)]
        records = [run.record for run in found if run is not None]
        if not records:
            return "searching" if not self._schedule.finals(cell) else ""
        split = next(name for name in records[0].data.sizes if name not in ("train", "holdout"))
        metric = records[0].primary_metric
        mean = statistics.fmean(record.scores[split][metric] for record in records)
        return f"{metric} {mean:.2f} ({len(records)} seed{'s' if len(records) > 1 else ''})"


def _score(run: FoundRun) -> str:
    record = run.record
    split = run.validations[0] if record.kind == "final" else "holdout"
    return f"{split} {record.primary_metric} {record.scores[split][record.primary_metric]:.2f}"
