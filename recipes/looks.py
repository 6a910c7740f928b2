"""More seeds until it is decided: looks at the data at levels of their own, so that alpha holds over all."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from graft.eval.comparison import Comparison, Missing, Result
from graft.eval.paired import Bounds, Components, Paired
from graft.eval.sequential import Look, decide, information, next_look
from graft.recipes.cells import Cell
from graft.recipes.comparison_config import ComparisonConfig
from graft.recipes.scheduling import Schedule

_GROWTH = 1.5
"""Seeds at a look over seeds at the one before: few looks cost little of the level."""

Judge = Callable[[Sequence[Path], Sequence[Missing], float, int], Comparison]
"""Compares the runs in some folders, of which some are missing, at a level, at the how-manieth look."""


def look_until_decided(
    config: ComparisonConfig, schedule: Schedule, judge: Judge, carry_out: Callable[[], None]
) -> Comparison:
    """Add seeds to undecided methods and to the reference until all is decided, hopeless, or no seed is left.

    A method that was decided at a look keeps the result of that look.

    Args:
        config: The comparison.
        schedule: Its runs; the first seeds are there.
        judge: Compares.
        carry_out: Has the runs made that the schedule asks for.

    Returns:
        The comparison at the last look, with what could not be decided among its warnings.
    """
    seeds = config.most_seeds
    past: list[Look] = []
    kept: dict[tuple[str, str, str], Result] = {}
    hopeless: list[str] = []
    count = len(config.seeds)
    while True:
        last = count >= len(seeds)
        look, comparison = _look(config, schedule, judge, past, last=last)
        past.append(look)
        undecided = []
        cells = _cells(schedule)
        for result in comparison.results:
            key = (result.task, result.model, result.method)
            if result.direction == "reference" or key in kept or (cell := _cell(result, cells)) is None:
                continue
            contrasts = _contrasts(comparison, result)
            outcome = decide(
                _bounds(result, look), margin=config.margin, alpha=config.alpha, last=last, methods=contrasts
            )
            if outcome == "go on":
                undecided.append(cell)
                continue
            kept[key] = result
            if outcome == "cannot be decided":
                hopeless.append(_told(result, count, last=last))
        if not undecided or last:
            break
        count = min(len(seeds), math.ceil(_GROWTH * count))
        schedule.add_seeds(_wanted(schedule, undecided, config.reference, seeds[:count]))
        carry_out()
    results = tuple(kept.get((one.task, one.model, one.method), one) for one in comparison.results)
    return comparison.model_copy(update={"results": results, "warnings": (*comparison.warnings, *hopeless)})


def _look(
    config: ComparisonConfig, schedule: Schedule, judge: Judge, past: Sequence[Look], *, last: bool
) -> tuple[Look, Comparison]:
    """Tell the level of the next look by the information gained, and compare at it."""
    folders, missing = schedule.folders(), schedule.missing()
    share, contrasts = 1.0, 1
    first = judge(folders, missing, config.alpha, len(past) + 1)
    for result in first.results:
        if result.components is not None:
            parts = Components(result.components.seed, result.components.example, result.components.residual)
            gained = information([parts], len(result.seeds), len(config.most_seeds), result.examples)
            share = min(share, gained)
            contrasts = max(contrasts, _contrasts(first, result))
    look = next_look(config.alpha, past, 1.0 if last else share, contrasts)
    return look, judge(folders, missing, min(look.level, config.alpha), len(past) + 1)


def _contrasts(comparison: Comparison, result: Result) -> int:
    """Methods that are compared with the reference on a result's task, with its model."""
    same = [one for one in comparison.results if (one.task, one.model) == (result.task, result.model)]
    return max(1, len(same) - 1)


def _bounds(result: Result, look: Look) -> Bounds:
    parts = result.components
    paired = Paired(
        difference=result.difference,
        standard_error=result.standard_error,
        degrees_of_freedom=result.degrees_of_freedom,
        components=None if parts is None else Components(parts.seed, parts.example, parts.residual),
        seeds=len(result.seeds),
        examples=result.examples,
        uncertainty=None,
    )
    return Bounds(paired, result.low, result.high, None, look.level)


def _cells(schedule: Schedule) -> dict[str, Cell]:
    """Folder of a final run → its cell."""
    found = {}
    for cell in schedule.cells:
        for run in schedule.finals(cell):
            if (there := schedule.ledger.found(run)) is not None:
                found[str(there.folder)] = cell
    return found


def _cell(result: Result, cells: Mapping[str, Cell]) -> Cell | None:
    """The cell of a result; none for one on a further validation split, which decides nothing."""
    cell = cells.get(result.runs[0]) if result.runs else None
    return cell if cell is not None and cell.task == result.task else None


def _wanted(
    schedule: Schedule, undecided: Sequence[Cell], reference: str, seeds: Sequence[int]
) -> dict[Cell, Sequence[int]]:
    """Undecided cells, and the reference beside each of them."""
    places = {(cell.task, cell.model) for cell in undecided}
    beside = [cell for cell in schedule.cells if cell.label == reference and (cell.task, cell.model) in places]
    return dict.fromkeys((*undecided, *beside), seeds)


def _told(result: Result, seeds: int, *, last: bool) -> str:
    where = f"{result.task}, {result.model}, {result.method}"
    if last:
        return f"{where}: not decided with {seeds} seeds, the most that were allowed"
    return f"{where}: cannot be decided with these examples, whatever the number of seeds"
