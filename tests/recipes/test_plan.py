"""A plan counts what training then takes, and trains nothing."""

import pytest
import torch

from graft.errors import TrainingError
from graft.recipes import plan as plan_module
from graft.recipes.building import build, gather
from graft.recipes.cost import largest_step
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
    monkeypatch.setattr(plan_module, "train_step", None)
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


def test_the_largest_step_is_found_and_nothing_moves(tiny_recipe):
    state = state_of(tiny_recipe("full"))
    state.step = largest_step(state)
    assert int(state.train.lengths.argmax()) in state.rows()
    state.step = 0
    assert largest_step(state) == largest_step(state)
    assert state.step == 0


def test_a_process_that_fails_says_its_last_words(tiny_recipe):
    with pytest.raises(TrainingError, match=r"graft.recipes.cost failed: (.|\n)*invalid literal"):
        run_alone("graft.recipes.cost", tiny_recipe("full"), "many")
