"""The pocket suite: a GLUE-shaped set of tasks that graft makes itself, from a seed, with no download.

The content words of the validation split do not occur in the training split. What a model learns about the training
words is therefore of no use; what it brought from pretraining is. Shared are only the function words of the
templates, and no template, word order or length tells the label. The suite is for demonstrations, tests and teaching.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from graft.eval.config import KindName
from graft.eval.formats import Table
from graft.eval.pocket.acceptability import Acceptability
from graft.eval.pocket.answerability import Answerability
from graft.eval.pocket.building import Maker, build
from graft.eval.pocket.draws import PARTS, Draws, Part
from graft.eval.pocket.entailment import LABELS, Entailment
from graft.eval.pocket.paraphrase import Paraphrase
from graft.eval.pocket.sentiment import DOMAINS, Sentiment
from graft.eval.pocket.similarity import Similarity

_PAIR = ("sentence1", "sentence2")


@dataclass(frozen=True)
class PocketTask:
    """One task of the suite.

    Attributes:
        name: What recipes call it.
        kind: What is predicted.
        text: One text column, or two.
        maker: Makes the examples of a split, given the split's name and the seed.
        label_names: The classes in the order of their numbers; empty for scores.
        metrics: What is reported; the first selects.
        chance: What the first metric gives to a guess, in percent points.
        levels: Classes, or steps of the ladder of scores, that are equally frequent.
        sizes: Examples in each split.
        label: The label column.
        version: Raised when any example changes.
    """

    name: str
    kind: KindName
    text: tuple[str, ...]
    maker: Callable[[Part, int], Maker]
    label_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    chance: float = 50.0
    levels: int = 2
    sizes: tuple[int, int] = (2000, 1000)
    label: str = "label"
    version: int = 1


_POLARITY = ("negative", "positive")

_ROWS = (
    PocketTask(
        "pocket/acceptability",
        "classification",
        ("sentence",),
        Acceptability,
        label_names=("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        chance=0.0,
    ),
    PocketTask("pocket/sentiment", "classification", ("sentence",), Sentiment, label_names=_POLARITY, version=2),
    *(
        PocketTask(
            f"pocket/sentiment-{domain}",
            "classification",
            ("sentence",),
            partial(Sentiment, domains=(domain,)),
            label_names=_POLARITY,
            version=2,
        )
        for domain in DOMAINS
    ),
    PocketTask("pocket/paraphrase", "classification", _PAIR, Paraphrase, label_names=("not_equivalent", "equivalent")),
    PocketTask(
        "pocket/similarity",
        "regression",
        _PAIR,
        Similarity,
        metrics=("pearson", "spearman"),
        chance=0.0,
        levels=5,
    ),
    PocketTask(
        "pocket/entailment",
        "classification",
        ("premise", "hypothesis"),
        Entailment,
        label_names=LABELS,
        chance=100 / 3,
        levels=3,
        sizes=(3000, 1000),
    ),
    PocketTask(
        "pocket/answerability",
        "classification",
        ("question", "passage"),
        Answerability,
        label_names=("unanswered", "answered"),
    ),
)
SUITE: Mapping[str, PocketTask] = {row.name: row for row in _ROWS}


def generate(name: str, *, seed: int = 0) -> dict[str, Table]:
    """Make a task's examples; the same name and seed give the same bytes anywhere.

    Args:
        name: A row of `SUITE`.
        seed: Changes which words are held out, and all examples.

    Returns:
        The train and validation tables, with class names declared.

    Raises:
        KeyError: The suite has no such task.
    """
    row = SUITE[name]
    tables: dict[str, Table] = {}
    for part, size in zip(PARTS, row.sizes, strict=True):
        texts, labels = build(row.maker(part, seed), row.levels, size, Draws(name, part, seed))
        columns = {
            column: pa.array(values, pa.string())
            for column, values in zip(row.text, zip(*texts, strict=True), strict=True)
        }
        numbers = (
            pa.array([int(label) for label in labels], pa.int64())
            if row.label_names
            else pa.array(labels, pa.float64())
        )
        classes = {row.label: row.label_names} if row.label_names else {}
        tables[part] = Table(pa.table({**columns, row.label: numbers}), f"{name} ({part})", classes)
    return tables
