"""What a classifier's scores say beyond its metrics: which classes are taken for which, and how sure it may be."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

Scores = NDArray[np.float32]
Classes = NDArray[np.int64]

BINS = 15
"""Equal-width bins of the calibration error, as in the tables of Guo et al. (2017)."""


def confusion(scores: Scores, labels: Classes) -> NDArray[np.int64]:
    """Count which class was taken for which.

    Args:
        scores: Logits, (N, classes); the largest one decides, the first of equal ones.
        labels: True classes, (N,).

    Returns:
        Counts, (classes, classes): a row for each true class, a column for each predicted one.
    """
    classes = scores.shape[1]
    pairs = labels * classes + np.argmax(scores, axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def calibration_error(scores: Scores, labels: Classes, bins: int = BINS) -> float | None:
    """Expected calibration error: how far confidence lies from accuracy (Guo et al. 2017, arXiv:1706.04599, eq. 3).

    Confidence is the largest softmax probability; bin m of M holds those in ((m - 1) / M, m / M].

    Args:
        scores: Logits, (N, classes).
        labels: True classes, (N,).
        bins: Bins of equal width over (0, 1].

    Returns:
        The distances of the bins, weighted by their examples, in percent points; none where a score is not finite.
    """
    if not np.isfinite(scores).all():
        return None
    confidence = softmax(scores.astype(np.float64), axis=1).max(axis=1)  # (N,)
    right = np.argmax(scores, axis=1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=right - confidence, minlength=bins)  # examples * (accuracy - confidence)
    return float(100.0 * np.abs(gaps).sum() / len(labels))
