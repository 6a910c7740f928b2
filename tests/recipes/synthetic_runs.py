"""Run folders as training would leave them, made of invented predictions: what comparisons are tested on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from graft.eval.kinds import KINDS
from graft.eval.metrics import METRICS
from graft.eval.predict import Predictions
from graft.eval.records import DataRecord, Evaluation, Parameters, RunRecord, write_predictions, write_record
from graft.files import fingerprint

SETTINGS = {"full": {}, "probe": {}, "bitfit": {}, "lora": {"r": 8, "alpha": 16.0, "targets": ["all-linear"]}}
RATES = {"full": 5e-5, "probe": 1e-2, "bitfit": 1e-3, "lora": 5e-4}
TRAINABLE = {"full": 22_000_000, "probe": 800, "bitfit": 40_000, "lora": 310_000}
KIND_OF = {"pearson": "regression", "spearman": "regression", "loss": "causal_lm", "perplexity": "causal_lm"}


def make_recipe(task="mrpc", model="minilm", method="full", seed=1, **changes):
    """A canonical recipe; `changes` are dotted keys."""
    method = {"name": method} if isinstance(method, str) else dict(method)
    recipe = {
        "task": {"name": task, "data": None, "train_size": None, "holdout": 0.1, "split_seed": 0, "max_length": 128},
        "model": {"name": model, "revision": None, "pooling": "native", "dropout": None},
        "method": {"name": method["name"], **SETTINGS.get(method["name"], {}), **method},
        "objective": {"terms": []},
        "strategy": {"name": "constant"},
        "optim": {"lr": RATES.get(method["name"], 1e-3), "weight_decay": 0.01, "betas": [0.9, 0.999]},
        "schedule": {"epochs": 3.0, "steps": None, "examples": 32},
        "budget": {"tokens": 8192, "gradient_checkpointing": False},
        "seed": seed,
        "device": "cpu",
        "speed": {"precision": "fp32", "buckets": True},
        "threads": 1,
    }
    for dotted, value in changes.items():
        *parts, last = dotted.split(".")
        section = recipe
        for part in parts:
            section = section[part]
        section[last] = value
    return recipe


def write_run(
    root,
    splits,
    *,
    metrics=("accuracy",),
    kind="final",
    data="data",
    checkpoint="c" * 64,
    cost=None,
    hardware=None,
    versions=None,
    record_changes=None,
    name=None,
    adapter=1000,
    **recipe,
):
    """Write a run folder and return it.

    `splits` maps a split's name to (labels, scores), each an array; `recipe` are arguments of `make_recipe`.
    """
    recipe = make_recipe(**recipe)
    kind_name = KIND_OF.get(metrics[0], "classification")
    predictions = {
        split: Predictions(
            np.arange(len(scores)),
            None if kind_name == "causal_lm" else np.asarray(labels),
            np.asarray(scores, dtype=np.float32).reshape(len(scores), -1),
        )
        for split, (labels, scores) in splits.items()
    }
    scored = {}
    for split, found in predictions.items():
        arguments = KINDS[kind_name].decide(found.scores, found.labels)
        scored[split] = {metric: METRICS[metric].value(*arguments) for metric in metrics}
    contents = {split: fingerprint([data, split, np.asarray(labels).tolist()]) for split, (labels, _) in splits.items()}
    contents |= {"train": fingerprint([data, "train"]), "holdout": fingerprint([data, "holdout"])}
    digest = fingerprint([recipe, contents, checkpoint])
    method = recipe["method"]["name"]
    usual = f"{recipe['task']['name']}-{method}-s{recipe['seed']}-{digest[:12]}".replace("/", "_")
    folder = Path(root) / (name or usual)
    record = RunRecord(
        **{
            "digest": digest,
            "kind": kind,
            "recipe": recipe,
            "scores": scored | ({"holdout": {metrics[0]: 80.0}} if "holdout" not in scored else {}),
            "primary_metric": metrics[0],
            "parameters": Parameters(
                trainable=TRAINABLE.get(method, 5000),
                trainable_without_head=TRAINABLE.get(method, 5000) - 770,
                total=22_700_000,
            ),
            "train_seconds": 10.0 + recipe["seed"],
            "samples_per_second": 64.0,
            "peak_memory_bytes": 2**30,
            "losses": [0.7, 0.5],
            "versions": versions or {"torch": "2.13.0", "numpy": "2.2.0"},
            "hardware": {"device": "cpu", "gpu": None, "threads": 1, "cores": 2, "cpu": "x86_64"} | (hardware or {}),
            "steps": 2,
            "planned_steps": 2,
            "evaluations": [Evaluation(step=2, scores={"holdout": {metrics[0]: 80.0}})],
            "data": _data_record(predictions, contents, kind_name),
            "checkpoint": checkpoint,
            "cost": cost,
            "kept_step": 2,
            "micro_batch_tokens": 8192,
            **(record_changes or {}),
        }
    )
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "model.safetensors").write_bytes(b"\0" * adapter)
    write_predictions(folder, predictions)
    write_record(folder, record)
    return folder


def _data_record(predictions, contents, kind_name):
    """Describe the data of a run that scored these splits."""
    columns = next(iter(predictions.values())).scores.shape[1]
    return DataRecord(
        fingerprint=fingerprint(contents),
        fingerprints=contents,
        sizes={"train": 1000, "holdout": 100} | {s: len(p) for s, p in predictions.items() if s != "holdout"},
        task_version=1,
        kind=kind_name,
        outputs={"classification": columns, "regression": 1, "causal_lm": 0}[kind_name],
        label_names=tuple(f"class {n}" for n in range(columns if kind_name == "classification" else 0)),
    )


def write_texts(root, record, texts, labels, split="validation"):
    """Write the table of a data set's texts, as training does beside the run folders."""
    path = Path(root) / ".examples" / f"{record.data.fingerprint}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "split": [split] * len(texts),
            "id": list(range(len(texts))),
            "texts": pa.array([list(columns) for columns in texts], pa.list_(pa.string())),
            "label": np.asarray(labels, dtype=np.float64),
        }
    )
    pyarrow.parquet.write_table(table, path)
    return path


def invent_classes(accuracies, seeds, examples, *, seed=0, positives=0.5, classes=2):
    """Labels, and logits of each method and seed that are right about as often as asked, alike across methods.

    Returns:
        labels (N,), and {method: [logits (N, classes) of each seed]}.
    """
    generator = np.random.default_rng(seed)
    labels = generator.choice(classes, size=examples, p=[1 - positives, positives] if classes == 2 else None)
    difficulty = generator.normal(size=examples)
    found = {}
    for method, accuracy in accuracies.items():
        level = np.quantile(difficulty, 1 - accuracy)
        found[method] = []
        for _ in range(seeds):
            right = difficulty + 0.5 * generator.normal(size=examples) + 0.05 * generator.normal() > level
            wrong = (labels + 1 + generator.integers(classes - 1, size=examples)) % classes
            said = np.where(right, labels, wrong)
            found[method].append(np.eye(classes)[said] * 4.0 + generator.normal(size=(examples, classes)) * 0.3)
    return labels, found


def invent_scores(noise, seeds, examples, *, seed=0):
    """Labels and scores of a regression; `noise` is each method's standard deviation.

    Returns:
        labels (N,), and {method: [scores (N, 1) of each seed]}.
    """
    generator = np.random.default_rng(seed)
    labels = generator.uniform(0, 5, size=examples).astype(np.float32)
    shared = generator.normal(size=examples)
    return labels, {
        method: [
            (labels + deviation * (shared + 0.5 * generator.normal(size=examples)))[:, None].astype(np.float32)
            for _ in range(seeds)
        ]
        for method, deviation in noise.items()
    }
