"""The report's tables, apart from how they are written: the page sorts them, Markdown lists them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graft.eval.comparison import Power, Result, SuiteResult
from graft.eval.report import words
from graft.eval.report.sources import Material, Place


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: What is read.
        order: What is sorted by; none for what has no place in an order, which is put last.
        number: Whether it is set as a number, to the right.
    """

    text: str
    order: float | str | None = None
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of a row names it.

    Attributes:
        caption: What the table is of.
        headings: One per column.
        rows: Cells, as many as there are headings.
    """

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def text(value: str) -> Cell:
    """A cell of words."""
    return Cell(value, value.lower())


def figure(told: str, value: float | None) -> Cell:
    """A cell of a number."""
    return Cell(told, value, number=True)


def scores(place: Place) -> Table:
    """Scores of one task, with the differences to the reference and both verdicts."""
    results = place.results
    rows = []
    for result in results:
        reference = result.direction == "reference"
        rows.append(
            (
                text(result.method),
                figure(words.score(result.mean, result.metric), result.mean),
                *_difference(result, result.metric),
                figure(words.number(result.standard_error) if not reference else "", result.standard_error),
                text(result.direction),
                text("" if reference else result.size),
            )
        )
    metric = results[0].metric.replace("_", " ")
    headings = ("method", metric, "difference", "interval", "standard error", "direction", "size")
    examples = words.counted(results[0].examples, "evaluation example")
    return Table(f"Scores on {place.title}, {examples}", headings, tuple(rows))


def _difference(found: Result | SuiteResult, metric: str) -> tuple[Cell, Cell]:
    """The difference and its interval, apart."""
    if found.direction == "reference":
        return figure("", None), figure("", None)
    value, _, between = words.difference(found, metric).partition(" (")
    return figure(value, found.difference), figure(between.removesuffix(")"), found.low)


def seeds(place: Place) -> Table | None:
    """Scores of the single runs; none where there is one seed."""
    numbers = sorted({seed for result in place.results for seed in result.seeds})
    if len(numbers) < 2:
        return None
    rows = []
    for result in place.results:
        found = dict(zip(result.seeds, result.scores, strict=False))
        told = [words.score(found[seed], result.metric) if seed in found else "no run" for seed in numbers]
        cells = (figure(said, found.get(seed)) for said, seed in zip(told, numbers, strict=True))
        rows.append((text(result.method), *cells))
    return Table(f"Scores of each seed on {place.title}", _seed_headings(numbers), tuple(rows))


def mcnemar(place: Place) -> Table | None:
    """McNemar's test of each seed; none for tasks without right and wrong."""
    tested = [result for result in place.results if result.mcnemar]
    numbers = sorted({seed for result in tested for seed in result.seeds})
    if not tested:
        return None
    rows = []
    for result in tested:
        found = dict(zip(result.seeds, result.mcnemar, strict=False))
        told = [words.probability(found[seed]) if seed in found else "no run" for seed in numbers]
        cells = (figure(said, found.get(seed)) for said, seed in zip(told, numbers, strict=True))
        rows.append((text(result.method), *cells))
    caption = f"McNemar's p of each seed on {place.title}, descriptive: no verdict rests on it"
    return Table(caption, _seed_headings(numbers), tuple(rows))


def _seed_headings(numbers: Iterable[int]) -> tuple[str, ...]:
    return ("method", *(f"seed {number}" for number in numbers))


def costs(place: Place) -> Table | None:
    """What the methods take, each figure with its ratio to the reference's; none where nothing is known."""
    names = [name for name in words.COSTS if any(name in result.costs for result in place.results)]
    always = [name for name in words.COSTS if name in names or name in ("peak_memory_bytes", "seconds_per_step")]
    if not names:
        return None
    rows = []
    for result in place.results:
        cells = []
        for name in always:
            cost = result.costs.get(name)
            ratio = "" if cost is None or cost.ratio is None or name == "total" else f" ({words.percent(cost.ratio)})"
            value = None if cost is None else cost.value
            cells.append(figure(f"{words.cost(name, value)}{ratio}", value))
        rows.append((text(result.method), *cells))
    headings = ("method", *(words.COSTS[name] for name in always))
    return Table(f"Costs on {place.title}, in brackets beside the reference's", headings, tuple(rows))


def suite(material: Material, model: str) -> Table | None:
    """Means over tasks; none where there is a single one."""
    means = material.suite(model)
    if not means:
        return None
    metric = next(one.metric for one in material.comparison.results if one.task == means[0].tasks[0])
    rows = []
    for mean in means:
        reference = mean.direction == "reference"
        counts = ("", "", "") if reference else (str(mean.wins), str(mean.ties), str(mean.losses))
        counted = (None, None, None) if reference else (mean.wins, mean.ties, mean.losses)
        rows.append(
            (
                text(mean.method),
                figure(words.score(mean.mean, metric), mean.mean),
                *_difference(mean, metric),
                text(mean.direction),
                text("" if reference else mean.size),
                figure(words.number(mean.rank), mean.rank),
                *(figure(told, value) for told, value in zip(counts, counted, strict=True)),
            )
        )
    headings = ("method", "mean", "difference", "interval", "direction", "size", "average rank")
    caption = material.titled(f"Means over {words.listed(means[0].tasks)}", model)
    return Table(caption, (*headings, "tasks better", "not shown", "worse"), tuple(rows))


def choices(material: Material) -> Table | None:
    """Hyper-parameters that were chosen on the holdout; none where nothing was searched."""
    results = [result for result in material.comparison.results if result.trials or result.chosen]
    rows = tuple(
        (
            text(material.titled(result.task, result.model)),
            text(result.method),
            figure(str(result.trials), result.trials),
            text(settings(result.chosen)),
        )
        for result in results
    )
    return Table("Chosen on the holdout", ("task", "method", "trials", "chosen"), rows) if rows else None


def power(place: Place, material: Material) -> Table | None:
    """Half-widths to expect with more seeds; none where there are no variances over seeds."""
    found = [one for one in material.comparison.power if (one.task, one.model) == (place.task, place.model)]
    seeds = sorted({int(seeds) for one in found for seeds in one.half_widths})
    if not found:
        return None
    rows = tuple(
        (
            text(one.method),
            *(figure(words.number(one.half_widths.get(str(many))), one.half_widths.get(str(many))) for many in seeds),
            figure(words.number(one.limit), one.limit),
            *_needed(one, place, material),
        )
        for one in found
    )
    headings = ("method", *(words.counted(many, "seed") for many in seeds), "any number")
    headings += ("examples that would decide",) if material.comparison.protocol.margin is not None else ()
    return Table(f"Half-widths to expect on {place.title}", headings, rows)


def _needed(power: Power, place: Place, material: Material) -> tuple[Cell, ...]:
    """With how many examples the size would be decided; no column where none is judged."""
    if material.comparison.protocol.margin is None:
        return ()
    if any(one.method == power.method and one.size in ("equivalent", "not equivalent") for one in place.results):
        return (figure("decided", None),)
    return (figure("none" if power.examples_needed is None else f"{power.examples_needed:,}", power.examples_needed),)


def missing(material: Material) -> Table | None:
    """Runs that are not there."""
    rows = tuple((text(one.what), text(one.reason)) for one in material.comparison.missing)
    return Table("Missing runs", ("run", "reason"), rows) if rows else None


def environment(material: Material) -> Table:
    """Hardware and package versions."""
    comparison = material.comparison
    rows = [(text(key), text(told(value))) for key, value in comparison.hardware.items()]
    rows += [(text(key), text(value)) for key, value in comparison.versions.items()]
    return Table("Where the runs were made, and with which versions", ("what", "value"), tuple(rows))


def protocol(material: Material) -> Table:
    """How it was done."""
    said = material.comparison.protocol
    first = material.comparison.results[0] if material.comparison.results else None
    rows = [
        ("reference", said.reference),
        ("level", f"{said.alpha:g}: the probability of any wrong claim of a direction among the methods of a task"),
        ("margin", "none: no size is judged" if said.margin is None else f"±{said.margin:g}"),
        ("looks at the data", str(said.looks)),
        ("seeds", "" if first is None else ", ".join(map(str, first.seeds))),
        ("intervals", said.interval),
        ("conditional on", said.conditional_on),
        *((f"data of {task}", fingerprint) for task, fingerprint in said.fingerprints.items()),
    ]
    return Table("Protocol", ("what", "how"), tuple((text(what), text(how)) for what, how in rows))


def shared(material: Material) -> Table | None:
    """Settings that all runs have in common."""
    rows = tuple((text(key), text(told(value))) for key, value in flat(material.comparison.protocol.settings))
    return Table("Settings that all runs share", ("setting", "value"), rows) if rows else None


def flat(nested: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings in one level of dotted keys."""
    found: list[tuple[str, Any]] = []
    for key, value in nested.items():
        if isinstance(value, dict) and value:
            found += flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found


def settings(values: dict[str, Any]) -> str:
    """Settings in a line."""
    return ", ".join(f"{key} = {told(value)}" for key, value in values.items())


def told(value: Any) -> str:
    """A JSON value as a person writes it."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(map(told, value)) or "none"
    return json.dumps(value, ensure_ascii=False)
