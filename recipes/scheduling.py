"""Which run comes next: trials, then a final run for every seed with what the trials chose, until all is settled."""

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from graft.eval.comparison import Missing
from graft.eval.folders import FoundRun
from graft.recipes.cells import Cell, Ledger, Planned, search
from graft.recipes.execution import Executor, Job, Outcome
from graft.recipes.interruption import deferred

_PATIENCE = 0.5
"""Seconds between two looks at whether somebody asked to stop."""


class Watch(Protocol):
    """Is told what happens; never changes it."""

    def on_submit(self, planned: Planned, future: "Future[Outcome]") -> None:
        """A run waits for a worker."""

    def on_finish(self, planned: Planned, outcome: Outcome, run: FoundRun | None) -> None:
        """A run is there, or failed."""


class Schedule:
    """The runs of a comparison, and how far they are."""

    def __init__(self, cells: Sequence[Cell], seeds: Sequence[int], ledger: Ledger) -> None:
        """Plan the final runs of some seeds for every cell.

        Args:
            cells: Of the comparison.
            seeds: The first is that of all trials.
            ledger: What is there.
        """
        self.cells, self.ledger = tuple(cells), ledger
        self._trial_seed = seeds[0]
        self._seeds = dict.fromkeys(self.cells, tuple(seeds))

    def add_seeds(self, seeds: Mapping[Cell, Sequence[int]]) -> None:
        """Ask for the final runs of other seeds than before, the earlier ones included."""
        self._seeds |= {cell: tuple(wanted) for cell, wanted in seeds.items()}

    def seeds(self, cell: Cell) -> tuple[int, ...]:
        """Seeds of a cell's final runs."""
        return self._seeds[cell]

    def trials(self, cell: Cell) -> tuple[Planned, ...]:
        """A cell's trials, as far as they are known by now."""
        return search(cell, self._trial_seed, self.ledger).trials

    def finals(self, cell: Cell) -> tuple[Planned, ...]:
        """A cell's final runs; none before its search is over, and where every trial failed."""
        rate = search(cell, self._trial_seed, self.ledger).rate
        if rate is None:
            return ()
        return tuple(Planned(cell, rate, seed, "final") for seed in self._seeds[cell])

    def due(self) -> list[Planned]:
        """Runs that can be made now, trials first."""
        runs = [run for cell in self.cells for run in (*self.trials(cell), *self.finals(cell))]
        return sorted((run for run in runs if not self.ledger.settled(run)), key=lambda run: run.kind == "final")

    def carry_out(self, executor: Executor, out: Path, watch: Watch) -> None:
        """Have everything done that is left to do.

        Args:
            executor: Who does it.
            out: Folder of the run folders.
            watch: Who is told.

        Raises:
            KeyboardInterrupt: Somebody asked to stop; all runs have stopped, and can go on.
        """
        waiting: dict[Future[Outcome], Planned] = {}
        with deferred() as interrupted:
            try:
                self._submit(waiting, executor, out, watch)
                while waiting:
                    done, _ = wait(waiting, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
                    _stop_if(interrupted())
                    for future in done:
                        self._settle(waiting.pop(future), future.result(), watch)
                    if done:
                        self._submit(waiting, executor, out, watch)
            except KeyboardInterrupt:
                executor.interrupt()
                raise

    def measure_costs(self, executor: Executor, out: Path) -> list[str]:
        """Measure what a step of each cell costs, one after the other, where the first final run does not say so.

        Args:
            executor: Does it, and nothing else meanwhile.
            out: Folder of the run folders.

        Returns:
            What could not be measured, and why.

        Raises:
            KeyboardInterrupt: Somebody asked to stop.
        """
        failed = []
        with deferred() as interrupted:
            try:
                for run in self.unmeasured():
                    job = executor.submit(Job(run.recipe, run.kind, out.absolute(), measure_cost=True))
                    while not wait([job], timeout=_PATIENCE).done:
                        _stop_if(interrupted())
                    self.ledger.forget(run)
                    if failure := job.result().failure:
                        failed.append(f"{run.cell.place}: memory and seconds could not be measured: {failure}")
            except KeyboardInterrupt:
                executor.interrupt()
                raise
        return failed

    def unmeasured(self) -> list[Planned]:
        """First final runs whose record says nothing of costs."""
        first = [finals[0] for cell in self.cells if (finals := self.finals(cell))]
        found = [(run, self.ledger.found(run)) for run in first]
        return [run for run, there in found if there is not None and there.record.cost is None]

    def progress(self, cell: Cell) -> tuple[int, int]:
        """Runs of a cell that are settled, and runs in all; a trial that becomes a final run counts once."""
        settled: dict[tuple[float, int, float], bool] = {}
        known = search(cell, self._trial_seed, self.ledger)
        for run in (*self.trials(cell), *self.finals(cell)):
            key = (run.rate, run.seed, run.share)
            settled[key] = settled.get(key, False) or self.ledger.settled(run)
        expected = sum(rung.trials for rung in cell.rungs) + len(self._seeds[cell]) - 1
        return sum(settled.values()), len(settled) if known.over else max(expected, len(settled))

    def work_left(self, cell: Cell) -> float:
        """How many whole runs' time a cell's other runs will take, as far as one can know."""
        planned = dict.fromkeys((*self.trials(cell), *self.finals(cell)))
        there = {(run.rate, run.seed, run.share): run.share for run in planned if self.ledger.settled(run)}
        return max(0.0, cell.length + len(self._seeds[cell]) - 1 - sum(there.values()))

    def folders(self, cells: Sequence[Cell] | None = None) -> list[Path]:
        """Folders of all runs that are there, trials and final ones, each once."""
        runs = [run for cell in cells or self.cells for run in (*self.trials(cell), *self.finals(cell))]
        found = (self.ledger.found(run) for run in runs)
        return list(dict.fromkeys(run.folder for run in found if run is not None))

    def tried(self) -> set[Path]:
        """Folders of the trials that are there and no final runs of this comparison."""
        trials, finals = (
            {found.folder for run in runs if (found := self.ledger.found(run)) is not None}
            for runs in (
                [run for cell in self.cells for run in self.trials(cell)],
                [run for cell in self.cells for run in self.finals(cell)],
            )
        )
        return trials - finals

    def missing(self) -> list[Missing]:
        """Runs that should be there and are not, with the reason."""
        lost = []
        for cell in self.cells:
            failed = [run for run in self.trials(cell) if run in self.ledger.failures]
            lost += [Missing(what=run.what, reason=self.ledger.failures[run]) for run in failed]
            if failed and not self.finals(cell):
                lost.append(Missing(what=cell.place, reason="no final runs, as every trial failed"))
            lost += [
                Missing(what=run.what, reason=self.ledger.failures[run])
                for run in self.finals(cell)
                if run in self.ledger.failures
            ]
        return lost

    def _submit(self, waiting: "dict[Future[Outcome], Planned]", executor: Executor, out: Path, watch: Watch) -> None:
        """Submit what is due and does not wait yet."""
        under_way = set(waiting.values())
        for run in self.due():
            if run not in under_way:
                future = executor.submit(Job(run.recipe, run.kind, out.absolute()))
                waiting[future] = run
                watch.on_submit(run, future)

    def _settle(self, run: Planned, outcome: Outcome, watch: Watch) -> None:
        self.ledger.forget(run)
        found = self.ledger.found(run)
        if found is None:
            self.ledger.failures[run] = outcome.failure or "it was interrupted; give the same command again"
        watch.on_finish(run, outcome, found)


def _stop_if(asked: bool) -> None:
    if asked:
        raise KeyboardInterrupt
