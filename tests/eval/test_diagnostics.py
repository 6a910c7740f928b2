"""Confusion counts are scikit-learn's; the calibration error is its paper's sum over bins."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from graft.eval.diagnostics import calibration_error, confusion


def drawn(seed, examples, classes, spread=2.0):
    generator = np.random.default_rng(seed)
    scores = (spread * generator.standard_normal((examples, classes))).astype(np.float32)
    return scores, generator.integers(classes, size=examples)


def by_hand(scores, labels, bins=15):
    """Guo et al. (2017), equations 1 to 3, as they are written: example by example, bin by bin."""
    confidences, hits = [], []
    for row, label in zip(scores.astype(float).tolist(), labels.tolist(), strict=True):
        powers = [np.exp(value - max(row)) for value in row]
        confidences.append(max(powers) / sum(powers))
        hits.append(row.index(max(row)) == label)
    error = 0.0
    for number in range(1, bins + 1):
        inside = [i for i, p in enumerate(confidences) if (number - 1) / bins < p <= number / bins]
        if inside:
            accuracy = sum(hits[i] for i in inside) / len(inside)
            confidence = sum(confidences[i] for i in inside) / len(inside)
            error += len(inside) / len(labels) * abs(accuracy - confidence)
    return 100 * error


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 5))
def test_confusion_counts_are_scikit_learns(seed, examples, classes):
    scores, labels = drawn(seed, examples, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-learn's, about a single label
        expected = confusion_matrix(labels, scores.argmax(axis=1), labels=np.arange(classes))
    np.testing.assert_array_equal(confusion(scores, labels), expected)


def test_rows_are_true_classes_and_columns_predicted_ones():
    scores = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=np.float32)
    counts = confusion(scores, np.array([0, 0, 0, 0]))
    assert counts.tolist() == [[1, 1, 2], [0, 0, 0], [0, 0, 0]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 5), st.floats(0.1, 20))
def test_the_calibration_error_is_the_papers(seed, examples, classes, spread):
    scores, labels = drawn(seed, examples, classes, spread)
    assert calibration_error(scores, labels) == pytest.approx(by_hand(scores, labels), abs=1e-9)


def test_the_calibration_error_of_cases_that_can_be_told_at_once():
    sure = np.array([[100, 0], [100, 0], [100, 0], [100, 0]], dtype=np.float32)
    assert calibration_error(sure, np.array([0, 0, 0, 0])) == pytest.approx(0.0)
    assert calibration_error(sure, np.array([0, 0, 0, 1])) == pytest.approx(25.0)
    undecided = np.zeros((4, 2), dtype=np.float32)  # half sure of the first class
    assert calibration_error(undecided, np.array([0, 1, 0, 1])) == pytest.approx(0.0)
    assert calibration_error(undecided, np.array([0, 0, 0, 0])) == pytest.approx(50.0)
    # Within one bin, errors of single examples cancel; in two, they do not.
    odds = np.log(np.array([[0.7, 0.3], [0.9, 0.1]])).astype(np.float32)
    assert calibration_error(odds, np.array([0, 0]), bins=1) == pytest.approx(100 * abs(1 - 0.8), abs=1e-4)
    assert calibration_error(odds, np.array([1, 0]), bins=1) == pytest.approx(100 * abs(0.5 - 0.8), abs=1e-4)
    assert calibration_error(odds, np.array([1, 0]), bins=15) == pytest.approx(50 * (0.7 + 0.1), abs=1e-4)


def test_scores_that_are_not_finite_have_no_calibration_error():
    scores = np.array([[0.0, np.inf], [np.nan, 1.0]], dtype=np.float32)
    assert calibration_error(scores, np.array([0, 1])) is None
    assert confusion(scores, np.array([0, 1])).sum() == 2
