"""Pictures of quality beside cost: who is as good for less."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.eval.comparison import Interval, Result, SuiteResult
from graft.eval.report import words
from graft.eval.report.pictures import Axis, Chart, Level, Series, named
from graft.eval.report.sources import Material
from graft.eval.results import in_words


@dataclass(frozen=True)
class _Price:
    """A cost that quality is drawn against.

    Attributes:
        name: Its key in a result's costs.
        axis: The horizontal axis.
        scale: Units of the cost in one unit of the axis.
    """

    name: str
    axis: Axis
    scale: float = 1.0


_PRICES = (
    _Price("trainable", Axis("parameters that learn", log=True)),
    _Price("seconds_per_step", Axis("time a step, ms", from_zero=True), 1e-3),
    _Price("train_seconds", Axis("training time, s", from_zero=True)),
    _Price("peak_memory_bytes", Axis("peak memory, MiB", from_zero=True), 2**20),
)


@dataclass(frozen=True)
class _Point:
    """A method's quality, and what it takes."""

    found: Interval
    method: str
    mean: float
    cost: float


@dataclass(frozen=True)
class _Subject:
    """A task, or the mean over tasks.

    Attributes:
        title: What it is called.
        first: One of its results, for the metric; all metrics of a mean count in the same unit.
        methods: All that were compared.
        points: By cost: the methods that have it.
        mean: Whether it is a mean over tasks.
    """

    title: str
    first: Result
    methods: tuple[str, ...]
    points: Mapping[str, Sequence[_Point]]
    mean: bool = False

    @property
    def score_axis(self) -> str:
        """Title of the vertical axis."""
        unit = words.unit(self.first.metric)
        name = "mean of the tasks' scores" if self.mean else self.first.metric.replace("_", " ")
        return f"{name}, {unit}" if unit else name


def cost_charts(material: Material, taken: Sequence[str] = ()) -> list[Chart]:
    """Draw scores against costs: of the mean over tasks where there is one, then of each task.

    Args:
        material: What the report is made of.
        taken: Names of pictures that there are already.

    Returns:
        A chart for each cost that at least two methods have.
    """
    subjects = [_mean(material, suite) for model in material.models if (suite := material.suite(model))]
    subjects += [
        _Subject(place.title, place.results[0], tuple(one.method for one in place.results), _points(place.results))
        for place in material.places
    ]
    charts: list[Chart] = []
    for subject in subjects:
        for price in _PRICES:
            given = [*taken, *(chart.name for chart in charts)]
            name = named(price.name.replace("_", "-"), subject.title, taken=given)
            slower = price.name == "train_seconds" and len(subject.points["seconds_per_step"]) > 1
            if len(subject.points[price.name]) > 1 and not slower:  # neighbours slow training, not solitary steps
                charts.append(_chart(material, subject, price, name))
    return charts


def _points(results: Sequence[Result]) -> dict[str, list[_Point]]:
    """By cost: the methods that have it."""
    return {
        price.name: [
            _Point(result, result.method, result.mean, result.costs[price.name].value)
            for result in results
            if price.name in result.costs
        ]
        for price in _PRICES
    }


def _mean(material: Material, suite: Sequence[SuiteResult]) -> _Subject:
    """The mean over tasks: its cost is the mean too, of methods that have it on every task."""
    results = {(one.task, one.model, one.method): one for one in material.comparison.results}
    points: dict[str, list[_Point]] = {}
    for price in _PRICES:
        points[price.name] = []
        for mean in suite:
            parts = [results.get((task, mean.model, mean.method)) for task in mean.tasks]
            costs = [part.costs[price.name].value for part in parts if part is not None and price.name in part.costs]
            if len(costs) == len(mean.tasks):
                points[price.name].append(_Point(mean, mean.method, mean.mean, statistics.fmean(costs)))
    title = material.titled(f"mean over {len(suite[0].tasks)} tasks", suite[0].model)
    first = next(one for one in results.values() if (one.task, one.model) == (suite[0].tasks[0], suite[0].model))
    return _Subject(title, first, tuple(one.method for one in suite), points, mean=True)


def _chart(material: Material, subject: _Subject, price: _Price, name: str) -> Chart:
    points = subject.points[price.name]
    front = _front(points, subject.first.higher_is_better)
    protocol = material.comparison.protocol
    series = [
        Series(
            point.method,
            material.methods[point.method],
            (point.cost / price.scale,),
            (point.mean,),
            *_around(point),
            hover=(_hover(point, subject, price),),
            hollow=point not in front,
        )
        for point in points
    ]
    if len(front) > 1:
        x = tuple(point.cost / price.scale for point in front)
        series.insert(0, Series("front", None, x, tuple(point.mean for point in front), form="front"))
    base = next((point.mean for point in points if point.method == protocol.reference), None)
    levels = [] if base is None else [Level("", (base,))]
    if base is not None and protocol.margin is not None:
        levels.append(Level(f"±{protocol.margin:g}", (base - protocol.margin, base + protocol.margin)))
    return Chart(
        name,
        f"Score against {words.COSTS[price.name]}",
        _reading(in_words(protocol.reference), protocol.margin),
        _told(subject, front, price),
        subject.title,
        _unmeasured(subject, price),
        price.axis,
        Axis(subject.score_axis),
        tuple(series),
        tuple(levels),
    )


def _unmeasured(subject: _Subject, price: _Price) -> str:
    """Name the methods that a chart has no place for."""
    there = {point.method for point in subject.points[price.name]}
    absent = [method for method in subject.methods if method not in there]
    return f"Not measured, and so not shown: {words.listed(absent)}." if absent else ""


def _around(point: _Point) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """The interval of the difference, laid around the method's own mean."""
    found = point.found
    if found.direction == "reference" or found.low is None or found.high is None:
        return (None,), (None,)
    base = point.mean - found.difference
    return (base + found.low,), (base + found.high,)


def _front(points: Sequence[_Point], higher: bool) -> list[_Point]:
    """Points that no other beats at the same cost or less, the cheapest first."""
    sign = 1.0 if higher else -1.0
    front: list[_Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -sign * point.mean)):
        if not front or sign * point.mean > sign * front[-1].mean:
            front.append(point)
    return front


def _hover(point: _Point, subject: _Subject, price: _Price) -> tuple[str, ...]:
    lines = [point.method, f"score {words.score(point.mean, subject.first.metric)}"]
    if told := words.difference(point.found, subject.first.metric):
        lines.append(f"difference {told}")
    return (*lines, f"{words.COSTS[price.name]}: {words.cost(price.name, point.cost)}")


def _reading(reference: str, margin: float | None) -> str:
    band = f"; the shaded band is ±{margin:g} around it" if margin is not None else ""
    return (
        f"Bars are the simultaneous intervals of the difference to {reference}, the horizontal line{band}. Filled "
        "marks lie on the front: nothing that costs less scores as high on average. That shows no difference by itself."
    )


def _told(subject: _Subject, front: Sequence[_Point], price: _Price) -> str:
    told = ", ".join(
        f"{point.method} {words.score(point.mean, subject.first.metric)} at {words.cost(price.name, point.cost)}"
        for point in subject.points[price.name]
    )
    return f"Scatter chart: {told}. On the front: {words.listed([point.method for point in front])}."
