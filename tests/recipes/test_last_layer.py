"""The last layer runs for the first token where that alone is read, and trains as the whole layer does."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft.adapters.methods import METHODS
from graft.recipes.building import build, gather
from graft.recipes.last_layer import install, shortens
from graft.recipes.objective import Contribution, Term
from graft.recipes.speed import explain_speed
from graft.recipes.step import train_step

CPU = torch.device("cpu")


def tokens_seen(state):
    """Take a step; tells how many tokens of an example the last layer's feed-forward part was given."""
    seen = []
    *_, last = state.model.body.get_submodule(state.model.family.layers).children()
    hook = last.intermediate.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    train_step([state], Accelerator(cpu=True))
    hook.remove()
    return max(seen)


def both(recipe_of, method="full", terms=(), **sections):
    """Train 3 steps with the shorter last layer and with the whole one."""
    speed = sections.pop("speed", {})
    states = []
    for last_layer in ("read", "all"):
        recipe = recipe_of(method, speed=speed | {"last_layer": last_layer}, **sections)
        states.append(build(gather(recipe), CPU, terms))
        for _ in range(3):
            train_step([states[-1]], Accelerator(cpu=True))
    return states


def assert_alike(short, whole):
    np.testing.assert_allclose(short.losses, whole.losses, rtol=1e-5)
    for one, other in zip(short.learners, whole.learners, strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-5)


# A step of AdamW is as long for a tiny gradient as for a large one: where gradients are all but zero, bits decide.
STEADY = {"optim": {"lr": 1e-3, "eps": 1e-3}}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_alike(method, tiny_recipe):
    short, whole = both(tiny_recipe, method, **STEADY)
    assert_alike(short, whole)
    assert (tokens_seen(short) == 1) == (method != "probe")  # nothing of its last layer learns
    assert tokens_seen(whole) > 1


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_every_placement_of_a_bottleneck_trains_alike(placement, tiny_recipe):
    short, whole = both(tiny_recipe, {"name": "bottleneck", "placement": placement}, **STEADY)
    assert_alike(short, whole)
    assert tokens_seen(short) == 1


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"pooling": "cls"}},
        {"speed": {"attention": "sdpa", "dropout": "stock"}, "model": {"dropout": 0.0}},
        {"speed": {"precision": "bf16"}, "model": {"dropout": 0.0}},
        {"budget": {"gradient_checkpointing": True}},
        {"budget": {"tokens": 50}},
    ],
    ids=["cls", "sdpa", "bf16", "recomputed", "micro-batches"],
)
def test_it_holds_with_every_other_switch(method, sections, tiny_recipe):
    named = {"name": "lora", "dropout": 0.0} if method == "lora" else method
    short, whole = both(tiny_recipe, named, **sections, **STEADY)
    if "precision" in sections.get("speed", {}):
        np.testing.assert_allclose(short.losses, whole.losses, rtol=1e-2)
        for one, other in zip(short.learners, whole.learners, strict=True):
            moved = (one.weight - other.weight).norm()
            assert moved < 0.02 * other.weight.norm() + 1e-3
    else:
        assert_alike(short, whole)
    assert tokens_seen(short) == 1
    assert tokens_seen(whole) > 1


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"speed": {"last_layer": "all"}}, "all: computed for every token"),
        ({"model": {"pooling": "mean"}}, "all: the head reads more than the first token"),
        ({"model": {"pooling": "last"}}, "all: the head reads more than the first token"),
    ],
)
def test_where_more_is_read_the_whole_layer_runs(sections, why, tiny_recipe):
    recipe = tiny_recipe(**sections)
    state = build(gather(recipe), CPU)
    assert explain_speed(recipe, state)["last_layer"].startswith(why)
    assert tokens_seen(state) > 1


def test_a_term_that_reads_hidden_states_gets_all_of_them(tiny_recipe):
    class Reader(Term):
        name = "reader"
        needs = frozenset({"hidden"})

        def on_batch(self, context):
            assert all(layer.shape[1] > 1 for layer in context.outputs.hidden)
            return Contribution(losses=context.outputs.hidden[-1].square().mean(dim=(1, 2)))

    recipe = tiny_recipe()
    state = build(gather(recipe), CPU, [Reader()])
    assert tokens_seen(state) > 1
    assert explain_speed(recipe, state)["last_layer"] == "all: a term needs all hidden states"


def test_scoring_runs_the_whole_layer_and_training_says_what_it_saves(tiny_recipe):
    recipe = tiny_recipe("lora")
    materials = gather(recipe)
    state = build(materials, CPU)
    assert explain_speed(recipe, state)["last_layer"].startswith("read: ")
    batch = state.kind.collate(state.train, [0, 1, 2])
    with state.evaluating():
        hidden = state.model.body(**batch.inputs).last_hidden_state
    assert hidden.shape[:2] == batch.inputs["input_ids"].shape


def test_a_copy_runs_with_weights_of_its_own(tiny_recipe):
    model = build(gather(tiny_recipe(model={"dropout": 0.0})), CPU).model.train()
    inputs = {"input_ids": torch.arange(5, 17).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    before = model.features(inputs)
    copied = copy.deepcopy(model)
    *_, last = copied.body.get_submodule(model.family.layers).children()
    for part in (last.attention.get_submodule("self").value, last.attention.output.dense):
        kept = part.weight.detach().clone()
        with torch.no_grad():
            part.weight.normal_()
        assert not torch.allclose(copied.features(inputs), before)
        with torch.no_grad():
            part.weight.copy_(kept)
        assert torch.equal(copied.features(inputs), before)


def test_a_prefix_is_read_as_well(tiny_recipe):
    state = build(gather(tiny_recipe("prefix", model={"dropout": 0.0})), CPU)
    model = state.model.train()
    assert shortens(model)
    install(model)
    inputs = {"input_ids": torch.arange(5, 17).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}
    short = model.features(inputs)
    torch.testing.assert_close(short, model.eval().features(inputs))
    with torch.no_grad():
        for learner in state.learners:
            learner.weight.add_(1.0)
    assert not torch.allclose(model.train().features(inputs), short)


@pytest.mark.parametrize("change", [{"is_decoder": True}, {"chunk_size_feed_forward": 2}], ids=["decoder", "chunks"])
def test_a_layer_that_cannot_do_with_one_token_runs_whole(change, tiny_bert, tiny_recipe, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(tiny_bert, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    state = build(gather(tiny_recipe(model={"name": str(folder)})), CPU)
    assert not shortens(state.model)
    assert not state.shortened


def test_a_layer_that_rests_says_so(tiny_recipe):
    recipe = tiny_recipe("probe")
    told = explain_speed(recipe, build(gather(recipe), CPU))["last_layer"]
    assert told == "read, but as yet without effect: the last layer does not learn"
