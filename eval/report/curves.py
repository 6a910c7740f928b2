"""Pictures of how training went, over seeds, and of what more seeds would decide."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graft.eval.comparison import Power, Result
from graft.eval.records import RunRecord
from graft.eval.report import words
from graft.eval.report.pictures import Axis, Chart, Level, Series, named
from graft.eval.report.sources import Material, Place

_POINTS = 60
"""Points of a loss curve: three for each stretch of steps that is averaged over."""
_WINDOW = 0.05
"""Share of the steps over which a loss is averaged: single batches tell more of their examples than of the model."""

_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def curve_charts(material: Material, taken: Sequence[str] = ()) -> list[Chart]:
    """Draw training losses, scores on the holdout, and the half-width against seeds, task by task.

    Args:
        material: What the report is made of.
        taken: Names of pictures that there are already.

    Returns:
        Charts of what the records have.
    """
    charts: list[Chart] = []
    for place in material.places:
        first = place.results[0]
        metric = first.metric.replace("_", " ")
        found = (
            _learning(material, place, "loss", "training loss", "training loss, smoothed", _losses),
            _learning(
                material,
                place,
                "holdout",
                f"{metric} on the holdout",
                f"{metric} on the holdout",
                partial(_evaluations, metric=first.metric),
            ),
            _power(material, place),
        )
        for chart in found:
            if chart is not None:
                name = named(chart.name, place.title, taken=[*taken, *(other.name for other in charts)])
                charts.append(replace(chart, name=name))
    return charts


def _learning(
    material: Material, place: Place, name: str, what: str, title: str, curve: Callable[[RunRecord], _Curve]
) -> Chart | None:
    """One line per method, the mean over seeds, in a band from the lowest seed to the highest."""
    series = [one for result in place.results if (one := _over_seeds(material, result, curve)) is not None]
    if not series:
        return None
    ends = ", ".join(f"{one.label} {words.number(one.y[-1])}" for one in series)
    return Chart(
        name,
        f"{what[:1].upper()}{what[1:]}",
        "Lines are means over the seeds, bands go from the lowest seed to the highest, as far as all seeds went."
        + (" Each point is the mean of the steps just before it." if name == "loss" else ""),
        f"Line chart of {what} by optimiser step. At the end: {ends}.",
        place.title,
        "",
        Axis("optimiser steps", from_zero=True),
        Axis(title),
        tuple(series),
    )


def _over_seeds(material: Material, result: Result, curve: Callable[[RunRecord], _Curve]) -> Series | None:
    curves = [curve(material.records[run]) for run in result.runs if run in material.records]
    if not curves or not all(len(steps) for steps, _ in curves):
        return None
    shared = curves[0][0]
    for steps, _ in curves[1:]:
        shared = np.intersect1d(shared, steps)
    if not len(shared):
        return None
    values = np.stack([found[np.searchsorted(steps, shared)] for steps, found in curves])  # (seeds, steps)
    kept = np.unique(np.linspace(0, len(shared) - 1, min(len(shared), _POINTS)).round().astype(int))
    shared, values = shared[kept], values[:, kept]
    mean, low, high = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
    several = len(curves) > 1
    seeds = words.counted(len(curves), "seed")
    hover = tuple(
        (
            result.method,
            f"step {step:,.0f}: {words.number(middle, 4)}",
            f"{seeds}: {words.number(bottom, 4)} to {words.number(top, 4)}" if several else seeds,
        )
        for step, middle, bottom, top in zip(shared, mean, low, high, strict=True)
    )
    return Series(
        result.method,
        material.methods[result.method],
        tuple(shared.tolist()),
        tuple(mean.tolist()),
        tuple(low.tolist()) if several else (),
        tuple(high.tolist()) if several else (),
        hover,
        "line" if len(shared) > 20 else "marked line",
    )


def _losses(record: RunRecord) -> _Curve:
    """Running means of the loss: the step that each ends with, and its value."""
    losses = np.asarray(record.losses, dtype=np.float64)
    window = max(1, round(_WINDOW * len(losses)))
    if not len(losses):
        return losses, losses
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    return np.arange(window, len(losses) + 1, dtype=np.float64), (sums[window:] - sums[:-window]) / window


def _evaluations(record: RunRecord, metric: str) -> _Curve:
    """Steps at which the holdout was scored, and the scores."""
    found = {
        one.step: one.scores["holdout"][metric] for one in record.evaluations if metric in one.scores.get("holdout", {})
    }
    steps = sorted(found)
    return np.array(steps, dtype=np.float64), np.array([found[step] for step in steps], dtype=np.float64)


def _power(material: Material, place: Place) -> Chart | None:
    """Half-width against seeds, one line per method."""
    found = [one for one in material.comparison.power if (one.task, one.model) == (place.task, place.model)]
    if not found:
        return None
    unit = words.unit(place.results[0].metric)
    margin = material.comparison.protocol.margin
    told = "; ".join(
        f"{one.method} {words.number(_widths(one)[-1][1])} at best {words.number(one.limit)}" for one in found
    )
    return Chart(
        "power",
        "What more seeds would decide",
        "Half-width of the interval to expect with so many seeds and the evaluation examples that there are; smaller "
        "differences are mostly not shown."
        + (" Only below the line of the margin can a method be shown to be equivalent." if margin is not None else ""),
        f"Line chart of the half-width against the number of seeds. With most seeds drawn: {told}.",
        place.title,
        "",
        Axis("seeds", log=True),
        Axis(f"half-width{f', {unit}' if unit else ''}", log=True),
        tuple(_half_widths(material, one) for one in found),
        () if margin is None else (Level(f"margin ±{margin:g}", (margin,)),),
    )


def _half_widths(material: Material, power: Power) -> Series:
    widths = _widths(power)
    hover = tuple(
        (
            power.method,
            f"{words.counted(seeds, 'seed')}: ±{words.number(width)}",
            f"with any number of seeds: ±{words.number(power.limit)}",
        )
        for seeds, width in widths
    )
    return Series(
        power.method,
        material.methods[power.method],
        tuple(float(seeds) for seeds, _ in widths),
        tuple(width for _, width in widths),
        hover=hover,
        form="marked line",
    )


def _widths(power: Power) -> list[tuple[int, float]]:
    return sorted((int(seeds), width) for seeds, width in power.half_widths.items())
