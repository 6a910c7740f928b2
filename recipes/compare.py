"""Compare methods fairly: the same trials, seeds and examples for each, then a verdict with intervals.

Example:
    python recipes/compare.py --task mrpc --model minilm --methods full,lora --seeds 5 --margin 1.0 --data FOLDER
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.errors import RecipeError, RunError
from graft.recipes import launch
from graft.recipes.comparison_config import MOST_GRID, ComparisonConfig, from_mapping
from graft.recipes.comparison_options import CompareOptions, parse

if TYPE_CHECKING:
    from graft.eval.comparison import Comparison, Missing
    from graft.recipes.execution import Executor
    from graft.recipes.prospect import Prospect
    from graft.recipes.scheduling import Schedule

log = logging.getLogger(__name__)

AGAIN = "the same command goes on where it stopped"
STATE = ".compare"
"""Folder in the output folder for what workers print and how searches went."""


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    Attributes:
        folder: Where it lies, with its runs.
        comparison: What was found.
        files: What was written beside the runs.
    """

    folder: Path
    comparison: "Comparison"
    files: tuple[Path, ...] = ()

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def compare(
    config: ComparisonConfig | Mapping[str, Any] | None = None,
    *,
    options: CompareOptions | None = None,
    **settings: Any,
) -> Compared:
    """Make the runs of a comparison that are not there yet, and say what all of them support.

        compare(task="mrpc,rte", methods="full,lora", seeds=5, margin=1.0, data="glue", out="runs")

    Args:
        config: What is compared; keys of it may be given one by one instead.
        options: How it is carried out; keys of it may be given one by one instead.
        settings: Keys of `ComparisonConfig` and of `CompareOptions`.

    Returns:
        The comparison, and where it was written.

    Raises:
        GraftError: Something is wrong with what is compared, or nothing could be compared in the end.
        KeyboardInterrupt: Somebody asked to stop; the same call goes on.
    """
    config, options = _gathered(config, options, settings)
    _check_out(options.out)
    with _prepared(config, options) as comparing:
        for line in comparing.prospect.lines():
            log.info("%s", line)
        return comparing.carry_out()


def foresee(
    config: ComparisonConfig | Mapping[str, Any] | None = None,
    *,
    options: CompareOptions | None = None,
    **settings: Any,
) -> "Prospect":
    """Say what a comparison would take and could decide; arguments and errors as for `compare`."""
    config, options = _gathered(config, options, settings)
    _check_out(options.out)
    with _prepared(config, options) as comparing:
        return comparing.prospect


@dataclass(frozen=True)
class _Comparing:
    """A comparison that is under way.

    Attributes:
        config: What is compared.
        options: How.
        schedule: Its runs.
        executor: Who makes them.
        prospect: What was foreseen.
    """

    config: ComparisonConfig
    options: CompareOptions
    schedule: "Schedule"
    executor: "Executor"
    prospect: "Prospect"

    def carry_out(self) -> Compared:
        """Make the runs, measure costs, judge and write."""
        self._make_runs()
        comparison = self._judged()
        notes: list[str] = []
        if self.options.costs and self.schedule.unmeasured():
            log.info("measuring memory and seconds of a step, one method at a time")
            notes = self.schedule.measure_costs(self.executor, self.options.out)
            comparison = self._judged()
        comparison = comparison.model_copy(update={"warnings": (*comparison.warnings, *self._edges(), *notes)})
        files = self._write(comparison) if _rank() == 0 else ()
        return Compared(self.options.out, comparison, tuple(files))

    def _make_runs(self) -> None:
        from graft.recipes.standing import Standing

        with Standing(self.schedule, self.prospect, self.executor.size, live=not self.options.quiet) as standing:
            self.schedule.carry_out(self.executor, self.options.out, standing)

    def _judged(self) -> "Comparison":
        """Compare; with further seeds as long as these are asked for."""
        from graft.recipes.looks import look_until_decided

        self._check_reference()
        if self.config.until_decided:
            self.schedule.add_seeds(dict.fromkeys(self.schedule.cells, self.config.seeds))
            return look_until_decided(self.config, self.schedule, self._judge, self._make_runs)
        return self._judge(self.schedule.folders(), self.schedule.missing(), None, 1)

    def _judge(
        self, folders: Sequence[Path], missing: "Sequence[Missing]", level: float | None, looks: int
    ) -> "Comparison":
        from graft.eval.gathering import compare_runs

        config = self.config
        return compare_runs(
            folders,
            margin=config.margin,
            alpha=config.alpha,
            reference=config.reference,
            metric=config.metric,
            level=level,
            looks=looks,
            missing=missing,
            tried=self.schedule.tried(),
        )

    def _check_reference(self) -> None:
        """Say why nothing can be compared, where the reference or all other methods failed everywhere."""
        made = {
            cell.label
            for cell in self.schedule.cells
            for run in self.schedule.finals(cell)
            if self.schedule.ledger.found(run)
        }
        if self.config.reference not in made or len(made) < 2:
            reasons = "".join(f"\n  {one.what}: {one.reason}" for one in self.schedule.missing())
            lacking = "no run of the reference" if self.config.reference not in made else "no run but the reference's"
            raise RunError(f"{self.options.out}: {lacking} could be made, so nothing can be compared:{reasons}")

    def _edges(self) -> list[str]:
        """Warn of chosen learning rates beyond which none was tried."""
        from graft.recipes.search import at_the_edge

        told = []
        for cell in self.schedule.cells:
            finals, rates = self.schedule.finals(cell), {run.rate for run in self.schedule.trials(cell)}
            if finals and (edge := at_the_edge(finals[0].rate, rates)) is not None:
                told.append(
                    f"{cell.place}: the chosen learning rate {finals[0].rate:g} is the {edge} of {len(rates)} tried; a "
                    "better one may lie beyond: more trials look there"
                )
        return told

    def _write(self, comparison: "Comparison") -> list[Path]:
        """Write the comparison in every form, and Optuna's journal."""
        from graft.recipes.verdict import write_all

        files = write_all(comparison, self.schedule.folders(), self.options.out, self.options.figures)
        searched = any(cell.trials > MOST_GRID for cell in self.schedule.cells)
        return [*files, self._write_journal()] if searched else files

    def _write_journal(self) -> Path:
        from graft.recipes.search import Searched, write_journal

        searches = {}
        for cell in self.schedule.cells:
            trials = [run for run in self.schedule.trials(cell) if run.share == cell.rungs[0].share]
            known = {run.rate: self.schedule.ledger.goodness(run) for run in trials}
            searches[cell.place] = Searched(cell.method, tuple(run.rate for run in trials), known)
        path = self.options.out / STATE / f"search-{self.config.digest[:12]}.journal"
        write_journal(path, searches)
        return path


@contextmanager
def _prepared(config: ComparisonConfig, options: CompareOptions) -> Iterator[_Comparing]:
    """Lay the runs out, find those who make them, and foresee what it takes."""
    from graft.recipes.allotment import allot
    from graft.recipes.cells import Ledger, lay_out
    from graft.recipes.prospect import foresee as foresee_all
    from graft.recipes.scheduling import Schedule
    from graft.recipes.stock import Stock

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.minutes is not None and processes > 1:
        raise RecipeError(
            "minutes: several processes that make each run together would each measure another time; give trials"
        )
    stock = Stock()
    cells = lay_out(config)
    ledger = Ledger(options.out, stock, processes=processes)
    Schedule(
        cells, config.seeds, ledger
    ).due()  # what is wrong with a task or a checkpoint shows before anything begins
    executor = _executor(config, options, cells[0].recipe.device)
    try:
        if config.minutes is not None:
            cells = allot(config.minutes, cells, executor, options.out, options.out / STATE / "trials.json")
        schedule = Schedule(cells, config.seeds, ledger)
        prompt = None if options.executor == "slurm" else executor
        prospect = foresee_all(config, schedule, stock, prompt, executor.size, options.out)
        yield _Comparing(config, options, schedule, executor, prospect)
    finally:
        executor.close()


def _executor(config: ComparisonConfig, options: CompareOptions, device: str) -> "Executor":
    """Find who makes the runs; local workers start with their first job."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from graft.recipes.execution import Together
        from graft.recipes.worker import Carrier

        return Together(Carrier().carry_out)
    logs = options.out.absolute() / STATE
    if options.executor == "ray":
        from graft.recipes import ray_executor

        return ray_executor.open_crew(options.workers, config.threads, device, options.address)
    if options.executor == "slurm":
        from graft.recipes import slurm_executor

        return slurm_executor.open_crew(options.workers, config.threads, device, options.slurm, logs)
    from graft.recipes import local_executor

    return local_executor.open_crew(options.workers, config.threads, device, logs)


def _gathered(
    config: ComparisonConfig | Mapping[str, Any] | None, options: CompareOptions | None, settings: Mapping[str, Any]
) -> tuple[ComparisonConfig, CompareOptions]:
    """Put together what was given whole and what was given by keys."""
    carried = {key: value for key, value in settings.items() if key in CompareOptions.model_fields}
    rest = {key: value for key, value in settings.items() if key not in carried}
    given = config.model_dump(exclude_unset=True) if isinstance(config, ComparisonConfig) and rest else config
    made = given if isinstance(given, ComparisonConfig) else from_mapping({**(given or {}), **rest})
    chosen = options or CompareOptions()
    return made, CompareOptions.model_validate({**chosen.model_dump(), **carried}) if carried else chosen


def _check_out(out: Path) -> None:
    """Refuse a place that cannot hold runs."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {out}: cannot be a folder ({error.strerror}); name another") from error


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def main(argv: Sequence[str] | None = None, program: str = "compare.py") -> int:
    """Compare what the command line describes.

    Args:
        argv: Flags, without the program's name; none means those of this process.
        program: What the user typed, for `--help`.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        command = parse(sys.argv[1:] if argv is None else argv, program)
        for task in command.config.task:
            for model in command.config.model:
                launch.check_given(command.config.recipe(task, model, command.config.methods[0]), program)
        launch.log_to_stderr(quiet=command.options.quiet)
        from graft.recipes.inventory import write_out
        from graft.recipes.verdict import show

        if command.options.plan:
            write_out("".join(f"{line}\n" for line in foresee(command.config, options=command.options).lines()))
            return
        compared = compare(command.config, options=command.options)
        if _rank() == 0:
            show(compared.comparison)
            write_out("\n" + "".join(f"wrote {file}\n" for file in compared.files))

    return launch.guarded(action, after_interruption=AGAIN)


if __name__ == "__main__":
    sys.exit(main())
