import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from graft.eval.paired import mean_over_tasks, paired, simultaneous


def crossed(seeds=4, examples=50, seed=0, spreads=(1.0, 3.0, 2.0)):
    """Contributions (S, N) of a method and its reference."""
    generator = np.random.default_rng(seed)
    return tuple(
        generator.normal(0, spreads[0], (seeds, 1))
        + generator.normal(0, spreads[1], (1, examples))
        + generator.normal(0, spreads[2], (seeds, examples))
        for _ in range(2)
    )


def anova(table):
    """Mean squares of a two-way table without repetition, sum by sum."""
    seeds, examples = table.shape
    grand = sum(table[s][i] for s in range(seeds) for i in range(examples)) / (seeds * examples)
    rows = [sum(table[s]) / examples for s in range(seeds)]
    columns = [sum(table[:, i]) / seeds for i in range(examples)]
    between_rows = examples * sum((row - grand) ** 2 for row in rows) / (seeds - 1)
    between_columns = seeds * sum((column - grand) ** 2 for column in columns) / (examples - 1)
    total = sum((table[s][i] - grand) ** 2 for s in range(seeds) for i in range(examples))
    rest = total - between_rows * (seeds - 1) - between_columns * (examples - 1)
    return grand, between_rows, between_columns, rest / ((seeds - 1) * (examples - 1))


def test_the_estimate_is_the_analysis_of_variance_of_the_differences():
    method, reference = crossed()
    found = paired(method, reference)
    grand, rows, columns, rest = anova(method - reference)
    assert found.difference == pytest.approx(grand)
    assert found.components.seed == pytest.approx((rows - rest) / 50)
    assert found.components.example == pytest.approx((columns - rest) / 4)
    assert found.components.residual == pytest.approx(rest)
    variance = (rows + columns - rest) / 200
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    few, many = rows / 200, (columns - rest) / 200
    assert found.degrees_of_freedom == pytest.approx(variance**2 / (few**2 / 3 + many**2 / 49))
    critical = (few * stats.t.ppf(0.975, 3) + many * stats.t.ppf(0.975, 49)) / variance
    assert found.half_width(0.05) == pytest.approx(critical * math.sqrt(variance))


def test_components_below_zero_are_zero_and_the_variance_stays_above():
    generator = np.random.default_rng(3)
    table = generator.normal(size=(3, 40))
    table -= table.mean(axis=0)  # no difference between examples: their mean square is zero
    found = paired(table, np.zeros_like(table))
    assert found.components.example == 0.0
    _, rows, _, _ = anova(table)
    assert found.standard_error == pytest.approx(math.sqrt(rows / 120))


def test_a_single_seed_gives_students_interval_over_examples():
    method, reference = crossed(seeds=1)
    [bounds] = simultaneous([(method, reference)], 0.05)
    expected = stats.ttest_1samp((method - reference)[0], 0.0).confidence_interval(0.95)
    assert (bounds.low, bounds.high) == pytest.approx((expected.low, expected.high))
    assert bounds.paired.components is None
    assert bounds.paired.seeds == 1
    assert bounds.paired.degrees_of_freedom == pytest.approx(49)


def test_seeds_that_alone_vary_give_students_interval_over_runs():
    runs = np.array([[1.0], [2.5], [0.7], [3.0]])
    [bounds] = simultaneous([(np.repeat(runs, 30, axis=1), np.zeros((4, 30)))], 0.05)
    expected = stats.ttest_1samp(runs[:, 0], 0.0).confidence_interval(0.95)
    assert (bounds.low, bounds.high) == pytest.approx((expected.low, expected.high))
    assert bounds.paired.degrees_of_freedom == pytest.approx(3)


def test_seeds_that_agree_by_luck_do_not_make_an_interval_much_narrower_than_examples_alone():
    table = np.random.default_rng(5).normal(size=(3, 200))
    table -= table.mean(axis=1, keepdims=True)  # all runs have the same mean
    columns = 3 * table.mean(axis=0).var(ddof=1)
    expected = stats.t.ppf(0.975, 199) * math.sqrt(columns / 600 / 2)
    assert paired(table, np.zeros_like(table)).half_width(0.05) == pytest.approx(expected)


def test_methods_that_agree_on_every_example_may_still_differ_on_others():
    right = np.where(np.random.default_rng(0).random((3, 408)) < 0.8, 100.0, 0.0)
    bounds = simultaneous([(right, right, 100.0)], 0.05)[0]
    # No event among 408 has a probability below p where (1 - p)^408 is 2.5 %.
    assert bounds.high == pytest.approx(100 * (1 - 0.025 ** (1 / 408)), rel=0.01)
    assert bounds.low == -bounds.high
    assert bounds.critical is None
    unbounded = simultaneous([(right, right)], 0.05)[0]
    assert (unbounded.low, unbounded.high) == (0.0, 0.0)


def test_one_example_allows_no_interval():
    [bounds] = simultaneous([(np.ones((3, 1)), np.zeros((3, 1)))], 0.05)
    assert (bounds.low, bounds.high, bounds.critical) == (None, None, None)
    assert bounds.paired.difference == 1.0
    assert bounds.paired.standard_error is None
    [suite] = mean_over_tasks([[(np.ones((3, 1)), np.zeros((3, 1))), crossed(3)]], 0.05)
    assert suite.low is None


shapes = {"seeds": st.integers(1, 5), "examples": st.integers(2, 30), "seed": st.integers(0, 10**6)}


@given(**shapes)
@settings(max_examples=60, deadline=None)
def test_the_order_of_seeds_and_examples_changes_nothing(seeds, examples, seed):
    method, reference = crossed(seeds, examples, seed)
    generator = np.random.default_rng(seed)
    rows, columns = generator.permutation(seeds), generator.permutation(examples)
    [bounds] = simultaneous([(method, reference)], 0.05)
    [again] = simultaneous([(method[rows][:, columns], reference[rows][:, columns])], 0.05)
    assert (again.low, again.high) == pytest.approx((bounds.low, bounds.high), rel=1e-9, abs=1e-9)


@given(**shapes, shift=st.floats(-50, 50), scale=st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_swapping_mirrors_shifting_shifts_and_scaling_scales(seeds, examples, seed, shift, scale):
    method, reference = crossed(seeds, examples, seed)
    [bounds] = simultaneous([(method, reference)], 0.05)
    [swapped] = simultaneous([(reference, method)], 0.05)
    assert (swapped.low, swapped.high) == pytest.approx((-bounds.high, -bounds.low), abs=1e-9)
    [moved] = simultaneous([(scale * method + shift, scale * reference)], 0.05)
    expected = (scale * bounds.low + shift, scale * bounds.high + shift)
    assert (moved.low, moved.high) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_an_interval_for_itself_is_at_alpha_and_several_between_alpha_and_sidaks_level():
    contrasts = [crossed(seed=number) for number in range(6)]
    assert simultaneous(contrasts[:1], 0.05)[0].level == 0.05
    found = simultaneous(contrasts, 0.05)
    sidak = 1 - 0.95 ** (1 / 6)
    assert all(sidak <= one.level <= 0.05 for one in found)
    assert found[0].level == pytest.approx(sidak, rel=0.03)  # these share nothing
    for one, contrast in zip(found, contrasts, strict=True):
        half = paired(*contrast).half_width(one.level)
        assert (one.low, one.high) == pytest.approx((one.paired.difference - half, one.paired.difference + half))
        assert half >= paired(*contrast).half_width(0.05)
        assert one.critical == pytest.approx(half / one.paired.standard_error)


def test_the_same_contrast_again_costs_nothing():
    contrast = crossed(seeds=1, examples=400)
    assert simultaneous([contrast] * 5, 0.05)[0].level == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize(("methods", "critical"), [(2, 2.21), (5, 2.51), (9, 2.69)])
def test_methods_against_one_reference_get_dunnetts_critical_value(methods, critical):
    # Dunnett 1964, Biometrics 20:482, table III: two-sided 5 %, infinitely many degrees of freedom.
    generator = np.random.default_rng(1)
    runs = [generator.normal(size=(1, 20_000)) for _ in range(methods + 1)]
    found = simultaneous([(run, runs[0]) for run in runs[1:]], 0.05)
    assert found[0].critical == pytest.approx(critical, abs=0.015)


def test_the_common_level_does_not_depend_on_the_differences_themselves():
    contrasts = [crossed(seed=number) for number in range(4)]
    moved = [(method + 50.0, reference) for method, reference in contrasts]
    assert simultaneous(moved, 0.05)[0].level == pytest.approx(simultaneous(contrasts, 0.05)[0].level, rel=1e-6)


def test_what_is_shared_through_seeds_is_not_counted_on():
    runs = np.random.default_rng(2).normal(size=(7, 3, 1)) + np.zeros((1, 1, 50))
    found = simultaneous([(run, runs[0]) for run in runs[1:]], 0.05)
    assert found[0].level == pytest.approx(1 - 0.95 ** (1 / 6), rel=0.03)


def test_contrasts_may_have_different_seeds():
    one, other = crossed(seeds=5, seed=1), crossed(seeds=3, seed=2)
    found = simultaneous([one, other], 0.05)
    assert [bounds.paired.seeds for bounds in found] == [5, 3]


def test_the_mean_over_tasks_adds_variances():
    tasks = [crossed(seeds=3, examples=40, seed=1), crossed(seeds=5, examples=90, seed=2)]
    [bounds] = mean_over_tasks([tasks], 0.05)
    parts = [paired(*task) for task in tasks]
    assert bounds.paired.difference == pytest.approx(np.mean([part.difference for part in parts]))
    variance = sum(part.standard_error**2 for part in parts) / 4
    assert bounds.paired.standard_error == pytest.approx(math.sqrt(variance))
    squares = [anova(method - reference) for method, reference in tasks]
    few = [rows / (s * n) / 4 for (_, rows, _, _), (s, n) in zip(squares, ((3, 40), (5, 90)), strict=True)]
    many = [(c - rest) / (s * n) / 4 for (_, _, c, rest), (s, n) in zip(squares, ((3, 40), (5, 90)), strict=True)]
    few_degrees = sum(few) ** 2 / (few[0] ** 2 / 2 + few[1] ** 2 / 4)
    many_degrees = sum(many) ** 2 / (many[0] ** 2 / 39 + many[1] ** 2 / 89)
    quantiles = [stats.t.ppf(0.975, degrees) for degrees in (few_degrees, many_degrees)]
    half = (sum(few) * quantiles[0] + sum(many) * quantiles[1]) / variance * math.sqrt(variance)
    assert bounds.high - bounds.paired.difference == pytest.approx(half)
    assert mean_over_tasks([[tasks[0]]], 0.05) == simultaneous([tasks[0]], 0.05)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="not of the same seeds and examples"):
        paired(np.zeros((3, 5)), np.zeros((3, 6)))
    with pytest.raises(ValueError, match="number of examples"):
        simultaneous([crossed(examples=5), crossed(examples=6)], 0.05)
    with pytest.raises(ValueError, match="number of tasks"):
        mean_over_tasks([[crossed()], [crossed(), crossed()]], 0.05)
    for alpha in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="alpha"):
            simultaneous([crossed()], alpha)
    assert simultaneous([], 0.05) == []
