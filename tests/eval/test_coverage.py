"""A part of what scripts/coverage.py simulates, with the bounds that docs/statistics.md promises."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from graft.eval.paired import MeanSquares, estimate

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def designs():
    """The script's own designs."""
    spec = importlib.util.spec_from_file_location("designs", SCRIPTS / "designs.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["designs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["designs"]


def coverage(share, residual, seeds, level=0.05, examples=10**7):
    """Coverage where seeds judge a share of the variance, of which residuals make a part: by integration."""
    points = 1000
    squares = stats.chi2.ppf((np.arange(points) + 0.5) / points, seeds - 1) / (seeds - 1)
    by_seed, by_residual = share, share * residual
    by_example = 1.0 - share + by_residual
    found = [estimate(MeanSquares(0.0, by_seed * x, by_example, by_residual, seeds, examples)) for x in squares]
    halves = np.array([one.half_width(level) for one in found])
    deviation = 1.0 / np.sqrt(seeds * examples)
    return float(np.mean(2.0 * stats.norm.cdf(halves / deviation) - 1.0))


@pytest.mark.parametrize(("seeds", "most"), [(3, 0.972), (5, 0.965), (10, 0.958)])
def test_coverage_of_any_share_of_the_seeds_is_at_least_95_percent_and_little_more(seeds, most):
    found = [coverage(q, e, seeds) for q in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0) for e in (0.0, 0.5, 1.0)]
    assert min(found) >= 0.9495
    assert max(found) <= most


def test_two_seeds_keep_at_least_93_percent():
    assert min(coverage(q, e, 2) for q in (0.3, 0.7, 0.9, 0.95, 0.98, 1.0) for e in (0.0, 0.5)) >= 0.93


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("examples", [300, 5000])
def test_gaussian_components_are_covered_and_wrong_equivalence_is_rare(designs, seeds, examples):
    generator = np.random.default_rng(0)
    for spread in (designs.Spread(1.5, 15, 20), designs.Spread(0, 40, 20), designs.Spread(4, 0, 3)):
        for rates in designs.components(generator, spread, seeds, examples, 2000, (1.0, 3.0)):
            assert 0.93 <= rates.coverage <= 0.98  # three standard errors are 1.5 points
            assert rates.equivalent <= 0.04


@pytest.mark.parametrize(
    ("metric", "positives", "strengths"),
    [
        ("accuracy", 0.5, (1.0, 1.13)),
        ("f1", 2 / 3, (1.0, 1.2)),
        ("matthews", 0.1, (1.3, 1.37)),
        ("pearson", 0.0, (1.0, 1.1)),
        ("spearman", 0.0, (1.0, 1.1)),
    ],
)
def test_metrics_of_predictions_are_covered(designs, metric, positives, strengths):
    shape = designs.Shape(metric, positives, strengths)
    assert 2.0 < shape.truth() < 4.0
    rates = designs.shaped(np.random.default_rng(1), shape, 5, 300, 200)
    assert 0.91 <= rates.coverage <= 0.995  # the standard error is 1.5 points
    assert rates.equivalent <= 0.06


@pytest.mark.parametrize("seeds", [3, 5])
def test_any_wrong_direction_among_six_methods_is_rare(designs, seeds):
    spreads = [designs.Spread(1.0, 15.0, 20.0)] * 7
    assert designs.family(np.random.default_rng(2), spreads, seeds, 300, 200) <= 0.07


def test_means_over_tasks_are_covered(designs):
    spreads = [designs.Spread(1.0, 15.0, 20.0)] * 5 + [designs.Spread(4.0, 15.0, 20.0)]
    rates = designs.suite(np.random.default_rng(3), spreads, 3, 408, 1500)
    assert 0.93 <= rates.coverage <= 0.98


def test_looking_often_keeps_the_level_that_looks_at_5_percent_break(designs):
    spreads = [designs.Spread(1.0, 5.0, 5.0)] * 2
    found = designs.looks(np.random.default_rng(4), spreads, (3, 5, 10, 20, 40), 200, 150, 1.0)
    assert found.wrong <= 0.07
    assert found.equivalent <= 0.07
    assert found.single > found.wrong
    assert found.single >= 0.08
