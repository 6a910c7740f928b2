"""One run from recipe to folder: what it writes, that it repeats, resumes and reloads exactly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft import load, train
from graft.adapters.methods import METHODS
from graft.errors import RecipeError, RunError, TrainingError
from graft.eval.records import read_predictions, read_record
from graft.recipes import checkpoints
from graft.recipes import loop as loop_module
from graft.recipes import step as step_module
from graft.recipes.building import build, gather
from graft.recipes.loop import fit
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe
from graft.recipes.state import RunState

SETTINGS = {
    "adalora": [{"r": 2, "initial_r": 4}],
    "bottleneck": [{"dropout": 0.2}, {"placement": "houlsby"}, {"placement": "parallel"}],
    "prefix": [{"tokens": 5}, {"tokens": 4, "projection": True}],
}
CASES = [{"name": name, **settings} for name in METHODS for settings in SETTINGS.get(name, [{}])]
CPU = torch.device("cpu")


def options(folder, **changes):
    return RunOptions(out=folder, quiet=True, **changes)


def state_of(recipe, terms=()) -> RunState:
    return build(gather(recipe, terms=terms), CPU, terms)


def weights_of(state: RunState) -> torch.Tensor:
    return torch.cat([learner.weight.detach().flatten() for learner in state.learners])


def no_score(_):
    return {}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", CASES, ids=lambda method: "-".join(map(str, method.values())))
def test_a_run_writes_what_evaluation_reads_and_reloads_exactly(tmp_path, tiny_recipe, method, family):
    run = train(tiny_recipe(method, family), options=options(tmp_path))
    record, predictions = read_record(run.folder), read_predictions(run.folder)
    assert record == run.record
    assert len(record.losses) == record.steps == 14
    assert set(record.scores) == set(predictions) == {"holdout", "validation"}
    assert len(predictions["validation"]) == 37
    assert sorted(predictions["validation"].ids.tolist()) == list(range(37))
    assert not (run.folder / checkpoints.FOLDER).exists()

    with torch.random.fork_rng():
        torch.manual_seed(99)
        loaded = load(run.folder)
    materials = gather(Recipe.model_validate(record.recipe))
    encoded = materials.encoded["validation"]
    assert np.array_equal(loaded.score(encoded), predictions["validation"].scores)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_loaded_run_scores_texts_as_it_was_scored(tmp_path, tiny_recipe, word_task, family):
    run = train(tiny_recipe("lora", family), options=options(tmp_path))
    rows = [json.loads(line) for line in (word_task / "validation.jsonl").read_text().splitlines()]
    logits = load(run.folder).logits([row["text"] for row in rows])
    np.testing.assert_allclose(logits.numpy(), read_predictions(run.folder)["validation"].scores, atol=1e-5)


def test_the_same_recipe_gives_the_same_run_and_is_not_trained_twice(tmp_path, tiny_recipe, monkeypatch):
    first = train(tiny_recipe("lora"), options=options(tmp_path / "a"))
    second = train(tiny_recipe("lora"), options=options(tmp_path / "b"))
    assert first.record.losses == second.record.losses
    assert first.record.digest == second.record.digest
    monkeypatch.setattr(loop_module, "train_step", lambda *_: pytest.fail("trained again"))
    assert train(tiny_recipe("lora"), options=options(tmp_path / "a")).reused


def test_a_loss_that_is_trained_on_falls(tmp_path, tiny_recipe):
    run = train(tiny_recipe("full", schedule={"epochs": 12}), options=options(tmp_path))
    losses = run.record.losses
    assert np.mean(losses[-7:]) < 0.7 * np.mean(losses[:7])


class Killed(BaseException):
    """Stands in for a kill: nothing of ours catches it."""


@pytest.mark.parametrize("method", CASES, ids=lambda method: "-".join(map(str, method.values())))
@pytest.mark.parametrize("killed_after", [1, 6, 7, 12])
def test_a_killed_run_resumes_bit_for_bit(tmp_path, tiny_recipe, monkeypatch, method, killed_after):
    recipe = tiny_recipe(method, strategy="gradual_unfreezing", schedule={"evaluate": 3})
    whole = train(recipe, options=options(tmp_path / "whole"))
    real = loop_module.train_step

    def deadly(states, accelerator):
        if states[0].step == killed_after:
            raise Killed
        real(states, accelerator)

    monkeypatch.setattr(loop_module, "train_step", deadly)
    with pytest.raises(Killed):
        train(recipe, options=options(tmp_path / "cut", checkpoint_steps=1))
    monkeypatch.setattr(loop_module, "train_step", real)
    with pytest.raises(RunError, match="--resume"):
        train(recipe, options=options(tmp_path / "cut"))
    resumed = train(recipe, options=options(tmp_path / "cut", resume=True))
    assert resumed.record.losses == whole.record.losses
    assert resumed.record.evaluations == whole.record.evaluations
    weights = [file.name for file in (whole.folder / "adapter").glob("*.safetensors")]
    assert weights
    for name in weights:
        assert (whole.folder / "adapter" / name).read_bytes() == (resumed.folder / "adapter" / name).read_bytes()
    assert (whole.folder / "predictions.parquet").read_bytes() == (resumed.folder / "predictions.parquet").read_bytes()


def test_a_checkpoint_holds_what_learns_and_not_the_base(tmp_path, tiny_recipe):
    state = state_of(tiny_recipe("lora"))
    step_module.train_step([state], Accelerator(cpu=True))
    path = checkpoints.save(tmp_path, state, "digest")
    from safetensors.torch import load_file

    learned = load_file(path / "learned.safetensors")
    assert set(learned) == {learner.name for learner in state.learners}
    assert all("lora_" in name or "heads." in name for name in learned)
    size = sum(file.stat().st_size for file in path.iterdir())
    assert size < 4 * sum(p.nbytes for p in learned.values()) + 80_000
    with pytest.raises(RunError, match="another run"):
        checkpoints.restore(path, state, "other")
    (path / "learned.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="damaged"):
        checkpoints.restore(path, state, "digest")


def test_micro_batches_accumulation_and_checkpointing_change_nothing_but_last_bits(tiny_recipe):
    """Dropout is on: every example must meet the same masks however the step is cut."""
    accelerator = Accelerator(cpu=True)
    whole = state_of(tiny_recipe("lora"))
    others = [
        state_of(tiny_recipe("lora", budget={"tokens": 30})),
        state_of(tiny_recipe("lora", budget={"tokens": 1})),
        state_of(tiny_recipe("lora", budget={"gradient_checkpointing": True})),
    ]
    for state in (whole, *others):
        for _ in range(5):
            step_module.train_step([state], accelerator)
    for other in others:
        np.testing.assert_allclose(other.losses, whole.losses, rtol=2e-5)
        torch.testing.assert_close(weights_of(other), weights_of(whole), rtol=1e-3, atol=1e-4)


def test_runs_trained_together_equal_runs_trained_alone(tiny_recipe):
    accelerator = Accelerator(cpu=True)
    recipes = [tiny_recipe("lora"), tiny_recipe("lora", seed=2), tiny_recipe("full", optim={"lr": 1e-3})]
    together = [state_of(recipe) for recipe in recipes]
    fit(together, accelerator, score=no_score)
    for recipe, state in zip(recipes, together, strict=True):
        alone = state_of(recipe)
        fit([alone], accelerator, score=no_score)
        assert alone.losses == state.losses
        assert torch.equal(weights_of(alone), weights_of(state))


def test_running_out_of_memory_halves_the_micro_batches_and_changes_no_result(tiny_recipe, monkeypatch):
    accelerator = Accelerator(cpu=True)
    plain, short = state_of(tiny_recipe("lora")), state_of(tiny_recipe("lora"))
    forward = short.model.forward

    def hungry(inputs, **kwargs):
        if inputs["input_ids"].numel() > 60:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return forward(inputs, **kwargs)

    monkeypatch.setattr(short.model, "forward", hungry)
    for state in (plain, short):
        for _ in range(3):
            step_module.train_step([state], accelerator)
    assert short.tokens <= 64 < plain.tokens
    np.testing.assert_allclose(short.losses, plain.losses, rtol=2e-5)

    monkeypatch.setattr(
        short.model, "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("CUDA out of memory."))
    )
    with pytest.raises(TrainingError, match="single example"):
        step_module.train_step([short], accelerator)


def test_a_loss_that_is_not_finite_stops_and_names_step_and_examples(tiny_recipe, monkeypatch):
    accelerator = Accelerator(cpu=True)
    state = state_of(tiny_recipe("full"))
    step_module.train_step([state], accelerator)
    before, rows = weights_of(state), state.rows()
    poisoned = int(state.train.ids[rows[3]])
    real = state.kind.loss

    def loss(logits, batch):
        return torch.where(batch.ids == poisoned, torch.nan, real(logits, batch))

    object.__setattr__(state, "kind", type("K", (), {"loss": staticmethod(loss), "collate": state.kind.collate})())
    with pytest.raises(TrainingError, match=rf"step 1: .*examples \[{poisoned}\]"):
        step_module.train_step([state], accelerator)
    assert torch.equal(weights_of(state), before)


def test_early_stopping_keeps_the_best_weights(tiny_recipe):
    accelerator = Accelerator(cpu=True)
    state = state_of(tiny_recipe("full", schedule={"evaluate": 2, "patience": 2, "epochs": 10}))
    script = iter([50.0, 70.0, 60.0, 70.0, 90.0])
    seen = {}

    def score(scored):
        seen[scored.step] = weights_of(scored).clone()
        return {"accuracy": next(script)}

    fit([state], accelerator, score=score)
    assert state.step == 8
    assert state.best_step == 4
    assert torch.equal(weights_of(state), seen[4])


def test_ranks_that_are_not_down_to_the_budget_are_never_the_best(tiny_recipe):
    method = {"name": "adalora", "r": 2, "initial_r": 4, "final": 0.5}
    state = state_of(tiny_recipe(method, schedule={"evaluate": 2, "steps": 8, "patience": 1}))
    script = iter([90.0, 80.0, 60.0, 70.0])  # patience would stop at the second evaluation, the best is the first
    fit([state], Accelerator(cpu=True), score=lambda _: {"accuracy": next(script)})
    assert [state.attached.settled(step) for step in (2, 4, 6, 8)] == [False, True, True, True]
    assert state.step == 6
    assert state.best_step == 4
    kept = sum(int((w != 0).sum()) for name, w in state.model.named_parameters() if "lora_E" in name)
    layers = sum("lora_E" in name for name, _ in state.model.named_parameters())
    assert 0 < kept <= 2 * layers
    allocated = state.model.backbone.peft_config["default"].rank_pattern  # layer → which of its triplets peft keeps
    assert kept == sum(int(np.sum(mask)) for mask in allocated.values())
    assert state.attached.figures() == {"total_rank": kept, "mean_rank": kept / layers}


def test_training_leaves_the_callers_generator_alone(tmp_path, tiny_recipe):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(tiny_recipe("lora", schedule={"steps": 2}), options=options(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_is_found_under_another_name_of_its_model(tmp_path, tiny_recipe, tiny_bert):
    first = train(tiny_recipe("lora", schedule={"steps": 2}), options=options(tmp_path))
    copied = tmp_path / "copied"
    shutil.copytree(tiny_bert, copied)
    again = train(tiny_recipe("lora", schedule={"steps": 2}, model=str(copied)), options=options(tmp_path))
    assert again.reused
    assert again.folder == first.folder


def test_cost_can_be_measured_of_a_run_that_is_there(tmp_path, tiny_recipe, monkeypatch):
    monkeypatch.setattr("graft.recipes.train.measure", lambda recipe: {"seconds_per_step": 1.0})
    recipe = tiny_recipe("lora", schedule={"steps": 2})
    trained = train(recipe, options=options(tmp_path))
    assert trained.record.cost is None
    measured = train(recipe, options=options(tmp_path, measure_cost=True))
    assert measured.record.cost == {"seconds_per_step": 1.0}
    assert read_record(trained.folder) == measured.record
    assert measured.record.model_copy(update={"cost": None}) == trained.record


def test_an_output_that_is_a_file_is_refused(tmp_path, tiny_recipe):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"--out .*file: cannot write there"):
        train(tiny_recipe("lora"), options=options(tmp_path / "file"))


def test_a_refused_run_leaves_no_folder_behind(tmp_path, tiny_recipe):
    with pytest.raises(RecipeError):
        train(tiny_recipe({"name": "lora", "targets": "nothing"}), options=options(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == [".locks"]


def test_clipping_bounds_the_global_norm(tiny_recipe, monkeypatch):
    accelerator = Accelerator(cpu=True)
    state = state_of(tiny_recipe("full", optim={"lr": 1e-2, "clip": 0.01}))
    norms = []
    real = state.optimizer.step

    def step():
        before = torch.cat([learner.weight.grad.flatten() for learner in state.learners])
        real()  # which clips on its way
        after = torch.cat([learner.weight.grad.flatten() for learner in state.learners])
        norms.extend([float(before.norm()), float(after.norm())])
        torch.testing.assert_close(after / after.norm(), before / before.norm())

    monkeypatch.setattr(state.optimizer, "step", step)
    step_module.train_step([state], accelerator)
    assert norms == [pytest.approx(norms[0]), pytest.approx(0.01, rel=1e-4)]
    assert norms[0] > 0.1


def test_a_live_process_owns_its_run_folder(tmp_path, tiny_recipe):
    from filelock import FileLock

    run = train(tiny_recipe("lora"), options=options(tmp_path))
    (run.folder / "record.json").unlink()
    with FileLock(tmp_path / ".locks" / run.record.digest[:12]), pytest.raises(RunError, match="another process"):
        train(tiny_recipe("lora"), options=options(tmp_path))


def test_paths_stay_inside_the_output_folder(tmp_path, tiny_recipe):
    run = train(tiny_recipe("lora"), options=options(tmp_path))
    assert run.folder.parent == Path(tmp_path)


def test_a_claim_ends_with_the_run(tmp_path, tiny_recipe):
    from filelock import FileLock

    run = train(tiny_recipe("lora", schedule={"steps": 1}), options=options(tmp_path))
    with FileLock(tmp_path / ".locks" / run.record.digest[:12], timeout=0):
        pass


def test_an_unfinished_run_is_found_under_another_name_of_its_model(tmp_path, tiny_recipe, tiny_bert, monkeypatch):
    class Killed(BaseException):
        pass

    def deadly(states, accelerator):
        if states[0].step == 2:
            raise Killed
        step_module.train_step(states, accelerator)

    copied = tmp_path / "copied"
    shutil.copytree(tiny_bert, copied)
    monkeypatch.setattr(loop_module, "train_step", deadly)
    with pytest.raises(Killed):
        train(tiny_recipe("lora"), options=options(tmp_path / "out", checkpoint_steps=1))
    monkeypatch.setattr(loop_module, "train_step", step_module.train_step)
    with pytest.raises(RunError, match="--resume"):
        train(tiny_recipe("lora", model=str(copied)), options=options(tmp_path / "out"))
    resumed = train(tiny_recipe("lora", model=str(copied)), options=options(tmp_path / "out", resume=True))
    assert len(resumed.record.losses) == 14
    assert [entry.name for entry in (tmp_path / "out").glob("custom-*")] == [resumed.folder.name]
