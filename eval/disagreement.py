"""Examples on which methods disagree, with their texts: where a difference in scores comes from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from scipy.special import softmax

from graft.errors import RunError
from graft.eval.comparison import Comparison, Result
from graft.eval.records import RunRecord, read_predictions, read_record

Array = NDArray[Any]


@dataclass(frozen=True)
class Answer:
    """What one method says of an example, over its seeds.

    Attributes:
        method: The method's label.
        says: The class that most seeds predict; for a regression the mean score.
        right: Share of the seeds that are right; none for a regression.
        probability: Mean probability of the true class; none for a regression.
    """

    method: str
    says: str | float
    right: float | None
    probability: float | None


@dataclass(frozen=True)
class Disagreement:
    """An example that some methods get right and others wrong.

    Attributes:
        task: As in the comparison's results.
        model: As there.
        id: Number of the example in its split.
        texts: Its text columns; empty where the table of texts was not gathered.
        label: The true class, or the true score.
        spread: How much the methods differ: in the share of seeds that are right; for a regression in mean score.
        answers: One of each method, in the order of the results.
    """

    task: str
    model: str
    id: int
    texts: tuple[str, ...]
    label: str | float
    spread: float
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class _Said:
    """One method's predictions on one split: ids (N,), truth (N,), and scores (S, N, k)."""

    method: str
    split: str
    record: RunRecord
    folder: Path
    ids: Array
    truth: Array
    scores: Array


def disagreements(comparison: Comparison, folders: Sequence[Path] = (), *, limit: int = 20) -> tuple[Disagreement, ...]:
    """Find the examples on which methods disagree most.

    Of a classification these are examples that one method gets right with most seeds, and another wrong with most; of a
    regression those whose mean scores lie furthest apart. Language models have none.

    Args:
        comparison: Names the runs.
        folders: Where the runs lie, if not where the comparison says.
        limit: Examples for each task and model, at most.

    Returns:
        By task and model, the most disagreeing first. Runs that can no longer be read are passed over.
    """
    found: list[Disagreement] = []
    for task, model in dict.fromkeys((result.task, result.model) for result in comparison.results):
        results = [result for result in comparison.results if (result.task, result.model) == (task, model)]
        said = [one for result in results if (one := _read(result, folders)) is not None]
        if len(said) > 1:
            found += _most_disagreeing(task, model, said, limit)
    return tuple(found)


def run_folder(written: str, folders: Sequence[Path]) -> Path | None:
    """Find a run folder that a comparison names: where it says, or of the same name in one of some folders.

    Returns:
        The folder; none if it is nowhere.
    """
    path = Path(written)
    places = [path, *(folder for folder in folders if folder.name == path.name), *(one / path.name for one in folders)]
    return next((place for place in places if place.is_dir()), None)


def split_of(result: Result, record: RunRecord) -> str:
    """Name the validation split that a result is about; further splits stand behind the task's name."""
    splits = [name for name in record.data.sizes if name not in ("train", "holdout")]
    return next((name for name in splits[1:] if result.task.endswith(f"/{name}")), splits[0])


def _read(result: Result, folders: Sequence[Path]) -> _Said | None:
    """Read all seeds of a result, those that there still are."""
    rows, said = [], None
    for written in result.runs:
        folder = run_folder(written, folders)
        if folder is None:
            continue
        try:
            record = read_record(folder)
            found = read_predictions(folder)[split_of(result, record)]
        except (RunError, LookupError):
            continue
        if found.labels is None:
            continue
        order = np.argsort(found.ids, kind="stable")
        if said is None:
            said = (record, folder, found.ids[order], found.labels[order])
        if np.array_equal(found.ids[order], said[2]):
            rows.append(found.scores[order].astype(np.float64))
    return None if said is None else _Said(result.method, split_of(result, said[0]), *said, np.stack(rows))


def _most_disagreeing(task: str, model: str, said: Sequence[_Said], limit: int) -> list[Disagreement]:
    said = [one for one in said if np.array_equal(one.ids, said[0].ids)]
    first = said[0]
    candidates: Array  # (N,)
    names = first.record.data.label_names
    if names:
        right: Array = np.stack([(one.scores.argmax(axis=2) == one.truth).mean(axis=0) for one in said])  # (methods, N)
        candidates = np.asarray((right > 0.5).any(axis=0) & (right < 0.5).any(axis=0))
        spread = right.max(axis=0) - right.min(axis=0)
    else:
        means = np.stack([one.scores[:, :, 0].mean(axis=0) for one in said])  # (methods, N)
        spread = means.max(axis=0) - means.min(axis=0)
        candidates = spread > 0
    chosen = [int(row) for row in np.lexsort((first.ids, -spread)) if candidates[row]][:limit]
    texts = _texts(said, first.ids[chosen].tolist()) if chosen else {}
    return [
        Disagreement(
            task,
            model,
            int(first.ids[row]),
            texts.get(int(first.ids[row]), ()),
            names[int(first.truth[row])] if names else float(first.truth[row]),
            float(spread[row]),
            tuple(_answer(one, row) for one in said),
        )
        for row in chosen
    ]


def _answer(said: _Said, row: int) -> Answer:
    scores = said.scores[:, row]  # (S, k)
    names = said.record.data.label_names
    if not names:
        return Answer(said.method, float(scores[:, 0].mean()), None, None)
    classes, truth = scores.argmax(axis=1), int(said.truth[row])
    most = int(np.bincount(classes, minlength=len(names)).argmax())
    probability = float(softmax(scores, axis=1)[:, truth].mean())
    return Answer(said.method, names[most], float((classes == truth).mean()), probability)


def _texts(said: Iterable[_Said], ids: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Texts of some examples by id, from the first table that there is."""
    for one in said:
        path = one.folder.absolute().parent / ".examples" / f"{one.record.data.fingerprint}.parquet"
        try:
            table = pyarrow.parquet.read_table(
                path,
                columns=["id", "texts"],
                filters=[("split", "==", one.split), ("id", "in", ids)],
                partitioning=None,
            )
            found = zip(table.column("id").to_pylist(), table.column("texts").to_pylist(), strict=True)
            return {row: tuple(texts) for row, texts in found}
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError):
            continue
    return {}
