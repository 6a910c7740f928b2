"""Runs that step together have the losses, weights and moments that each has by itself, or say why they step apart."""

import shutil
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from graft.recipes import sweep as sweep_module
from graft.recipes.building import build, gather
from graft.recipes.checkpoints import restore, save
from graft.recipes.joining import frozen_weights
from graft.recipes.step import train_step
from graft.recipes.stock import Stock
from graft.recipes.sweep import join

CPU = torch.device("cpu")
VARIED: tuple[dict[str, Any], ...] = (
    {"seed": 1},
    {"seed": 2, "optim": {"lr": 3e-3}},
    {"seed": 1, "optim": {"lr": 1e-3, "clip": 0.05}},
    {"seed": 2, "optim": {"lr": 1e-3, "weight_decay": 0.1}},
)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def states(tiny_recipe):
    """Build runs that differ in seed, rate and clipping, as often as they are wanted."""
    stock = Stock()

    def make(method="lora", family="bert", varied=VARIED, **sections):
        schedule = {"schedule": {"epochs": 2, "examples": 7}}  # 61 examples: a short step in each epoch
        recipes = [tiny_recipe(method, family, **(schedule | sections | change)) for change in varied]
        return [build(gather(recipe, stock=stock), CPU) for recipe in recipes]

    return make


def steps(states, accelerator, count=17):
    for _ in range(count):
        train_step(states, accelerator)


def apart(states, accelerator, count=17):
    for state in states:
        steps([state], accelerator, count)
    return states


def close(mine, theirs, tolerance=1e-4):
    torch.testing.assert_close(mine.losses, theirs.losses, rtol=tolerance, atol=tolerance)
    for one, two in zip(mine.learners, theirs.learners, strict=True):
        torch.testing.assert_close(one.weight, two.weight, rtol=tolerance, atol=tolerance)
        kept, wanted = (state.optimizer.state[w] for state, w in ((mine, one.weight), (theirs, two.weight)))
        for name in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(kept[name], wanted[name], rtol=1e-2, atol=tolerance)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"pooling": "mean"}},
        {"method": {"name": "lora", "dropout": 0.2, "rslora": True, "targets": ["query", "up"]}},
        {"family": "gpt2", "task": {"kind": "causal_lm", "label": None}},
        {"strategy": {"name": "layerwise_decay", "decay": 0.5}},
    ],
    ids=["first", "mean", "dropout", "language", "layerwise"],
)
def test_each_run_learns_what_it_learns_by_itself(states, accelerator, sections):
    together, alone = states(**sections), apart(states(**sections), accelerator)
    assert join(together, accelerator) is None
    steps(together, accelerator)
    assert len({tuple(state.losses) for state in together}) == len(together)
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)
        assert (mine.step, mine.examples_seen) == (theirs.step, theirs.examples_seen)


def test_bf16_stays_within_its_rounding(states, accelerator):
    half = {"speed": {"precision": "bf16"}}
    together, alone = states(**half), apart(states(**half), accelerator, 4)
    assert join(together, accelerator) is None
    steps(together, accelerator, 4)
    for mine, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(mine.losses, theirs.losses, rtol=0.03, atol=0.03)


def test_the_base_and_the_arrays_are_shared(states, accelerator):
    together = states()
    assert join(together, accelerator) is None
    frozen = [{weight.data_ptr() for weight in frozen_weights(state)} for state in together]
    assert frozen[0] == frozen[1] == frozen[2]
    own = [{learner.weight.data_ptr() for learner in state.learners} for state in together]
    assert not own[0] & own[1]
    before = [state.learned() for state in together]
    steps(together, accelerator, 2)
    assert all(
        not torch.equal(state.learned()[name], weight)
        for state, learned in zip(together, before, strict=True)
        for name, weight in learned.items()
    )


def test_a_budget_divides_the_runs_and_changes_nothing(states, accelerator, monkeypatch):
    together, alone = states(), apart(states(), accelerator)
    assert join(together, accelerator) is None
    sizes = []
    forward = sweep_module.Sweep._forward

    def counted(self, runs, chosen):
        sizes.append(len(runs))
        return forward(self, runs, chosen)

    monkeypatch.setattr(sweep_module.Sweep, "_forward", counted)
    for state in together:
        state.tokens = 2 * 7 * 24 + 24  # room for two runs, and in the short step of 5 examples for three
    steps(together, accelerator)
    assert 2 in sizes
    assert 3 in sizes
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)


def test_memory_that_runs_out_takes_fewer_runs_together(states, accelerator, monkeypatch):
    together, alone = states(), apart(states(), accelerator)
    assert join(together, accelerator) is None
    forward, refused = sweep_module.Sweep._forward, []

    def scarce(self, runs, chosen):
        found = forward(self, runs, chosen)
        if len(runs) > 2:
            refused.append(runs)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return found

    monkeypatch.setattr(sweep_module.Sweep, "_forward", scarce)
    for state in together:
        state.tokens = 700
    steps(together, accelerator)
    assert refused
    assert {state.tokens for state in together} == {together[0].tokens}
    assert together[0].tokens < 700
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)


def test_a_run_that_ends_early_leaves_the_others_to_go_on(states, accelerator):
    together, alone = states(), apart(states(), accelerator, 6)
    apart(alone[1:], accelerator, 6)
    assert join(together, accelerator) is None
    steps(together, accelerator, 6)
    steps(together[1:], accelerator, 6)
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)
    steps(together[:1], accelerator, 6)
    steps(together, accelerator, 6)  # all at one step again
    apart(alone[:1], accelerator, 6)
    for mine, theirs in zip(together, apart(alone, accelerator, 6), strict=True):
        close(mine, theirs)


def test_runs_go_on_together_from_checkpoints(states, accelerator, tmp_path):
    whole, first, second = states(), states(), states()
    for some in (whole, first):
        assert join(some, accelerator) is None
    steps(whole, accelerator, 8)
    steps(first, accelerator, 5)
    for number, (state, fresh) in enumerate(zip(first, second, strict=True)):
        restore(save(tmp_path / str(number), state, "d"), fresh, "d")
    assert join(second, accelerator) is None
    steps(second, accelerator, 3)
    for mine, theirs in zip(second, whole, strict=True):
        close(mine, theirs, 1e-6)


def test_a_run_that_fails_names_its_examples_and_the_others_go_on(states, accelerator):
    together = states()
    assert join(together, accelerator) is None
    steps(together, accelerator, 1)
    with torch.no_grad():
        together[1].model.heads["default"].get_parameter("classifier.weight").fill_(float("nan"))
    before = [state.learned() for state in together]
    steps(together, accelerator, 1)
    assert "step 1: the loss is nan (training examples [" in str(together[1].failed)
    assert together[1].done
    torch.testing.assert_close(together[1].learned(), before[1], equal_nan=True, rtol=0, atol=0)
    alone = apart(states(), accelerator, 5)
    going = [state for state in together if not state.done]
    assert len(going) == 3
    steps(going, accelerator, 3)
    for state, other in zip(together, alone, strict=True):
        if state is not together[1]:
            close(state, other)


REASONS = [
    ({"varied": VARIED[:1]}, "one run"),
    ({"varied": ({"seed": 1}, {"seed": 1, "optim": {"betas": [0.8, 0.99]}})}, "differ in more than seed"),
    ({"varied": ({"seed": 1}, {"seed": 2, "task": {"train_size": 30}})}, "differ in more than seed"),
    ({"objective": {"terms": [{"name": "l2sp"}]}}, "terms"),
    ({"budget": {"gradient_checkpointing": True}}, "recomputed activations"),
    ({"speed": {"dropout": "stock"}}, "torch's generator"),
    ({"speed": {"attention": "sdpa"}}, "torch's generator"),
    ({"method": "full"}, "something else learns than plain LoRA"),
    ({"method": "bottleneck"}, "something else learns than plain LoRA"),
    ({"method": "probe"}, "something else learns than plain LoRA"),
    ({"method": {"name": "lora", "dora": True}}, "something else learns than plain LoRA"),
    ({"strategy": "gradual_unfreezing"}, "lets parts of them rest"),
]


@pytest.mark.parametrize(("sections", "reason"), REASONS, ids=[str(number) for number in range(len(REASONS))])
def test_runs_that_cannot_step_together_say_why(states, accelerator, sections, reason):
    apart_ = states(**sections)
    assert reason in str(join(apart_, accelerator))
    assert all(state.sweep is None for state in apart_)


def test_other_weights_and_other_steps_keep_runs_apart(states, accelerator):
    some = states()
    with torch.no_grad():
        frozen_weights(some[1])[3].add_(0.1)
    assert join(some, accelerator) == "their frozen weights differ"
    others = states()
    steps(others[:1], accelerator, 1)
    assert join(others, accelerator) == "they have done different numbers of steps"


def test_a_fresh_pooler_learns_for_each_run_by_itself(states, accelerator, tiny_bert, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "no_pooler")
    file = tmp_path / "no_pooler" / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if not name.startswith("pooler.")}
    save_file(weights, file, metadata={"format": "pt"})
    fresh = {"model": {"name": str(tmp_path / "no_pooler")}}
    together, alone = states(**fresh), apart(states(**fresh), accelerator)
    assert any("pooler" in learner.name for learner in together[0].learners)
    assert join(together, accelerator) is None
    steps(together, accelerator)
    for mine, theirs in zip(together, alone, strict=True):
        close(mine, theirs)
