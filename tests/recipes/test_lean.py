"""Lean layers compute what the stock ones compute, and step aside wherever a layer is not what it usually is."""

import copy
import gc
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel, ModernBertConfig

from graft.recipes import lean
from graft.recipes.building import build, gather

CPU = torch.device("cpu")


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def adapted(request):
    """Load a tiny model with LoRA whose updates are not zero, and inputs for it."""

    def make(family="bert", **settings):
        path = request.getfixturevalue(f"tiny_{family}")
        targets = ["c_attn", "c_fc"] if family == "gpt2" else ["query", "value", "output.dense"]
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=family == "gpt2", **settings)
        base = AutoModel.from_pretrained(path)
        base.config.use_cache = False
        for module in base.modules():
            if type(module) is nn.Dropout:
                module.p = 0.0
        model = get_peft_model(base, config).train()
        generator = torch.Generator().manual_seed(5)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
        return model, torch.randint(4, 40, (3, 11), generator=generator)

    return make


def outcome(model, ids):
    """What a forward and a backward pass give: hidden states and the gradients of all that learns."""
    model.zero_grad()
    hidden = model(input_ids=ids).last_hidden_state.float()
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    return [hidden.detach(), *(weight.grad.clone() for weight in model.parameters() if weight.requires_grad)]


def layers(model):
    return [module for module in model.modules() if isinstance(module, lean.LoraLinear)]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_lora_gives_the_same_outputs_and_gradients_in_fp32(adapted, family):
    model, ids = adapted(family)
    stock = outcome(model, ids)
    lean.install(model)
    ours = outcome(model, ids)
    assert len(ours) == len(stock) > 4
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_bf16_is_as_near_to_fp32_as_the_stock_layers_are(adapted, family):
    model, ids = adapted(family)
    exact = outcome(model, ids)
    with bf16():
        stock = outcome(model, ids)
    lean.install(model)
    with bf16():
        ours = outcome(model, ids)

    def far(found):
        return torch.cat([((a - b) / b.norm()).flatten() for a, b in zip(found, exact, strict=True)]).norm()

    assert far(ours) < 1.5 * far(stock)
    assert far(ours) > 0


def test_gradients_are_the_derivatives():
    generator = torch.Generator().manual_seed(1)

    def given(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    weight, bias = given(5, 4).detach(), given(5).detach()
    for dropped in (None, given(3, 4)):
        for offset in (None, bias):
            arguments = (given(3, 4), dropped, weight, offset, given(2, 4), given(5, 2), 0.7)
            assert torch.autograd.gradcheck(lean.LowRank.apply, arguments)
            assert torch.autograd.gradgradcheck(lean.LowRank.apply, arguments)


def test_an_adapters_own_dropout_reaches_the_update_alone(adapted):
    model, ids = adapted(lora_dropout=0.5)
    lean.install(model)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(outcome(model, ids))
    torch.testing.assert_close(runs[0], runs[1])
    assert not torch.allclose(runs[0][0], runs[2][0])
    torch.manual_seed(1)
    for layer in layers(model):
        layer.__class__ = lean.LoraLinear
    torch.testing.assert_close(outcome(model, ids), runs[0], rtol=1e-4, atol=1e-4)


def test_normalisation_hands_on_bf16_under_autocast_and_is_the_stock_one_elsewhere():
    norm = nn.LayerNorm(16)
    nn.init.normal_(norm.weight)
    hidden = torch.randn(2, 7, 16)
    stock = norm(hidden)
    lean.install(norm)
    assert torch.equal(norm(hidden), stock)
    with bf16():
        half = norm(hidden)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), stock, rtol=2e-2, atol=2e-2)


def disabled(model):
    model.base_model.disable_adapter_layers()


def merged(model):
    model.base_model.merge_adapter()


def several(model):
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    model.base_model.set_adapter(["default", "other"])


def evaluated(model):
    model.eval()


def base_learns(model):
    for layer in layers(model):
        layer.base_layer.weight.requires_grad_()


def hooked(model):
    for layer in layers(model):
        layer.base_layer.register_forward_hook(lambda _, __, output: output + 1)


def hooked_backward(model):
    for layer in layers(model):
        layer.base_layer.register_full_backward_hook(lambda *_: None)


@pytest.mark.parametrize("change", [disabled, merged, several, evaluated, base_learns, hooked, hooked_backward])
def test_what_is_not_one_plain_adapter_runs_the_stock_code(adapted, change):
    model, ids = adapted()
    change(model)
    with torch.no_grad():
        stock = model(input_ids=ids).last_hidden_state
        lean.install(model)
        assert all(layer.only_adapter() is None for layer in layers(model)) or change is evaluated
        assert torch.equal(model(input_ids=ids).last_hidden_state, stock)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}], ids=["dora", "bias"])
def test_variants_run_the_stock_code(adapted, settings):
    model, ids = adapted(**settings)
    stock = outcome(model, ids)
    lean.install(model)
    for mine, theirs in zip(outcome(model, ids), stock, strict=True):
        assert torch.equal(mine, theirs)


def test_a_copy_runs_with_weights_of_its_own(adapted):
    model, ids = adapted()
    lean.install(model)
    before = outcome(model, ids)[0]
    copied = copy.deepcopy(model)
    for layer in layers(copied):
        layer.lora_B["default"].weight.data.zero_()
        layer.base_layer.weight.data.zero_()
    assert torch.equal(outcome(model, ids)[0], before)
    assert not torch.allclose(outcome(copied, ids)[0], before)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_switch_installs_and_keeps_every_name(tiny_recipe, method):
    states = [
        build(gather(tiny_recipe(method, speed={"layers": layers, "precision": "bf16"})), CPU)
        for layers in ("lean", "stock")
    ]
    kinds = (lean.LeanLayerNorm, lean.LeanLora)
    own = [sum(isinstance(module, kinds) for module in state.model.modules()) for state in states]
    assert own[0] > own[1] == 0
    names = [[learner.name for learner in state.learners] for state in states]
    assert names[0] == names[1]
    assert list(states[0].model.state_dict()) == list(states[1].model.state_dict())


def test_a_residual_stream_that_begins_in_the_embeddings_stays_in_fp32(tmp_path):
    config = ModernBertConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=2,
        pad_token_id=0,
        reference_compile=False,
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    ids = torch.randint(4, 40, (3, 11))
    exact = model(input_ids=ids).last_hidden_state
    lean.install(model, keep=[model.embeddings])
    kinds = []
    for layer in model.layers:
        layer.register_forward_hook(
            lambda _, __, output: kinds.append((output if isinstance(output, torch.Tensor) else output[0]).dtype)
        )
    with bf16():
        ours = model(input_ids=ids).last_hidden_state.float()
    assert set(kinds) == {torch.float32}
    torch.testing.assert_close(ours, exact, rtol=3e-2, atol=3e-2)


def test_a_model_that_nobody_holds_is_gone_at_once(adapted):
    model, ids = adapted()
    lean.install(model)
    with bf16():
        outcome(model, ids)
    layer = weakref.ref(layers(model)[0])
    gc.collect()
    gc.disable()
    try:
        del model
        assert layer() is None
    finally:
        gc.enable()
