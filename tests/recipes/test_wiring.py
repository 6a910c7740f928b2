"""Every field of a recipe reaches what it is for: each test here fails when its field is ignored."""

import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft import load, train
from graft.adapters.methods import METHODS
from graft.errors import RunError
from graft.recipes import building, checkpoints
from graft.recipes import loop as loop_module
from graft.recipes.building import build, gather
from graft.recipes.loop import fit
from graft.recipes.options import RunOptions
from graft.recipes.step import train_step

CPU = torch.device("cpu")


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def state_of(recipe):
    return build(gather(recipe), CPU)


def losses_of(recipe, accelerator, steps=5):
    state = state_of(recipe)
    for _ in range(steps):
        train_step([state], accelerator)
    return state.losses


@pytest.mark.parametrize(
    "change",
    [
        {"optim": {"betas": (0.5, 0.9)}},
        {"optim": {"eps": 0.1}},
        {"optim": {"weight_decay": 1.0}},
        {"optim": {"clip": 0.01, "eps": 1e-3}},
        {"optim": {"lr": 1e-3}},
        {"schedule": {"warmup": 0.5}},
        {"schedule": {"decay": "constant"}},
        {"schedule": {"decay": "cosine"}},
        {"schedule": {"examples": 4}},
        {"speed": {"buckets": False}},
        {"speed": {"precision": "bf16"}},
        {"speed": {"dropout": "stock"}},
        {"speed": {"attention": "sdpa"}},
        {"seed": 2},
        {"model": {"dropout": 0.4}},
        {"model": {"pooling": "mean"}},
        {"task": {"max_length": 6}},
        {"strategy": "layerwise_decay"},
        {"objective": {"terms": "l2sp"}},
    ],
    ids=str,
)
def test_a_field_that_should_matter_changes_the_losses(tiny_recipe, accelerator, change):
    plain, changed = tiny_recipe(), tiny_recipe(**change)
    assert losses_of(plain, accelerator) != losses_of(changed, accelerator)
    assert gather(plain).digest != gather(changed).digest


@pytest.mark.parametrize(("keep", "expected"), [("best", 2), ("last", 6)])
def test_keep_says_which_weights_the_run_ends_with(tiny_recipe, accelerator, keep, expected):
    state = state_of(tiny_recipe(schedule={"steps": 6, "evaluate": 2, "keep": keep}))
    scores = iter([90.0, 50.0, 60.0])
    seen = {}

    def score(scored):
        seen[scored.step] = torch.cat([learner.weight.detach().flatten() for learner in scored.learners])
        return {"accuracy": next(scores)}

    fit([state], accelerator, score=score)
    ended = torch.cat([learner.weight.detach().flatten() for learner in state.learners])
    assert torch.equal(ended, seen[expected])
    assert not torch.equal(seen[2], seen[6])


def test_gradient_checkpointing_recomputes_layers(tiny_recipe, accelerator):
    def calls(checkpointing):
        state = state_of(tiny_recipe(budget={"gradient_checkpointing": checkpointing}))
        count = []
        state.model.body.encoder.layer[0].attention.self.query.register_forward_hook(lambda *_: count.append(1))
        train_step([state], accelerator)
        return len(count)

    assert (calls(False), calls(True)) == (1, 2)


class Doubling:
    """Wraps an attached method: doubles the rates of its matrices and counts calibration batches."""

    def __init__(self, plain):
        self._plain = plain
        self.rows = 0

    def __getattr__(self, name):
        return getattr(self._plain, name)

    def rate(self, name):
        return 2.0 if "lora_B" in name else 1.0

    def prepare(self, batches):
        self.rows = sum(len(batch) for batch in batches)


def test_a_methods_own_rates_reach_the_optimiser_and_it_may_calibrate(tiny_recipe, accelerator, monkeypatch):
    row = METHODS["lora"]
    wrapped = dataclasses.replace(row, attach=lambda *arguments: Doubling(row.attach(*arguments)))
    monkeypatch.setitem(building.METHODS, "lora", wrapped)
    state = state_of(tiny_recipe("lora"))
    assert state.attached.rows == len(state.train)
    train_step([state], accelerator)
    rates = {id(weight): group["lr"] for group in state.optimizer.param_groups for weight in group["params"]}
    by_name = {learner.name: rates[id(learner.weight)] for learner in state.learners}
    ordinary = next(rate for name, rate in by_name.items() if "lora_A" in name)
    assert all(rate == pytest.approx(2 * ordinary) for name, rate in by_name.items() if "lora_B" in name)


def test_a_rows_version_and_the_number_of_processes_are_part_of_the_digest(tiny_recipe, monkeypatch):
    recipe = tiny_recipe("lora")
    before = gather(recipe).digest
    assert gather(recipe, processes=2).digest != before
    monkeypatch.setitem(building.METHODS, "lora", dataclasses.replace(METHODS["lora"], version=99))
    assert gather(recipe).digest != before


def test_a_step_that_runs_out_of_memory_half_way_starts_over_from_no_gradient(tiny_recipe, accelerator, monkeypatch):
    recipe = tiny_recipe("lora", budget={"tokens": 60})
    plain, short = state_of(recipe), state_of(recipe)
    forward, calls = short.model.forward, []

    def hungry(inputs, **arguments):
        calls.append(1)
        if len(calls) == 2:  # the first micro-batch has left its gradients already
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(inputs, **arguments)

    monkeypatch.setattr(short.model, "forward", hungry)
    for state in (plain, short):
        train_step([state], accelerator)
    assert len(calls) > 3
    np.testing.assert_allclose(short.losses, plain.losses, rtol=1e-5)
    for one, other in zip(plain.learners, short.learners, strict=True):
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_brings_back_every_number(tmp_path, tiny_recipe, accelerator):
    recipe = tiny_recipe("lora")
    state = state_of(recipe)
    train_step([state], accelerator)
    state.tokens, state.stopped = 77, True
    path = checkpoints.save(tmp_path, state, "digest")
    fresh = state_of(recipe)
    checkpoints.restore(path, fresh, "digest")
    for name in ("step", "losses", "tokens", "stopped", "seconds", "examples_seen", "best_step", "evaluations"):
        assert getattr(fresh, name) == getattr(state, name), name


def test_a_long_epoch_is_saved_every_few_minutes(tiny_recipe, accelerator, monkeypatch):
    saved = []

    def steps_saved(seconds):
        saved.clear()
        monkeypatch.setattr(loop_module, "SAVE_SECONDS", seconds)
        state = state_of(tiny_recipe(schedule={"steps": 5, "evaluate": 100}))
        fit([state], accelerator, score=lambda _: {}, save=lambda state: saved.append(state.step))
        return list(saved)

    assert steps_saved(3600.0) == []
    assert steps_saved(0.0) == [1, 2, 3, 4]


def test_threads_are_the_recipes_during_training_and_the_callers_afterwards(tmp_path, tiny_recipe, monkeypatch):
    seen = []
    real = loop_module.train_step
    monkeypatch.setattr(
        loop_module, "train_step", lambda *arguments: (seen.append(torch.get_num_threads()), real(*arguments))
    )
    before = torch.get_num_threads()
    train(tiny_recipe("lora", threads=2), options=RunOptions(out=tmp_path, quiet=True))
    assert set(seen) == {2}
    assert torch.get_num_threads() == before


def test_a_run_whose_checkpoint_changed_is_not_loaded(tmp_path, tiny_recipe, tiny_bert):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(tiny_bert, copy)
    run = train(tiny_recipe("lora", model={"name": str(copy)}), options=RunOptions(out=tmp_path / "runs", quiet=True))
    weights = load_file(copy / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="other weights"):
        load(run.folder)
