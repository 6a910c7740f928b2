"""GLUE's official metrics as `evaluate` metrics that need no network: `Glue("mrpc").compute(...)`.

A stand-in for `evaluate.load("glue", "mrpc")`, which downloads; keys and values (fractions) are the official ones.
Runs score with `graft.eval.metrics` directly, which is what this wraps.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from graft.errors import RecipeError, nearest
from graft.eval.metrics import METRICS
from graft.eval.tasks import TASKS

# The keys under which evaluate's own GLUE metric reports.
_OFFICIAL = {"matthews": "matthews_correlation", "spearman": "spearmanr"}
# CoLA's official score is Matthews alone; accuracy is an extra of ours.
_REPORTED: dict[str, tuple[str, ...]] = {
    name: ("matthews",) if name == "cola" else row.metrics for name, row in TASKS.items() if row.hub is not None
}

_CITATION = "Wang et al. (2018), GLUE: A Multi-Task Benchmark and Analysis Platform, arXiv:1804.07461"


class Glue(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """The official metric of one GLUE task."""

    def __init__(self, task: str, **options: Any) -> None:
        """Choose the task.

        Args:
            task: A GLUE task's name.
            **options: As for `evaluate.Metric`.

        Raises:
            RecipeError: GLUE has no such task.
        """
        if task not in _REPORTED:
            raise RecipeError(f"no GLUE task {task!r}{nearest(task, _REPORTED)}; there are {', '.join(_REPORTED)}")
        super().__init__(config_name=task, **options)

    def _info(self) -> evaluate.MetricInfo:
        """Describe inputs: class numbers, or scores for STS-B."""
        value = datasets.Value("float32" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=f"The official metric of GLUE's {self.config_name}, as fractions.",
            citation=_CITATION,
            inputs_description="predictions and references: class numbers, or scores for stsb",
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        """Fractions by official name."""
        found, truth = np.asarray(predictions), np.asarray(references)
        return {_OFFICIAL.get(name, name): METRICS[name].compute(found, truth) for name in _REPORTED[self.config_name]}
