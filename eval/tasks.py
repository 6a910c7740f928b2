"""Tasks as rows of data. One more like GLUE's is one more row of `TASKS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from graft.eval.config import KindName
from graft.eval.formats import Table, TsvLayout
from graft.eval.pocket import SUITE, generate


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: What recipes call it.
        kind: What is predicted.
        text: One text column, or two for pairs.
        label: The label column; none for plain text.
        label_names: The classes in the order of their numbers; empty for scores, or to be read from the data.
        metrics: What is reported; the first selects.
        hub: Dataset id and configuration on the Hub; none where the data must be named or made.
        make: Makes the tables of the splits, for tasks that are generated.
        validations: Names of the validation splits.
        group: Columns whose equal values stay on one side of a split; empty means each of the text columns.
        tsv: Column names of the benchmark's own tsv files.
        version: Raised when the row's meaning changes.
    """

    name: str
    kind: KindName
    text: tuple[str, ...]
    label: str | None = "label"
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    hub: tuple[str, str | None] | None = None
    make: Callable[[], Mapping[str, Table]] | None = None
    validations: tuple[str, ...] = ("validation",)
    group: tuple[str, ...] = ()
    tsv: TsvLayout | None = None
    version: int = 1


GLUE = "nyu-mll/glue"
_PAIR = ("sentence1", "sentence2")

# Columns and class order as on the Hub; metrics as in Wang et al. (2018), "GLUE", arXiv:1804.07461, table 1.
_ROWS = (
    Task(
        "cola",
        "classification",
        ("sentence",),
        label_names=("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        hub=(GLUE, "cola"),
        tsv=TsvLayout({"sentence": "sentence", "label": "label"}, header=("source", "label", "star", "sentence")),
    ),
    Task(
        "sst2",
        "classification",
        ("sentence",),
        label_names=("negative", "positive"),
        hub=(GLUE, "sst2"),
    ),
    Task(
        "mrpc",
        "classification",
        _PAIR,
        label_names=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
        hub=(GLUE, "mrpc"),
        tsv=TsvLayout({"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    ),
    Task(
        "qqp",
        "classification",
        ("question1", "question2"),
        label_names=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
        hub=(GLUE, "qqp"),
        tsv=TsvLayout({"question1": "question1", "question2": "question2", "label": "is_duplicate"}),
    ),
    Task(
        "stsb",
        "regression",
        _PAIR,
        metrics=("pearson", "spearman"),
        hub=(GLUE, "stsb"),
        tsv=TsvLayout({"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}),
    ),
    Task(
        "mnli",
        "classification",
        ("premise", "hypothesis"),
        label_names=("entailment", "neutral", "contradiction"),
        hub=(GLUE, "mnli"),
        validations=("validation_matched", "validation_mismatched"),
        tsv=TsvLayout({"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}),
    ),
    Task(
        "qnli",
        "classification",
        ("question", "sentence"),
        label_names=("entailment", "not_entailment"),
        hub=(GLUE, "qnli"),
    ),
    Task(
        "rte",
        "classification",
        _PAIR,
        label_names=("entailment", "not_entailment"),
        hub=(GLUE, "rte"),
    ),
    Task(
        "wnli",
        "classification",
        _PAIR,
        label_names=("not_entailment", "entailment"),
        hub=(GLUE, "wnli"),
    ),
    Task("text", "causal_lm", ("text",), label=None, metrics=("loss", "perplexity")),
    *(
        Task(
            row.name,
            row.kind,
            row.text,
            label=row.label,
            label_names=row.label_names,
            metrics=row.metrics,
            make=partial(generate, row.name),
            version=row.version,
        )
        for row in SUITE.values()
    ),
)
TASKS: dict[str, Task] = {row.name: row for row in _ROWS}
