"""What a comparison says: the layout of `comparison.json`, which reports are drawn from and other programs read.

Numbers are in the metric's own unit: percent points for accuracy, F1 and correlations, nats for a loss. A difference is
the method's mean less the reference's, so that above zero is better, except for metrics where less is better.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from graft.eval.pages import read_page
from graft.files import write_json

SCHEMA = 1
COMPARISON = "comparison.json"

Direction = Literal["reference", "better", "worse", "not shown"]
Size = Literal["reference", "equivalent", "not equivalent", "not shown"]


class _Section(BaseModel):
    """A part of a comparison: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class Interval(_Section):
    """An estimate and where the truth lies at the comparison's level."""

    difference: float
    """Point estimate."""
    low: float | None
    """Lower end, simultaneous over the methods compared; none where nothing can be estimated."""
    high: float | None
    """Upper end."""
    standard_error: float | None
    """Of the difference, over seeds and examples."""
    degrees_of_freedom: float | None
    """Satterthwaite's, of that standard error."""
    direction: Direction
    """Whether the interval lies on one side of zero."""
    size: Size
    """Whether the interval lies within the margin, or outside it."""


class VarianceComponents(_Section):
    """What makes the paired difference of single examples vary, in squared points."""

    seed: float
    """Between seeds; zero where the estimate is negative."""
    example: float
    """Between examples."""
    residual: float
    """What is left: seed by example."""


class Cost(_Section):
    """What one method takes, beside the same figure of the reference."""

    value: float
    """The figure."""
    ratio: float | None
    """To the reference's; none for the reference or where one is missing."""


class Result(Interval):
    """One method on one task with one model, against the reference."""

    task: str
    model: str
    method: str
    """A label: the method's name, with what sets it apart where one name stands more than once."""
    metric: str
    """The task's primary metric."""
    higher_is_better: bool = True
    seeds: tuple[int, ...]
    """Seeds of the final runs, in order; those that the reference has too."""
    examples: int
    """Examples of the validation split."""
    scores: tuple[float, ...]
    """The metric of each seed, in the order of `seeds`."""
    mean: float
    """Mean of `scores`."""
    components: VarianceComponents | None = None
    """Of the paired difference; none for the reference and a single seed."""
    runs: tuple[str, ...]
    """Folders of the final runs, in the order of `seeds`."""
    chosen: dict[str, Any] = {}
    """Hyper-parameters that were chosen on the holdout, by dotted name."""
    trials: int = 0
    """Trials among which they were chosen."""
    costs: dict[str, Cost] = {}
    """`trainable`, `trainable_without_head`, `total`, `artefact_bytes`, `seconds_per_step`, `peak_memory_bytes`,
    `train_seconds`; seconds a step and peak memory only where they were measured in solitary processes."""
    mcnemar: tuple[float, ...] = ()
    """Exact two-sided p of each seed, descriptive only; empty for tasks without right and wrong."""
    sentence: str
    """What the evidence supports, in words."""


class SuiteResult(Interval):
    """One method over all tasks of one model, against the reference."""

    model: str
    method: str
    tasks: tuple[str, ...]
    mean: float
    """Mean of the tasks' means."""
    rank: float
    """Average rank over the tasks, 1 the best."""
    wins: int
    """Tasks on which it is shown to be better."""
    ties: int
    """Tasks on which no direction is shown."""
    losses: int
    """Tasks on which it is shown to be worse."""
    sentence: str


class Power(_Section):
    """What one task's data can decide."""

    task: str
    model: str
    method: str
    half_widths: dict[str, float]
    """Number of seeds → half-width of the interval to expect, with the examples that there are."""
    limit: float
    """Half-width that no number of seeds gets below."""
    examples_needed: int | None
    """Examples with which as many seeds would decide ±margin for a method that does not differ; none if none would."""
    sentence: str


class Missing(_Section):
    """A run that should be there, or one that could not be used."""

    what: str
    """The run, by task, model, method and seed, or its folder."""
    reason: str


class Protocol(_Section):
    """How it was done."""

    alpha: float
    """Probability of any wrong claim among the methods of one task, by direction."""
    margin: float | None
    """Differences within ± this are taken as none, in points; none means that no size is judged."""
    reference: str
    """The method that the others are compared with."""
    interval: str
    """How intervals are made, in a sentence."""
    conditional_on: str
    """What the intervals take as given, in a sentence."""
    looks: int = 1
    """How often the data were looked at; the level is spent over the looks."""
    fingerprints: dict[str, str]
    """Task → fingerprint of its data."""
    settings: dict[str, Any] = {}
    """What all runs have in common, as a canonical recipe without task, model, method, seed and learning rate."""


class Comparison(_Section):
    """All that a comparison found."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    """Layout; readers refuse a newer one."""
    protocol: Protocol
    results: tuple[Result, ...]
    """By task and model; the reference first."""
    suite: tuple[SuiteResult, ...] = ()
    """By model, where there is more than one task."""
    power: tuple[Power, ...] = ()
    missing: tuple[Missing, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    """Packages that computed, as the runs recorded them."""
    hardware: dict[str, Any] = {}
    """Where the runs were made, as they recorded it."""

    def _repr_html_(self) -> str:
        from graft.eval.rich_html import comparison_html  # which knows this class

        return comparison_html(self)


def write_comparison(folder: Path, comparison: Comparison) -> Path:
    """Write `comparison.json`, whole or not at all.

    Returns:
        The file.

    Raises:
        GraftError: The folder cannot be written.
    """
    path = folder / COMPARISON
    write_json(path, comparison.model_dump(mode="json", by_alias=True))
    return path


def read_comparison(folder: Path) -> Comparison:
    """Read `comparison.json`.

    Raises:
        RunError: There is none, it is damaged, or a newer graft wrote it.
    """
    again = f"make it with `graft verdict {folder}`"
    return read_page(folder / COMPARISON, Comparison, SCHEMA, what="a comparison", absent=again, again=again)
