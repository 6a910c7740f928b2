import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.eval.encoding import Encoded
from graft.eval.kinds import KINDS
from graft.eval.predict import plan_batches, predict
from graft.eval.ragged import Ragged

LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=30)
CPU = torch.device("cpu")


def encoded_of(lengths):
    tokens = Ragged.of([[row] * length for row, length in enumerate(lengths)], np.int32)
    count = len(lengths)
    return Encoded(tokens, None, np.arange(count) % 2, np.arange(count) + 100, np.ones(count, dtype=np.int64), 0, 0)


def forward(batch):
    """Logits that name the row: its own token, and its length."""
    return torch.stack([batch.inputs["input_ids"][:, 0], batch.inputs["attention_mask"].sum(dim=1)], dim=1).float()


def identity(items):
    return items


def run(encoded, gather=identity, rank=0, world=1, tokens=40):
    return predict(
        forward, KINDS["classification"], encoded, tokens=tokens, gather=gather, rank=rank, world=world, device=CPU
    )


class Gathered(Exception):
    pass


def on(world, encoded):
    """What the processes would give together: first each one's part, then all of them joined."""
    parts = []

    def keep(items):
        parts.append(items)
        raise Gathered

    for rank in range(world):
        with pytest.raises(Gathered):
            run(encoded, keep, rank, world)
    joined = [item for part in parts for item in part]
    return [run(encoded, lambda _: joined, rank, world) for rank in range(world)]


@given(LENGTHS, st.integers(1, 60))
def test_batches_hold_every_row_once_within_the_budget(lengths, tokens):
    batches = plan_batches(np.array(lengths), tokens)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= tokens
    longest = [max(lengths[row] for row in rows) for rows in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS)
def test_scores_come_in_the_order_of_the_rows(lengths):
    predictions = run(encoded_of(lengths))
    assert predictions.scores.tolist() == [[row, length] for row, length in enumerate(lengths)]
    assert predictions.ids.tolist() == [100 + row for row in range(len(lengths))]
    assert predictions.scores.dtype == np.float32


@pytest.mark.parametrize("world", [2, 3, 8])
def test_several_processes_score_a_set_of_odd_size_once_each(world):
    encoded = encoded_of([5, 20, 3, 7, 7, 11, 2])
    alone = run(encoded)
    for together in on(world, encoded):
        np.testing.assert_array_equal(together.scores, alone.scores)
        np.testing.assert_array_equal(together.ids, alone.ids)


@pytest.mark.parametrize(
    "spoil", [lambda items: items + items[:1], lambda items: items[1:], lambda items: items[1:] + items[1:2]]
)
def test_an_example_that_is_scored_twice_or_never_is_an_error(spoil):
    with pytest.raises(RuntimeError, match="scored once each"):
        run(encoded_of([3, 4, 5]), gather=spoil)


def test_nothing_is_kept_for_a_backward_pass():
    seen = []

    def watch(batch):
        seen.append(torch.is_inference_mode_enabled())
        return forward(batch)

    predict(watch, KINDS["classification"], encoded_of([1, 2]), tokens=9, gather=identity, rank=0, world=1, device=CPU)
    assert seen == [True]
