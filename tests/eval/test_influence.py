import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from graft.eval.influence import contributions, flip
from graft.eval.metrics import METRICS


def classes(generator, count=60, kinds=2):
    labels = generator.integers(0, kinds, count)
    found = np.where(generator.random(count) < 0.7, labels, generator.integers(0, kinds, count))
    return found, labels


def scores(generator, count=60, ties=False):
    labels = generator.normal(size=count)
    found = labels + generator.normal(size=count)
    return (found.round(), labels.round()) if ties else (found, labels)


def examples_of(metric, generator, count=60):
    """Arguments of a metric."""
    if "classification" in METRICS[metric].kinds:
        return classes(generator, count, kinds=3 if metric == "macro_f1" else 2)
    if "regression" in METRICS[metric].kinds:
        return scores(generator, count)
    return -generator.exponential(30.0, count), generator.integers(5, 40, count).astype(float)


def weighted_pearson(found, labels, weights):
    centred = [side - np.average(side, weights=weights) for side in (found, labels)]
    covariance = np.average(centred[0] * centred[1], weights=weights)
    return covariance / np.sqrt(np.prod([np.average(side**2, weights=weights) for side in centred]))


def weighted_ranks(values, weights):
    below, level = values[None, :] < values[:, None], values[None, :] == values[:, None]
    return (below + 0.5 * level) @ weights / weights.sum()


def weighted_spearman(found, labels, weights):
    return weighted_pearson(weighted_ranks(found, weights), weighted_ranks(labels, weights), weights)


WEIGHTED = {
    "accuracy": lambda p, y, w: sklearn_metrics.accuracy_score(y, p, sample_weight=w),
    "f1": lambda p, y, w: sklearn_metrics.f1_score(y, p, sample_weight=w),
    "macro_f1": lambda p, y, w: sklearn_metrics.f1_score(y, p, sample_weight=w, average="macro"),
    "matthews": lambda p, y, w: sklearn_metrics.matthews_corrcoef(y, p, sample_weight=w),
    "pearson": weighted_pearson,
    "spearman": weighted_spearman,
    "loss": lambda p, y, w: -(w @ p) / (w @ y),
    "perplexity": lambda p, y, w: np.exp(-(w @ p) / (w @ y)),
}


def derivative(metric, found, labels, example, step=1e-5):
    """Of the metric when an example's share of the weight grows, in points."""
    count = len(labels)
    values = []
    for sign in (1.0, -1.0):
        weights = np.full(count, (1.0 - sign * step) / count)
        weights[example] += sign * step
        values.append(WEIGHTED[metric](found, labels, weights))
    return METRICS[metric].scale * (values[0] - values[1]) / (2.0 * step)


@pytest.mark.parametrize("metric", METRICS)
def test_contributions_are_the_metric_plus_its_derivative_by_the_examples_weight(metric):
    found, labels = examples_of(metric, np.random.default_rng(0))
    spread = contributions(metric, found, labels)
    value = METRICS[metric].value(found, labels)
    expected = [value + derivative(metric, found, labels, example) for example in range(len(labels))]
    np.testing.assert_allclose(spread, expected, rtol=1e-6, atol=1e-5)


def test_matthews_of_several_classes_and_ranks_with_ties_are_derivatives_too():
    generator = np.random.default_rng(1)
    for metric, (found, labels) in (
        ("matthews", classes(generator, kinds=4)),
        ("spearman", scores(generator, ties=True)),
        ("macro_f1", (np.zeros(60, int), generator.integers(0, 3, 60))),
    ):
        spread = contributions(metric, found, labels)
        expected = [derivative(metric, found, labels, example) for example in range(len(labels))]
        np.testing.assert_allclose(spread - spread.mean(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_leaving_examples_out_gives_nearly_the_same(metric):
    found, labels = examples_of(metric, np.random.default_rng(2), count=800)
    everyone = np.arange(800)
    value = METRICS[metric].value(found, labels)
    left = [METRICS[metric].value(found[everyone != one], labels[everyone != one]) for one in range(80)]
    pseudo = 800 * value - 799 * np.array(left)  # Tukey's pseudo-values
    spread = contributions(metric, found, labels)[:80]
    assert np.corrcoef(pseudo, spread)[0, 1] > 0.9999
    assert np.abs(pseudo - spread).max() < 0.02 * np.ptp(spread)


@given(st.sampled_from(sorted(METRICS)), st.integers(2, 60), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_the_mean_is_the_metric_and_the_order_of_examples_changes_nothing(metric, count, seed):
    generator = np.random.default_rng(seed)
    found, labels = examples_of(metric, generator, count)
    spread = contributions(metric, found, labels)
    assert spread.dtype == np.float64
    assert spread.mean() == pytest.approx(METRICS[metric].value(found, labels), rel=1e-12, abs=1e-10)
    order = generator.permutation(count)
    np.testing.assert_allclose(contributions(metric, found[order], labels[order]), spread[order], atol=1e-8, rtol=1e-9)


def test_a_metric_without_derivative_is_its_value_everywhere():
    labels = np.array([1, 0, 1, 1, 0])
    for metric, found in (("matthews", np.ones(5, int)), ("f1", np.zeros(5, int)), ("pearson", np.ones(5))):
        assert contributions(metric, found, labels).tolist() == [METRICS[metric].value(found, labels)] * 5
    assert contributions("spearman", np.full(5, 2.0), labels.astype(float)).tolist() == [0.0] * 5
    nothing = np.zeros(5, int)
    assert contributions("f1", nothing, nothing).tolist() == [0.0] * 5


def test_labels_as_files_hold_them_and_a_known_value_change_nothing():
    found, labels = classes(np.random.default_rng(3))
    for metric in ("accuracy", "f1", "matthews", "macro_f1"):
        expected = contributions(metric, found, labels)
        np.testing.assert_array_equal(contributions(metric, found, labels.astype(np.float64)), expected)
        np.testing.assert_array_equal(
            contributions(metric, found, labels, METRICS[metric].value(found, labels)), expected
        )


def test_one_example_flips_what_is_counted_and_nothing_else():
    assert {metric: flip(metric) for metric in METRICS} == {
        "accuracy": 100.0,
        "f1": 100.0,
        "macro_f1": 100.0,
        "matthews": 100.0,
        "pearson": 0.0,
        "spearman": 0.0,
        "loss": 0.0,
        "perplexity": 0.0,
    }
