import math

import numpy as np
import pytest
from scipy import stats

from graft.eval import sequential
from graft.eval.paired import Components, paired, simultaneous
from graft.eval.sequential import decide, information, next_look

COMPONENTS = Components(2.0, 360.0, 600.0)


def looks(shares, alpha=0.05, methods=1):
    past = []
    for share in shares:
        past.append(next_look(alpha, past, share, methods))
    return past


def test_levels_at_five_equal_looks_are_the_published_ones(normal):
    # Two-sided 5 %, O'Brien-Fleming type: Reboussin et al. 2000, Control Clin Trials 21:190.
    criticals = [stats.norm.isf(look.level / 2) for look in looks([0.2, 0.4, 0.6, 0.8, 1.0])]
    assert criticals == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


@pytest.fixture
def normal(monkeypatch):
    """Estimates of known variance, for which levels are exact."""
    monkeypatch.setattr(sequential, "_STEADINESS", 1.0)


def test_a_single_look_spends_all_of_alpha():
    [look] = looks([1.0])
    assert look.level == pytest.approx(0.05)
    [look] = looks([1.0], methods=6)
    assert look.level == pytest.approx(0.05)
    assert look.spent == pytest.approx(1 - 0.95 ** (1 / 6))


def test_a_process_with_independent_increments_crosses_with_probability_alpha(normal):
    shares = np.array([0.55, 0.7, 0.9, 0.97, 1.0])
    levels = [look.level for look in looks(shares)]
    steps = np.sqrt(np.diff(shares, prepend=0.0))
    walks = np.cumsum(np.random.default_rng(0).normal(size=(400_000, 5)) * steps, axis=1) / np.sqrt(shares)
    crossed = (np.abs(walks) > stats.norm.isf(np.array(levels) / 2)).any(axis=1)
    assert crossed.mean() == pytest.approx(0.05, abs=0.0015)


@pytest.mark.parametrize("at", [(3, 5, 10, 20), (3, 4, 5, 6, 7, 8, 9, 10), (3, 5)])
def test_student_statistics_of_ever_more_seeds_keep_the_level(at):
    runs = np.random.default_rng(0).normal(size=(100_000, at[-1]))
    crossed = np.zeros(len(runs), bool)
    for seeds, look in zip(at, looks([seeds / at[-1] for seeds in at]), strict=True):
        statistic = runs[:, :seeds].mean(axis=1) / runs[:, :seeds].std(axis=1, ddof=1) * math.sqrt(seeds)
        crossed |= np.abs(statistic) > stats.t.isf(look.level / 2, seeds - 1)
    assert 0.045 < crossed.mean() < 0.0525


def test_information_that_does_not_grow_pays_for_nothing():
    first, again, last = looks([0.8, 0.8, 1.0])
    assert again.spent == first.spent
    assert again.level == pytest.approx(0.0, abs=1e-9)
    assert last.level > first.level
    shrunk = next_look(0.05, [first], 0.5)  # estimates of information may go down
    assert (shrunk.information, shrunk.spent) == (0.8, first.spent)


def test_levels_do_not_fall_from_look_to_look_as_information_grows():
    levels = [look.level for look in looks([0.3, 0.5, 0.7, 0.9, 1.0], methods=6)]
    assert levels == sorted(levels)
    assert levels[-1] < 0.05


def test_information_is_the_share_of_the_last_looks_variance_with_seeds_at_their_upper_bound():
    larger = 4 / stats.chi2.ppf(0.2, 4)  # four degrees of freedom: 80 % of variances lie below this many estimates
    now, then = (larger * 2.0 / s + 360 / 408 + larger * 600 / (408 * s) for s in (5, 20))
    assert information([COMPONENTS], 5, 20, 408) == pytest.approx(then / now)
    assert information([COMPONENTS, Components(9.0, 1.0, 1.0)], 5, 20, 408) == pytest.approx(0.25, abs=0.01)
    assert information([COMPONENTS], 20, 20, 408) == 1.0
    assert information([Components(0.0, 0.0, 0.0)], 5, 20, 408) == 0.25  # runs that agree tell nothing of how they vary
    assert information([], 5, 20, 408) == 0.25


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.5), (1.0, 0.5), (0.05, 0.0), (0.05, 1.1)])
def test_levels_and_information_out_of_range_are_refused(alpha, share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        next_look(alpha, [], share)


def bounds(difference, spreads, seeds=5, examples=400, seed=0):
    """Bounds of data with exactly this mean difference."""
    generator = np.random.default_rng(seed)
    table = generator.normal(0, spreads[0], (seeds, 1)) + generator.normal(0, spreads[1], (1, examples))
    table = table + generator.normal(0, spreads[2], (seeds, examples))
    return simultaneous([(table - table.mean() + difference, np.zeros_like(table))], 0.05)[0]


def test_an_interval_that_shows_a_size_decides():
    assert decide(bounds(0.1, (0.1, 1, 1)), margin=1.0, alpha=0.05) == "decided"
    assert decide(bounds(5.0, (0.1, 1, 1)), margin=1.0, alpha=0.05) == "decided"
    assert decide(bounds(0.5, (0.1, 1, 1)), margin=None, alpha=0.05) == "decided"


def test_seeds_that_may_still_narrow_the_interval_are_asked_for():
    wide = bounds(0.2, (3, 1, 1))
    assert wide.high > 1.0
    assert decide(wide, margin=1.0, alpha=0.05) == "go on"
    assert decide(wide, margin=1.0, alpha=0.05, last=True) == "cannot be decided"
    assert decide(bounds(0.0, (3, 1, 1)), margin=None, alpha=0.05) == "go on"


def test_examples_that_bar_a_decision_end_it():
    # The examples alone give ± 1.96 * 30 / 20 = 2.9 points, whatever the seeds.
    assert decide(bounds(0.2, (0.3, 30, 5)), margin=1.0, alpha=0.05) == "cannot be decided"
    assert decide(bounds(1.0, (0.3, 30, 5)), margin=None, alpha=0.05) == "cannot be decided"


def test_a_margin_that_examples_bar_may_still_be_passed_by_a_large_difference():
    far = bounds(5.0, (6, 30, 5))  # beyond 1 + 2.9 points, but not yet shown with these seeds
    assert decide(far, margin=1.0, alpha=0.05) == "go on"


def test_one_seed_asks_for_more_and_one_example_for_nothing():
    alone = simultaneous([(np.random.default_rng(0).normal(0, 30, (1, 100)), np.zeros((1, 100)))], 0.05)[0]
    assert decide(alone, margin=1.0, alpha=0.05) == "go on"
    nothing = simultaneous([(np.ones((3, 1)), np.zeros((3, 1)))], 0.05)[0]
    assert decide(nothing, margin=1.0, alpha=0.05) == "cannot be decided"


def test_estimates_with_more_seeds_have_the_covariance_that_levels_are_computed_with():
    generator, early, late = np.random.default_rng(0), [], []
    for _ in range(3000):
        table = generator.normal(0, 1.4, (8, 1)) + generator.normal(0, 19, (1, 60)) + generator.normal(0, 24, (8, 60))
        early.append(paired(table[:3], np.zeros((3, 60))).difference)
        late.append(paired(table, np.zeros((8, 60))).difference)
    now, then = (1.4**2 / s + 19.0**2 / 60 + 24.0**2 / (60 * s) for s in (3, 8))
    assert np.corrcoef(early, late)[0, 1] == pytest.approx(math.sqrt(then / now), abs=0.02)
