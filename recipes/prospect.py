"""What a comparison will take and what it can decide, before anything of it is trained."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graft.eval import power
from graft.eval.folders import FoundRun
from graft.eval.influence import flip
from graft.eval.metrics import METRICS
from graft.recipes.cells import Cell, Planned
from graft.recipes.comparison_config import ComparisonConfig
from graft.recipes.execution import Executor, Job
from graft.recipes.scheduling import Schedule
from graft.recipes.stock import Stock

CALIBRATION_SECONDS = 45.0
"""After this long, what could not be tried is guessed from what could."""

_LEVELS = {"matthews": 50.0, "loss": 3.0, "perplexity": 20.0}
"""Scores to expect before anything is known; 85 points of all other metrics."""

_ROOM = 1.6
"""Margin over half-width from which on equivalence is shown with a chance of 0.8: 1 + 1.28 / 2.1 standard errors."""


@dataclass(frozen=True)
class Decidable:
    """What one task's data can decide, by rule of thumb.

    Attributes:
        task: Its name; for the mean over tasks, their number.
        metric: The metric that counts; empty for the mean.
        examples: Of the validation split.
        half_width: Of the interval to expect, in points, with the seeds that are planned.
        limit: What no number of seeds gets below.
        examples_needed: With which as many seeds would probably decide ±margin; none if none would.
        seeds_needed: With which as many examples would; none if none would.
        sentence: All this in words.
    """

    task: str
    metric: str
    examples: int
    half_width: float
    limit: float
    examples_needed: int | None
    seeds_needed: int | None
    sentence: str


@dataclass(frozen=True)
class Prospect:
    """What a comparison will take, and what it can decide.

    Attributes:
        runs: Runs in all: trials and final ones, a trial that becomes final counting once.
        there: Of those, how many are there already.
        minutes: That the rest will take; none where it could not be told.
        disk_bytes: That the rest will leave.
        seconds: Cell → seconds of one run.
        decidable: By task, and then for their mean.
    """

    runs: int
    there: int
    minutes: float | None
    disk_bytes: int
    seconds: Mapping[Cell, float]
    decidable: tuple[Decidable, ...]

    def to_json(self) -> dict[str, Any]:
        """The prospect for programs."""
        return {
            "runs": self.runs,
            "there": self.there,
            "minutes": self.minutes,
            "disk_bytes": self.disk_bytes,
            "decidable": [asdict(one) for one in self.decidable],
        }

    def lines(self) -> list[str]:
        """The prospect for a person."""
        left = self.runs - self.there
        told = f"{self.runs} runs" + (f", of which {self.there} are there" if self.there else "")
        if left:
            told += f"; about {duration(60 * self.minutes)}" if self.minutes is not None else "; time not known"
            told += f" and {self.disk_bytes / 2**20:,.0f} MiB"
        return [told, *(one.sentence for one in self.decidable)]


def foresee(
    config: ComparisonConfig, schedule: Schedule, stock: Stock, executor: Executor | None, workers: int, out: Path
) -> Prospect:
    """Work out what is left to do, how long it will take, and what the data can decide.

    Args:
        config: The comparison.
        schedule: Its runs.
        stock: Reads tasks.
        executor: Takes a few steps of cells of which nothing is there yet; none where a job would wait in a queue.
        workers: Runs at a time.
        out: Folder of the run folders.

    Raises:
        GraftError: A task or a checkpoint cannot be read.
    """
    wanted = {cell: sum(rung.trials for rung in cell.rungs) + len(config.seeds) - 1 for cell in schedule.cells}
    there = {cell: _finished(cell, schedule) for cell in schedule.cells}
    left = {cell: max(0, wanted[cell] - len(found)) for cell, found in there.items()}
    paced = {  # seconds of a run that stepped together with others are a share of theirs
        cell: [run.record.train_seconds / share for run, share in found if "together" not in run.record.hardware]
        for cell, found in there.items()
    }
    seconds = {cell: statistics.fmean(taken) for cell, taken in paced.items() if taken}
    trainable = {cell: found[0][0].record.parameters.trainable for cell, found in there.items() if found}
    untried = [cell for cell in schedule.cells if left[cell] and cell not in seconds]
    for cell, figures in (_calibrated(untried, executor, out) if executor else {}).items():
        seconds[cell], trainable[cell] = figures["seconds"], int(figures["trainable"])
    for cell in untried:
        seconds.setdefault(cell, _like(cell, seconds))
    known = all(cell in seconds and math.isfinite(seconds[cell]) for cell in schedule.cells if left[cell])
    total = sum(seconds[cell] * schedule.work_left(cell) for cell, count in left.items() if count) if known else None
    return Prospect(
        runs=sum(wanted.values()),
        there=sum(min(wanted[cell], len(found)) for cell, found in there.items()),
        minutes=None if total is None else total / workers / 60,
        disk_bytes=sum(4 * trainable.get(cell, 0) * count for cell, count in left.items()),
        seconds={cell: value for cell, value in seconds.items() if math.isfinite(value)},
        decidable=decidable(config, stock),
    )


def decidable(config: ComparisonConfig, stock: Stock) -> tuple[Decidable, ...]:
    """Say what the examples and seeds of a comparison can decide, by rules of thumb.

    Args:
        config: The comparison.
        stock: Reads tasks.
    """
    methods, seeds = len(config.methods) - 1, len(config.seeds)
    found = []
    for task in config.task:
        data = stock.data(task)
        metric = config.metric or data.task.metrics[0]
        examples = len(next(iter(data.validation.values())))
        parts = power.expected_components(metric, examples, _LEVELS.get(metric, 85.0))
        counted = flip(metric)
        width = power.half_width(parts, seeds, examples, config.alpha, methods, counted)
        least = power.limit(parts, examples, config.alpha, methods, counted)
        more_examples = more_seeds = None
        if config.margin is not None and METRICS[metric].scale == 100.0:
            more_examples = power.examples_needed(parts, seeds, config.margin, config.alpha, methods, counted)
            more_seeds = power.seeds_needed(parts, examples, config.margin, config.alpha, methods, counted)
        told = _sentence(task.name, examples, config, width, least, more_examples, more_seeds)
        found.append(Decidable(task.name, metric, examples, width, least, more_examples, more_seeds, told))
    points = [one for one in found if METRICS[one.metric].scale == 100.0]
    if len(points) > 1 and len(points) == len(found):
        found.append(_mean(points, config))
    return tuple(found)


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _finished(cell: Cell, schedule: Schedule) -> list[tuple[FoundRun, float]]:
    """A cell's runs that are there, each once, and how much of a whole run each is."""
    wanted: Sequence[Planned] = (*schedule.trials(cell), *schedule.finals(cell))
    found = ((schedule.ledger.found(run), run.share) for run in wanted)
    return list({run.folder: (run, share) for run, share in found if run is not None}.values())


def _calibrated(cells: Sequence[Cell], executor: Executor, out: Path) -> dict[Cell, dict[str, float]]:
    """Take a few steps for each cell, as far as the time allows."""
    jobs = {executor.submit(Job(cell.recipe, "calibration", out.absolute())): cell for cell in cells}
    started = time.monotonic()
    wait(jobs, timeout=CALIBRATION_SECONDS)
    late = [future for future in jobs if not future.done() and not future.cancel()]
    if late and time.monotonic() - started >= CALIBRATION_SECONDS:
        wait(late)  # they are being taken, and end by themselves
    done = {cell: future.result() for future, cell in jobs.items() if future.done() and not future.cancelled()}
    return {cell: outcome.figures for cell, outcome in done.items() if outcome.figures}


def _like(cell: Cell, seconds: Mapping[Cell, float]) -> float:
    """Guess from the same method elsewhere, or from any."""
    same = [value for other, value in seconds.items() if other.label == cell.label and math.isfinite(value)]
    every = same or [value for value in seconds.values() if math.isfinite(value)]
    return statistics.fmean(every) if every else math.nan


def _sentence(
    name: str,
    examples: int,
    config: ComparisonConfig,
    width: float,
    least: float,
    more_examples: int | None,
    more_seeds: int | None,
) -> str:
    """What one task can decide, in words."""
    seeds = (
        f"{len(config.seeds)} seeds" if len(config.seeds) > 1 else "a single seed (so nothing is said of other seeds)"
    )
    start = f"{name}: {examples:,} evaluation examples and {seeds}: intervals of about ±{width:.2g}, by rule of thumb"
    if config.margin is None:
        return start
    margin = f"±{config.margin:g}"
    if more_seeds is not None and more_seeds <= len(config.seeds):
        return f"{start}; {margin} can probably be decided for a method that does not differ"
    needed = [f"about {more_seeds} seeds"] if more_seeds is not None else []
    needed += [f"about {more_examples:,} examples"] if more_examples is not None else []
    if not needed:
        return f"{start}; {margin} can be decided neither by more seeds nor by more examples alone"
    barred = f"{margin} cannot be decided by more seeds (±{least:.2g} at best); " if more_seeds is None else ""
    return f"{start}; {barred}{' or '.join(needed)} would probably decide {'it' if barred else margin}"


def _mean(tasks: Sequence[Decidable], config: ComparisonConfig) -> Decidable:
    """What the mean over tasks can decide: variances of independent tasks add."""
    count = len(tasks)
    width = math.sqrt(sum(task.half_width**2 for task in tasks)) / count
    least = math.sqrt(sum(task.limit**2 for task in tasks)) / count
    told = f"the mean of these {count} tasks: about ±{width:.2g}, ±{least:.2g} at best"
    if config.margin is not None:
        if config.margin >= _ROOM * width:
            told += f"; ±{config.margin:g} can probably be decided for a method that does not differ"
        elif config.margin >= _ROOM * least:
            told += f"; ±{config.margin:g} needs more seeds"
        else:
            told += f"; ±{config.margin:g} needs more tasks or examples"
    return Decidable(f"mean of {count}", "", sum(task.examples for task in tasks), width, least, None, None, told)
