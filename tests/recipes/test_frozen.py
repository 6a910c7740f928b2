"""Outputs of frozen layers are looked up: to the last bit as computed anew, shared by whoever may, never stale."""

import errno
import os
import shutil
import signal
import tempfile
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
GRADUAL = {"strategy": {"name": "gradual_unfreezing", "share": 1.0}, "schedule": {"epochs": 5}}
LP_FT = {"strategy": {"name": "probe_then_fine_tune", "share": 0.5}}
MEAN = {"model": {"pooling": "mean"}}
BF16 = {"speed": {"precision": "bf16"}}
LANGUAGE = {"task": {"kind": "causal_lm", "label": None}}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("GRAFT_CACHE", str(folder))
    return folder / "frozen"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def files(cache):
    return sorted(cache.glob("*.safetensors"))


def left_over(folder):
    return [path for path in folder.glob("*") if path.suffix not in (".lock", ".safetensors")]


def state_of(recipe, *, keep=True):
    state = build(gather(recipe), CPU)
    state.frozen = Frozen(keep=keep)
    return state


def trained(recipe, out, **speed: Any):
    recipe = recipe.model_copy(update={"speed": recipe.speed.model_copy(update=speed)})
    return train(recipe, options=RunOptions(out=out, quiet=True))


def adapters(run):
    return [path.read_bytes() for path in sorted((run.folder / "adapter").glob("*.safetensors"))]


def assert_same_bits(one, other):
    assert one.record.losses == other.record.losses
    assert one.record.digest == other.record.digest
    ours, theirs = read_predictions(one.folder), read_predictions(other.folder)
    assert all(np.array_equal(ours[split].scores, theirs[split].scores) for split in ours)
    assert adapters(one) == adapters(other)


@pytest.mark.parametrize("sections", [{}, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("method", "family", "more", "entries"),
    [
        ("probe", "bert", MEAN, 3),
        ("probe", "gpt2", {}, 3),
        ("full", "bert", LP_FT, 1),
        ("full", "gpt2", GRADUAL, 6),
        ({"name": "lora", "dropout": 0.3}, "bert", GRADUAL, 7),
        ("full", "bert", GRADUAL | {"budget": {"gradient_checkpointing": True}}, 6),
        ({"name": "lora", "targets": "up"}, "gpt2", GRADUAL | LANGUAGE, 3),
    ],
)
def test_kept_or_computed_anew_a_run_is_the_same_to_the_last_bit(
    tiny_recipe, tmp_path, cache, temporary, monkeypatch, method, family, more, entries, sections
):
    recipe = tiny_recipe(method, family, **more, **sections)
    kept = trained(recipe, tmp_path / "kept")
    assert len(files(cache)) == entries
    assert_same_bits(kept, trained(recipe, tmp_path / "again"))
    assert_same_bits(kept, trained(recipe, tmp_path / "anew", cache=False))
    assert not left_over(cache)
    assert not list(temporary.iterdir())
    monkeypatch.setattr(frozen_module, "LARGEST", 0)  # the whole model at every step
    whole = trained(recipe, tmp_path / "whole")
    np.testing.assert_allclose(kept.record.losses, whole.record.losses, rtol=2e-2 if sections else 1e-5)


def test_layers_below_the_cut_are_not_run(tiny_recipe, cache):
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
    others = (("probe", {"seed": 5}), ("probe", {"optim": {"lr": 1e-3}}), ("full", LP_FT), ("bitfit", LP_FT))
    for method, change in others:
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


def test_other_weights_processors_and_code_are_kept_apart(tiny_recipe, cache, monkeypatch):
    recipe = tiny_recipe("probe", **MEAN)

    def key(change=lambda state: None):
        state = state_of(recipe)
        change(state)
        return state.frozen._key(state, Cut(3, None), state.train, "fp32")

    def nudge(state):
        with torch.no_grad():
            state.model.body.embeddings.LayerNorm.bias[3] += 1e-6

    keys = [key(), key(nudge)]
    assert key() == keys[0]
    monkeypatch.setattr(frozen_module, "arithmetic_of", lambda device: {"processor": "another"})
    keys.append(key())
    monkeypatch.setattr(frozen_module, "_code", lambda: "edited")
    keys.append(key())
    assert len(set(keys)) == 4


class TopAfterAll(Constant):
    """Everything learns at first, then the head alone."""

    def rates(self, step, total_steps, stages):
        return (1.0,) * stages if step < 2 else (*([0.0] * (stages - 1)), 1.0)


def test_layers_that_have_learned_are_never_looked_up(tiny_recipe, cache):
    state, resumed = (state_of(tiny_recipe("full")) for _ in range(2))
    state.recipe = resumed.recipe = state.recipe.model_copy(update={"strategy": TopAfterAll()})
    accelerator = Accelerator(cpu=True)
    for _ in range(4):
        train_step([state], accelerator)
    resumed.step = 4
    assert (state.lowest, resumed.lowest) == (0, 0)
    assert not files(cache)


@pytest.mark.parametrize("method", ["prefix", "lora", "bottleneck"])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_belongs_to_a_seed_is_never_read_with_another(tiny_recipe, tmp_path, cache, method, seed, monkeypatch):
    trained(tiny_recipe(method, **MEAN, **LP_FT), tmp_path)  # seed 1 fills what there is to fill
    recipe = tiny_recipe(method, seed=seed, **MEAN, **LP_FT)
    kept = trained(recipe, tmp_path / "kept")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "elsewhere"))
    assert_same_bits(kept, trained(recipe, tmp_path / "elsewhere"))


def test_a_prefix_belongs_to_no_stage_and_bars_every_cut(tiny_recipe):
    assert find_cut(state_of(tiny_recipe("prefix", **MEAN, **LP_FT))) == "the method acts in all layers"
    assert isinstance(find_cut(state_of(tiny_recipe("full", **MEAN, **LP_FT))), Cut)


def test_a_run_too_short_to_look_at_all_examples_computes_none_of_them_beforehand(tiny_recipe, tmp_path, cache):
    trained(tiny_recipe("probe", schedule={"steps": 5}), tmp_path)  # 40 of 55
    assert not files(cache)
    trained(tiny_recipe("probe", schedule={"steps": 8}), tmp_path)
    assert files(cache)


@pytest.mark.parametrize("damage", [lambda content: content[:-5], lambda content: content[:-64] + bytes(64)])
def test_a_damaged_file_is_computed_again(tiny_recipe, tmp_path, cache, caplog, damage):
    first = trained(tiny_recipe("probe"), tmp_path / "a")
    for path in files(cache):
        path.write_bytes(damage(path.read_bytes()))
    assert_same_bits(first, trained(tiny_recipe("probe"), tmp_path / "b"))
    assert "damaged" in caplog.text


def rows(value):
    """Three rows of one number for each of two examples."""
    return lambda: ((row, torch.full((3, 2), value + row), 0) for row in (1, 0))


STARTS = np.array([0, 3, 6])


def test_the_folder_stays_within_its_bound_and_what_was_not_used_for_longest_leaves(cache, monkeypatch):
    for age, key in enumerate("abc"):
        frozen_store.kept(key, STARTS, rows(0.0))
        os.utime(cache / f"{key}.safetensors", (1000 + age, 1000 + age))
    size = (cache / "a.safetensors").stat().st_size
    monkeypatch.setattr(frozen_store, "BOUND", 3 * size)
    frozen_store.kept("a", STARTS, rows(5.0))  # used again, not computed
    abandoned = cache / "old.part"
    abandoned.write_bytes(b"x")
    os.utime(abandoned, (1000, 1000))
    frozen_store.kept("d", STARTS, rows(0.0))
    assert [path.stem for path in files(cache)] == ["a", "c", "d"]
    assert not abandoned.exists()


def test_a_file_that_replaced_another_is_looked_through_again(cache, caplog):
    frozen_store.kept("a", STARTS, rows(1.0))
    frozen_store.kept("a", STARTS, rows(1.0))
    [path] = files(cache)
    damaged = path.with_suffix(".other")
    damaged.write_bytes(path.read_bytes()[:-8] + bytes(8))
    damaged.replace(path)
    assert frozen_store.kept("a", STARTS, rows(1.0)).of(1).tolist() == [[2.0, 2.0]] * 3
    assert "damaged (its content is not what was written)" in caplog.text


def test_rows_are_read_after_their_file_is_deleted(cache):
    found = frozen_store.kept("a", STARTS, rows(1.0))
    again = frozen_store.kept("a", STARTS, rows(7.0))
    shutil.rmtree(cache)
    assert found.of(1).tolist() == again.of(1).tolist() == [[2.0, 2.0]] * 3


def test_a_folder_that_is_deleted_meanwhile_harms_nobody(cache):
    def deleting():
        yield from rows(1.0)()
        shutil.rmtree(cache)

    assert frozen_store.kept("a", STARTS, deleting).of(0).tolist() == [[1.0, 1.0]] * 3
    assert not files(cache)


def test_a_folder_that_cannot_be_written_is_done_without(tiny_recipe, tmp_path, cache, caplog, monkeypatch):
    kept = trained(tiny_recipe("probe"), tmp_path / "a")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    assert_same_bits(kept, trained(tiny_recipe("probe"), tmp_path / "b"))
    assert "cannot be kept there" in caplog.text


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_is_one_message_and_leaves_nothing(tiny_recipe, tmp_path, cache, temporary, monkeypatch, keep):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(TrainingError, match="no room for the outputs of frozen layers"):
        trained(tiny_recipe("probe"), tmp_path, cache=keep)
    assert not left_over(cache)
    assert not list(temporary.iterdir())


def test_without_the_memory_for_them_frozen_layers_are_run_at_every_step(tiny_recipe, tmp_path, cache, monkeypatch):
    kept = trained(tiny_recipe("probe"), tmp_path / "a")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "other"))

    def exhausted(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(frozen_module, "_outputs", exhausted)
    whole = trained(tiny_recipe("probe"), tmp_path / "b")
    np.testing.assert_allclose(kept.record.losses, whole.record.losses, rtol=1e-5)


def test_a_signal_ends_the_computation_between_two_batches_and_leaves_nothing(
    tiny_recipe, tmp_path, cache, monkeypatch
):
    real, calls = frozen_module._outputs, []

    def signalled(*arguments):
        calls.append(1)
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    recipe = tiny_recipe("probe", budget={"tokens": 64})
    monkeypatch.setattr(frozen_module, "_outputs", signalled)
    with pytest.raises(KeyboardInterrupt):
        trained(recipe, tmp_path)
    assert len(calls) == 1
    assert not left_over(cache)
    assert not files(cache)


@pytest.mark.parametrize(
    ("family", "method", "expected"),
    [("bert", "probe", None), ("gpt2", "probe", None), ("bert", "lora", "layer.0"), ("bert", "full", "embeddings")],
)
def test_the_cut_lies_below_all_that_learns(tiny_recipe, family, method, expected):
    state = state_of(tiny_recipe(method, family, **(MEAN if family == "bert" else {})))
    cut = find_cut(state)
    assert cut == f"{expected} learns" if expected else isinstance(cut, Cut) and cut.layers is None
