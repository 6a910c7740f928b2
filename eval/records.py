"""Run folders: the record, the predictions and the texts they are about. Evaluation reads nothing else."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from pydantic import BaseModel, ConfigDict, Field

from graft.errors import RunError
from graft.eval.config import KindName
from graft.eval.diagnostics import calibration_error, confusion
from graft.eval.kinds import KINDS
from graft.eval.pages import read_page
from graft.eval.predict import Predictions
from graft.eval.resolution import TaskData
from graft.eval.splits import Split
from graft.files import write_atomically, write_json

SCHEMA = 1
RECORD = "record.json"
PREDICTIONS = "predictions.parquet"
_EXAMPLES = pa.schema(
    [("split", pa.string()), ("id", pa.int64()), ("texts", pa.list_(pa.string())), ("label", pa.float64())]
)
_CHUNK = 8192
"""Examples that are Python objects at a time, while they are written."""
_AGAIN = "delete the run folder and train the run again"


class _Section(BaseModel):
    """A part of a record: frozen, complete, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)


class Parameters(_Section):
    """How much learns."""

    trainable: int
    """Parameters that may learn, head included."""

    trainable_without_head: int
    """Parameters that may learn, other than what the checkpoint did not bring."""

    total: int
    """All parameters of the model, the method's own included."""


class Evaluation(_Section):
    """Scores in the course of training."""

    step: int
    """Optimiser steps done by then."""

    scores: dict[str, dict[str, float]]
    """Metrics by split."""


class Diagnostics(_Section):
    """What a classifier's scores of a split say beyond its metrics."""

    confusion: tuple[tuple[int, ...], ...]
    """Examples by class: a row for each true class, a column for each predicted one, in the order of `label_names`."""

    calibration_error: float | None
    """Expected calibration error in percent points, over 15 bins; none where a score is not finite."""


class DataRecord(_Section):
    """What the examples were."""

    fingerprint: str
    """Hash over all splits; also names the table of texts."""

    fingerprints: dict[str, str]
    """Hash of each split."""

    sizes: dict[str, int]
    """Examples in each split."""

    task_version: int
    """Version of the task's row."""

    kind: KindName
    """What is predicted."""

    outputs: int
    """Outputs of the head: classes, 1 for a score, 0 for a language model's own vocabulary."""

    label_names: tuple[str, ...] = ()
    """The classes in the order of their numbers; empty for scores and plain text."""


class RunRecord(_Section):
    """All that is known of a run."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    """Layout of this record; readers refuse a newer one."""

    digest: str
    """Names everything that decides the result: recipe, data, checkpoint and row versions."""

    kind: Literal["trial", "final"]
    """A trial chooses hyper-parameters by the holdout; a final run is scored on validation, once."""

    recipe: dict[str, Any]
    """The resolved recipe in canonical form."""

    scores: dict[str, dict[str, float]]
    """Metrics by split: percent points, except loss (nats per token) and perplexity."""

    primary_metric: str
    """The metric that selects."""

    diagnostics: dict[str, Diagnostics] = {}
    """By split: what classes are taken for which, and calibration; empty for a task without classes."""

    parameters: Parameters
    """How much learns."""

    method_figures: dict[str, float] = {}
    """What the method itself has to tell of how it ended, such as the ranks that AdaLoRA allocated."""

    train_seconds: float
    """Wall-clock time of the training steps, without evaluation."""

    samples_per_second: float
    """Training examples per second of `train_seconds`."""

    peak_memory_bytes: int
    """Highest memory of the process, or of the device."""

    losses: list[float]
    """Training loss of each optimiser step, per unit."""

    versions: dict[str, str]
    """Version of each package that computes."""

    commit: str | None = None
    """Source revision of graft, where it runs from a checkout."""

    hardware: dict[str, Any]
    """Processor, devices, threads and processes."""

    holdout_trained_on: bool = False
    """Whether the holdout's examples were trained on too."""

    steps: int
    """Optimiser steps done."""

    planned_steps: int
    """Optimiser steps that the recipe asks for; more than were done where training stopped early."""

    evaluations: list[Evaluation] = []
    """Scores in the course of training."""

    truncated: dict[str, int] = {}
    """Examples of each split that lost text to the maximum length."""

    cost: dict[str, float] | None = None
    """Figures of a separate solitary process: seconds, samples per second, bytes."""

    data: DataRecord
    """What the examples were."""

    checkpoint: str
    """Content hash of the pretrained checkpoint."""

    kept_step: int
    """The step whose weights the run ended with: the best on the holdout, or the last."""

    micro_batch_tokens: int
    """Most tokens in a micro-batch at the end; smaller than the recipe's where memory ran out."""

    warnings: list[str] = []
    """What a reader of the scores should know."""


def describe_data(data: TaskData) -> DataRecord:
    """Note which examples a run used."""
    return DataRecord(
        fingerprint=data.fingerprint,
        fingerprints={name: split.fingerprint for name, split in data.splits.items()},
        sizes={name: len(split) for name, split in data.splits.items()},
        task_version=data.task.version,
        kind=data.task.kind,
        outputs=KINDS[data.task.kind].outputs(data.task),
        label_names=data.label_names,
    )


def write_record(folder: Path, record: RunRecord) -> None:
    """Write `record.json`, whole or not at all.

    Raises:
        GraftError: The folder cannot be written.
        ValueError: A number is not finite, which JSON cannot say.
    """
    write_json(folder / RECORD, record.model_dump(mode="json", by_alias=True))


def read_record(folder: Path) -> RunRecord:
    """Read a run's record.

    Args:
        folder: The run folder.

    Returns:
        The record.

    Raises:
        RunError: There is none, it is damaged, or a newer graft wrote it.
    """
    absent = "the run did not finish; resume it" if folder.is_dir() else "no such run folder"
    return read_page(folder / RECORD, RunRecord, SCHEMA, what="a run record", absent=absent, again=_AGAIN)


def diagnose(data: DataRecord, predictions: Mapping[str, Predictions]) -> dict[str, Diagnostics]:
    """Work out the diagnostics of a classifier's predictions.

    Args:
        data: What the examples were.
        predictions: By split.

    Returns:
        By split; nothing for a task without classes, or for splits without labels.
    """
    if data.kind != "classification":
        return {}
    found = {}
    for name, part in predictions.items():
        if part.labels is not None:
            labels = part.labels.astype(np.int64)
            counts = confusion(part.scores, labels).tolist()
            error = calibration_error(part.scores, labels)
            found[name] = Diagnostics(confusion=counts, calibration_error=error)
    return found


def write_predictions(folder: Path, predictions: Mapping[str, Predictions]) -> None:
    """Write `predictions.parquet`: a row per unit, with columns split, id, unit, label and scores.

    A row is told by its split, its example's id and the unit of that example: its tokens or choices, where a kind
    scores them one by one, and else 0.

    Args:
        folder: The run folder.
        predictions: By split.

    Raises:
        GraftError: The folder cannot be written.
    """
    parts = [
        pa.table(
            {
                "split": pa.array([name] * len(part), pa.string()),
                "id": pa.array(part.ids, pa.int64()),
                "unit": pa.array([0] * len(part) if part.units is None else part.units, pa.int64()),
                "label": pa.nulls(len(part), pa.float64())
                if part.labels is None
                else pa.array(part.labels.astype(np.float64), pa.float64()),
                "scores": pa.array(list(part.scores), pa.list_(pa.float32())),
            }
        )
        for name, part in predictions.items()
    ]
    _write_table(folder / PREDICTIONS, pa.concat_tables(parts))


def read_predictions(folder: Path) -> dict[str, Predictions]:
    """Read a run's predictions.

    Args:
        folder: The run folder.

    Returns:
        By split, in the order of their rows; labels are float64, or none where there were none. Units are none in
        files from before there were any.

    Raises:
        RunError: There are none, or the file is damaged.
    """
    path = folder / PREDICTIONS
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
        names = np.array(table.column("split").to_pylist(), dtype=object)
        out = {}
        for name in dict.fromkeys(names.tolist()):
            part = table.filter(pa.array(names == name))
            labels = part.column("label")
            units = np.array(part.column("unit").to_pylist(), dtype=np.int64) if "unit" in part.column_names else None
            out[str(name)] = Predictions(
                np.array(part.column("id").to_pylist(), dtype=np.int64),
                None if labels.null_count else np.array(labels.to_pylist(), dtype=np.float64),
                np.array(part.column("scores").to_pylist(), dtype=np.float32),
                units,
            )
    except (FileNotFoundError, NotADirectoryError) as error:
        reason = "the run did not finish; resume it" if folder.is_dir() else "no such run folder"
        raise RunError(f"{path}: not there: {reason}") from error
    except (OSError, pa.ArrowException, LookupError, TypeError, ValueError) as error:
        raise RunError(f"{path}: damaged ({str(error).strip()}); {_AGAIN}") from error
    return out


def write_examples(root: Path, data: TaskData) -> Path:
    """Write the examples' texts once per content, for reports that show them.

    Args:
        root: The folder that holds the run folders.
        data: The task's examples.

    Returns:
        The file, `.examples/<fingerprint>.parquet`, with columns split, id, texts and label; left alone if it is there.

    Raises:
        GraftError: The folder cannot be written.
    """
    path = root / ".examples" / f"{data.fingerprint}.parquet"
    if path.is_file():
        return path
    buffer = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(buffer, _EXAMPLES) as writer:
        for name, split in data.splits.items():
            for start in range(0, len(split), _CHUNK):
                writer.write_table(_example_rows(name, split, slice(start, start + _CHUNK)))
    write_atomically(path, buffer.getvalue())
    return path


def _example_rows(name: str, split: Split, rows: slice) -> pa.Table:
    """Some of a split's examples as a table."""
    ids = split.ids[rows]
    labels = None if split.labels is None else split.labels[rows].astype(np.float64)
    return pa.table(
        {
            "split": [name] * len(ids),
            "id": ids,
            "texts": [list(texts) for texts in split.texts[rows]],
            "label": pa.nulls(len(ids), pa.float64()) if labels is None else labels,
        },
        schema=_EXAMPLES,
    )


def _write_table(path: Path, table: pa.Table) -> None:
    """Write parquet, whole or not at all."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())
