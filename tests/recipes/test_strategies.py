"""Strategies narrow the learning set as their papers say, and are pure in the step."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.recipes.strategies import Constant, GradualUnfreezing, LayerwiseDecay, ProbeThenFineTune

ALL = [Constant(), GradualUnfreezing(), LayerwiseDecay(), ProbeThenFineTune()]


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
@given(total=st.integers(1, 500), share=st.floats(0, 1, exclude_max=True), stages=st.integers(2, 30))
def test_the_head_always_learns_and_rates_never_exceed_one(strategy, total, share, stages):
    rates = strategy.rates(int(share * total), total, stages)
    assert len(rates) == stages
    assert rates[-1] == 1.0
    assert all(0.0 <= rate <= 1.0 for rate in rates)


def test_gradual_unfreezing_thaws_from_the_top_one_stage_at_a_time():
    strategy = GradualUnfreezing(share=0.5)
    thawed = [sum(rate > 0 for rate in strategy.rates(step, 100, 6)) for step in range(100)]
    assert thawed[0] == 1
    assert thawed[50:] == [6] * 50
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(thawed))
    assert strategy.rates(0, 100, 3) == (0.0, 0.0, 1.0)


def test_layerwise_decay_falls_geometrically():
    assert LayerwiseDecay(decay=0.5).rates(3, 10, 4) == (0.125, 0.25, 0.5, 1.0)


def test_probe_then_fine_tune_changes_once():
    strategy = ProbeThenFineTune(share=0.25)
    assert strategy.rates(24, 100, 3) == (0.0, 0.0, 1.0)
    assert strategy.rates(25, 100, 3) == (1.0, 1.0, 1.0)
