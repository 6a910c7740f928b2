"""`graft verdict`: say what finished runs, wherever they were made, support, from their folders alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from graft.recipes import launch
from graft.recipes.inventory import print_json, write_out

if TYPE_CHECKING:
    from graft.eval.comparison import Comparison

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to judge.

    Attributes:
        folders: Folders that hold finished runs, or run folders.
        margin: Differences within ± this count as none; none means that no size is judged.
        alpha: Probability of any wrong claim among the methods of a task.
        reference: Label of the method that the others are compared with.
        metric: What to score by; none means each task's own.
        out: Where the results go; none means the first folder.
        figures: Where static pictures go; none means that there are none.
        as_json: Print for programs.
    """

    folders: tuple[Path, ...]
    margin: float | None = None
    alpha: float = 0.05
    reference: str = "full"
    metric: str | None = None
    out: Path | None = None
    figures: Path | None = None
    as_json: bool = False


def main(request: Request) -> int:
    """Judge the runs, print what was found and write it down.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """

    def action() -> None:
        from graft.eval.gathering import compare_runs

        launch.log_to_stderr(quiet=request.as_json)
        comparison = compare_runs(
            request.folders,
            margin=request.margin,
            alpha=request.alpha,
            reference=request.reference,
            metric=request.metric,
        )
        out = request.out or request.folders[0]
        files = write_all(comparison, request.folders, out, request.figures)
        if request.as_json:
            print_json(comparison.model_dump(mode="json", by_alias=True))
            return
        show(comparison)
        write_out("\n" + "".join(f"wrote {file}\n" for file in files))

    return launch.guarded(action, after_interruption="nothing was lost; give the same command again")


def show(comparison: "Comparison") -> None:
    """Print a comparison for a person: a sentence for each method, the tables, and what to know of them."""
    from graft.eval.tables import terminal

    lines = [result.sentence for result in comparison.results if result.direction != "reference"]
    lines += [mean.sentence for mean in comparison.suite if mean.direction != "reference"]
    write_out("".join(f"{line}\n" for line in [*lines, ""]))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    with console.capture() as captured:
        console.print(terminal(comparison))
    write_out("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
    notes = [power.sentence for power in comparison.power]
    notes += [f"warning: {warning}" for warning in comparison.warnings]
    notes += [f"missing: {missing.what}: {missing.reason}" for missing in comparison.missing]
    if notes:
        write_out("".join(f"{line}\n" for line in ["", *notes]))


def write_all(comparison: "Comparison", folders: Sequence[Path], out: Path, figures: Path | None = None) -> list[Path]:
    """Write a comparison in every form: `comparison.json`, tables, and the report if what draws it is installed.

    Args:
        comparison: What to write.
        folders: Where its runs lie.
        out: Where the files go.
        figures: Where static pictures go; none means that there are none.

    Returns:
        The files.

    Raises:
        GraftError: A folder cannot be written, or pictures are asked for and what draws them is not installed.
    """
    from graft.eval.comparison import write_comparison
    from graft.eval.report.writing import missing_packages, write_report
    from graft.eval.tables import write_tables

    written = [write_comparison(out, comparison), *write_tables(out, comparison)]
    if figures is None and (absent := missing_packages()):
        named = " and ".join(absent)
        log.warning("no report was written, since %s is not installed; pip install 'graft-nlp[report]'", named)
        return written
    return [*written, *write_report(comparison, folders, out, figures=figures)]
