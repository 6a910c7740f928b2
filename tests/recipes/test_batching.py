"""The plan of an epoch is global and pure; cutting it into micro-batches loses nothing."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from graft.recipes.batching import epoch_plan, micro_batches, padded_share, steps_per_epoch, stream_rows

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
    lengths = np.random.default_rng(0).integers(5, 120, 2000)
    bucketed, plain = (
        padded_share(epoch_plan(lengths, seed=1, epoch=0, examples=32, buckets=buckets), lengths)
        for buckets in (True, False)
    )
    assert bucketed < 0.1 < plain


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 30))
def test_a_stream_goes_round_its_data_epoch_by_epoch(size, examples, steps):
    drawn = np.concatenate(
        [stream_rows(size, seed=1, name="target", step=step, examples=examples) for step in range(steps + 1)]
    )
    whole = len(drawn) // size * size
    for epoch in drawn[:whole].reshape(-1, size):
        assert sorted(epoch.tolist()) == list(range(size))
