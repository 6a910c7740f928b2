"""A plan counts what training then takes, and trains nothing."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft.errors import RecipeError, TrainingError
from graft.recipes import cost as cost_module
from graft.recipes import live_memory
from graft.recipes import plan as plan_module
from graft.recipes.batching import micro_batches
from graft.recipes.building import build, gather
from graft.recipes.cost import Trial
from graft.recipes.plan import plan
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import run_alone
from graft.recipes.step import forward_backward


def state_of(recipe: Recipe):
    return build(gather(recipe), torch.device("cpu"))


def test_a_plan_names_steps_examples_parameters_and_disk(tiny_recipe):
    found = plan(tiny_recipe("lora", schedule={"epochs": 2}))
    state = state_of(tiny_recipe("lora"))
    learned = sum(learner.weight.nbytes for learner in state.learners)
    assert found.examples == {"train": 55, "holdout": 6, "validation": 37}
    assert (found.steps, found.micro_batches, found.device) == (14, 1, "cpu")
    assert found.parameters["trainable"] * 4 == found.artefact_bytes == learned
    assert found.checkpoint_bytes == 4 * learned  # weights, two moments, the best weights
    assert found.fits
    assert 0 < found.seconds_per_step < 60
    assert found.minutes > 0
    memory = found.memory
    assert (memory.gradients, memory.optimiser, memory.best) == (learned, 2 * learned, learned)
    assert memory.total > memory.runtime + memory.weights + memory.activations
    assert memory.saving == 2 * learned
    assert memory.scoring > 0


def test_what_does_not_fit_is_not_tried(tiny_recipe, monkeypatch):
    monkeypatch.setattr(plan_module, "_free", lambda _: 1)
    monkeypatch.setattr(plan_module.Trial, "take", None)
    found = plan_module._work_out(tiny_recipe("lora"))
    assert not found.fits
    assert found.seconds_per_step is None
    assert found.minutes is None
    assert found.memory.workspace is None


def test_activations_of_a_batch_follow_from_one_and_two_examples(tiny_recipe):
    state = state_of(tiny_recipe("full"))
    batch = state.train.lengths.argsort()[::-4][:6].copy()
    assert len(set(state.train.lengths[batch].tolist())) > 1  # shorter ones are padded
    assert plan_module._activations(state, batch) == plan_module._kept(state, batch)


def test_a_frozen_reference_and_several_micro_batches_count(tiny_recipe):
    plain = plan_module._work_out(tiny_recipe("full")).memory
    held = plan_module._work_out(tiny_recipe("full", objective={"terms": "l2sp"})).memory
    whole = sum(p.nbytes for p in state_of(tiny_recipe("full")).model.parameters())
    assert (plain.reference, held.reference) == (0, whole)
    cut = plan_module._work_out(tiny_recipe("full", budget={"tokens": 30}))
    assert cut.micro_batches > 1
    assert cut.memory.activations < plain.activations


def test_the_layer_that_is_computed_again_is_a_whole_one(tiny_recipe):
    read, whole = (
        plan_module._work_out(
            tiny_recipe("full", budget={"gradient_checkpointing": True}, speed={"last_layer": last_layer})
        ).memory.activations
        for last_layer in ("read", "all")
    )
    assert 0.9 * whole < read < 1.2 * whole


def test_gradient_checkpointing_shows_in_the_plan(tiny_recipe):
    speed = {"last_layer": "all"}  # of two layers, a shorter last one leaves nothing to save
    kept = [
        plan_module._work_out(
            tiny_recipe("full", budget={"gradient_checkpointing": on}, speed=speed)
        ).memory.activations
        for on in (False, True)
    ]
    assert kept[1] < kept[0]


def test_a_trial_lets_all_learn_that_ever_learns(tiny_recipe):
    state = state_of(tiny_recipe("full", strategy="gradual_unfreezing", schedule={"steps": 2}))
    trial = Trial(state, Accelerator(cpu=True))
    largest = cost_module.largest_steps(state)[0]
    for _ in range(4):  # more than the run has
        assert trial.take(largest) > 0
    assert all(learner.weight.requires_grad for learner in state.learners)


def test_the_largest_steps_are_found_among_those_of_the_whole_run(tiny_recipe):
    state = state_of(
        tiny_recipe("full", schedule={"epochs": 3, "examples": 8}, budget={"tokens": 32}, speed={"buckets": False})
    )
    lengths = state.train.lengths
    lengths[:] = 16  # two to a micro-batch
    longest = next(iter(cost_module.epochs(state)))[0][0]
    lengths[longest] = 17  # alone in its micro-batch: half the tokens of others
    assert len(list(cost_module.epochs(state))) == 3
    chosen = cost_module.largest_steps(state)
    sizes = [
        max(len(part) * int(lengths[part].max()) for part in micro_batches(rows, lengths, tokens=32)) for rows in chosen
    ]
    assert max(sizes) == 32
    assert cost_module.largest_batches(lengths, 32) != [[longest]]


def test_memory_alive_in_a_computation_follows_from_a_few_examples():
    weight = torch.ones(64, 32)

    def work(examples: int) -> torch.Tensor:
        hidden = torch.ones(examples, 64)  # 256 bytes each
        wide = hidden @ weight  # 128 bytes each
        del hidden
        return torch.cat([wide, wide]) + torch.ones(1000)[:32]  # 256 twice, and 4000 of a constant

    for examples in (1, 2, 3, 40):
        first = examples * (256 + 128)
        last = examples * (128 + 256 + 256) + 4000
        assert live_memory.peak(work, examples) == max(first, last)


@pytest.mark.parametrize("tokens", [8192, 40])
def test_a_steps_peak_is_the_same_counted_from_few_examples_and_from_all(tiny_recipe, tokens):
    state = state_of(tiny_recipe("full", objective={"terms": "l2sp"}, budget={"tokens": tokens}))
    longest = int(state.train.lengths.argmax())
    state.enter_step()
    accelerator = Accelerator(cpu=True)
    part = np.repeat(longest, 8)

    def whole(examples: int) -> None:
        state.tokens = examples * int(state.train.lengths[longest])
        forward_backward(state, np.repeat(longest, examples), accelerator)
        state.optimizer.zero_grad(set_to_none=True)

    told = plan_module._step_peak(state, part, True, accelerator)
    assert state.tokens == tokens
    assert told == live_memory._alive(whole, 8).max()
    assert told >= 2 * sum(learner.weight.nbytes for learner in state.learners)  # gradients, and what l2sp keeps
    assert all(learner.weight.grad is None for learner in state.learners)


def test_a_plan_and_a_cost_of_adalora_need_no_allocation(tiny_recipe):
    recipe = tiny_recipe({"name": "adalora", "r": 2, "initial_r": 4, "final": 0.8}, schedule={"steps": 6})
    assert plan_module._work_out(recipe).seconds_per_step > 0
    assert cost_module._main(recipe, 5)["steps"] == 5


def test_what_training_refuses_a_plan_refuses_in_the_same_words(tiny_recipe):
    with pytest.raises(RecipeError, match=r"method\.tokens: 600 leaves no room among 40 positions"):
        plan(tiny_recipe({"name": "prefix", "tokens": 600}))


def test_a_device_that_is_not_there_is_refused_before_anything_is_measured(tiny_recipe):
    absent = "mps" if torch.accelerator.current_accelerator(check_available=True) is None else "xpu"
    for work in (plan_module._work_out, lambda recipe: cost_module._main(recipe, 1)):
        with pytest.raises(RecipeError, match=f"device: {absent} is not available here"):
            work(tiny_recipe("lora", device=absent))


def test_a_process_that_fails_says_its_last_words(tiny_recipe):
    with pytest.raises(TrainingError, match=r"graft.recipes.cost failed: (.|\n)*invalid literal"):
        run_alone("graft.recipes.cost", tiny_recipe("full"), "many")
