import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import RecipeError
from graft.eval.metrics import DEFAULT_METRICS, METRICS, goodness

# 4 true positives, 1 false positive, 3 false negatives, 2 true negatives.
TRUTH = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0])
FOUND = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])


def test_classification_metrics_equal_their_formulas_on_a_two_by_two_table():
    tp, fp, fn, tn = 4, 1, 3, 2
    positive = 2 * tp / (2 * tp + fp + fn)
    negative = 2 * tn / (2 * tn + fp + fn)
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    values = {name: METRICS[name].value(FOUND, TRUTH) for name in ("accuracy", "f1", "macro_f1", "matthews")}
    assert values == pytest.approx(
        {
            "accuracy": 60.0,
            "f1": 100 * positive,
            "macro_f1": 50 * (positive + negative),
            "matthews": 100 * matthews,
        }
    )


def test_correlations_equal_hand_computed_values():
    found, truth = np.array([1.0, 2.0, 3.0, 10.0]), np.array([1.0, 3.0, 2.0, 4.0])
    # Deviations from the means 4 and 2.5: products sum to 13, squares to 50 and 5.
    assert METRICS["pearson"].value(found, truth) == pytest.approx(100 * 13 / math.sqrt(50 * 5))
    # Rank differences 0, 1, 1, 0: 1 - 6 * 2 / (4 * 15).
    assert METRICS["spearman"].value(found, truth) == pytest.approx(100 * (1 - 12 / 60))


def test_spearman_gives_ties_their_mean_rank():
    found, truth = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5, squares 1.5 and 2.
    assert METRICS["spearman"].value(found, truth) == pytest.approx(100 * 1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("name", ["pearson", "spearman", "matthews", "f1"])
def test_constant_predictions_score_zero_not_nan(name):
    assert METRICS[name].value(np.zeros(10), TRUTH) == 0.0


def test_perplexity_weighs_blocks_by_their_tokens():
    log_likelihoods, tokens = np.array([-6.0, -2.0]), np.array([3.0, 1.0])
    assert METRICS["loss"].value(log_likelihoods, tokens) == pytest.approx(2.0)
    assert METRICS["perplexity"].value(log_likelihoods, tokens) == pytest.approx(math.exp(2.0))
    assert math.isfinite(METRICS["perplexity"].value(np.array([-1e6]), np.array([1.0])))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_metrics_of_any_predictions_are_finite(pairs):
    found, truth = np.array(pairs).T
    for metric in METRICS.values():
        if "classification" in metric.kinds or "regression" in metric.kinds:
            assert math.isfinite(metric.value(found, truth))


def test_only_what_measures_error_is_better_when_lower():
    assert {name for name, row in METRICS.items() if not row.higher_is_better} == {"loss", "perplexity"}
    for kind, names in DEFAULT_METRICS.items():
        assert all(kind in METRICS[name].kinds for name in names)


def test_goodness_goes_by_the_first_metric_and_rises_with_quality():
    assert goodness({"f1": 80.0, "accuracy": 10.0}) > goodness({"f1": 70.0, "accuracy": 90.0})
    assert goodness({"loss": 2.0, "perplexity": 7.4}) > goodness({"loss": 3.0, "perplexity": 20.1})


def test_the_evaluate_metric_reports_official_keys_as_fractions(tmp_path):
    from graft.eval.glue import Glue

    options = {"cache_dir": str(tmp_path)}
    assert Glue("mrpc", **options).compute(predictions=FOUND, references=TRUTH) == pytest.approx(
        {"f1": 8 / 12, "accuracy": 0.6}
    )
    assert set(Glue("cola", **options).compute(predictions=FOUND, references=TRUTH)) == {"matthews_correlation"}
    scores = Glue("stsb", **options).compute(predictions=[1.0, 2.0, 4.0], references=[2.0, 4.0, 8.0])
    assert scores == pytest.approx({"pearson": 1.0, "spearmanr": 1.0})
    with pytest.raises(RecipeError, match="did you mean 'mrpc'"):
        Glue("mrcp", **options)


def test_the_table_of_metrics_is_quick_to_import():
    """scipy and scikit-learn take a second, which what only lists or plans must not wait for."""
    asked = "import sys, graft.eval.metrics; sys.exit(any(name in sys.modules for name in ('scipy', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
