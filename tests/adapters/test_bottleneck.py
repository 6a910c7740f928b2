"""Each placement of the bottleneck adapters equals a hand-written forward pass of its paper; plain peft handles it."""

import copy
import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn
from transformers import AutoModelForSequenceClassification

from graft.adapters import bottleneck_tuner
from graft.adapters.bottleneck_tuner import NAME, BottleneckLayer, BottleneckModel
from graft.adapters.bottleneck_tuner import BottleneckConfig as TunerConfig
from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.sublayers import SUBLAYERS
from graft.errors import GraftError, RecipeError

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")


def _load(checkpoint: Any) -> Any:
    return load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=3)


def _attach(model: Any, checkpoint: Any, **settings: Any) -> Any:
    row = METHODS["bottleneck"]
    return row.attach(model, row.config(**settings), AttachContext(5, 20, checkpoint))


def _stir(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".bottleneck_" in name:
                parameter.normal_(std=0.3, generator=generator)


class _Halved(nn.Module):
    """Stands where a dropout stood, and shows on which side of it something is."""

    p = 0.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden / 2


def _halve_dropouts(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout) and ".bottleneck_" not in name:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _Halved())


def _by_hand(model: Any, place: str, scaling: float, f: Any) -> Any:
    """The adapters of one place, `A(layer, hidden)`, computed from the weights of the adapted model."""
    named = dict(model.named_parameters())
    prefix = f"{model.body_prefix}{model.family.layers}"

    def adapter(layer: int, hidden: torch.Tensor) -> torch.Tensor:
        path = f"{prefix}.{layer}.{place}".rstrip(".")
        down, up = f"{path}.bottleneck_down.default.", f"{path}.bottleneck_up.default."
        inner = f(hidden @ named[f"{down}weight"].T + named[f"{down}bias"])
        return scaling * (inner @ named[f"{up}weight"].T + named[f"{up}bias"])

    return adapter


def _bert_by_hand(plain: Any, batch: Any, placement: str, first: Any, second: Any) -> tuple[Any, list[Any]]:
    body = plain.backbone
    mask = (1.0 - batch["attention_mask"][:, None, None, :]) * torch.finfo(torch.float32).min
    hidden = body.embeddings(batch["input_ids"])
    states = [hidden]
    for number, layer in enumerate(body.encoder.layer):
        attended = layer.attention.self(hidden, attention_mask=mask)[0]
        attended = layer.attention.output.dropout(layer.attention.output.dense(attended))
        if placement == "houlsby":
            attended = attended + first(number, attended)
        x = layer.attention.output.LayerNorm(attended + hidden)
        h = layer.output.dropout(layer.output.dense(layer.intermediate(x)))
        norm = layer.output.LayerNorm
        if placement == "houlsby":
            hidden = norm(h + second(number, h) + x)
        elif placement == "pfeiffer":
            hidden = norm(h + second(number, norm(h + x)) + x)
        else:
            hidden = norm(h + second(number, x) + x)
        states.append(hidden)
    return plain.heads["default"](body.pooler(hidden)), states


def _gpt2_by_hand(plain: Any, batch: Any, placement: str, first: Any, second: Any) -> tuple[Any, list[Any]]:
    body = plain.backbone
    positions = torch.arange(batch["input_ids"].shape[1])
    causal = torch.full((len(positions), len(positions)), torch.finfo(torch.float32).min).triu(1)
    hidden = body.drop(body.wte(batch["input_ids"]) + body.wpe(positions))
    states = [hidden]
    for number, block in enumerate(body.h):
        attended = block.attn(block.ln_1(hidden), attention_mask=causal[None, None])[0]
        if placement == "houlsby":
            attended = attended + first(number, attended)
        x = attended + hidden
        h = block.mlp(block.ln_2(x))
        if placement == "houlsby":
            hidden = x + h + second(number, h)
        elif placement == "pfeiffer":
            hidden = x + h + second(number, x + h)
        else:
            hidden = x + h + second(number, block.ln_2(x))
        states.append(hidden)
    last = batch["attention_mask"].sum(dim=1) - 1
    states[-1] = body.ln_f(hidden)
    return plain.heads["default"](states[-1][torch.arange(len(last)), last]), states


PLACES = {
    "bert": ("attention.output.dropout", {"houlsby": "output.dropout", "pfeiffer": "output.LayerNorm"}, "output"),
    "gpt2": ("attn.resid_dropout", {"houlsby": "mlp.dropout", "pfeiffer": ""}, "mlp"),
}
DEFAULTS = {
    "houlsby": (1.0, nn.functional.gelu),
    "pfeiffer": (1.0, nn.functional.relu),
    "parallel": (4.0, nn.functional.relu),
}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_placement_equals_its_papers_formula(placement: str, family: str, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family, pad_token_id=0)
    plain, model = _load(checkpoint), _load(checkpoint)
    _attach(model, checkpoint, placement=placement, size=3)
    _stir(model)
    _halve_dropouts(plain)
    _halve_dropouts(model)
    first, second, span = PLACES[family]
    scaling, f = DEFAULTS[placement]
    by_hand = _bert_by_hand if family == "bert" else _gpt2_by_hand
    adapters = [_by_hand(model, place, scaling, f) for place in (first, second.get(placement, span))]
    with torch.no_grad():
        outputs = model(batch, need=frozenset({"hidden"}))
        logits, states = by_hand(plain, batch, placement, *adapters)
        bare = plain(batch).logits
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-5)
    assert len(outputs.hidden) == len(states) == 3
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(outputs.hidden, states, strict=True):
        torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(outputs.logits, bare, atol=1e-3)


def test_settings_reach_the_formula(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("bert")
    plain, model = _load(checkpoint), _load(checkpoint)
    _attach(model, checkpoint, placement="parallel", size=3, scaling=0.5, nonlinearity="tanh")
    _stir(model)
    second = _by_hand(model, "output", 0.5, torch.tanh)
    logits, _ = _bert_by_hand(plain, batch, "parallel", None, second)
    torch.testing.assert_close(model(batch).logits, logits, rtol=1e-4, atol=1e-5)


def test_the_initial_spread_is_the_settings(tiny: Any) -> None:
    checkpoint = tiny("bert")
    model = _load(checkpoint)
    _attach(model, checkpoint, size=500, init_std=0.25)
    named = {name: value.detach() for name, value in model.named_parameters() if ".bottleneck_" in name}
    downs = [value for name, value in named.items() if "_down.default.weight" in name]
    rest = [value for name, value in named.items() if "_down.default.weight" not in name]
    assert torch.cat([down.flatten() for down in downs]).std().item() == pytest.approx(0.25, rel=0.05)
    assert len(rest) == 6
    assert all(not value.any() for value in rest)


def test_dropout_acts_on_the_middle_while_training(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = _load(checkpoint)
    _attach(model, checkpoint, size=4, dropout=0.5)
    _stir(model)
    evaluated = model(batch).features
    assert torch.equal(model(batch).features, evaluated)
    middles = [layer.bottleneck_dropout["default"] for layer in model.modules() if isinstance(layer, BottleneckLayer)]
    seen: list[torch.Size] = []
    for middle in middles:
        assert isinstance(middle, nn.Dropout)
        assert middle.p == 0.5
        middle.register_forward_hook(lambda _, args, output: seen.append(output.shape))
    model.train()
    assert not torch.equal(model(batch).features, evaluated)
    assert seen == [(3, 9, 4)] * 2


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_placement_starts_as_the_identity_and_learns_in_every_family(
    placement: str, family: str, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family)
    model = _load(checkpoint)
    before = model(batch, need=frozenset({"hidden"}))
    if (placement, family) == ("parallel", "albert"):
        with pytest.raises(RecipeError, match=r"method\.placement: parallel does not work on albert.*use houlsby"):
            _attach(model, checkpoint, placement=placement)
        assert model.body is model.backbone
        return
    attached = _attach(model, checkpoint, placement=placement)
    assert torch.equal(model(batch).logits, before.logits)
    layers = 1 if family == "albert" else 2
    wrapped = [module for module in model.modules() if isinstance(module, BottleneckLayer)]
    assert len(wrapped) == layers * (2 if placement == "houlsby" else 1)
    _stir(model)
    outputs = model(batch, need=frozenset({"hidden"}))
    outputs.logits.square().sum().backward()
    named = dict(model.named_parameters())
    assert all(named[name].grad is not None for name in attached.learning)
    assert not torch.allclose(outputs.hidden[1], before.hidden[1], atol=1e-3)  # what the next layer reads
    with model.backbone.disable_adapter():
        assert torch.equal(model(batch).logits, before.logits)


def test_every_family_has_a_row_of_sublayers() -> None:
    assert set(SUBLAYERS) == set(FAMILIES)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_plain_peft_handles_several_adapters_switching_deleting_and_unloading(
    placement: str, family: str, tiny: Any, batch: Any, tmp_path: Any
) -> None:
    checkpoint = tiny(family, "classification")
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint.path).eval()
    base.config.pad_token_id = 0
    bare = base(**batch, use_cache=False).logits
    model: Any = get_peft_model(base, TunerConfig(task_type="SEQ_CLS", placement=placement, size=3))
    model.add_adapter("second", TunerConfig(task_type="SEQ_CLS", placement=placement, size=5))
    assert torch.equal(model(**batch, use_cache=False).logits, bare)
    _stir(model)
    first = model(**batch, use_cache=False).logits
    model.set_adapter("second")
    second = model(**batch, use_cache=False).logits
    assert not torch.allclose(first, second, atol=1e-4)
    with model.disable_adapter():
        assert torch.equal(model(**batch, use_cache=False).logits, bare)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(checkpoint.path)
    again.config.pad_token_id = 0
    loaded = PeftModel.from_pretrained(again, tmp_path / "second").eval()
    assert torch.equal(loaded(**batch, use_cache=False).logits, second)
    twin = copy.deepcopy(model)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(model(**batch, use_cache=False).logits, first)
    assert torch.equal(twin(**batch, use_cache=False).logits, second)
    with pytest.raises(GraftError, match="cannot be merged"):
        model.merge_and_unload()
    with pytest.raises(GraftError, match="cannot be merged"):
        model.merge_adapter()
    unloaded = model.unload()
    assert not any(isinstance(module, BottleneckLayer) for module in unloaded.modules())
    assert torch.equal(unloaded(**batch, use_cache=False).logits, bare)


def test_a_second_placement_in_one_model_is_refused(tiny: Any) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(tiny("bert", "classification").path)
    model = get_peft_model(base, TunerConfig(task_type="SEQ_CLS", placement="houlsby"))
    with pytest.raises(GraftError, match="one placement, not houlsby and parallel"):
        model.add_adapter("second", TunerConfig(task_type="SEQ_CLS", placement="parallel"))


def test_activations_computed_twice_give_the_same_gradients(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("gpt2", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    gradients = []
    for twice in (False, True):
        model = _load(checkpoint)
        attached = _attach(model, checkpoint)
        _stir(model)
        if twice:
            model.body.activation_checkpointing_enable({"use_reentrant": False})
        model.train()(batch).logits.square().sum().backward()
        named = dict(model.named_parameters())
        gradients.append(torch.cat([named[name].grad.flatten() for name in attached.learning]))
    torch.testing.assert_close(*gradients)


def test_what_is_used_of_pefts_inside_is_as_it_was() -> None:
    """The version is pinned; when it is raised, this says what to look at."""
    assert PEFT_TYPE_TO_CONFIG_MAPPING[NAME] is TunerConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[NAME] is BottleneckModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[NAME] == BottleneckModel.prefix
    assert "LORA" in PEFT_TYPE_TO_CONFIG_MAPPING  # keys of the enum are found by plain strings
    for ours, theirs in ((BottleneckModel, BaseTuner), (BottleneckLayer, BaseTunerLayer)):
        own = [name for name, value in vars(ours).items() if inspect.isfunction(value) and not name.startswith("__")]
        shared = [name for name in own if name not in ("update_layer", "change")]
        for name in shared:
            wanted = list(inspect.signature(getattr(theirs, name)).parameters)
            assert list(inspect.signature(getattr(ours, name)).parameters) == wanted, name
    assert "unload_and_optionally_merge_module" in inspect.getsource(BaseTuner._unload_and_optionally_merge)


def test_the_module_to_import_makes_the_type_known() -> None:
    assert METHODS["bottleneck"].imports == bottleneck_tuner.__name__
    program = (
        "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known; assert 'BOTTLENECK' not in known; "
        f"import {METHODS['bottleneck'].imports}; assert 'BOTTLENECK' in known"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)
