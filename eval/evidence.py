"""What finished runs say of each example: predictions, checked against the record and lined up with each other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import RunError, nearest
from graft.eval.comparison import Missing
from graft.eval.folders import FoundRun, close
from graft.eval.grouping import Group
from graft.eval.influence import contributions
from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.predict import Predictions
from graft.eval.records import PREDICTIONS, read_predictions

Array = NDArray[Any]


@dataclass(frozen=True)
class Decided:
    """What a run decided about the examples of a split, in the order of their ids.

    Attributes:
        ids: int64 (N,).
        predictions: (N,), first argument of a metric: classes, scores or summed log-likelihoods.
        truth: (N,), second argument of a metric: class numbers, scores or numbers of tokens.
    """

    ids: Array
    predictions: Array
    truth: Array


@dataclass(frozen=True)
class Evidence:
    """One method's runs on one split, example by example.

    Attributes:
        group: The method.
        split: Name of the validation split.
        metric: Name of the metric.
        contributions: float64 (S, N): a row per run, whose mean is that run's metric.
        right: bool (S, N): whether the prediction is the label; none for tasks without right and wrong.
    """

    group: Group
    split: str
    metric: str
    contributions: Array
    right: Array | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in the order of the rows."""
        return tuple(run.seed for run in self.group.runs)

    @property
    def scores(self) -> tuple[float, ...]:
        """The metric of each run, in the order of the rows."""
        return tuple(float(mean) for mean in self.contributions.mean(axis=1))

    @property
    def examples(self) -> int:
        """Examples of the split."""
        return int(self.contributions.shape[1])

    def of_seeds(self, seeds: Sequence[int]) -> "Evidence":
        """The runs of these seeds alone, in their order."""
        rows = [self.seeds.index(seed) for seed in seeds]
        runs = tuple(self.group.runs[row] for row in rows)
        right = None if self.right is None else self.right[rows]
        return replace(self, group=replace(self.group, runs=runs), contributions=self.contributions[rows], right=right)


def check_metric(metric: str | None, runs: Sequence[FoundRun]) -> None:
    """Refuse a metric that does not exist or that a task's kind has not.

    Raises:
        RunError: As the name says.
    """
    for run in runs if metric is not None else ():
        kind = run.record.data.kind
        valid = [name for name, row in METRICS.items() if kind in row.kinds]
        if metric == "f1" and kind == "classification" and run.record.data.outputs != 2:
            raise RunError(f"metric: f1 is for two classes, and {run.task} has {run.record.data.outputs}; use macro_f1")
        if metric not in valid:
            near = nearest(metric or "", valid)
            raise RunError(f"metric: no metric {metric!r} for {run.task}{near}; there are {', '.join(valid)}")


def read_evidence(groups: Sequence[Group], metric: str | None = None) -> tuple[list[Evidence], list[Missing]]:
    """Read the predictions of the runs of one task with one model.

    Args:
        groups: Its methods; their runs are known to be comparable.
        metric: What to score by; none means the task's primary metric.

    Returns:
        Evidence by split and method; and the runs that had to be left out, with the reason.
    """
    decided: dict[str, dict[str, Decided]] = {}  # folder → split
    missing = []
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        try:
            decided[str(run.folder)] = read_decided(run)
        except RunError as error:
            missing.append(Missing(what=described(run, groups), reason=str(error)))
    for folder in _odd_ones(decided):
        run = next(run for run in runs if str(run.folder) == folder)
        del decided[folder]
        reason = f"{run.folder / PREDICTIONS}: damaged (its examples are not those of the other runs); train it again"
        missing.append(Missing(what=described(run, groups), reason=reason))
    whole = [replace(group, runs=tuple(r for r in group.runs if str(r.folder) in decided)) for group in groups]
    found = [
        _evidence(group, split, metric, [decided[str(run.folder)][split] for run in group.runs])
        for split in runs[0].validations
        for group in whole
        if group.runs
    ]
    return found, missing


def read_decided(run: FoundRun) -> dict[str, Decided]:
    """Read a run's predictions on its validation splits, and check them against its record.

    Args:
        run: A final run.

    Returns:
        By split.

    Raises:
        RunError: They are not there, are damaged, or are not those that the record's scores were made of.
    """
    read = read_predictions(run.folder)
    decided = {}
    for split in run.validations:
        if split not in read:
            raise RunError(_damaged(run, f"there are none for {split}"))
        decided[split] = _decide(run, split, read[split])
        if run.record.primary_metric not in run.record.scores.get(split, {}):
            raise RunError(_damaged(run, f"the record has no {run.record.primary_metric} of {split} to check them by"))
        for name, recorded in run.record.scores.get(split, {}).items():
            value = (
                METRICS[name].value(decided[split].predictions, decided[split].truth) if name in METRICS else recorded
            )
            if not close(value, recorded):
                raise RunError(_damaged(run, f"{name} on {split} is {value:.6f}; the record says {recorded:.6f}"))
    return decided


def described(run: FoundRun, groups: Iterable[Group] = ()) -> str:
    """Name a run by task, model, method and seed, with its folder."""
    group = next((group for group in groups if run in group.runs), None)
    model, method = (group.model, group.label) if group else (run.written_model, run.method)
    return f"{run.task}, {model}, {method}, seed {run.seed} ({run.folder})"


def _decide(run: FoundRun, split: str, read: Predictions) -> Decided:
    """Turn scores into the arguments of metrics, in the order of ids."""
    record = run.record
    units = np.zeros_like(read.ids) if read.units is None else read.units
    order = np.lexsort((units, read.ids))
    ids, scores = read.ids[order], read.scores[order]
    labels = None if read.labels is None else read.labels[order]
    if len(np.unique(np.stack([ids, units[order]]), axis=1).T) != len(ids):
        raise RunError(_damaged(run, f"an example of {split} is scored more than once"))
    examples = len(np.unique(ids))
    if record.data.kind != "causal_lm" and examples != record.data.sizes[split]:
        raise RunError(_damaged(run, f"{examples} examples of {split} are scored, of {record.data.sizes[split]}"))
    if not len(ids) or scores.ndim != 2 or not np.isfinite(scores).all():
        raise RunError(_damaged(run, f"scores on {split} are not finite, or there are none"))
    if scores.shape[1] != (record.data.outputs or 2):
        raise RunError(_damaged(run, f"{scores.shape[1]} scores an example of {split}, not {record.data.outputs or 2}"))
    if labels is None and record.data.kind != "causal_lm":
        raise RunError(_damaged(run, f"labels of {split} are missing"))
    if record.data.kind == "classification" and labels is not None:
        labels = labels.astype(np.int64)
    predictions, truth = KINDS[record.data.kind].decide(scores, labels)
    return Decided(ids, predictions, truth)


def _odd_ones(decided: dict[str, dict[str, Decided]]) -> list[str]:
    """Folders whose examples are not those that most have."""
    content = {
        folder: tuple((name, split.ids.tobytes(), split.truth.tobytes()) for name, split in splits.items())
        for folder, splits in decided.items()
    }
    if not content:
        return []
    (usual, _), *_ = Counter(content.values()).most_common(1)
    return [folder for folder, found in content.items() if found != usual]


def _evidence(group: Group, split: str, metric: str | None, decided: Sequence[Decided]) -> Evidence:
    record = group.runs[0].record
    name = metric or record.primary_metric
    rows = np.stack([contributions(name, one.predictions, one.truth) for one in decided])
    right = None
    if record.data.kind == "classification":
        right = np.stack([one.predictions == one.truth for one in decided])
    return Evidence(group, split, name, rows, right)


def _damaged(run: FoundRun, how: str) -> str:
    return f"{run.folder / PREDICTIONS}: damaged ({how}); delete the run folder and train the run again"
