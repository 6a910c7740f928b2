"""What a comparison is made of: one cell for each method on each task from each checkpoint, and the runs of a cell."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft.adapters.methods import METHODS, Method
from graft.errors import RunError
from graft.eval.folders import FoundRun
from graft.eval.metrics import goodness
from graft.eval.records import RECORD, read_record
from graft.recipes.comparison_config import ComparisonConfig
from graft.recipes.recipe import Recipe, resolved
from graft.recipes.scoring import HOLDOUT
from graft.recipes.search import Known, Rung, best, choose, rungs, to_try
from graft.recipes.stock import Stock


@dataclass(frozen=True, eq=False)
class Cell:
    """One method on one task, from one checkpoint; each is itself alone.

    Attributes:
        task: The task's name.
        model: The checkpoint's name.
        label: What results call the method.
        recipe: Resolved, with the first seed and the method's default learning rate.
        trials: Learning rates to try; a single one is not tried but taken.
        halving: Whether they are tried by successive halving.
        rates: A grid that the user gave; none means the method's own.
    """

    task: str
    model: str
    label: str
    recipe: Recipe
    trials: int
    halving: bool
    rates: tuple[float, ...] | None

    @property
    def method(self) -> Method:
        """The method's row."""
        return METHODS[self.recipe.method.name]

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rounds of the search."""
        return rungs(self.trials, halving=self.halving)

    @property
    def length(self) -> float:
        """How many whole runs the search takes."""
        return sum(rung.trials * rung.share for rung in self.rungs)

    @property
    def place(self) -> str:
        """Task, model and method, for messages."""
        return f"{self.task}, {Path(self.model).name}, {self.label}"


@dataclass(frozen=True)
class Planned:
    """A run that belongs to a comparison.

    Attributes:
        cell: Where it belongs.
        rate: Its learning rate.
        seed: Its seed.
        kind: A trial is scored on the holdout only.
        share: Of the run's length that a trial is trained for.
    """

    cell: Cell
    rate: float
    seed: int
    kind: Literal["trial", "final"]
    share: float = 1.0

    @property
    def recipe(self) -> Recipe:
        """What to train."""
        recipe, schedule = self.cell.recipe, self.cell.recipe.schedule
        if self.share < 1 and schedule.steps is not None:
            schedule = schedule.model_copy(update={"steps": max(1, round(self.share * schedule.steps))})
        elif self.share < 1:
            schedule = schedule.model_copy(update={"epochs": self.share * schedule.epochs})
        optim = recipe.optim.model_copy(update={"lr": self.rate})
        return recipe.model_copy(update={"optim": optim, "schedule": schedule, "seed": self.seed})

    @property
    def what(self) -> str:
        """The run, for messages."""
        told = f"learning rate {self.rate:g}" if self.kind == "trial" else f"seed {self.seed}"
        told += f", {self.share:g} of the run" if self.share < 1 else ""
        return f"{self.cell.place}, {told}"


def lay_out(config: ComparisonConfig) -> list[Cell]:
    """List a comparison's cells, by task, model and method.

    Raises:
        GraftError: A recipe cannot be resolved here.
    """
    cells = []
    for task in config.task:
        for model in config.model:
            for label, method in zip(config.labels, config.methods, strict=True):
                recipe = resolved(config.recipe(task, model, method))
                rates = config.learning_rates.get(label)
                cells.append(Cell(task.name, model.name, label, recipe, config.trials, config.halving, rates))
    return cells


class Ledger:
    """Which runs are there, and which failed in this session."""

    def __init__(self, out: Path, stock: Stock, processes: int = 1) -> None:
        """Look into a folder.

        Args:
            out: Folder of the run folders.
            stock: Reads data and checkpoints, whose content is part of a run's name.
            processes: Over how many each run is spread.
        """
        self._out, self._stock, self._processes = out, stock, processes
        self._digests: dict[Planned, str] = {}
        self._found: dict[str, FoundRun] = {}
        self.failures: dict[Planned, str] = {}

    def digest(self, planned: Planned) -> str:
        """Name a run by what decides its result; errors as `graft.recipes.building.gather`."""
        if planned not in self._digests:
            self._digests[planned] = self._stock.name(planned.recipe, processes=self._processes)
        return self._digests[planned]

    def found(self, planned: Planned) -> FoundRun | None:
        """Find a run that is finished as far as its kind asks."""
        digest = self.digest(planned)
        run = self._found.get(digest) or self._read(digest)
        if run is None or (planned.kind == "final" and run.record.kind == "trial"):
            return None
        return run

    def goodness(self, planned: Planned) -> float | None:
        """How good a run is on the holdout, larger being better; none where it is not there."""
        run = self.found(planned)
        return None if run is None else goodness(run.record.scores[HOLDOUT])

    def forget(self, planned: Planned) -> None:
        """Read a run's record again when it is asked for the next time: it has changed."""
        self._found.pop(self.digest(planned), None)

    def settled(self, planned: Planned) -> bool:
        """Whether nothing is left to do for a run: it is there, or failed."""
        return planned in self.failures or self.found(planned) is not None

    def _read(self, digest: str) -> FoundRun | None:
        for folder in sorted(self._out.glob(f"*-{digest[:12]}")):
            if (folder / RECORD).exists():
                try:
                    self._found[digest] = FoundRun(folder, read_record(folder))
                except RunError:  # training says what is wrong with it
                    return None
                return self._found[digest]
        return None


@dataclass(frozen=True)
class Search:
    """How far a cell's search is.

    Attributes:
        trials: In the order in which they are tried, as far as it is known.
        over: Whether nothing is left to try.
        rate: The chosen learning rate; none before the search is over, and where every trial failed.
    """

    trials: tuple[Planned, ...]
    over: bool
    rate: float | None


def search(cell: Cell, seed: int, ledger: Ledger) -> Search:
    """Tell how far a cell's search is.

    Args:
        cell: Which.
        seed: Of every trial.
        ledger: What is there.
    """
    if cell.trials == 1:
        rate = cell.rates[0] if cell.rates else cell.method.learning_rate
        return Search((), over=True, rate=rate)
    first, *later = cell.rungs
    trials, known = _first_round(cell, seed, ledger, first)
    if len(known) < cell.trials:
        return Search(trials, over=False, rate=None)
    for rung in later:
        left, known = known, {}
        while left and not any(score is not None for score in known.values()):  # where all failed, the next best
            rates = best(left, cell.method.learning_rate, rung.trials)
            round_ = tuple(Planned(cell, rate, seed, "trial", rung.share) for rate in rates)
            trials += round_
            known = {trial.rate: ledger.goodness(trial) for trial in round_ if ledger.settled(trial)}
            if len(known) < len(round_):
                return Search(trials, over=False, rate=None)
            left = {rate: score for rate, score in left.items() if rate in set(left) - set(rates) and score is not None}
    return Search(trials, over=True, rate=choose(known, cell.method.learning_rate))


def _first_round(cell: Cell, seed: int, ledger: Ledger, rung: Rung) -> tuple[tuple[Planned, ...], Known]:
    """Tell the trials of the first round, as far as they are known, and how good those are that are settled."""
    known: dict[float, float | None] = {}
    while True:
        rates = tuple(sorted(cell.rates)) if cell.rates else to_try(cell.method, cell.trials, known, seed)
        trials = tuple(Planned(cell, rate, seed, "trial", rung.share) for rate in rates)
        fresh = {
            trial.rate: ledger.goodness(trial) for trial in trials if trial.rate not in known and ledger.settled(trial)
        }
        known |= fresh
        if not fresh:
            return trials, known
