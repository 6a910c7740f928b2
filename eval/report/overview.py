"""Pictures over tasks: a heat map of the differences, and average ranks."""

import math
from collections.abc import Sequence

from scipy import stats

from graft.eval.comparison import Result, SuiteResult
from graft.eval.metrics import METRICS
from graft.eval.report import words
from graft.eval.report.pictures import HeatMap, Ranks, named
from graft.eval.report.sources import Material
from graft.eval.results import in_words

MIN_TASKS = 3
"""Tasks from which on average ranks say more than their noise."""

_SHOWN = {"better": "better", "worse": "worse"}


def heat_maps(material: Material, taken: Sequence[str] = ()) -> list[HeatMap]:
    """Draw the differences of every method on every task, a map for each unit that they are in.

    Args:
        material: What the report is made of.
        taken: Names of pictures that there are already.
    """
    by_unit: dict[str, list[Result]] = {}
    for result in material.comparison.results:
        if result.direction != "reference":
            scale = METRICS[result.metric].scale if result.metric in METRICS else 1.0
            by_unit.setdefault("points" if scale == 100.0 else result.metric, []).append(result)
    maps: list[HeatMap] = []
    for unit, results in by_unit.items():
        name = named("differences", "" if unit == "points" else unit, taken=[*taken, *(one.name for one in maps)])
        maps.append(_heat_map(material, unit, results, name))
    return maps


def _heat_map(material: Material, unit: str, results: Sequence[Result], name: str) -> HeatMap:
    rows = tuple(label for label in material.methods if any(one.method == label for one in results))
    columns = list(dict.fromkeys((one.task, one.model) for one in results))
    found: dict[tuple[str, str, str], Result | SuiteResult] = {
        (one.method, one.task, one.model): one for one in results
    }
    titles = [material.titled(task, model) for task, model in columns]
    metrics = {(one.task, one.model): one.metric for one in results}
    for model in material.models:
        suite = material.suite(model)
        if suite and {(task, model) for task in suite[0].tasks} <= {*columns}:
            mean = f"mean over {len(suite[0].tasks)} tasks"
            metrics[mean, model] = metrics[suite[0].tasks[0], model]
            columns.append((mean, model))
            titles.append(material.titled("mean", model))
            found |= {(one.method, mean, model): one for one in suite}
    grid = [[found.get((row, *column)) for column in columns] for row in rows]
    signs = [
        1.0 if metrics[column] not in METRICS or METRICS[metrics[column]].higher_is_better else -1.0
        for column in columns
    ]
    reference = in_words(material.comparison.protocol.reference)
    return HeatMap(
        name,
        f"Differences to {reference}",
        "How much each method scores above or below the reference. A direction stands where it is shown, ≈ where the "
        "difference is shown to lie within the margin.",
        "Heat map; its figures are in the tables of scores.",
        rows,
        tuple(titles),
        tuple(
            tuple(None if one is None else sign * one.difference for one, sign in zip(line, signs, strict=True))
            for line in grid
        ),
        tuple(tuple(_cell(one, metrics[column]) for one, column in zip(line, columns, strict=True)) for line in grid),
        tuple(
            tuple(
                _hover(row, one, title, metrics[column])
                for one, column, title in zip(line, columns, titles, strict=True)
            )
            for row, line in zip(rows, grid, strict=True)
        ),
        f"{unit} better",
    )


def _cell(found: Result | SuiteResult | None, metric: str) -> tuple[str, ...]:
    if found is None:
        return ("no result",)
    marks = [_SHOWN.get(found.direction, ""), "≈" if found.size == "equivalent" else ""]
    shown = " ".join(mark for mark in marks if mark)
    value = words.difference(found, metric).split(" (")[0]
    return (value, shown) if shown else (value,)


def _hover(method: str, found: Result | SuiteResult | None, title: str, metric: str) -> tuple[str, ...]:
    if found is None:
        return (f"{method} on {title}", "no result")
    size = () if found.size == "reference" else (f"direction: {found.direction}; size: {found.size}",)
    return (f"{method} on {title}", words.difference(found, metric), *size)


def rank_pictures(material: Material, taken: Sequence[str] = ()) -> list[Ranks]:
    """Draw average ranks over three tasks or more, with the critical difference of Nemenyi's test.

    Args:
        material: What the report is made of.
        taken: Names of pictures that there are already.
    """
    pictures: list[Ranks] = []
    for model in material.models:
        suite = sorted(material.suite(model), key=lambda one: one.rank)
        if len(suite) < 2 or len(suite[0].tasks) < MIN_TASKS:
            continue
        critical = critical_difference(len(suite), len(suite[0].tasks), material.comparison.protocol.alpha)
        told = ", ".join(f"{one.method} {words.number(one.rank)}" for one in suite)
        name = named(
            "ranks", model if len(material.models) > 1 else "", taken=[*taken, *(one.name for one in pictures)]
        )
        pictures.append(
            Ranks(
                name,
                material.titled(f"Average ranks over {len(suite[0].tasks)} tasks", model),
                f"1 is the best. Two methods whose bars overlap are within the critical difference "
                f"{words.number(critical)} (Nemenyi's test, Demšar 2006): their ranks are not shown to differ. Ranks "
                "leave aside how large a difference is; the verdict rests on the intervals.",
                f"Average ranks: {told}. Critical difference: {words.number(critical)}.",
                tuple(one.method for one in suite),
                tuple(material.methods[one.method] for one in suite),
                tuple(one.rank for one in suite),
                critical,
                tuple((one.method, f"average rank {words.number(one.rank)}") for one in suite),
            )
        )
    return pictures


def critical_difference(methods: int, tasks: int, alpha: float) -> float:
    """How far average ranks must lie apart to be shown to differ (Demšar 2006, JMLR 7, section 3.2.2).

    Args:
        methods: Number of methods that are ranked.
        tasks: Number of tasks over which ranks are averaged.
        alpha: Probability of any wrong claim.
    """
    quantile = float(stats.studentized_range.ppf(1.0 - alpha, methods, math.inf)) / math.sqrt(2.0)
    return quantile * math.sqrt(methods * (methods + 1) / (6.0 * tasks))
