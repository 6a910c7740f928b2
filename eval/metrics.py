"""Metrics: GLUE's official ones, and loss and perplexity of a language model, as rows of a table.

Accuracy, F1 and correlations are in percent points, as GLUE's tables print them; loss is in nats per unit. scipy and
scikit-learn take a second to import, so only what computes with them does so.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.eval.config import KindName

Array = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: What recipes and records call it.
        kinds: Kinds of task it is defined for.
        compute: From predictions and labels, each (examples,), to a fraction; for a language model from summed
            log-likelihoods and predicted tokens per block.
        scale: Factor from `compute` to the reported value: 100 for percent points.
        higher_is_better: Whether a larger value is the better one.
    """

    name: str
    kinds: tuple[KindName, ...]
    compute: Callable[[Array, Array], float]
    scale: float = 100.0
    higher_is_better: bool = True

    def value(self, predictions: Array, labels: Array) -> float:
        """The reported value, in percent points where `scale` is 100."""
        return self.scale * self.compute(predictions, labels)


def goodness(scores: Mapping[str, float]) -> float:
    """Tell how good scores are by their first metric: larger is better, also where the metric is a loss."""
    name, value = next(iter(scores.items()))
    return value if METRICS[name].higher_is_better else -value


def accuracy(predictions: Array, labels: Array) -> float:
    """Fraction of predictions that equal their label."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, predictions))


def f1(predictions: Array, labels: Array) -> float:
    """F1 of class 1; 0 where nothing is predicted or labelled 1, as GLUE scores it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))


def macro_f1(predictions: Array, labels: Array) -> float:
    """Mean of the classes' F1, each class counting alike."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0.0))


def matthews(predictions: Array, labels: Array) -> float:
    """Matthews correlation; 0 where one class only is predicted."""
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label was found", UserWarning)
        return float(matthews_corrcoef(labels, predictions))


def _correlation(statistic: Callable[[Array, Array], Any], predictions: Array, labels: Array) -> float:
    """A correlation that is 0 where it is undefined: a constant prediction explains nothing."""
    from scipy import stats

    if len(labels) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(statistic(predictions.astype(np.float64), labels.astype(np.float64)).statistic)
    return value if math.isfinite(value) else 0.0


def pearson(predictions: Array, labels: Array) -> float:
    """Pearson correlation; 0 for constant predictions."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Array, labels: Array) -> float:
    """Spearman rank correlation; 0 for constant predictions."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def token_loss(log_likelihoods: Array, tokens: Array) -> float:
    """Mean negative log-likelihood per predicted token, in nats."""
    return -float(np.sum(log_likelihoods, dtype=np.float64)) / float(np.sum(tokens, dtype=np.float64))


def perplexity(log_likelihoods: Array, tokens: Array) -> float:
    """Exponential of the loss per token."""
    return math.exp(min(token_loss(log_likelihoods, tokens), 700.0))  # e^710 is no longer a float


_ROWS = (
    Metric("accuracy", ("classification",), accuracy),
    Metric("f1", ("classification",), f1),
    Metric("macro_f1", ("classification",), macro_f1),
    Metric("matthews", ("classification",), matthews),
    Metric("pearson", ("regression",), pearson),
    Metric("spearman", ("regression",), spearman),
    Metric("loss", ("causal_lm",), token_loss, scale=1.0, higher_is_better=False),
    Metric("perplexity", ("causal_lm",), perplexity, scale=1.0, higher_is_better=False),
)
METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}

DEFAULT_METRICS: dict[KindName, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "regression": ("pearson", "spearman"),
    "causal_lm": ("loss", "perplexity"),
}
