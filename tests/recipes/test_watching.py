"""Trials, trackers, cost figures and interruptions: what happens around a run."""

import os
import signal

import numpy as np
import pytest
import torch
from peft.tuners.adalora import AdaLoraLayer
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from graft import load, train
from graft.errors import RecipeError, RunError
from graft.eval.records import read_predictions, read_record
from graft.recipes import checkpoints
from graft.recipes import loop as loop_module
from graft.recipes.options import RunOptions
from graft.recipes.recipe import canonical
from graft.recipes.watching import flattened


def options(folder, **changes):
    return RunOptions(out=folder, quiet=True, **changes)


def test_a_trial_never_looks_at_the_validation_split(tmp_path, tiny_recipe):
    trial = train(tiny_recipe("lora"), options=options(tmp_path, kind="trial"))
    assert set(trial.record.scores) == set(read_predictions(trial.folder)) == {"holdout"}
    assert set(trial.record.diagnostics) == {"holdout"}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_trial_becomes_final_without_being_trained_again(tmp_path, tiny_recipe, monkeypatch, method):
    whole = train(tiny_recipe(method), options=options(tmp_path / "whole"))
    trial = train(tiny_recipe(method), options=options(tmp_path / "trial", kind="trial"))
    monkeypatch.setattr(loop_module, "train_step", lambda *_: pytest.fail("trained again"))
    final = train(tiny_recipe(method), options=options(tmp_path / "trial"))
    assert final.folder == trial.folder
    assert final.record.scores == whole.record.scores
    assert final.record.diagnostics == whole.record.diagnostics
    assert set(final.record.diagnostics) == {"holdout", "validation"}
    assert (final.folder / "predictions.parquet").read_bytes() == (whole.folder / "predictions.parquet").read_bytes()
    assert read_record(final.folder) == final.record
    assert final.record.kind == "final"
    assert train(tiny_recipe(method), options=options(tmp_path / "trial", kind="trial")).reused


def test_the_record_counts_what_was_taken_for_what(tmp_path, tiny_recipe):
    run = train(tiny_recipe("lora", schedule={"steps": 2}), options=options(tmp_path))
    record, predictions = run.record, read_predictions(run.folder)
    for split, found in record.diagnostics.items():
        expected = confusion_matrix(predictions[split].labels, predictions[split].scores.argmax(axis=1), labels=[0, 1])
        assert found.confusion == tuple(map(tuple, expected.tolist()))
        accuracy = 100 * np.trace(found.confusion) / np.sum(found.confusion)
        assert accuracy == pytest.approx(record.scores[split]["accuracy"])
        assert 0 < found.calibration_error < 100


def test_the_record_of_a_task_without_classes_counts_nothing(tmp_path, tiny_recipe):
    recipe = tiny_recipe(family="gpt2", task={"label": None, "kind": "causal_lm"}, schedule={"steps": 2})
    assert train(recipe, options=options(tmp_path)).record.diagnostics == {}


def test_the_record_has_the_ranks_that_adalora_kept(tmp_path, tiny_recipe):
    """As many as the updates of the saved adapter have singular values."""
    method = {"name": "adalora", "r": 2, "initial_r": 4, "final": 0.5}
    run = train(tiny_recipe(method, schedule={"steps": 12}), options=options(tmp_path))
    model = load(run.folder).model
    layers = [module for module in model.modules() if isinstance(module, AdaLoraLayer)]
    ranks = [int(torch.linalg.matrix_rank(layer.get_delta_weight("default"))) for layer in layers]
    assert 0 < sum(ranks) <= 2 * len(layers)
    assert run.record.method_figures == {"total_rank": sum(ranks), "mean_rank": pytest.approx(sum(ranks) / len(ranks))}
    assert train(tiny_recipe("lora", schedule={"steps": 2}), options=options(tmp_path)).record.method_figures == {}


def test_trackers_get_every_loss_and_every_score(tmp_path, tiny_recipe):
    run = train(tiny_recipe("lora"), options=options(tmp_path, track=("tensorboard",)))
    events = EventAccumulator(str(run.folder / "graft"))
    events.Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(run.record.losses, rel=1e-6)
    scores = [evaluation.scores["holdout"]["accuracy"] for evaluation in run.record.evaluations]
    assert [event.value for event in events.Scalars("holdout/accuracy")] == pytest.approx(scores)


def test_a_run_without_holdout_trains_on_everything_and_keeps_its_last_weights(tmp_path, tiny_recipe):
    run = train(tiny_recipe("lora", task={"holdout": 0}), options=options(tmp_path))
    record = run.record
    assert record.data.sizes == {"train": 61, "holdout": 0, "validation": 37}
    assert record.holdout_trained_on
    assert set(record.scores) == {"validation"}
    assert record.evaluations == []
    assert record.kept_step == record.steps == 16
    assert not train(tiny_recipe("lora"), options=options(tmp_path)).record.holdout_trained_on


def test_what_chooses_by_the_holdout_is_refused_without_one(tmp_path, tiny_recipe):
    with pytest.raises(RecipeError, match="trial"):
        train(tiny_recipe("lora", task={"holdout": 0}), options=options(tmp_path, kind="trial"))
    with pytest.raises(RecipeError, match="patience"):
        train(tiny_recipe("lora", task={"holdout": 0}, schedule={"patience": 1}), options=options(tmp_path))


@pytest.mark.parametrize(("name", "hint"), [("tensorbord", "tensorboard"), ("aim", "pip install aim")])
def test_a_tracker_that_is_not_there_is_refused_before_training(tmp_path, tiny_recipe, name, hint):
    with pytest.raises(RunError, match=hint):
        train(tiny_recipe("lora"), options=options(tmp_path, track=(name,)))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_cost_is_measured_in_a_process_of_its_own(tmp_path, tiny_recipe):
    run = train(tiny_recipe("lora"), options=options(tmp_path, measure_cost=True))
    cost = run.record.cost
    assert cost["steps"] == 14
    assert cost["peak_memory_bytes"] >= cost["memory_before_training_bytes"] > 50e6
    assert cost["samples_per_second"] == pytest.approx(8 / cost["seconds_per_step"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_itself_between_steps_and_goes_on(tmp_path, tiny_recipe, monkeypatch, number):
    before = signal.getsignal(number)
    whole = train(tiny_recipe("lora"), options=options(tmp_path / "whole"))
    real = loop_module.train_step

    def interrupting(states, accelerator):
        real(states, accelerator)
        if states[0].step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop_module, "train_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe("lora"), options=options(tmp_path / "cut"))
    (folder,) = (tmp_path / "cut").glob("custom-*")
    assert checkpoints.newest(folder).name == "step-00000003"
    monkeypatch.setattr(loop_module, "train_step", real)
    resumed = train(tiny_recipe("lora"), options=options(tmp_path / "cut", resume=True))
    assert resumed.record.losses == whole.record.losses
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("others", [0.0, 1.0])
def test_processes_stop_together_when_any_of_them_is_asked_to(others):
    class Accelerator:
        num_processes = 2
        device = torch.device("cpu")

        def reduce(self, asked, reduction):
            assert reduction == "sum"
            return asked + others  # what the other process says

    for asked in (True, False):
        for overdue in (True, False):
            agreed = loop_module._agreed(asked, overdue, Accelerator())
            assert agreed == (asked or bool(others), overdue or bool(others))


def test_trackers_are_told_the_recipe_in_one_level_of_plain_values(tiny_recipe):
    flat = flattened(canonical(tiny_recipe("lora")))
    assert flat["method.r"] == 8
    assert flat["method.targets"] == '["all-linear"]'
    assert flat["schedule.steps"] == "null"
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())
