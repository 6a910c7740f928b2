"""What is saved comes back bit for bit, and plain peft or transformers read it where they can."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.saving import add_saved_heads, learned_state, load_adapter, save_adapter
from graft.errors import CheckpointError

# transformers multiplies a decoder's head with every token, and graft with the one that is read: the last bits are
# up to how a processor's library cuts the product.
LAST_BITS = {"rtol": 1e-6, "atol": 1e-6}

NO_BIASES = ("llama", "mistral", "modernbert", "qwen3")
NO_CACHE = ("albert", "deberta-v2", "distilbert", "modernbert", "mpnet")
REFUSED = {("bitfit", family) for family in NO_BIASES} | {("prefix", family) for family in NO_CACHE}
BARE = ("probe", "bitfit")  # a part of the model learns, and peft has put nothing into it


def _pairs(*families: str) -> list[tuple[str, str]]:
    return [(method, family) for family in families for method in METHODS if (method, family) not in REFUSED]


def _train(
    checkpoint: Any, method: str, *, seed: int = 3, head: str = "classification", settings: Any = None, **config: Any
) -> tuple[Any, Any, Any]:
    """A model whose learning weights have all moved from where they began."""
    model = load_model(checkpoint, head, 3, ModelConfig(**config), None, seed=seed)
    row = METHODS[method]
    chosen = row.config(**(settings or {}))
    attached = row.attach(model, chosen, AttachContext(seed, 20, checkpoint))
    return model, attached, chosen


def _move(model: Any, attached: Any) -> None:
    generator = torch.Generator().manual_seed(17)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name in attached.learning:
            named[name].add_(torch.randn(named[name].shape, generator=generator), alpha=0.1)


def _drop_pooler(checkpoint: Any) -> Any:
    file = checkpoint.path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "pooler" not in k}, file, metadata={"format": "pt"})
    return checkpoint


@pytest.mark.parametrize(("method", "family"), _pairs(*sorted(FAMILIES)))
def test_a_reload_over_another_seed_differs_by_nothing(
    method: str, family: str, tiny: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = tiny(family)
    model, attached, settings = _train(checkpoint, method)
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    other, attached_too, _ = _train(checkpoint, method, seed=99)
    assert not torch.equal(other(batch).logits, model(batch).logits)
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_a_pooler_that_the_checkpoint_did_not_bring_comes_back(
    method: str, pooling: str, tiny: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = _drop_pooler(tiny("bert"))
    model, attached, settings = _train(checkpoint, method, pooling=pooling)
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    other, attached_too, _ = _train(checkpoint, method, seed=99, pooling=pooling)
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)
    form = json.loads((tmp_path / "adapter" / "graft.json").read_text())["form"]
    if pooling == "mean" or method in BARE:
        assert form == "graft"
    else:
        assert form == ("transformers" if method == "full" else "peft")


_VARIANTS: list[tuple[str, Any]] = [
    ("lora", {"targets": ("query", "value"), "dora": True}),
    ("lora", {"rslora": True}),
    ("adalora", {}),
    ("bottleneck", {"placement": "houlsby"}),
    ("bottleneck", {"placement": "pfeiffer"}),
    ("bottleneck", {"placement": "parallel"}),
    ("ia3", {}),
    ("prefix", {"tokens": 3}),
]


@pytest.mark.parametrize(
    ("family", "method", "settings"),
    [(family, "lora", {}) for family in [*sorted(FAMILIES), "bert without pooler"]]
    + [(family, "bottleneck", {}) for family in ("albert", "deberta-v2", "distilbert", "llama", "modernbert", "mpnet")]
    + [(family, "prefix", {}) for family in ("roberta", "electra", "llama", "qwen3")]
    + [(family, *variant) for family in ("bert", "gpt2", "bert without pooler") for variant in _VARIANTS],
)
def test_plain_peft_loads_what_was_saved(
    family: str, method: str, settings: Any, tiny: Any, batch: Any, tmp_path: Path
) -> None:
    family, _, bare = family.partition(" ")
    checkpoint = _drop_pooler(tiny(family)) if bare else tiny(family)
    model, attached, chosen = _train(checkpoint, method, settings=settings)
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, chosen, checkpoint)
    base = AutoModelForSequenceClassification.from_pretrained(
        checkpoint.path, num_labels=3, attn_implementation="eager"
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    theirs.get_base_model().config.pad_token_id = model.origin.config.pad_token_id
    use_cache = {"use_cache": False} if FAMILIES[family].decoder else {}
    torch.testing.assert_close(theirs(**batch, **use_cache).logits, model(batch).logits, **LAST_BITS)
    declared = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert declared["base_model_name_or_path"] == str(checkpoint.path)
    assert declared["task_type"] == "SEQ_CLS"
    assert ("pooler" in declared["modules_to_save"]) == (bool(bare) or family == "deberta-v2")


@pytest.mark.parametrize("family", ["bert", "gpt2", "bert without pooler"])
def test_plain_peft_loads_what_a_network_made_of_a_prefix(family: str, tiny: Any, batch: Any, tmp_path: Path) -> None:
    family, _, bare = family.partition(" ")
    checkpoint = _drop_pooler(tiny(family)) if bare else tiny(family)
    settings = {"tokens": 3, "projection": True, "projection_size": 5}
    model, attached, chosen = _train(checkpoint, "prefix", settings=settings)
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, chosen, checkpoint)
    base = AutoModelForSequenceClassification.from_pretrained(
        checkpoint.path, num_labels=3, attn_implementation="eager"
    )
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    theirs.get_base_model().config.pad_token_id = model.origin.config.pad_token_id
    torch.testing.assert_close(theirs(**batch).logits, model(batch).logits, rtol=1e-5, atol=1e-6)
    other, attached_too, _ = _train(checkpoint, "prefix", seed=99, settings=settings)
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)  # the network comes back too, and can go on learning


def test_a_folder_says_what_to_import_and_plain_peft_fails_without_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny("bert", "classification")
    for method, row in METHODS.items():
        model, attached, settings = _train(checkpoint, method)
        save_adapter(tmp_path / method, model, attached, settings, checkpoint)
        note = json.loads((tmp_path / method / "graft.json").read_text())["note"]
        assert ("import" in note) == (row.imports is not None)
        assert row.imports is None or f"`import {row.imports}`" in note
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "BOTTLENECK")
    base = AutoModelForSequenceClassification.from_pretrained(
        checkpoint.path, num_labels=3, ignore_mismatched_sizes=True
    )
    with pytest.raises(KeyError, match="BOTTLENECK"):
        PeftModel.from_pretrained(base, tmp_path / "bottleneck")


@pytest.mark.parametrize("method", BARE)
def test_what_a_part_of_the_model_learned_is_saved_without_the_rest(method: str, tiny: Any, tmp_path: Path) -> None:
    checkpoint = tiny("bert")
    model, attached, settings = _train(checkpoint, method)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    assert set(load_file(tmp_path / "adapter" / "graft.safetensors")) == set(attached.learning)
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["graft.json", "graft.safetensors"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_plain_transformers_loads_a_fully_fine_tuned_model(
    family: str, tiny: Any, put_tokenizer: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = tiny(family)
    put_tokenizer(checkpoint.path, pad_token="[PAD]")
    model, attached, settings = _train(checkpoint, "full")
    _move(model, attached)
    save_adapter(tmp_path / "model", model, attached, settings, checkpoint)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    use_cache = {"use_cache": False} if FAMILIES[family].decoder else {}
    torch.testing.assert_close(theirs(**batch, **use_cache).logits, model(batch).logits, **LAST_BITS)
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    assert "graft" not in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize(  # tied and separate vocabulary; a probe has nothing to train there
    ("method", "family"), [pair for pair in _pairs("gpt2", "llama") if pair[0] != "probe"]
)
def test_a_language_model_comes_back_and_plain_libraries_load_it(
    method: str, family: str, tiny: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = tiny(family, "language_model")
    model, attached, settings = _train(checkpoint, method, head="language_model")
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    other, attached_too, _ = _train(checkpoint, method, seed=99, head="language_model")
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)
    if method in BARE:
        return
    if method == "full":
        theirs: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", attn_implementation="eager")
    else:
        base = AutoModelForCausalLM.from_pretrained(checkpoint.path, attn_implementation="eager")
        theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(theirs.eval()(**batch, use_cache=False).logits, model(batch).logits)


def test_several_heads_come_back(tiny: Any, batch: Any, tmp_path: Path) -> None:
    checkpoint = tiny("bert")
    models = []
    row = METHODS["lora"]
    for seed in (3, 99):
        model = load_model(checkpoint, "classification", 3, ModelConfig(), None, seed=seed)
        if not models:
            model.add_head("second", 5, seed=seed)
        else:
            add_saved_heads(tmp_path / "adapter", model)
        attached = row.attach(model, row.config(), AttachContext(seed, 9, checkpoint))
        models.append((model, attached))
        if len(models) == 1:
            save_adapter(tmp_path / "adapter", model, attached, row.config(), checkpoint)
    (model, _), (other, attached_too) = models
    load_adapter(tmp_path / "adapter", other, attached_too)
    for head in ("default", "second"):
        assert torch.equal(model(batch, head=head).logits, other(batch, head=head).logits)


def test_saving_says_nothing(tiny: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny("bert")
    for method in METHODS:
        model, attached, settings = _train(checkpoint, method)
        capfd.readouterr()
        save_adapter(tmp_path / method, model, attached, settings, checkpoint)
        captured = capfd.readouterr()
        assert captured.out + captured.err == ""


def test_what_is_learned_by_an_adapter_holds_nothing_of_the_base(tiny: Any) -> None:
    model, attached, _ = _train(tiny("bert"), "lora")
    learned = learned_state(model, attached)
    assert set(learned) == set(attached.learning)
    assert all("lora_" in name or name.startswith("heads.") for name in learned)
    named = dict(model.named_parameters())
    assert all(tensor.data_ptr() == named[name].data_ptr() for name, tensor in learned.items())


def test_a_folder_that_does_not_fit_is_refused_and_says_how(tiny: Any, tmp_path: Path) -> None:
    checkpoint = tiny("bert")
    model, attached, settings = _train(checkpoint, "lora", settings={"targets": ("query",)})
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    more, attached_more, _ = _train(checkpoint, "lora", settings={"targets": ("query", "value")})
    with pytest.raises(CheckpointError, match=r"lacks 4 weights .*self\.value\.lora_A"):
        load_adapter(tmp_path / "adapter", more, attached_more)
    less, attached_less, _ = _train(checkpoint, "lora", settings={"targets": ("key",)})
    with pytest.raises(CheckpointError, match="has 4 that the model does not learn"):
        load_adapter(tmp_path / "adapter", less, attached_less)
    wide, attached_wide, _ = _train(checkpoint, "lora", settings={"targets": ("query",), "r": 4})
    with pytest.raises(CheckpointError, match=r"is \(8, 16\) and the model's is \(4, 16\)"):
        load_adapter(tmp_path / "adapter", wide, attached_wide)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(tmp_path / "adapter", model, attached)
    card = tmp_path / "adapter" / "graft.json"
    card.write_text(card.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(CheckpointError, match="newer graft"):
        load_adapter(tmp_path / "adapter", model, attached)
    card.unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_adapter(tmp_path / "adapter", model, attached)


class _Scaled(nn.Module):
    """Stands where a dropout stood."""

    def __init__(self, inner: nn.Dropout) -> None:
        super().__init__()
        self.p = inner.p

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * (1 - self.p) if self.training else hidden


@pytest.mark.parametrize(("method", "family"), _pairs("bert", "distilbert", "gpt2"))
def test_nothing_depends_on_dropouts_being_torchs_own(
    method: str, family: str, tiny: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = tiny(family)
    model, attached, settings = _train(checkpoint, method)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _Scaled(module))
    _move(model, attached)
    model.train()
    model.stages()[0].modules[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    assert modes == {name: module.training for name, module in model.named_modules()}
    other, attached_too, _ = _train(checkpoint, method, seed=99)
    load_adapter(tmp_path / "adapter", other, attached_too)
    model.eval()
    assert torch.equal(other(batch).logits, model(batch).logits)


def test_a_vocabulary_head_that_the_checkpoint_did_not_bring_learns_and_comes_back(
    tiny: Any, batch: Any, tmp_path: Path
) -> None:
    checkpoint = tiny("llama")  # saved without a head, and not tied
    model, attached, settings = _train(checkpoint, "lora", head="language_model")
    assert set(model.head_parameters()) == {"heads.default.lm_head.weight"} == model.fresh
    _move(model, attached)
    save_adapter(tmp_path / "adapter", model, attached, settings, checkpoint)
    other, attached_too, _ = _train(checkpoint, "lora", seed=99, head="language_model")
    load_adapter(tmp_path / "adapter", other, attached_too)
    assert torch.equal(other(batch).logits, model(batch).logits)
    base = AutoModelForCausalLM.from_pretrained(checkpoint.path, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(theirs(**batch, use_cache=False).logits, model(batch).logits)
