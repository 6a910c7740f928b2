"""Steps of few lengths compute what steps as long as their longest example do."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft.eval import kinds
from graft.recipes import hardware, heap
from graft.recipes import plan as plan_module
from graft.recipes.batching import micro_batches, padded_share, rounded
from graft.recipes.building import build, gather
from graft.recipes.frozen import Frozen
from graft.recipes.joining import obstacle
from graft.recipes.speed import explain_speed
from graft.recipes.step import train_step
from graft.recipes.sweep import join

CPU = torch.device("cpu")
LENGTHS = ("rounded", "exact")


@pytest.fixture(autouse=True)
def compiles(monkeypatch):
    """Be a processor that compiles matrix products for every length."""
    monkeypatch.setattr(hardware, "compiles_lengths", lambda device, precision: True)


@pytest.fixture
def shapes(monkeypatch):
    """Note the shape of every batch that is made."""
    seen, real = [], kinds.collate

    def collate(*given):
        batch = real(*given)
        seen.append(tuple(batch.inputs["input_ids"].shape))
        return batch

    monkeypatch.setattr(kinds, "collate", collate)
    return seen


def trained(recipe, steps=6, **kept):
    """Take steps, and tell the state."""
    state = build(gather(recipe), CPU)
    if kept:
        state.frozen = Frozen(**kept)
    for _ in range(steps):
        train_step([state], Accelerator(cpu=True))
    return state


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1, 4, 5, 64, 65, 66, 99], [2, 4, 6, 64, 72, 72, 99]),
        ([31, 32, 33, 41, 57, 61], [32, 32, 36, 44, 60, 61]),
        ([128, 129, 256, 257, 300], [128, 144, 256, 288, 300]),
    ],
)
def test_lengths_are_rounded_to_what_some_example_has_room_for(lengths, expected):
    assert rounded(np.array(lengths)).tolist() == expected
    assert rounded(np.array([], dtype=np.int64)).tolist() == []


def test_micro_batches_stay_within_their_budget_when_lengths_are_rounded(tiny_recipe):
    state = build(gather(tiny_recipe()), CPU)
    rows, exact, reach = np.arange(len(state.train)), state.train.lengths, state.lengths_of(state.train)
    over = set()
    for tokens in range(int(reach.max()), 200, 7):
        for part in micro_batches(rows, reach, tokens=tokens):
            assert len(part) * state.length_of(state.train, part) <= tokens
        over |= {
            len(part) * state.length_of(state.train, part) > tokens
            for part in micro_batches(rows, exact, tokens=tokens)
        }
    assert over == {True, False}  # by exact lengths, some would not


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", ["full", "lora", "prefix", "bottleneck"])
def test_losses_stay(tiny_recipe, method, family, shapes):
    ours, plain = (
        trained(tiny_recipe(method, family, speed={"lengths": lengths}, schedule={"examples": 3}))
        for lengths in LENGTHS
    )
    few, many = shapes[: len(shapes) // 2], shapes[len(shapes) // 2 :]
    reach = dict(zip(ours.train.lengths.tolist(), rounded(ours.train.lengths).tolist(), strict=True))
    assert few == [(rows, reach[length]) for rows, length in many]
    assert few != many
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=1e-5)


@pytest.mark.parametrize(("keep", "attention"), [(True, "matmul"), (False, "sdpa")])
def test_losses_stay_above_frozen_layers(tiny_recipe, tmp_path, monkeypatch, keep, attention):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    strategy = {"name": "gradual_unfreezing", "share": 1.0}
    ours, plain = (  # from the head over the pooler down to a layer
        trained(
            tiny_recipe(
                "full",
                strategy=strategy,
                model={"dropout": 0.0},
                speed={"lengths": lengths, "attention": attention},
                schedule={"examples": 3, "epochs": 6},
            ),
            steps=75,
            keep=keep,
        )
        for lengths in LENGTHS
    )
    np.testing.assert_allclose(ours.losses, plain.losses, rtol=1e-4)


def test_steps_are_cut_by_the_lengths_that_they_are_padded_to(tiny_recipe, shapes):
    state = build(gather(tiny_recipe(schedule={"examples": 20})), CPU)
    for tokens in range(int(rounded(state.train.lengths).max()), 120, 7):
        shapes.clear()
        trained(tiny_recipe(schedule={"examples": 20}, budget={"tokens": tokens}), steps=2)
        assert max(rows * length for rows, length in shapes) <= tokens


def test_runs_that_step_together_have_their_own_losses(tiny_recipe, shapes):
    recipes = [tiny_recipe("lora", seed=seed, schedule={"examples": 3}) for seed in (1, 2)]
    together = [build(gather(recipe), CPU) for recipe in recipes]
    assert obstacle(together) is None
    assert join(together, Accelerator(cpu=True)) is None
    reach = set(rounded(together[0].train.lengths).tolist())
    assert reach != set(together[0].train.lengths.tolist())
    for _ in range(5):
        train_step(together, Accelerator(cpu=True))
    assert {length for _, length in shapes} <= reach
    for recipe, state in zip(recipes, together, strict=True):
        alone = trained(recipe, steps=5)
        np.testing.assert_allclose(state.losses, alone.losses, rtol=1e-4)


def test_padding_is_told_before_and_after(tiny_recipe):
    recipe = tiny_recipe(schedule={"examples": 3})
    state = build(gather(recipe), CPU)
    told = explain_speed(recipe, state)["lengths"]
    shares = [float(word.rstrip("%")) for word in told.split() if word.endswith("%")]
    assert shares[0] > shares[1]
    plan = [np.array([0, 1]), np.array([2])]
    assert padded_share(plan, np.array([3, 5, 30])) == pytest.approx(1 - 38 / 40)
    assert padded_share(plan, np.array([3, 5, 30]), np.array([4, 8, 30])) == pytest.approx(1 - 38 / 46)


def test_elsewhere_a_step_is_as_long_as_its_longest_example(tiny_recipe, monkeypatch, shapes):
    monkeypatch.setattr(hardware, "compiles_lengths", lambda device, precision: False)
    recipe = tiny_recipe("lora", schedule={"examples": 3})
    state = trained(recipe)
    state.step = 0
    assert shapes[0] == (3, state.train.lengths[state.rows()].max())
    assert explain_speed(recipe, state)["lengths"].startswith("rounded, but nothing is compiled for a length here")


def test_a_plan_adds_what_is_compiled_for_lengths_that_it_has_not_met(tiny_recipe, monkeypatch):
    monkeypatch.setattr(plan_module, "_TIMED", 1)
    recipe = tiny_recipe("lora", schedule={"examples": 3})
    state = build(gather(recipe), CPU)
    parts = plan_module._micro_batches(state)
    lengths = {state.length_of(state.train, part) for step in parts for part in step}
    assert 1 < len(lengths) <= heap.LENGTHS
    assert plan_module._compiled_later(state, parts) == (len(lengths) - 1) * heap.LENGTH_BYTES
    monkeypatch.setattr(heap, "LENGTHS", 2)  # no more are kept
    assert plan_module._compiled_later(state, parts) == heap.LENGTH_BYTES
    monkeypatch.setattr(hardware, "compiles_lengths", lambda device, precision: False)
    assert plan_module._compiled_later(state, parts) == 0
