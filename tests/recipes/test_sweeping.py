"""A sweep makes the runs that `train` makes: same folders, same records but for the last bits, one forward pass."""

import logging
import os
import signal

import pytest
import torch

from graft import cli, sweep, train
from graft.errors import RecipeError, RunError, TrainingError
from graft.eval.records import read_predictions
from graft.recipes import checkpoints, loop, making, sweeping
from graft.recipes import sweep as sweep_module
from graft.recipes.options import RunOptions, SweepOptions
from graft.recipes.recipe import to_yaml


@pytest.fixture
def stacked(monkeypatch):
    """Count the forward passes that runs share."""
    sizes, forward = [], sweep_module.Sweep._forward

    def counted(self, runs, chosen):
        sizes.append(len(runs))
        return forward(self, runs, chosen)

    monkeypatch.setattr(sweep_module.Sweep, "_forward", counted)
    return sizes


def options(out, **asked):
    return SweepOptions(out=out, quiet=True, **asked)


def test_runs_are_those_of_train(tiny_recipe, tmp_path, stacked):
    recipe = tiny_recipe("lora", task={"holdout": 0.2})
    runs = sweep(recipe, options(tmp_path / "together", seeds=(1, 2), rates=(1e-2, 1e-3)))
    assert set(stacked) == {2, 4}  # the last, short step of an epoch comes at another place with another seed
    assert [(run.record.recipe["seed"], run.record.recipe["optim"]["lr"]) for run in runs] == [
        (1, 1e-2),
        (1, 1e-3),
        (2, 1e-2),
        (2, 1e-3),
    ]
    for run in runs:
        changed = {"seed": run.record.recipe["seed"], "optim": {"lr": run.record.recipe["optim"]["lr"]}}
        alone = train(
            tiny_recipe("lora", task={"holdout": 0.2}, **changed),
            options=RunOptions(out=tmp_path / "alone", quiet=True),
        )
        assert run.folder.name == alone.folder.name
        assert run.record.digest == alone.record.digest
        torch.testing.assert_close(run.record.losses, alone.record.losses, rtol=1e-4, atol=1e-4)
        mine, theirs = (read_predictions(one.folder)["validation"].scores for one in (run, alone))
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=1e-3, atol=1e-3)
        assert [evaluation.step for evaluation in run.record.evaluations] == [
            evaluation.step for evaluation in alone.record.evaluations
        ]
        assert run.record.hardware["together"] == 4
        assert "together" not in alone.record.hardware
        assert not run.reused


def test_what_is_there_is_handed_back_and_the_rest_steps_together(tiny_recipe, tmp_path, stacked, caplog):
    first = train(tiny_recipe("lora", seed=2), options=RunOptions(out=tmp_path, quiet=True))
    with caplog.at_level(logging.INFO, "graft"):
        runs = sweep(tiny_recipe("lora"), options(tmp_path, seeds=(1, 2, 3)))
    assert [message for message in caplog.messages if "nothing to train" in message] == [
        f"{first.folder} is there already: nothing to train"
    ]
    assert set(stacked) == {2}
    assert [run.reused for run in runs] == [False, True, False]
    assert runs[1].folder == first.folder
    stacked.clear()
    assert [run.reused for run in sweep(tiny_recipe("lora"), options(tmp_path, seeds=(1, 2, 3)))] == [True] * 3
    assert stacked == []


def test_costs_are_measured_of_what_stepped_together_and_it_is_still_new(tiny_recipe, tmp_path, stacked, monkeypatch):
    cost = train(tiny_recipe("lora"), options=RunOptions(out=tmp_path / "cost", quiet=True, measure_cost=True)).record
    monkeypatch.setattr("graft.recipes.train.measure", lambda _: cost.cost)
    runs = sweep(tiny_recipe("lora"), options(tmp_path, seeds=(1, 2), measure_cost=True))
    assert stacked
    assert [run.record.cost for run in runs] == [cost.cost] * 2
    assert [run.reused for run in runs] == [False] * 2


def test_a_method_that_cannot_be_stacked_is_trained_run_by_run_and_that_is_said(tiny_recipe, tmp_path, stacked, caplog):
    with caplog.at_level(logging.WARNING, "graft"):
        runs = sweep(tiny_recipe("full"), options(tmp_path, seeds=(1, 2)))
    assert "2 runs are trained one after the other: something else learns than plain LoRA" in caplog.text
    assert [run.record.recipe["seed"] for run in runs] == [1, 2]
    assert stacked == []


def test_a_run_that_stops_early_leaves_the_others_to_their_end(tiny_recipe, tmp_path):
    recipe = tiny_recipe(
        "lora", task={"holdout": 0.3}, schedule={"epochs": 6, "examples": 8, "evaluate": 2, "patience": 1}
    )
    runs = sweep(recipe, options(tmp_path / "a", seeds=(1, 2, 3), rates=(1e-2, 1e-5)))
    assert len({run.record.steps for run in runs}) > 1
    for run in runs:
        changed = {"seed": run.record.recipe["seed"], "optim": {"lr": run.record.recipe["optim"]["lr"]}}
        alone = train(
            recipe.model_validate(
                recipe.model_dump() | changed | {"optim": recipe.optim.model_dump() | changed["optim"]}
            ),
            options=RunOptions(out=tmp_path / "b", quiet=True),
        )
        assert run.record.steps == alone.record.steps
        torch.testing.assert_close(run.record.losses, alone.record.losses, rtol=1e-3, atol=1e-3)


def test_an_interrupted_sweep_goes_on(tiny_recipe, tmp_path, monkeypatch):
    whole = sweep(tiny_recipe("lora"), options(tmp_path / "whole", seeds=(1, 2)))
    step = sweep_module.Sweep.step

    def interrupted(self, states, accelerator):
        step(self, states, accelerator)
        if self.states[0].step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(sweep_module.Sweep, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(tiny_recipe("lora"), options(tmp_path / "cut", seeds=(1, 2)))
    with pytest.raises(RunError, match=r"unfinished run \(step-00000005\); add --resume"):
        sweep(tiny_recipe("lora"), options(tmp_path / "cut", seeds=(1, 2)))
    resumed = sweep(tiny_recipe("lora"), options(tmp_path / "cut", seeds=(1, 2), resume=True))
    for mine, theirs in zip(resumed, whole, strict=True):
        torch.testing.assert_close(mine.record.losses, theirs.record.losses, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "environment", "error", "reason"),
    [
        ({"seeds": (1, 1)}, {}, RecipeError, "seeds: one stands there twice"),
        ({"rates": (1e-3, 0.001)}, {}, RecipeError, "rates: one stands there twice"),
        ({"track": ("tensorboard",)}, {}, RunError, "one log"),
        ({"seeds": (1, 2)}, {"WORLD_SIZE": "2"}, RunError, "one process"),
    ],
)
def test_what_a_sweep_cannot_have_is_refused(tiny_recipe, tmp_path, monkeypatch, asked, environment, error, reason):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=reason):
        sweep(tiny_recipe("lora"), options(tmp_path, **asked))
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_every_run(tiny_recipe, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(to_yaml(tiny_recipe("lora")))
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--seeds", "4,5", "--out", str(tmp_path / "runs"), "--quiet"]
    assert cli.main(["sweep", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"run: {tmp_path}") for line in lines)
    assert cli.main(["sweep", *flags, "--seeds", "x"]) == 2
    assert "seeds" in capsys.readouterr().err


def test_a_run_that_fails_is_named_and_the_others_are_there(tiny_recipe, tmp_path, monkeypatch):
    update, calls = sweep_module.check_finite, []

    def fails(step, loss, norm, *rest):
        calls.append(step)
        second = calls.count(step) == 2  # the runs are looked at in their order
        update(step, float("nan") if second and step == 3 else loss, norm, *rest)

    monkeypatch.setattr(sweep_module, "check_finite", fails)
    with pytest.raises(TrainingError, match=r"(?s)1 of 3 runs failed.*seed 2, optim.lr 0.01: step 3: the loss is nan"):
        sweep(tiny_recipe("lora"), options(tmp_path, seeds=(1, 2, 3)))
    monkeypatch.undo()
    runs = sweep(tiny_recipe("lora"), options(tmp_path, seeds=(1, 2, 3), resume=True))
    assert [run.reused for run in runs] == [True, False, True]


def test_every_run_is_saved_when_a_checkpoint_is_overdue(tiny_recipe, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        checkpoints, "save", lambda folder, state, digest: saved.append((state.recipe.seed, state.step))
    )
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "clear", lambda _: None)
    sweep(tiny_recipe("lora", schedule={"steps": 3, "examples": 8, "evaluate": 100}), options(tmp_path, seeds=(1, 2)))
    assert saved == [(1, 1), (2, 1), (1, 2), (2, 2)]


def test_a_run_is_written_as_soon_as_it_has_ended(tiny_recipe, tmp_path, monkeypatch):
    recipe = tiny_recipe(
        "lora", task={"holdout": 0.3}, schedule={"epochs": 6, "examples": 8, "evaluate": 2, "patience": 1}
    )
    asked = options(tmp_path, seeds=(1, 2, 3), rates=(1e-2, 1e-5))
    real, ends = making.finish, []

    def full(run, *rest):
        if ends:
            raise OSError("no space")
        ends.append(run.state.step)
        return real(run, *rest)

    monkeypatch.setattr(sweeping, "finish", full)
    with pytest.raises(OSError, match="no space"):
        sweep(recipe, asked)
    assert len(list(tmp_path.glob("*/record.json"))) == 1


def test_models_are_not_built_for_a_method_that_cannot_be_stacked(tiny_recipe, tmp_path, monkeypatch):
    built, real = [], sweeping.begin

    def counted(materials, *rest):
        built.append(materials.recipe.seed)
        return real(materials, *rest)

    monkeypatch.setattr(sweeping, "begin", counted)
    sweep(tiny_recipe("full"), options(tmp_path, seeds=(1, 2, 3)))
    assert built == [1]
