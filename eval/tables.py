"""A comparison as tables: for the terminal, as CSV for other programs, and in LaTeX for papers."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from graft.eval.comparison import Comparison, Cost, Interval, Result, SuiteResult
from graft.eval.metrics import METRICS
from graft.files import write_atomically

CSV = "comparison.csv"
LATEX = "comparison.tex"

_VERDICT = ("difference", "direction", "size")
"""Headings that every table has."""

_NOT_MEASURED = "not measured"

_COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "trainable": ("learning parameters", lambda value: f"{value:,.0f}"),
    "peak_memory_bytes": ("peak memory, MiB", lambda value: f"{value / 2**20:,.0f}"),
    "seconds_per_step": ("seconds a step", lambda value: f"{value:.3f}"),
}
"""Costs that tables show: heading and form."""

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # behind the end of a row a bracket or a star would be taken for an argument
    "]": "{]}",
    "*": "{*}",
    "±": r"\ensuremath{\pm}",
    "\N{MINUS SIGN}": "$-$",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
}
_EXACT_COLUMNS = (
    *("task", "model", "method", "metric", "higher_is_better", "seeds", "examples", "mean", "difference", "low"),
    *("high", "standard_error", "degrees_of_freedom", "direction", "size", "rank", "wins", "ties", "losses"),
)
_EXACT_COSTS = (
    *("trainable", "trainable_without_head", "total", "artefact_bytes", "seconds_per_step", "peak_memory_bytes"),
    "train_seconds",
)


def terminal(comparison: Comparison) -> Group:
    """Lay a comparison out for a terminal: a table for each task and model, and one for the mean over tasks.

    Returns:
        Something that rich prints.
    """
    tables = []
    for caption, headings, rows in sections(comparison):
        columns = (
            Column(Text(heading, style="bold"), overflow="fold", justify="left" if number in (0, 3, 4) else "right")
            for number, heading in enumerate(headings)
        )
        table = Table(*columns, title=Text(caption), title_justify="left", title_style="", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(Text, row))
        tables.append(table)
    parts = [part for table in tables for part in (table, Text(""))]
    return Group(*parts[:-1])


def to_csv(comparison: Comparison) -> str:
    """Spell a comparison out at full precision, a row per result and one per mean over tasks.

    Returns:
        CSV with a header line; what was not measured is empty. Several seeds are separated by blanks.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_EXACT_COLUMNS, *_EXACT_COSTS])
    for result in comparison.results:
        exact = [getattr(result, name, None) for name in _EXACT_COLUMNS]
        exact[_EXACT_COLUMNS.index("seeds")] = " ".join(map(str, result.seeds))
        found = [result.costs.get(name) for name in _EXACT_COSTS]
        writer.writerow([*map(_exact, exact), *(_exact(cost.value if cost else None) for cost in found)])
    for mean in comparison.suite:
        exact = [getattr(mean, name, None) for name in _EXACT_COLUMNS]
        exact[0] = _mean_of(mean)
        writer.writerow([*map(_exact, exact), *("" for _ in _EXACT_COSTS)])
    return stream.getvalue()


def to_latex(comparison: Comparison) -> str:
    r"""Write a comparison as a LaTeX table.

    Returns:
        A `tabular` that needs `\usepackage{booktabs}`.
    """
    width = 5 + len(_COSTS)
    headings = ["method", "score", *_VERDICT, *(heading for heading, _ in _COSTS.values())]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{lrrll{'r' * len(_COSTS)}}}",
        r"\toprule",
        " & ".join(map(latex, headings)) + r" \\",
    ]
    for caption, _, rows in sections(comparison, every_cost=True):
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex(caption)}}}}} \\"]
        lines += [" & ".join([*map(latex, row), *[""] * (width - len(row))]) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def write_tables(folder: Path, comparison: Comparison) -> list[Path]:
    """Write `comparison.csv` and `comparison.tex`.

    Returns:
        The files.

    Raises:
        GraftError: The folder cannot be written.
    """
    written = []
    for name, content in ((CSV, to_csv(comparison)), (LATEX, to_latex(comparison))):
        write_atomically(folder / name, content)
        written.append(folder / name)
    return written


def latex(text: str) -> str:
    """Escape what LaTeX would take for commands; a line break becomes a blank."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def interval(found: Interval, digits: int) -> str:
    """A difference with its interval, as in "+0.3 (0.0 … +2.3)"; the reference has none."""
    if found.direction == "reference":
        return ""
    if found.low is None or found.high is None:
        return f"{_signed(found.difference, digits)} (no interval)"
    low, high = _signed(found.low, digits), _signed(found.high, digits)
    return f"{_signed(found.difference, digits)} ({low} \N{HORIZONTAL ELLIPSIS} {high})"


def _signed(value: float, digits: int) -> str:
    """A number with its sign, a true minus; what rounds to zero has none."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else "\N{MINUS SIGN}") + text


def digits_of(metric: str) -> int:
    """Decimals that a metric is shown with: one for percent points, three for nats."""
    return 1 if metric in METRICS and METRICS[metric].scale == 100.0 else 3


def sections(
    comparison: Comparison, *, every_cost: bool = False
) -> Iterator[tuple[str, Sequence[str], list[list[str]]]]:
    """Caption, headings and cells: by task and model, then the means over tasks; a cost that none has is left out."""
    places = dict.fromkeys((result.task, result.model) for result in comparison.results)
    for task, model in places:
        results = [result for result in comparison.results if (result.task, result.model) == (task, model)]
        shown = [name for name in _COSTS if every_cost or any(name in result.costs for result in results)]
        headings = ["method", results[0].metric, *_VERDICT, *(_COSTS[name][0] for name in shown)]
        caption = f"{task}, {model}: {results[0].examples:,} examples"
        yield caption, headings, [_row(result, shown) for result in results]
    for model in dict.fromkeys(mean.model for mean in comparison.suite):
        means = [mean for mean in comparison.suite if mean.model == model]
        metrics = {result.metric for result in comparison.results if result.task in means[0].tasks}
        headings = ["method", "mean", *_VERDICT, "rank", "better, not shown, worse"]
        rows = [_mean_row(mean, max(map(digits_of, metrics), default=1)) for mean in means]
        caption = f"{_mean_of(means[0])}, {model}"
        if every_cost:  # in one table with the tasks: rank and counts would stand below costs
            yield caption, headings[:5], [row[:5] for row in rows]
        else:
            yield caption, headings, rows


def _row(result: Result, shown: Sequence[str]) -> list[str]:
    digits = digits_of(result.metric)
    return [
        result.method,
        f"{result.mean:.{digits}f}",
        interval(result, digits),
        result.direction,
        "" if result.size == "reference" else result.size,
        *(_cost(result.costs.get(name), _COSTS[name][1]) for name in shown),
    ]


def _mean_row(mean: SuiteResult, digits: int) -> list[str]:
    counts = "" if mean.direction == "reference" else f"{mean.wins}, {mean.ties}, {mean.losses}"
    size = "" if mean.size == "reference" else mean.size
    return [
        *(mean.method, f"{mean.mean:.{digits}f}", interval(mean, digits), mean.direction, size),
        *(f"{mean.rank:.2f}", counts),
    ]


def _mean_of(mean: SuiteResult) -> str:
    return f"mean of {len(mean.tasks)} tasks"


def _cost(found: Cost | None, form: Callable[[float], str]) -> str:
    return _NOT_MEASURED if found is None else form(found.value)


def _exact(value: object) -> str:
    return "" if value is None else repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
