"""The plan of an epoch is global and pure; cutting it into micro-batches loses nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.recipes.batching import epoch_plan, micro_batches, padded_share, pool_steps, steps_per_epoch, stream_rows

lengths_of = st.lists(st.integers(1, 128), min_size=1, max_size=400).map(np.array)


@given(lengths_of, st.integers(0, 9), st.integers(0, 3), st.integers(1, 33), st.booleans())
def test_an_epoch_holds_every_example_once(lengths, seed, epoch, examples, buckets):
    plan = epoch_plan(lengths, seed=seed, epoch=epoch, examples=examples, buckets=buckets)
    assert len(plan) == steps_per_epoch(len(lengths), examples)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert sorted(len(rows) for rows in plan)[1:] == [examples] * (len(plan) - 1)


@given(lengths_of, st.integers(0, 9), st.integers(0, 3))
def test_a_plan_is_pure_in_seed_and_epoch(lengths, seed, epoch):
    def plan(seed, epoch):
        return np.concatenate(epoch_plan(lengths, seed=seed, epoch=epoch, examples=8, buckets=True)).tolist()

    assert plan(seed, epoch) == plan(seed, epoch)
    if len(lengths) > 100:
        assert plan(seed, epoch) != plan(seed, epoch + 1)
        assert plan(seed, epoch) != plan(seed + 1, epoch)


@given(lengths_of, st.integers(1, 4), st.integers(1, 600))
def test_ranks_share_a_step_without_gap_or_overlap_and_within_the_budget(lengths, world, tokens):
    rows = np.arange(len(lengths))[::2]
    parts = [
        part for rank in range(world) for part in micro_batches(rows, lengths, tokens=tokens, rank=rank, world=world)
    ]
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert all(len(part) == 1 or len(part) * lengths[part].max() <= tokens for part in parts)


def test_buckets_waste_less_on_padding():
    lengths = np.random.default_rng(0).integers(5, 120, 4000)
    bucketed, plain = (
        padded_share(epoch_plan(lengths, seed=1, epoch=0, examples=32, buckets=buckets), lengths)
        for buckets in (True, False)
    )
    assert bucketed < 0.1 < plain


@pytest.mark.parametrize(
    ("steps", "together"),
    [(1, 1), (15, 1), (16, 2), (32, 4), (59, 7), (60, 15), (115, 28), (159, 39), (160, 40), (9999, 40)],
)
def test_at_most_a_quarter_of_an_epoch_is_sorted_together_and_an_eighth_of_a_short_one(steps, together):
    assert pool_steps(steps) == together


def test_steps_of_a_short_epoch_hold_all_lengths():
    lengths = np.random.default_rng(0).integers(5, 120, 15 * 32)
    bucketed, plain = (epoch_plan(lengths, seed=1, epoch=0, examples=32, buckets=buckets) for buckets in (True, False))
    assert sorted(sorted(rows.tolist()) for rows in bucketed) == sorted(sorted(rows.tolist()) for rows in plain)


def test_a_steps_examples_come_from_one_pool_of_the_shuffled_epoch():
    lengths = np.random.default_rng(0).integers(5, 120, 32 * 32)
    bucketed, plain = (epoch_plan(lengths, seed=1, epoch=0, examples=32, buckets=buckets) for buckets in (True, False))
    pool = np.empty(len(lengths), np.int64)
    for number in range(8):
        pool[np.concatenate(plain[4 * number : 4 * number + 4])] = number
    assert all(len(set(pool[rows])) == 1 for rows in bucketed)
    spread = [int(np.ptp(lengths[rows])) for rows in bucketed]
    assert np.mean(spread) < 60  # sorted from end to end it would be 4, as shuffled 107


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 30))
def test_a_stream_goes_round_its_data_epoch_by_epoch(size, examples, steps):
    drawn = np.concatenate(
        [stream_rows(size, seed=1, name="target", step=step, examples=examples) for step in range(steps + 1)]
    )
    whole = len(drawn) // size * size
    for epoch in drawn[:whole].reshape(-1, size):
        assert sorted(epoch.tolist()) == list(range(size))
