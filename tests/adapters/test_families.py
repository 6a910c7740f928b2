"""Each family's row tells the truth about transformers' modules, and importing a model changes none of its logits."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES, target_pattern
from graft.adapters.loading import load_model, to_sequence_classification
from graft.errors import CheckpointError, GraftError, RecipeError

# transformers multiplies a decoder's head with every token, and graft with the one that is read: the last bits are
# up to how a processor's library cuts the product.
LAST_BITS = {"rtol": 1e-6, "atol": 1e-6}

ALL = sorted(FAMILIES)
DECODERS = sorted(name for name, row in FAMILIES.items() if row.decoder)


def _load(checkpoint: Any, head: str = "classification", **config: Any) -> Any:
    return load_model(checkpoint, head, 2, ModelConfig(**config), None, seed=3)


@pytest.mark.parametrize("family", ALL)
def test_logits_equal_those_of_transformers_and_export_gives_them_back(
    family: str, tiny: Any, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    checkpoint = tiny(family, "classification")
    model = _load(checkpoint)
    assert not model.fresh  # the checkpoint brought a head
    theirs = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager").eval()
    theirs.config.pad_token_id = model.origin.config.pad_token_id
    if FAMILIES[family].decoder:  # a cache changes the memory layout, and with it the last bits
        theirs.config.use_cache = False
        padding = batch["attention_mask"] == 0
        batch = batch | {"input_ids": batch["input_ids"].masked_fill(padding, theirs.config.pad_token_id)}
    expected = theirs(**batch).logits
    torch.testing.assert_close(model(batch).logits, expected, **LAST_BITS)
    assert torch.equal(model.logits(model.features(batch)), model(batch).logits)
    to_sequence_classification(model).save_pretrained(tmp_path / "exported")
    exported = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "exported", attn_implementation="eager"
    ).eval()
    exported.config.use_cache = False
    assert torch.equal(exported(**batch).logits, expected)
    assert expected.std() > 0.01  # not all the same


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_reads_its_last_real_token_on_either_side_of_the_padding(
    family: str, side: str, tiny: Any, batch: dict[str, torch.Tensor]
) -> None:
    checkpoint = tiny(family, "classification")
    model = _load(checkpoint)
    pad = model.origin.config.pad_token_id
    assert pad == 2  # neither config nor tokenizer has one: the end-of-text token
    ids = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)
    inputs = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    if side == "left":
        inputs = {key: value.flip(1) for key, value in inputs.items()}
    theirs = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager").eval()
    theirs.config.pad_token_id = pad
    torch.testing.assert_close(model(inputs).logits, theirs(**inputs, use_cache=False).logits, **LAST_BITS)
    alone = {key: value[1:2] for key, value in inputs.items()}  # the row without padding
    torch.testing.assert_close(model(inputs).logits[1:2], model(alone).logits)


@pytest.mark.parametrize("family", DECODERS)
def test_a_language_model_gives_the_logits_of_transformers(family: str, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family, "language_model")
    model = _load(checkpoint, "language_model")
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint.path, attn_implementation="eager").eval()
    outputs = model(batch, need=frozenset({"hidden"}))
    assert torch.equal(outputs.logits, theirs(**batch, use_cache=False).logits)
    assert outputs.features.shape == (3, 9, 16)
    assert len(outputs.hidden) == 3  # embeddings and two layers
    assert model.head_parameters() == {}


def test_an_encoder_is_refused_as_a_causal_language_model(tiny: Any) -> None:
    with pytest.raises(GraftError, match="encoder"):
        _load(tiny("bert"), "language_model")


@pytest.mark.parametrize("family", ALL)
def test_the_roles_cover_every_linear_layer_of_the_layers(family: str, tiny: Any) -> None:
    row, model = FAMILIES[family], _load(tiny(family))
    layers = model.body.get_submodule(row.layers)
    for layer in layers.children():
        linear = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)}
        assert linear == set(row.linears.values())
    kinds = {type(module) for module in layers.modules() if isinstance(module, nn.Linear | Conv1D)}
    assert kinds == {Conv1D if row.transposed else nn.Linear}


@pytest.mark.parametrize("family", ALL)
def test_the_head_row_names_all_modules_beside_the_backbone(family: str, tiny: Any) -> None:
    checkpoint = tiny(family, "classification")
    theirs = AutoModelForSequenceClassification.from_pretrained(checkpoint.path)
    beside = {name for name, _ in theirs.named_children()} - {theirs.base_model_prefix}
    assert set(FAMILIES[family].head) == beside
    assert isinstance(_load(checkpoint).heads["default"].get_submodule(FAMILIES[family].output), nn.Linear)


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("head", ["classification", None])
def test_stages_hold_every_weight_and_dropout_once_in_forward_order(
    family: str, head: str | None, tiny: Any, batch: Any
) -> None:
    model = _load(tiny(family, head))
    stages = model.stages()
    leaves = {
        id(module)
        for module in model.modules()
        if isinstance(module, nn.Dropout) or list(module.parameters(recurse=False))
    }
    held = [id(leaf) for stage in stages for module in stage.modules for leaf in module.modules() if id(leaf) in leaves]
    assert sorted(held) == sorted(leaves)
    assert stages[0].name == "embeddings"
    assert stages[-1].name == "head"
    order: list[int] = []
    for position, stage in enumerate(stages):
        for module in stage.modules:
            module.register_forward_hook(lambda *_, position=position: order.append(position))
    model(batch)
    first = list(dict.fromkeys(order))
    assert first == sorted(first)
    assert set(range(1, len(stages) - 1)) < set(first)


@pytest.mark.parametrize("family", ALL)
def test_dropout_of_the_recipe_reaches_every_dropout(family: str, tiny: Any) -> None:
    model = _load(tiny(family, "classification"), dropout=0.25)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert set(rates.values()) <= {0.25}
    attention = [
        float(getattr(module, key))
        for module in model.modules()
        for key in ("attention_dropout", "dropout_prob")
        if isinstance(getattr(module, key, None), float)
    ]
    assert set(attention) <= {0.25}
    assert rates or attention


def test_targets_may_be_roles_paths_or_the_ends_of_paths() -> None:
    bert, gpt2 = FAMILIES["bert"], FAMILIES["gpt2"]
    pattern = target_pattern(bert, ("query", "value"), pooler=True)
    names = ["encoder.layer.11.attention.self.query", "bert.encoder.layer.0.attention.self.value"]
    assert all(re.fullmatch(pattern, name) for name in names)
    others = ["encoder.layer.0.attention.self.key", "pooler.dense", "encoder.layer.0.output.dense"]
    assert not any(re.fullmatch(pattern, name) for name in others)
    assert re.fullmatch(target_pattern(bert, ("all-linear",), pooler=True), "bert.pooler.dense")
    assert not re.fullmatch(target_pattern(bert, ("all-linear",), pooler=False), "bert.pooler.dense")
    fused = [target_pattern(gpt2, targets, pooler=False) for targets in (("query", "value"), ("c_attn",))]
    assert fused[0] == fused[1]
    assert re.fullmatch(fused[0], "transformer.h.3.attn.c_attn")
    both = target_pattern(gpt2, ("c_proj",), pooler=False)  # the end of two paths means both
    assert re.fullmatch(both, "h.0.attn.c_proj")
    assert re.fullmatch(both, "h.0.mlp.c_proj")


def test_an_unknown_target_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"'querry'.*did you mean 'query'"):
        target_pattern(FAMILIES["bert"], ("querry",), pooler=True)
    with pytest.raises(RecipeError, match="empty"):
        target_pattern(FAMILIES["bert"], (), pooler=True)


def test_an_unknown_architecture_is_refused_with_the_nearest_name(tiny: Any) -> None:
    checkpoint = tiny("bert")
    config = checkpoint.path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "big_bird"'))
    with pytest.raises(CheckpointError, match="'big_bird' is not supported"):
        _load(checkpoint)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("modernbert", {"classifier_pooling": "mean"}),
        ("deberta-v2", {"conv_kernel_size": 3}),
        ("electra", {"embedding_size": 16}),
        ("albert", {"num_hidden_groups": 2}),
        ("bert", {"classifier_dropout": 0.3}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_variants_of_a_family_are_the_family_too(family: str, settings: Any, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family, "classification", **settings)
    model = _load(checkpoint)
    theirs = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager").eval()
    assert torch.equal(model(batch).logits, theirs(**batch).logits)
    held = {id(p) for stage in model.stages() for module in stage.modules for p in module.parameters()}
    assert held == {id(p) for p in model.parameters()}
