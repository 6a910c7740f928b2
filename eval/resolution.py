"""From a recipe's task to its examples: `resolve` gives train, holdout and validation, or says what is wrong."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.errors import DataError, RecipeError, nearest
from graft.eval import labels as label_columns
from graft.eval.config import KindName, TaskConfig
from graft.eval.formats import Table
from graft.eval.metrics import DEFAULT_METRICS, METRICS
from graft.eval.sources import read_hub, read_local
from graft.eval.splits import Labels, Split, group_holdout, joined_groups, nested_subset
from graft.eval.tasks import TASKS, Task
from graft.eval.texts import read_groups, read_texts
from graft.files import fingerprint

logger = logging.getLogger(__name__)

CARVED = 0.2
"""Fraction of the training groups that becomes the validation split where the data has none."""

LARGEST_GROUP = 0.5
"""Fraction of the training rows above which a group that repeated texts make is taken for a template's doing."""

FEWEST_TO_CARVE = 20
"""Training rows below which no validation split is carved out."""


@dataclass(frozen=True)
class TaskData:
    """A task with its examples.

    Attributes:
        task: The row with everything resolved: kind, columns, class names, metrics.
        train: What is trained on.
        holdout: Taken from the training split by group; what choices are made by. Empty where the recipe trains on
            everything.
        validation: What final runs are scored on, by name.
    """

    task: Task
    train: Split
    holdout: Split
    validation: Mapping[str, Split]

    @property
    def splits(self) -> dict[str, Split]:
        """All splits by name: train, holdout, then validation."""
        return {"train": self.train, "holdout": self.holdout, **self.validation}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty for scores and plain text."""
        return self.task.label_names

    @property
    def fingerprint(self) -> str:
        """Hash of what every split holds, of the kind and of the class names; not of where it lies.

        Ids count: dropout masks and joined predictions depend on them.
        """
        return fingerprint(
            {
                "kind": self.task.kind,
                "label_names": list(self.label_names),
                "splits": {
                    name: [split.fingerprint, split.source, split.ids.tolist()] for name, split in self.splits.items()
                },
            }
        )


def resolve(config: TaskConfig) -> TaskData:
    """Find, read and check a task's examples, and divide them.

    The validation split is carved out of training rows where the data has none; then `train_size` examples are taken;
    then the holdout comes out of those.

    Args:
        config: The recipe's task section.

    Returns:
        The task and its splits.

    Raises:
        RecipeError: The task, a metric or a combination of settings does not exist.
        DataError: The data is missing, malformed, or too little.
    """
    row = _row(config)
    tables = _read(config, row)
    task, values = _typed(config, row, tables)
    splits = {name: _split(name, table, task, values.get(name)) for name, table in tables.items()}
    groups = _groups(tables["train"], task, splits["train"])
    train, everything = splits["train"], np.arange(len(splits["train"]), dtype=np.int64)
    validation = {name: split for name, split in splits.items() if name != "train"}
    if not validation:
        everything, carved = _carve(train, groups, config.split_seed, tables["train"].origin)
        validation = {"validation": train.take(carved, "validation")}
    if config.train_size is not None:
        everything = _subset(train, everything, config.train_size, config.split_seed)
    if config.holdout == 0:
        nothing = everything[:0]
        return TaskData(task, train.take(everything, "train"), train.take(nothing, "holdout"), validation)
    kept, held = group_holdout(
        [groups[row] for row in everything], _at(train.labels, everything), config.holdout, config.split_seed
    )
    if not len(kept):
        raise DataError(
            f"{tables['train'].origin}: all {len(held)} training rows are one group; no holdout is possible"
        )
    return TaskData(task, train.take(everything[kept], "train"), train.take(everything[held], "holdout"), validation)


def _row(config: TaskConfig) -> Task:
    """The registered row, or one made of the columns that were given, with the recipe's own settings on top."""
    row = TASKS.get(config.name)
    if row is None:
        if config.name != "custom" and config.text is None:
            raise RecipeError(
                f"task.name: no task {config.name!r}{nearest(config.name, TASKS)}; there are {', '.join(TASKS)}, or "
                "name your own columns: --task.text a[,b] --task.label c"
            )
        if config.text is None:
            raise RecipeError("task.text: name the text column, or two: --task.text a[,b] --task.label c")
        kind: KindName = config.kind or "classification"
        row = Task(config.name, kind, config.text, label=None, metrics=DEFAULT_METRICS[kind])
    changes: dict[str, Any] = {
        key: value
        for key in ("text", "label", "kind", "metrics", "group")
        if (value := getattr(config, key)) is not None
    }
    if "metrics" not in changes and changes.get("kind", row.kind) != row.kind:
        changes["metrics"] = DEFAULT_METRICS[changes["kind"]]
    if "kind" in changes and changes["kind"] != row.kind:
        changes["label_names"] = ()
    row = dataclasses.replace(row, **changes)
    if row.kind != "causal_lm" and row.label is None:
        raise RecipeError("task.label: name the label column (--task.label c), or set kind: causal_lm for plain text")
    if row.label in row.text:
        raise RecipeError(f"task.label: {row.label!r} is a text column too, so the answer would be read; name another")
    if row.kind == "causal_lm" and len(row.text) != 1:
        raise RecipeError(f"task.text: causal_lm reads one column, not {', '.join(row.text)}")
    return row


def _read(config: TaskConfig, row: Task) -> dict[str, Table]:
    """The tables of the splits, from where the recipe says."""
    if config.data is not None:
        tables = read_local(config.data, row.name, row.validations, row.tsv)
    elif row.make is not None:
        return dict(row.make())
    elif row.hub is not None:
        tables = read_hub(*row.hub, row.validations)
    else:
        raise RecipeError(f"task.data: task {row.name!r} has no source of its own; give --data FILE or FOLDER")
    for table in tables.values():
        if not len(table):
            raise DataError(f"{table.origin}: no examples in it, only the names of columns; add rows")
    return tables


def _typed(config: TaskConfig, row: Task, tables: Mapping[str, Table]) -> tuple[Task, dict[str, Labels]]:
    """Settle the kind and the class names by the labels, and read these."""
    if row.kind == "causal_lm" or row.label is None:
        task = dataclasses.replace(row, label=None, label_names=())
        _check_metrics(task)
        return task, {}
    column, origin = row.label, tables["train"].origin
    declared = label_columns.declared_classes(row.label_names, tables, column)
    raw = {"train": label_columns.read_values(tables["train"].values(column), origin, column)}
    words = isinstance(raw["train"][0], str) and not declared
    for name, table in tables.items():
        if name != "train":
            raw[name] = label_columns.read_values(table.values(column), table.origin, column, numbers=not words)
    fractions = any(isinstance(value, float) for value in raw["train"])
    if fractions and config.kind is None and config.name not in TASKS:
        row = dataclasses.replace(row, kind="regression", metrics=config.metrics or DEFAULT_METRICS["regression"])
    _check_metrics(row)
    if row.kind == "regression":
        return row, {name: label_columns.scores(raw[name], tables[name].origin, column) for name in raw}
    names = declared or label_columns.class_names(raw["train"], origin, column)
    if not declared:
        label_columns.warn_of_doubtful_classes(raw["train"], origin, column, chosen=config.kind is not None)
    numbers: dict[str, Labels] = {
        name: label_columns.class_numbers(values, names, tables[name].origin, column, numbered=bool(declared))
        for name, values in raw.items()
    }
    if "f1" in row.metrics and len(names) != 2:
        raise RecipeError(f"task.metrics: f1 is for two classes, and there are {len(names)}; use macro_f1")
    return dataclasses.replace(row, label_names=names), numbers


def _check_metrics(task: Task) -> None:
    """Refuse metrics that do not exist or do not fit the kind."""
    valid = [name for name, metric in METRICS.items() if task.kind in metric.kinds]
    for name in task.metrics:
        if name not in valid:
            raise RecipeError(
                f"task.metrics: no metric {name!r} for {task.kind}{nearest(name, valid)}; there are {', '.join(valid)}"
            )
    if not task.metrics:
        raise RecipeError(f"task.metrics: name at least one of {', '.join(valid)}")


def _split(name: str, table: Table, task: Task, values: Labels | None) -> Split:
    """A table's rows as examples; blank documents of plain text are left out."""
    # GLUE's QQP has questions that are empty; they count in the published scores.
    examples = read_texts(table, task.text, blank=task.kind == "causal_lm" or task.name in TASKS)
    if task.kind == "causal_lm":
        ids = np.array([row for row, (text,) in enumerate(examples) if text.strip()], dtype=np.int64)
        examples = tuple(examples[row] for row in ids)
    else:
        ids = np.arange(len(examples), dtype=np.int64)
    if not examples:
        raise DataError(f"{table.origin}: every text in column {task.text[0]!r} is empty; there is nothing to learn")
    return Split(name, name, ids, examples, values)


def _groups(table: Table, task: Task, train: Split) -> list[str]:
    """The group of each training example: those that share a value of the group's columns, or else a text."""
    if task.group:
        named = zip(task.group, read_groups(table, task.group), strict=True)
        groups = joined_groups([[(column, values[row]) for row in train.ids] for column, values in named])
    else:
        groups = joined_groups(list(zip(*train.texts, strict=True)))
    largest = max(Counter(groups).values())
    if not task.group and len(task.text) > 1 and largest > LARGEST_GROUP * len(groups):
        logger.warning(
            "%s: %d of %d rows hang together by repeated texts, so only whole rows that are equal stay on one side "
            "of a split; name the column that must not repeat across it: --task.group %s",
            *(table.origin, largest, len(groups), task.text[0]),
        )
        return ["\x1f".join(texts) for texts in train.texts]
    return groups


def _carve(
    train: Split, groups: list[str], seed: int, origin: str
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Divide a training split that came without validation."""
    if len(train) < FEWEST_TO_CARVE:
        raise DataError(
            f"{origin}: no validation split, and {len(train)} rows are too few to carve one out "
            f"({FEWEST_TO_CARVE} needed); add a validation file"
        )
    kept, carved = group_holdout(groups, train.labels, CARVED, seed, purpose="validation")
    if not len(kept):
        raise DataError(
            f"{origin}: no validation split, and all {len(train)} rows are one group; add a validation file"
        )
    logger.warning("%s has no validation split: %d of its %d rows serve as one", origin, len(carved), len(train))
    return kept, carved


def _subset(train: Split, rows: np.ndarray[Any, Any], size: int, seed: int) -> np.ndarray[Any, Any]:
    """The first `size` examples of the stratified order."""
    if size > len(rows):
        raise DataError(f"task.train_size: {size} examples asked for, and the training split has {len(rows)}")
    chosen = nested_subset([train.texts[row] for row in rows], _at(train.labels, rows), size, seed)
    return np.asarray(rows[chosen])


def _at(values: Labels | None, rows: np.ndarray[Any, Any]) -> Labels | None:
    """Labels at these rows, if there are any."""
    return None if values is None else values[rows]
