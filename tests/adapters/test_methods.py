"""Every method is the identity at the start, is seeded, and trains what it declares: the closed forms' counts."""

import copy
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext, MethodConfig
from graft.errors import RecipeError


def _load(checkpoint: Any, outputs: int = 2, **config: Any) -> Any:
    return load_model(checkpoint, "classification", outputs, ModelConfig(**config), None, seed=3)


def _attach(model: Any, checkpoint: Any, name: str, seed: int = 5, **settings: Any) -> Any:
    row = METHODS[name]
    return row.attach(model, row.config(**settings), AttachContext(seed, 20, checkpoint))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_attaching_changes_no_logit_and_only_what_is_declared_learns(
    method: str, family: str, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    before = model(batch).logits
    attached = _attach(model, checkpoint, method)
    torch.testing.assert_close(model(batch).logits, before, rtol=0, atol=0)
    named = dict(model.named_parameters())
    assert [name for name, parameter in named.items() if parameter.requires_grad] == list(attached.learning)
    assert set(model.head_parameters()) <= set(attached.learning)
    assert model.fresh <= set(named)
    frozen = {name: value.clone() for name, value in named.items() if name not in attached.learning}
    started = {name: named[name].detach().clone() for name in attached.learning}
    optimizer = torch.optim.SGD([named[name] for name in attached.learning], lr=0.5)
    for _ in range(2):  # LoRA's A moves only once B has
        optimizer.zero_grad()
        model(batch).logits.square().sum().backward()
        optimizer.step()
    assert all(torch.equal(named[name], value) for name, value in frozen.items())
    moved = {name for name, value in started.items() if not torch.equal(named[name], value)}
    without_gradient = {name for name in attached.learning if named[name].grad is None}
    assert not without_gradient
    assert moved


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_every_learning_weight_belongs_to_one_stage(method: str, family: str, tiny: Any) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    attached = _attach(model, checkpoint, method)
    held = [id(p) for stage in model.stages() for module in stage.modules for p in module.parameters()]
    named = dict(model.named_parameters())
    assert all(held.count(id(named[name])) == 1 for name in attached.learning)
    assert [stage.name for stage in model.stages()][:3] == ["embeddings", "layer.0", "layer.1"]


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_initial_weights_depend_on_the_seed_alone(method: str, tiny: Any) -> None:
    checkpoint = tiny("bert")
    states = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        model = _load(checkpoint)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        _attach(model, checkpoint, method, seed)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])


def test_parameter_counts_follow_the_closed_forms(tiny: Any) -> None:
    checkpoint = tiny("bert")
    hidden, inner, layers, vocabulary, positions, outputs = 16, 24, 2, 60, 40, 2
    layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden
    embeddings = (vocabulary + positions + 2) * hidden + 2 * hidden
    pooler, head = hidden * hidden + hidden, hidden * outputs + outputs

    def count(method: str, **settings: Any) -> int:
        model = _load(checkpoint)
        _attach(model, checkpoint, method, **settings)
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    assert count("full") == embeddings + layers * layer + pooler + head
    r = 3
    square, oblong = r * 2 * hidden, r * (hidden + inner)
    assert count("lora", r=r) == layers * (4 * square + 2 * oblong) + square + head
    assert count("lora", r=r, targets=("query", "value")) == layers * 2 * square + head
    assert count("lora", r=r, targets=("query",), dora=True) == layers * (square + hidden) + head
    triplets = layers * (4 * square + 2 * oblong) + square + r * (6 * layers + 1)
    assert count("adalora", initial_r=r, r=2) == triplets + head


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_lora_equals_a_hand_written_one(rslora: bool, family: str, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    by_hand = copy.deepcopy(model)
    _attach(model, checkpoint, "lora", r=4, alpha=6.0, rslora=rslora)
    named = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in named.items():
            if ".lora_B." in name:
                parameter.normal_(std=0.2, generator=generator)
    scale = 6.0 / (4**0.5 if rslora else 4)
    adapted = 0
    with torch.no_grad():
        for name, matrix in named.items():
            if ".lora_A." not in name:
                continue
            path = name.removeprefix(model.body_prefix).removesuffix(".lora_A.default.weight")
            delta = scale * named[name.replace("lora_A", "lora_B")] @ matrix  # (out, in): W x + s B A x
            weight = by_hand.backbone.get_submodule(path).weight
            weight += delta.T if family == "gpt2" else delta
            adapted += 1
    assert adapted == {"bert": 13, "gpt2": 8}[family]
    torch.testing.assert_close(model(batch).logits, by_hand(batch).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(batch).logits, _load(checkpoint)(batch).logits, atol=1e-3)


def test_weight_decay_spares_biases_norms_and_triplets(tiny: Any) -> None:
    checkpoint = tiny("bert")
    full = _attach(_load(checkpoint), checkpoint, "full")
    for name in full.learning:
        assert full.decays(name) == (name.endswith(".weight") and "LayerNorm" not in name)
        assert full.rate(name) == 1.0
    adalora = _attach(_load(checkpoint), checkpoint, "adalora")
    assert [name for name in adalora.learning if adalora.decays(name)] == ["heads.default.classifier.weight"]


def test_a_fresh_pooler_learns_whole_under_lora(tiny: Any) -> None:
    checkpoint = tiny("bert")
    file = checkpoint.path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "pooler" not in k}, file, metadata={"format": "pt"})
    model = _load(checkpoint)
    attached = _attach(model, checkpoint, "lora")
    assert [name for name in attached.learning if "pooler" in name] == [
        "backbone.base_model.model.pooler.dense.weight",
        "backbone.base_model.model.pooler.dense.bias",
    ]
    assert isinstance(model.body.pooler.dense, nn.Linear)


def test_rows_are_consistent_and_their_settings_are_told_apart_by_name() -> None:
    adapter = TypeAdapter(MethodConfig)
    for name, row in METHODS.items():
        settings = adapter.validate_python({"name": name})
        assert type(settings) is row.config
        assert settings == row.config()
        assert row.learning_rate in row.learning_rates
        assert list(row.learning_rates) == sorted(set(row.learning_rates))
        assert all(field.description for field in row.config.model_fields.values())
    assert adapter.validate_python({"name": "lora", "targets": "query, value"}).targets == ("query", "value")
    with pytest.raises(ValidationError):
        adapter.validate_python({"name": "lora", "rank": 8})
    with pytest.raises(ValidationError, match="above r"):
        adapter.validate_python({"name": "adalora", "r": 12})


def test_an_unknown_target_is_refused_before_anything_changes(tiny: Any) -> None:
    checkpoint = tiny("bert")
    model = _load(checkpoint)
    with pytest.raises(RecipeError, match="quary"):
        _attach(model, checkpoint, "lora", targets=("quary",))
    assert model.body is model.backbone
