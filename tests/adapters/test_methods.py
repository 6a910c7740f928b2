"""Every method starts where it says, is seeded, and trains what it declares: the closed forms' counts."""

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

NO_BIASES = ("llama", "mistral", "modernbert", "qwen3")
NO_CACHE = ("albert", "deberta-v2", "distilbert", "modernbert", "mpnet")
REFUSED = {("bitfit", family) for family in NO_BIASES} | {("prefix", family) for family in NO_CACHE}
PAIRS = [(method, family) for family in sorted(FAMILIES) for method in METHODS if (method, family) not in REFUSED]


def _load(checkpoint: Any, outputs: int = 2, **config: Any) -> Any:
    return load_model(checkpoint, "classification", outputs, ModelConfig(**config), None, seed=3)


def _attach(model: Any, checkpoint: Any, name: str, seed: int = 5, **settings: Any) -> Any:
    row = METHODS[name]
    return row.attach(model, row.config(**settings), AttachContext(seed, 20, checkpoint))


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_a_method_starts_where_it_says_and_only_what_is_declared_learns(
    method: str, family: str, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    before = model(batch).logits
    attached = _attach(model, checkpoint, method)
    assert torch.equal(model(batch).logits, before) == METHODS[method].abilities.identity_at_start
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
    # A prefix acts in all layers at once, and belongs to none.
    free = {name for name in attached.learning if ".prompt_encoder." in name}
    assert all(held.count(id(named[name])) == (name not in free) for name in attached.learning)
    assert bool(free) == (method == "prefix")
    assert [stage.name for stage in model.stages()][:3] == ["embeddings", "layer.0", "layer.1"]


@pytest.mark.parametrize(("method", "family"), sorted(REFUSED))
def test_an_architecture_that_cannot_be_adapted_is_refused_before_anything_changes(
    method: str, family: str, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    before = model(batch).logits
    row = METHODS[method]
    for refused in (
        lambda: _attach(model, checkpoint, method),
        lambda: row.check(model, row.config(), longest=1, gradient_checkpointing=False),
    ):
        with pytest.raises(RecipeError, match=rf"method: {method} .*{family}.*; use ") as caught:
            refused()
        assert "\n" not in str(caught.value)
    assert model.body is model.backbone
    assert torch.equal(model(batch).logits, before)


def test_a_probe_of_a_language_model_is_refused_unless_its_head_is_fresh(tiny: Any) -> None:
    whole, headless = tiny("llama", "language_model"), tiny("llama")
    model = load_model(whole, "language_model", 0, ModelConfig(), None, seed=3)
    with pytest.raises(RecipeError, match="probe trains a fresh head"):
        _attach(model, whole, "probe")
    fresh = load_model(headless, "language_model", 0, ModelConfig(), None, seed=3)
    assert _attach(fresh, headless, "probe").learning == ("heads.default.lm_head.weight",)


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_cannot_do_with_a_recipe_is_refused(method: str, tiny: Any) -> None:
    row, model = METHODS[method], _load(tiny("roberta"))  # 40 positions in the table, of which 38 are of use
    config = row.config(tokens=5) if method == "prefix" else row.config()
    taken = row.positions(config)
    assert taken == (5 if method == "prefix" else 0)
    row.check(model, config, longest=38 - taken, gradient_checkpointing=False)
    if method != "prefix":
        row.check(model, config, longest=38, gradient_checkpointing=True)
        return
    with pytest.raises(
        RecipeError, match=r"task\.max_length: .*34 tokens.*takes 38, of which prefix needs 5; set it to 33"
    ):
        row.check(model, config, longest=34, gradient_checkpointing=False)
    with pytest.raises(RecipeError, match=r"budget\.gradient_checkpointing: prefix"):
        row.check(model, config, longest=8, gradient_checkpointing=True)


@pytest.mark.parametrize("method", ["lora", "adalora", "bottleneck", "prefix"])
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
    biases = 4 * hidden + inner + hidden + 2 * hidden
    layer = 4 * hidden * hidden + 2 * hidden * inner + biases + 2 * hidden
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
    assert count("probe") == head
    assert count("bitfit") == layers * biases + hidden + hidden + head  # embeddings' normalisation, pooler
    assert count("ia3") == layers * (2 * hidden + inner) + head
    size, adapter = 3, 2 * 3 * hidden + 3 + hidden
    assert count("bottleneck", size=size) == layers * adapter + head
    assert count("bottleneck", size=size, placement="houlsby") == 2 * layers * adapter + head
    assert count("bottleneck", reduction=16 / 3, placement="parallel") == layers * adapter + head
    states = layers * 2 * hidden
    assert count("prefix", tokens=7) == 7 * states + head
    network = hidden * 5 + 5 + 5 * states + states
    assert count("prefix", tokens=7, projection=True, projection_size=5) == 7 * hidden + network + head


def test_parameter_counts_of_a_decoder_follow_the_closed_forms(tiny: Any) -> None:
    checkpoint = tiny("gpt2")
    hidden, inner, layers, head = 16, 64, 2, 16 * 2

    def count(method: str, **settings: Any) -> int:
        model = _load(checkpoint)
        _attach(model, checkpoint, method, **settings)
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    assert count("probe") == head
    assert count("bitfit") == layers * (3 * hidden + hidden + inner + hidden + 2 * hidden) + hidden + head
    assert count("ia3") == layers * (3 * hidden + inner) + head  # one layer makes query, key and value
    assert count("bottleneck") == layers * (2 * hidden + 1 + hidden) + head
    assert count("prefix", tokens=7) == 7 * layers * 2 * hidden + head


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
    head = ["heads.default.classifier.weight"]
    for method in ("adalora", "bitfit", "ia3", "prefix", "probe"):
        attached = _attach(_load(checkpoint), checkpoint, method)
        assert [name for name in attached.learning if attached.decays(name)] == head
    bottleneck = _attach(_load(checkpoint), checkpoint, "bottleneck")
    for name in bottleneck.learning:
        assert bottleneck.decays(name) == name.endswith(".weight")
    projected = _attach(_load(checkpoint), checkpoint, "prefix", projection=True)
    decaying = [name.rpartition("default.")[2] for name in projected.learning if projected.decays(name)]
    assert decaying == ["transform.0.weight", "transform.2.weight", "classifier.weight"]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_ia3_equals_hand_scaled_weights_and_merges(family: str, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    by_hand = copy.deepcopy(model)
    attached = _attach(model, checkpoint, "ia3")
    named = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(1)
    scaled = []
    with torch.no_grad():
        for name in attached.learning:
            if ".ia3_l." not in name:
                continue
            vector = named[name].normal_(mean=1, std=0.3, generator=generator).flatten()
            path = name.removeprefix(model.body_prefix).removesuffix(".ia3_l.default")
            layer = by_hand.backbone.get_submodule(path)
            weight = layer.weight.T if family == "gpt2" else layer.weight  # (out, in)
            if path.endswith(("output.dense", "mlp.c_proj", "mlp.down_proj")):
                weight *= vector  # the inner activations, on their way in
            else:
                weight *= vector[:, None]
                if getattr(layer, "bias", None) is not None:
                    layer.bias *= vector
            scaled.append(path.rpartition(".")[2])
    layers = {
        "bert": ["key", "value", "dense"],
        "gpt2": ["c_attn", "c_proj"],
        "llama": ["k_proj", "v_proj", "down_proj"],
    }
    assert scaled == 2 * layers[family]
    logits = model(batch).logits
    torch.testing.assert_close(logits, by_hand(batch).logits, rtol=1e-4, atol=1e-5)
    model.backbone = model.backbone.merge_and_unload()
    torch.testing.assert_close(model(batch).logits, logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits, _load(checkpoint)(batch).logits, atol=1e-3)


def test_bitfit_trains_every_bias_and_nothing_else_of_the_backbone(tiny: Any) -> None:
    checkpoint = tiny("qwen2")  # biases in three of its layers only
    attached = _attach(_load(checkpoint), checkpoint, "bitfit")
    roles = {name.split(".")[-2] for name in attached.learning if name.startswith("backbone.")}
    assert roles == {"q_proj", "k_proj", "v_proj"}
    assert all(name.endswith(".bias") for name in attached.learning if name.startswith("backbone."))


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_pooler_learns_whole(method: str, tiny: Any) -> None:
    checkpoint = tiny("bert")
    file = checkpoint.path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "pooler" not in k}, file, metadata={"format": "pt"})
    model = _load(checkpoint)
    attached = _attach(model, checkpoint, method)
    pooler = [name for name in attached.learning if "pooler" in name]
    assert pooler == [f"{model.body_prefix}pooler.dense.weight", f"{model.body_prefix}pooler.dense.bias"]
    assert isinstance(model.body.pooler.dense, nn.Linear)


def test_rows_are_consistent_and_their_settings_are_told_apart_by_name() -> None:
    adapter = TypeAdapter(MethodConfig)
    for name, row in METHODS.items():
        settings = adapter.validate_python({"name": name})
        assert type(settings) is row.config
        assert settings == row.config()
        assert row.learning_rate in row.learning_rates
        assert list(row.learning_rates) == sorted(set(row.learning_rates))
        assert len(row.learning_rates) == 4
        refused = {family for method, family in REFUSED if method == name}
        assert set(row.abilities.families or FAMILIES) == set(FAMILIES) - refused
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
