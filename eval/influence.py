"""Metrics as means over examples, so that what an average is uncertain by can be told of F1 or a correlation too.

A metric of the empirical distribution is the mean of its value plus each example's influence on it (Hampel 1974, JASA
69:383; the infinitesimal jackknife of Efron 1982). For accuracy that is right or wrong; for the others it is the first
order of what happens when the example's weight grows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.eval.metrics import METRICS

Array = NDArray[Any]


def contributions(metric: str, predictions: Array, labels: Array, value: float | None = None) -> Array:
    """Spread a metric over the examples it was computed from.

    Args:
        metric: Its name in `METRICS`.
        predictions: (N,), as the metric takes them: classes, scores, or a block's summed log-likelihood.
        labels: (N,), likewise: classes, scores, or a block's tokens.
        value: What the metric is, where that is known already; none means that it is computed.

    Returns:
        float64 (N,) in the metric's reported unit, whose mean is the metric. All alike where the metric has no
        derivative, as a correlation with constant predictions.

    Raises:
        KeyError: There is no such metric.
    """
    row = METRICS[metric]
    value = row.value(predictions, labels) if value is None else value
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = row.scale * _INFLUENCES[metric](predictions, labels)  # (N,), about zero
    spread = spread - spread.mean()
    return np.asarray(value + spread) if np.isfinite(spread).all() else np.full(len(labels), value)


def flip(metric: str) -> float:
    """Tell what one example decided otherwise changes in a sum over examples, in points, for `paired`.

    Args:
        metric: Its name in `METRICS`.

    Returns:
        The scale of metrics that count right and wrong, roughly right for F1 and Matthews too; zero for metrics of
        scores, which hardly ever stay unmoved.
    """
    row = METRICS[metric]
    return float(row.scale) if "classification" in row.kinds else 0.0


def _accuracy(predictions: Array, labels: Array) -> Array:
    return np.asarray(predictions == labels, dtype=np.float64)


def _f1(predictions: Array, labels: Array) -> Array:
    return _class_f1(predictions, labels, 1)


def _macro_f1(predictions: Array, labels: Array) -> Array:
    classes = np.union1d(predictions, labels)  # as scikit-learn averages: those that occur
    return np.asarray(np.mean([_class_f1(predictions, labels, name) for name in classes], axis=0))


def _class_f1(predictions: Array, labels: Array, name: float) -> Array:
    """F1 is the ratio of 2 [both] to [predicted] + [labelled], in means over examples."""
    found, true = predictions == name, labels == name  # (N,)
    if not (found.any() or true.any()):
        return np.zeros(len(labels))
    return _ratio(2.0 * (found & true), found.astype(np.float64) + true)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Influence on mean(numerator) / mean(denominator)."""
    return np.asarray((numerator - numerator.mean() / denominator.mean() * denominator) / denominator.mean())


def _matthews(predictions: Array, labels: Array) -> Array:
    """Correlation of class indicators, over all classes at once (Gorodkin 2004, eq. 8)."""
    classes = np.union1d(predictions, labels)
    found, true = predictions[:, None] == classes, labels[:, None] == classes  # (N, C)
    found, true = found - found.mean(axis=0), true - true.mean(axis=0)
    return _correlation((found * true).sum(axis=1), (found**2).sum(axis=1), (true**2).sum(axis=1))


def _pearson(predictions: Array, labels: Array) -> Array:
    found, true = (side - side.mean() for side in (predictions.astype(np.float64), labels.astype(np.float64)))
    return _correlation(found * true, found**2, true**2)


def _spearman(predictions: Array, labels: Array) -> Array:
    """Correlation of ranks; an example moves the others' ranks too (Croux & Dehon 2010, Stat Methods Appl 19:497)."""
    found, true = _middle(predictions), _middle(labels)
    product = found * true + _moved(predictions, true) + _moved(labels, found)
    return _correlation(product, found**2 + 2.0 * _moved(predictions, found), true**2 + 2.0 * _moved(labels, true))


def _middle(values: Array) -> Array:
    """Centred mid-distribution: share of smaller values plus half the share of equal ones, less one half."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(((np.cumsum(counts) - 0.5 * counts) / len(values))[where] - 0.5)


def _moved(values: Array, weights: Array) -> Array:
    """Effect of each example's rank weight on the others: their mean weight above it, equal ones counting half.

    Returns:
        (N,), about zero.
    """
    _, where = np.unique(values, return_inverse=True)
    sums = np.bincount(where, weights=weights)  # per distinct value, ascending
    above = (sums.sum() - np.cumsum(sums) + 0.5 * sums)[where] / len(values)
    return np.asarray(above - above.mean())


def _correlation(products: Array, found: Array, true: Array) -> Array:
    """Influence on covariance / sqrt(variance * variance), from the example's share of each, each (N,)."""
    scale = np.sqrt(found.mean() * true.mean())
    value = products.mean() / scale
    return np.asarray(products / scale - 0.5 * value * (found / found.mean() + true / true.mean()))


def _loss(log_likelihoods: Array, tokens: Array) -> Array:
    return _ratio(-log_likelihoods.astype(np.float64), tokens.astype(np.float64))


def _perplexity(log_likelihoods: Array, tokens: Array) -> Array:
    return METRICS["perplexity"].value(log_likelihoods, tokens) * _loss(log_likelihoods, tokens)


_INFLUENCES: dict[str, Callable[[Array, Array], Array]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "loss": _loss,
    "perplexity": _perplexity,
}
