"""What a report is made of: the comparison, and the records of its runs as far as they can still be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import RunError
from graft.eval.comparison import Comparison, Result, SuiteResult
from graft.eval.disagreement import Disagreement, disagreements, run_folder
from graft.eval.records import RunRecord, read_record

EXAMPLES = 5
"""Examples of each task on which methods disagree: enough to see a pattern, few enough to be read."""


@dataclass(frozen=True)
class Place:
    """A task with a model.

    Attributes:
        task: As in the results.
        model: As in the results.
        results: The reference first.
        title: What it is called; the model goes without saying where there is only one.
    """

    task: str
    model: str
    results: tuple[Result, ...]
    title: str


@dataclass(frozen=True)
class Material:
    """All that a report says is in here.

    Attributes:
        comparison: What was found.
        records: Folder as the comparison names it → record; without those that cannot be read.
        examples: Examples on which methods disagree.
        methods: Label → number, by which it has its colour and mark; the reference is 0.
        lost: Folders of runs whose records cannot be read any more.
    """

    comparison: Comparison
    records: Mapping[str, RunRecord]
    examples: tuple[Disagreement, ...]
    methods: Mapping[str, int]
    lost: tuple[str, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        """Tasks and models in the order of the results."""
        results = self.comparison.results
        found = dict.fromkeys((result.task, result.model) for result in results)
        return tuple(
            Place(
                task,
                model,
                tuple(result for result in results if (result.task, result.model) == (task, model)),
                self.titled(task, model),
            )
            for task, model in found
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the order of the results."""
        return tuple(dict.fromkeys(result.model for result in self.comparison.results))

    def suite(self, model: str) -> tuple[SuiteResult, ...]:
        """The means over tasks of one model; empty where there is a single task."""
        return tuple(mean for mean in self.comparison.suite if mean.model == model)

    def titled(self, what: str, model: str) -> str:
        """Name a task or a mean, with its model where there are several."""
        return what if len(self.models) == 1 else f"{what}, {model}"


def collect(comparison: Comparison, folders: Sequence[Path]) -> Material:
    """Read the records and the disagreements that a comparison is about.

    Args:
        comparison: What was found.
        folders: Where the runs lie, if not where the comparison says.

    Returns:
        What there is; a run that is gone or damaged leaves its pictures and commands out, and is named.
    """
    records: dict[str, RunRecord] = {}
    lost = []
    for written in dict.fromkeys(run for result in comparison.results for run in result.runs):
        try:
            records[written] = read_record(run_folder(written, folders) or Path(written))
        except RunError:
            lost.append(written)
    reference = comparison.protocol.reference
    labels = dict.fromkeys((reference, *(result.method for result in comparison.results)))
    return Material(
        comparison,
        records,
        disagreements(comparison, folders, limit=EXAMPLES),
        {label: number for number, label in enumerate(labels)},
        tuple(lost),
    )
