import math

import numpy as np
import pytest
from scipy import stats

from graft.eval.metrics import METRICS
from graft.eval.paired import Components, paired
from graft.eval.power import chance, examples_needed, expected_components, half_width, limit, seeds_needed

TYPICAL = Components(2.0, 360.0, 600.0)


def simulated(components, seeds, examples, count, alpha=0.05):
    """Half-widths and differences of drawn data, where the true difference is zero."""
    generator = np.random.default_rng(0)
    halves, means = [], []
    for _ in range(count):
        table = generator.normal(0, math.sqrt(components.seed), (seeds, 1))
        table = table + generator.normal(0, math.sqrt(components.example), (1, examples))
        table = table + generator.normal(0, math.sqrt(components.residual), (seeds, examples))
        found = paired(table, np.zeros_like(table))
        halves.append(found.half_width(alpha))
        means.append(found.difference)
    return np.array(halves), np.array(means)


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_the_half_width_to_expect_is_the_mean_of_simulated_ones(seeds):
    halves, _ = simulated(TYPICAL, seeds, 408, 600)
    if seeds == 1:  # one seed cannot tell what seeds vary by, only this run's examples
        assert half_width(TYPICAL, 1, 408, 0.05) == pytest.approx(stats.t.ppf(0.975, 407) * math.sqrt(960 / 408))
    assert half_width(TYPICAL, seeds, 408, 0.05) == pytest.approx(halves.mean(), rel=0.04)


def test_the_chance_of_showing_equivalence_is_how_often_it_is_shown():
    halves, means = simulated(TYPICAL, 5, 2000, 600)
    shown = np.mean(np.abs(means) + halves < 2.5)
    assert 0.2 < shown < 0.9
    assert chance(TYPICAL, 5, 2000, 2.5, 0.05) == pytest.approx(shown, abs=0.05)


def test_no_number_of_seeds_gets_below_what_the_examples_allow():
    least = limit(TYPICAL, 408, 0.05)
    assert least == pytest.approx(stats.t.ppf(0.975, 407) * math.sqrt(360 / 408))
    widths = [half_width(TYPICAL, seeds, 408, 0.05) for seeds in (2, 3, 5, 10, 50, 100_000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == pytest.approx(least, rel=0.001)
    assert limit(TYPICAL, 408, 0.05, methods=6) > least


def test_examples_and_seeds_that_are_needed_are_the_smallest_that_give_the_chance():
    examples = examples_needed(TYPICAL, 10, 2.0, 0.05)
    assert chance(TYPICAL, 10, examples, 2.0, 0.05) >= 0.8 > chance(TYPICAL, 10, examples - 1, 2.0, 0.05)
    seeds = seeds_needed(TYPICAL, 5000, 1.5, 0.05)
    assert chance(TYPICAL, seeds, 5000, 1.5, 0.05) >= 0.8 > chance(TYPICAL, seeds - 1, 5000, 1.5, 0.05)
    few = examples_needed(TYPICAL, 10, 3.0, 0.05)
    assert few < examples_needed(TYPICAL, 10, 3.0, 0.05, methods=6)


def test_what_no_number_decides_is_none():
    assert seeds_needed(TYPICAL, 408, 1.0, 0.05) is None  # the examples bar it
    assert examples_needed(TYPICAL, 3, 1.0, 0.05) is None  # the seeds bar it
    assert examples_needed(Components(0.0, 0.0, 0.0), 3, 1.0, 0.05) == 2


def test_guesses_before_training_give_what_was_seen_on_mrpc():
    guess = expected_components("accuracy", 408, 86.0)
    run = (guess.seed + guess.residual / 408) / 2  # of one run, given the examples
    assert math.sqrt(run) == pytest.approx(1.3, abs=0.05)
    assert [half_width(guess, seeds, 408, 0.05) for seeds in (5, 10)] == pytest.approx([2.9, 2.3], abs=0.1)


def test_guesses_exist_for_every_metric_and_shrink_with_examples_and_near_perfection():
    for metric, row in METRICS.items():
        level = 85.0 if row.higher_is_better else 3.0
        guess = expected_components(metric, 1000, level)
        assert min(guess.seed, guess.example, guess.residual) > 0
        if row.higher_is_better:
            assert expected_components(metric, 10_000, level).seed < guess.seed
            assert expected_components(metric, 1000, 97.0).example < guess.example
    with pytest.raises(KeyError):
        expected_components("bleu", 1000, 30.0)


def test_where_everything_agrees_what_was_never_seen_bounds_what_can_be_shown():
    nothing = Components(0.0, 0.0, 0.0)
    rare = -math.log(0.05 / 2)  # examples on which two methods may differ without one of those seen telling
    assert half_width(nothing, 3, 400, 0.05, flip=100.0) == pytest.approx(100 * rare / 400)
    assert limit(nothing, 400, 0.05, flip=100.0) == pytest.approx(100 * rare / 400)
    assert examples_needed(nothing, 3, 1.0, 0.05, flip=100.0) == math.ceil(100 * rare)
    assert seeds_needed(nothing, 300, 1.0, 0.05, flip=100.0) is None
    assert seeds_needed(nothing, 300, 1.0, 0.05) == 2
