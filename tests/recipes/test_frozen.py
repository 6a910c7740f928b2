"""Outputs of frozen layers are looked up: to the last bit as computed anew, shared by whoever may, never stale."""

import errno
import os
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from graft import train
from graft.errors import TrainingError
from graft.eval.records import read_predictions
from graft.recipes import frozen as frozen_module
from graft.recipes import frozen_store
from graft.recipes.building import build, gather
from graft.recipes.frozen import Cut, Frozen, find_cut
from graft.recipes.options import RunOptions
from graft.recipes.step import train_step
from graft.recipes.strategies import Constant

CPU = torch.device("cpu")
GRADUAL = {"strategy": {"name": "gradual_unfreezing", "share": 1.0}, "schedule": {"epochs": 4}}
LP_FT = {"strategy": {"name": "probe_then_fine_tune", "share": 0.5}}
MEAN = {"model": {"pooling": "mean"}}
BF16 = {"speed": {"precision": "bf16"}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAFT_CACHE", str(folder))
    return folder / "frozen"


def files(cache):
    return sorted(cache.glob("*.safetensors"))


def state_of(recipe, *, keep=True):
    state = build(gather(recipe), CPU)
    state.frozen = Frozen(keep=keep)
    return state


def trained(recipe, out, **speed: Any):
    recipe = recipe.model_copy(update={"speed": recipe.speed.model_copy(update=speed)})
    return train(recipe, options=RunOptions(out=out, quiet=True))


def assert_same_bits(one, other):
    assert one.record.losses == other.record.losses
    assert one.record.digest == other.record.digest
    ours, theirs = read_predictions(one.folder), read_predictions(other.folder)
    assert all(np.array_equal(ours[split].scores, theirs[split].scores) for split in ours)
    mine, yours = (sorted((run.folder / "adapter").glob("*.safetensors")) for run in (one, other))
    assert [path.read_bytes() for path in mine] == [path.read_bytes() for path in yours]


@pytest.mark.parametrize("sections", [{}, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("method", "family", "more", "entries"),
    [
        ("probe", "bert", MEAN, 3),
        ("probe", "gpt2", {}, 3),
        ("full", "bert", LP_FT, 1),
        ("full", "gpt2", GRADUAL, 5),
        ({"name": "lora", "dropout": 0.3}, "bert", GRADUAL, 7),
    ],
)
def test_kept_or_computed_anew_a_run_is_the_same_to_the_last_bit(
    tiny_recipe, tmp_path, cache, method, family, more, entries, sections
):
    recipe = tiny_recipe(method, family, **more, **sections)
    kept = trained(recipe, tmp_path / "kept")
    assert len(files(cache)) == entries
    assert_same_bits(kept, trained(recipe, tmp_path / "again"))
    assert_same_bits(kept, trained(recipe, tmp_path / "anew", frozen=False))


def test_other_layers_are_really_left_out(tiny_recipe, cache):
    state = state_of(tiny_recipe("full", **LP_FT))
    accelerator = Accelerator(cpu=True)
    train_step([state], accelerator)  # computes what is kept
    first, *_ = state.model.body.encoder.layer

    def must_not_run(*_):
        raise AssertionError

    hook = first.attention.register_forward_hook(must_not_run)
    train_step([state], accelerator)
    state.step = state.total_steps - 1  # everything learns now
    with pytest.raises(AssertionError):
        train_step([state], accelerator)
    hook.remove()


def test_seeds_methods_and_rates_share_what_is_kept(tiny_recipe, tmp_path, cache):
    trained(tiny_recipe("probe", **MEAN), tmp_path)
    there = files(cache)
    assert len(there) == 3  # a file for each split
    for method, change in (
        ("probe", {"seed": 5}),
        ("probe", {"optim": {"lr": 1e-3}}),
        ("full", LP_FT),
        ("bitfit", LP_FT),
    ):
        trained(tiny_recipe(method, **change, **MEAN), tmp_path)
        assert files(cache) == there


@pytest.mark.parametrize(
    "change",
    [BF16, {"threads": 2}, {"budget": {"tokens": 64}}, {"task": {"max_length": 7}}, {"speed": {"attention": "sdpa"}}],
    ids=str,
)
def test_other_arithmetic_or_examples_are_kept_apart(tiny_recipe, tmp_path, cache, change):
    trained(tiny_recipe("probe"), tmp_path)
    there = files(cache)
    trained(tiny_recipe("probe", **change), tmp_path)
    assert len(files(cache)) > len(there)


def test_other_weights_are_kept_apart(tiny_recipe, cache):
    recipe = tiny_recipe("probe", **MEAN)
    keys = set()
    for _ in range(2):
        state = state_of(recipe)
        keys.add(state.frozen._key(state, Cut(3, None), state.train, "fp32"))
    assert len(keys) == 1
    with torch.no_grad():
        state.model.body.embeddings.LayerNorm.bias[3] += 1e-6
    state.frozen = Frozen(keep=True)
    keys.add(state.frozen._key(state, Cut(3, None), state.train, "fp32"))
    assert len(keys) == 2


class TopAfterAll(Constant):
    """Everything learns at first, then the head alone."""

    def rates(self, step, total_steps, stages):
        return (1.0,) * stages if step < 2 else (*([0.0] * (stages - 1)), 1.0)


def test_layers_that_have_learned_are_never_looked_up(tiny_recipe, cache):
    state = state_of(tiny_recipe("full"))
    state.recipe = state.recipe.model_copy(update={"strategy": TopAfterAll()})
    accelerator = Accelerator(cpu=True)
    for _ in range(4):
        train_step([state], accelerator)
    assert state.lowest == 0
    resumed = state_of(tiny_recipe("full"))
    resumed.recipe = state.recipe
    resumed.step = 4
    assert resumed.lowest == 0
    assert not files(cache)


def test_a_damaged_file_is_computed_again(tiny_recipe, tmp_path, cache, caplog):
    first = trained(tiny_recipe("probe"), tmp_path / "a")
    for path in files(cache):
        path.write_bytes(path.read_bytes()[:-5])
    assert_same_bits(first, trained(tiny_recipe("probe"), tmp_path / "b"))
    assert "damaged" in caplog.text


def test_the_folder_stays_within_its_bound_and_the_newest_stays(tiny_recipe, tmp_path, cache, monkeypatch):
    trained(tiny_recipe("probe"), tmp_path)
    for age, path in enumerate(files(cache)):
        os.utime(path, (1000 + age, 1000 + age))
    abandoned = cache / "old.part"
    abandoned.write_bytes(b"x")
    os.utime(abandoned, (1000, 1000))
    monkeypatch.setattr(frozen_store, "BOUND", 1)
    trained(tiny_recipe("probe", task={"max_length": 7}), tmp_path)
    assert len(files(cache)) == 1
    assert not abandoned.exists()


def test_what_would_be_too_large_is_computed_at_every_step(tiny_recipe, tmp_path, cache, monkeypatch):
    kept = trained(tiny_recipe("probe"), tmp_path / "a")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(frozen_module, "LARGEST", 100)
    plain = trained(tiny_recipe("probe"), tmp_path / "b")
    assert not files(tmp_path / "other" / "frozen")
    np.testing.assert_allclose(kept.record.losses, plain.record.losses, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_full_disk_is_one_message_and_leaves_nothing(tiny_recipe, tmp_path, cache, monkeypatch, frozen):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match="No space left on device") as e:
        trained(tiny_recipe("probe"), tmp_path, frozen=frozen)
    assert "GRAFT_CACHE" in str(e.value)
    assert not [path for path in cache.glob("*") if path.suffix != ".lock"]


def test_an_interrupted_computation_leaves_nothing(tiny_recipe, tmp_path, cache, monkeypatch):
    real, calls = frozen_module._outputs, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    recipe = tiny_recipe("probe", budget={"tokens": 64})
    monkeypatch.setattr(frozen_module, "_outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path)
    assert not [path for path in cache.glob("*") if path.suffix != ".lock"]
    assert trained(recipe, tmp_path / "again").record.steps


@pytest.mark.parametrize(
    ("family", "method", "layers"),
    [("bert", "probe", None), ("gpt2", "probe", None), ("bert", "lora", "none"), ("bert", "prefix", "none")],
)
def test_the_cut_lies_below_all_that_learns(tiny_recipe, family, method, layers):
    state = state_of(tiny_recipe(method, family, **({"model": {"pooling": "mean"}} if family == "bert" else {})))
    cut = find_cut(state.model, state.lowest)
    assert (cut is None) if layers == "none" else (cut is not None and cut.layers == layers)
