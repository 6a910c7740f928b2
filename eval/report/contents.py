"""What stands in a report, section by section: the page and the Markdown are two forms of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from graft.eval.comparison import Interval, Result, SuiteResult
from graft.eval.disagreement import Answer, Disagreement
from graft.eval.report import tables, words
from graft.eval.report.commands import commands
from graft.eval.report.costs import cost_charts
from graft.eval.report.curves import curve_charts
from graft.eval.report.overview import heat_maps, rank_pictures
from graft.eval.report.pictures import Picture
from graft.eval.report.sources import Material
from graft.eval.report.tables import Table
from graft.eval.results import in_words


@dataclass(frozen=True)
class Finding:
    """One method's sentence.

    Attributes:
        method: What the sentence begins with.
        sentence: What follows.
        marks: Both verdicts in a word each; empty for the reference.
    """

    method: str
    sentence: str
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Findings, pictures or tables of one task.

    Attributes:
        title: The task, or the mean.
        findings: Sentences.
        pictures: Pictures.
        tables: Tables.
        sentences: What is said of the tables.
    """

    title: str
    findings: tuple[Finding, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answered:
    """What a method says of an example.

    Attributes:
        method: Its label.
        told: The answer, and how sure it is.
        right: Whether most seeds are right; none where there is no right and wrong.
    """

    method: str
    told: str
    right: bool | None


@dataclass(frozen=True)
class Example:
    """An example on which methods disagree.

    Attributes:
        title: Its task and number.
        texts: Its text columns.
        label: The truth.
        answers: What the methods say.
    """

    title: str
    texts: tuple[str, ...]
    label: str
    answers: tuple[Answered, ...]


@dataclass(frozen=True)
class Contents:
    """A report.

    Attributes:
        title: What was compared.
        summary: How, in a sentence.
        findings: One sentence per method, the means first, then task by task.
        pictures: Those over all tasks, then task by task.
        tables: By task.
        power: What the data can decide, by task.
        examples: On which methods disagree.
        protocol: Tables of how it was done and where.
        missing: Runs that are not there; none where all are.
        warnings: What a reader should know.
        commands: Shell commands that make it again.
    """

    title: str
    summary: str
    findings: tuple[Group, ...]
    pictures: tuple[Group, ...]
    tables: tuple[Group, ...]
    power: tuple[Group, ...]
    examples: tuple[Example, ...]
    protocol: tuple[Table, ...]
    missing: Table | None
    warnings: tuple[str, ...]
    commands: str

    @property
    def all_pictures(self) -> tuple[Picture, ...]:
        """Every picture, in the order of the report."""
        return tuple(picture for group in self.pictures for picture in group.pictures)


def compose(material: Material) -> Contents:
    """Put a report together.

    Args:
        material: What there is.
    """
    comparison = material.comparison
    tasks = list(dict.fromkeys(result.task for result in comparison.results))
    return Contents(
        title=f"{in_words(comparison.protocol.reference)[:1].upper()}{in_words(comparison.protocol.reference)[1:]} "
        f"and what is cheaper, on {_tasks(tasks)}",
        summary=_summary(material),
        findings=_findings(material),
        pictures=_pictures(material),
        tables=_tables(material),
        power=_power(material),
        examples=tuple(_example(material, one) for one in material.examples),
        protocol=tuple(
            table
            for table in (
                tables.protocol(material),
                tables.choices(material),
                tables.shared(material),
                tables.environment(material),
            )
            if table is not None
        ),
        missing=tables.missing(material),
        warnings=(*comparison.warnings, *_lost(material.lost)),
        commands=commands(material),
    )


def _tasks(tasks: Sequence[str]) -> str:
    return words.listed(list(tasks)) if len(tasks) <= 4 else f"{len(tasks)} tasks"


def _summary(material: Material) -> str:
    comparison = material.comparison
    seeds = sorted({len(result.seeds) for result in comparison.results})
    told = words.counted(seeds[-1], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds" if seeds else ""
    methods = words.counted(len(material.methods), "method")
    margin = comparison.protocol.margin
    size = "no size judged" if margin is None else f"size judged at ±{margin:g}"
    models = words.listed(list(material.models))
    return f"{models}; {methods}; {told}; level {comparison.protocol.alpha:g}; {size}"


def _finding(found: Result | SuiteResult) -> Finding:
    name, colon, rest = found.sentence.partition(": ")
    return Finding(name, rest, _marks(found)) if colon else Finding(found.method, found.sentence, _marks(found))


def _marks(found: Interval) -> tuple[str, ...]:
    if found.direction == "reference":
        return ()
    way = {"better": "▲ better", "worse": "▼ worse"}.get(found.direction, "direction not shown")
    size = {"equivalent": "≈ equivalent", "not equivalent": "≠ not equivalent"}.get(found.size, "size not shown")
    return (way, size)


def _findings(material: Material) -> tuple[Group, ...]:
    groups = [
        Group(material.titled(f"Mean over {len(suite[0].tasks)} tasks", model), tuple(map(_finding, suite)))
        for model in material.models
        if (suite := material.suite(model))
    ]
    groups += [Group(place.title, tuple(map(_finding, place.results))) for place in material.places]
    return tuple(groups)


def _pictures(material: Material) -> tuple[Group, ...]:
    """Those over tasks in a group of their own, for which one task is too few."""
    over: list[Picture] = []
    if len(material.places) > 1:
        over += heat_maps(material)
    over += rank_pictures(material, [picture.name for picture in over])
    charts = cost_charts(material, [picture.name for picture in over])
    curves = curve_charts(material, [picture.name for picture in (*over, *charts)])
    titles = [place.title for place in material.places]
    of_mean = [chart for chart in charts if chart.subject not in titles]
    groups = [Group("All tasks", pictures=(*over, *of_mean))] if over or of_mean else []
    if len(material.places) == 1:
        own: tuple[Picture, ...] = (
            *charts,
            *heat_maps(material, [picture.name for picture in (*charts, *curves)]),
            *curves,
        )
        return (Group(titles[0], pictures=own),)
    groups += [
        Group(title, pictures=tuple(chart for chart in (*charts, *curves) if chart.subject == title))
        for title in titles
    ]
    return tuple(group for group in groups if group.pictures)


def _tables(material: Material) -> tuple[Group, ...]:
    means = tuple(table for model in material.models if (table := tables.suite(material, model)) is not None)
    groups = [Group("All tasks", tables=means)] if means else []
    for place in material.places:
        found = (tables.scores(place), tables.costs(place), tables.seeds(place), tables.mcnemar(place))
        groups.append(Group(place.title, tables=tuple(table for table in found if table is not None)))
    return tuple(groups)


def _power(material: Material) -> tuple[Group, ...]:
    groups = []
    for place in material.places:
        found = [one for one in material.comparison.power if (one.task, one.model) == (place.task, place.model)]
        if (table := tables.power(place, material)) is not None:
            groups.append(Group(place.title, tables=(table,), sentences=tuple(one.sentence for one in found)))
    return tuple(groups)


def _example(material: Material, example: Disagreement) -> Example:
    return Example(
        f"{material.titled(example.task, example.model)}, example {example.id}",
        example.texts,
        _said(example.label),
        tuple(map(_answer, example.answers)),
    )


def _answer(answer: Answer) -> Answered:
    if answer.right is None or answer.probability is None:
        return Answered(answer.method, _said(answer.says), None)
    told = f"{_said(answer.says)}, {100 * answer.right:.0f} % of seeds right, probability {answer.probability:.2f}"
    return Answered(answer.method, told, answer.right > 0.5)


def _said(value: str | float) -> str:
    return value if isinstance(value, str) else words.number(value)


def _lost(folders: Sequence[str]) -> tuple[str, ...]:
    """A warning where records can no longer be read: curves and commands are then of fewer runs."""
    if not folders:
        return ()
    shown = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
    return (f"the records of {shown} cannot be read any more: learning curves and commands are without them",)
