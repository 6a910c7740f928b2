"""Frozen weights are converted once: nothing computed changes by a bit, and no copy outlives what it is of."""

import copy
import gc

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from transformers.pytorch_utils import Conv1D

from graft.recipes import converted, lean
from graft.recipes import plan as plan_module
from graft.recipes.building import build, gather
from graft.recipes.loop import fit
from graft.recipes.speed import explain_speed
from graft.recipes.step import train_step

CPU = torch.device("cpu")


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def layers():
    """Make a linear layer of either kind, frozen, with an input."""
    torch.manual_seed(2)
    made = [nn.Linear(6, 4), nn.Linear(6, 4, bias=False), Conv1D(4, 6)]
    return [(layer.requires_grad_(False), torch.randn(3, 5, 6, requires_grad=True)) for layer in made]


def outcome(layer, given):
    """What a layer gives forward and backward, gradients of what learns included."""
    given.grad = None
    layer.zero_grad()
    with bf16():
        result = layer(given)
    result.float().square().sum().backward()
    return [result.detach(), given.grad, *(part.grad for part in layer.parameters() if part.requires_grad)]


def count(monkeypatch):
    """Count what is made of frozen weights."""
    made = []
    real = converted._COPIES.__class__.__setitem__

    def noting(self, weight, kept):
        made.append(weight)
        real(self, weight, kept)

    monkeypatch.setattr(converted._COPIES.__class__, "__setitem__", noting)
    return made


@pytest.mark.parametrize("number", range(3), ids=["linear", "without bias", "conv1d"])
@pytest.mark.parametrize("learning", ["nothing", "bias", "all"])
def test_layers_give_what_stock_ones_give_to_the_bit(number, learning, monkeypatch):
    layer, given = layers()[number]
    if learning == "all":
        layer.requires_grad_()
    elif learning == "bias" and layer.bias is not None:
        layer.bias.requires_grad_()
    stock, made = outcome(layer, given), count(monkeypatch)
    converted.install(layer)
    for _ in range(3):
        ours = outcome(layer, given)
        assert len(ours) == len(stock)
        assert all(torch.equal(one, other) for one, other in zip(ours, stock, strict=True))
    frozen = [part for part in layer.parameters() if not part.requires_grad and learning != "all"]
    assert {id(part) for part in made} == {id(part) for part in frozen}
    assert len(made) == len(frozen)  # once, not at each of three steps


@pytest.mark.parametrize("number", [0, 2], ids=["linear", "conv1d"])
def test_the_stock_code_runs_in_evaluation_and_without_autocast(number, monkeypatch):
    layer, given = layers()[number]
    stock = layer(given)
    with bf16():
        half = layer(given)
    converted.install(layer)
    made = count(monkeypatch)
    assert torch.equal(layer(given), stock)
    with bf16():
        assert torch.equal(layer.eval()(given), half)
    assert not made


def replaced(layer):
    layer.weight = nn.Parameter(2 * layer.weight, requires_grad=False)


def changed_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def loaded(layer):
    layer.load_state_dict({name: 2 * part for name, part in layer.state_dict().items()})


def given_other_data(layer):
    layer.weight.data = 2 * layer.weight.data


@pytest.mark.parametrize("change", [replaced, changed_in_place, loaded, given_other_data])
def test_a_weight_that_has_changed_is_converted_anew(change):
    layer, given = layers()[0]
    other = copy.deepcopy(layer)
    converted.install(layer)
    outcome(layer, given)
    change(layer)
    change(other)
    assert all(torch.equal(one, two) for one, two in zip(outcome(layer, given), outcome(other, given), strict=True))


def test_a_weight_that_thaws_gives_its_copy_up_and_has_a_gradient():
    layer, given = layers()[0]
    converted.install(layer)
    outcome(layer, given)
    assert len(converted.copies(layer)) == 2
    layer.requires_grad_()
    outcome(layer, given)
    assert not converted.copies(layer)
    assert layer.weight.grad is not None


def test_copies_go_with_their_model_and_when_told_to():
    layer, given = layers()[0]
    converted.install(layer)
    gc.collect()
    before = len(converted._COPIES)
    outcome(layer, given)
    assert len(converted._COPIES) == before + 2
    converted.forget(layer)
    assert len(converted._COPIES) == before
    outcome(layer, given)
    del layer
    gc.collect()
    assert len(converted._COPIES) == before


@pytest.fixture
def converting(monkeypatch):
    """Have runs convert once, or not."""
    real = converted.install

    def choose(whether):
        monkeypatch.setattr(converted, "install", real if whether else lambda model: None)

    return choose


def trained(recipe, steps=3):
    """Take some steps, and look at losses and weights."""
    state = build(gather(recipe), CPU)
    for _ in range(steps):
        train_step([state], Accelerator(cpu=True))
    return state, state.losses, [learner.weight for learner in state.learners]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, {}) for method in ("lora", "adalora", "bitfit", "ia3", "prefix", "bottleneck", "full")),
        ("lora", {"budget": {"gradient_checkpointing": True}}),
        ("lora", {"budget": {"tokens": 40}}),
        ("full", {"strategy": "gradual_unfreezing", "schedule": {"steps": 3}}),
        ("lora", {"strategy": "gradual_unfreezing", "schedule": {"steps": 3}}),
    ],
)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_run_is_the_same_to_the_bit(method, settings, family, tiny_recipe, request, converting):
    model = str(request.getfixturevalue(f"tiny_{family}"))
    found = []
    for whether in (True, False):
        converting(whether)
        found.append(trained(tiny_recipe(method, model=model, speed={"precision": "bf16"}, **settings)))
        assert whether == any(isinstance(module, converted.ConvertedLinear) for module in found[-1][0].model.modules())
    (_, losses, weights), (_, other_losses, other_weights) = found
    assert losses == other_losses
    assert all(torch.equal(one, other) for one, other in zip(weights, other_weights, strict=True))


def test_lora_takes_the_copies_of_the_layers_that_it_adapts(tiny_recipe):
    state = build(gather(tiny_recipe("lora", speed={"precision": "bf16"})), CPU)
    train_step([state], Accelerator(cpu=True))
    adapted = [module for module in state.model.modules() if isinstance(module, lean.LeanLora)]
    assert adapted
    assert all(layer.base_layer.weight in converted._COPIES for layer in adapted)
    assert all(layer.only_adapter() is not None for layer in adapted)


@pytest.mark.parametrize(
    ("method", "some"), [("lora", True), ("bitfit", True), ("ia3", True), ("full", False), ("probe", False)]
)
def test_the_plan_tells_and_counts_what_copies_take(method, some, tiny_recipe, converting):
    recipe = tiny_recipe(method, speed={"precision": "bf16"})
    told = explain_speed(recipe, build(gather(recipe), CPU))["layers"]
    state, *_ = trained(recipe, steps=1)
    taken = sum(copy.nbytes for copy in converted.copies(state.model))
    assert taken == converted.copied(state.model)
    assert (taken > 0) == some == ("converted to bf16 once" in told)
    if some:
        assert f"once ({taken / 2**20:.1f} MiB)" in told
    counted = []
    for whether in (True, False):
        converting(whether)
        counted.append(plan_module._work_out(recipe).memory)
    assert counted[0].weights - counted[1].weights == taken
    # Of activations no copy is one; without copies, what is converted at a step is kept for its backward pass.
    assert 0 <= counted[1].activations - counted[0].activations <= taken
    assert some == (counted[1].activations > counted[0].activations)


@pytest.mark.parametrize("speed", [{"layers": "stock"}, {"precision": "fp32"}])
def test_nothing_is_installed_where_a_switch_is_off(speed, tiny_recipe):
    for chosen, expected in ({"precision": "bf16"}, True), ({"precision": "bf16"} | speed, False):
        state = build(gather(tiny_recipe("lora", speed=chosen)), CPU)
        assert expected == any(isinstance(module, converted.ConvertedLinear) for module in state.model.modules())


def test_a_run_that_has_ended_keeps_no_copy(tiny_recipe):
    state = build(gather(tiny_recipe("lora", speed={"precision": "bf16"})), CPU)
    kept = []

    class Looks:
        def on_step(self, state):
            kept.append(bool(converted.copies(state.model)))

        def on_evaluation(self, state):
            pass

    fit([state], Accelerator(cpu=True), score=lambda _: {}, watches=[Looks()])
    assert kept[0]
    assert not converted.copies(state.model)


def test_a_run_that_fails_keeps_no_copy(tiny_recipe):
    state = build(gather(tiny_recipe("lora", speed={"precision": "bf16"})), CPU)

    def fails(state):
        assert converted.copies(state.model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit([state], Accelerator(cpu=True), score=fails)
    assert not converted.copies(state.model)


def test_what_is_converted_in_inference_mode_serves_training():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False).train()
    converted.install(layers)
    given = torch.randn(2, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            layers(given)
        layers(given).sum().backward()
    assert given.grad is not None
