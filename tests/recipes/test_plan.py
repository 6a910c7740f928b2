"""A plan counts what training then takes, and trains nothing."""

import pytest
import torch
from accelerate import Accelerator

from graft.errors import RecipeError, TrainingError
from graft.recipes import cost as cost_module
from graft.recipes import plan as plan_module
from graft.recipes.building import build, gather
from graft.recipes.cost import Trial
from graft.recipes.plan import plan
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import run_alone


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
    backbone = sum(p.nbytes for p in state_of(tiny_recipe("full")).model.backbone.parameters())
    assert (plain.reference, held.reference) == (0, backbone)
    cut = plan_module._work_out(tiny_recipe("full", budget={"tokens": 30}))
    assert cut.micro_batches > 1
    assert cut.memory.activations < plain.activations


def test_gradient_checkpointing_shows_in_the_plan(tiny_recipe):
    kept = [
        plan_module._work_out(tiny_recipe("full", budget={"gradient_checkpointing": on})).memory.activations
        for on in (False, True)
    ]
    assert kept[1] < kept[0]


def test_a_trial_lets_all_learn_that_ever_learns_and_takes_the_longest_example(tiny_recipe):
    state = state_of(tiny_recipe("full", strategy="gradual_unfreezing", schedule={"steps": 2}))
    trial = Trial(state, Accelerator(cpu=True))
    largest = trial.largest()
    assert int(state.train.lengths.argmax()) in largest
    for _ in range(4):  # more than the run has
        assert trial.take(largest) > 0
    assert all(learner.weight.requires_grad for learner in state.learners)


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
