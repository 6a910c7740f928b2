"""Combined weights are what formulas on the runs' own weights say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graft.adapters.checkpoint import Checkpoint
from graft.adapters.combining import WAYS, Combined, Member, average_weights, combine_adapters
from graft.adapters.config import ModelConfig
from graft.adapters.contract import AttachContext
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS
from graft.adapters.mixing import lora_layers
from graft.errors import GraftError

Make = Callable[..., list[Member]]


def grown(
    checkpoint: Checkpoint, name: str, settings: dict[str, Any], weight: float, seed: int, outputs: int
) -> Member:
    """A model whose method has learned something: random numbers."""
    model = load_model(checkpoint, "classification", outputs, ModelConfig(), None, seed=seed)
    method = METHODS[settings["name"]]
    config = method.config.model_validate(settings)
    attached = method.attach(model, config, AttachContext(seed=seed, total_steps=3, checkpoint=checkpoint))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (model.get_parameter(name) for name in attached.learning):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return Member(name, model.eval(), config, weight)


@pytest.fixture
def make(tiny: Any) -> Make:
    """Make `make((settings, weight), ..., family)`: members from one checkpoint, each with numbers of its own."""
    made: dict[str, Checkpoint] = {}

    def members(*settings: tuple[dict[str, Any], float], family: str = "bert", outputs: int = 2) -> list[Member]:
        checkpoint = made.setdefault(family, tiny(family))
        return [
            grown(checkpoint, f"run {number}", part, weight, number + 1, outputs)
            for number, (part, weight) in enumerate(settings)
        ]

    return members


def context(checkpoint: Any = None) -> AttachContext:
    return AttachContext(seed=0, total_steps=3, checkpoint=checkpoint)


def updates(member: Member | Combined) -> dict[str, Tensor]:
    """s B A of each layer."""
    return {
        path: layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        for path, layer in lora_layers(member.model.backbone).items()
    }


def combine(members: list[Member], how: str, density: float | None = None, seed: int = 0) -> Combined:
    return combine_adapters(members, WAYS[how], density, seed, context())


LORAS = (({"name": "lora", "r": 4}, 0.75), ({"name": "lora", "r": 2, "targets": ["query", "value"]}, 0.25))
ALIKE = (({"name": "lora", "r": 4, "rslora": True}, 2.0), ({"name": "lora", "r": 4}, 1.0))


@pytest.mark.parametrize("how", ["cat", "average"])
def test_updates_are_summed_by_weight_exactly(how: str, make: Make) -> None:
    members = make(*LORAS)
    first, second = (updates(member) for member in members)
    found = updates(combine(members, how))
    assert set(found) == set(first) | set(second)
    for path, update in found.items():
        expected = 0.75 * first.get(path, 0) + 0.25 * second.get(path, torch.zeros(()))
        torch.testing.assert_close(update, expected, atol=1e-5, rtol=1e-5)


def test_svd_is_the_best_update_of_the_largest_rank(make: Make) -> None:
    members = make(*LORAS)
    first, second = (updates(member) for member in members)
    combined = combine(members, "svd")
    assert combined.config.model_dump()["r"] == 4
    for path, update in updates(combined).items():
        whole = 0.75 * first[path] + 0.25 * second.get(path, torch.zeros(()))
        left, values, right = torch.linalg.svd(whole.double(), full_matrices=False)
        best = left[:, :4] * values[:4] @ right[:4]
        torch.testing.assert_close(update.double(), best, atol=1e-5, rtol=1e-4)


def test_linear_sums_matrices_by_the_roots_of_weight_and_scale(make: Make) -> None:
    members = make(*ALIKE)
    layers = [lora_layers(member.model.backbone) for member in members]
    weights = [2.0 * 16 / 4**0.5, 1.0 * 16 / 4]
    expected = {
        path: (
            sum(w**0.5 * part[path].lora_B["default"].weight for w, part in zip(weights, layers, strict=True))
            @ sum(w**0.5 * part[path].lora_A["default"].weight for w, part in zip(weights, layers, strict=True))
        ).detach()
        for path in layers[0]
    }
    for path, update in updates(combine(members, "linear")).items():
        torch.testing.assert_close(update, expected[path], atol=1e-5, rtol=1e-5)


def test_ties_trims_elects_signs_and_averages_those_that_agree(make: Make) -> None:
    members = make(({"name": "lora", "r": 4, "alpha": 4.0}, 1.0), ({"name": "lora", "r": 4, "alpha": 4.0}, 1.0))
    layers = [lora_layers(member.model.backbone) for member in members]

    def elected(matrices: list[Tensor]) -> Tensor:
        trimmed = []
        for matrix in matrices:
            kept = matrix.flatten().abs().argsort(descending=True)[: int(0.4 * matrix.numel())]
            flat = torch.zeros(matrix.numel()).index_copy(0, kept, matrix.flatten()[kept])
            trimmed.append(flat.reshape(matrix.shape))
        signs = [1.0 if total >= 0 else -1.0 for total in sum(trimmed).flatten().tolist()]
        columns = zip(*(part.flatten().tolist() for part in trimmed), strict=True)
        means = []
        for sign, values in zip(signs, columns, strict=True):
            agreeing = [value for value in values if value * sign > 0]
            means.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
        return torch.tensor(means).reshape(matrices[0].shape)

    expected = {}
    for path in layers[0]:
        down = elected([part[path].lora_A["default"].weight.detach() for part in layers])
        up = elected([part[path].lora_B["default"].weight.detach() for part in layers])
        expected[path] = up @ down
    for path, update in updates(combine(members, "ties", density=0.4)).items():
        torch.testing.assert_close(update, expected[path], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [name for name, way in WAYS.items() if way.sparse])
def test_whatever_drops_numbers_depends_on_density_and_seed_alone(how: str, make: Make) -> None:
    found = []
    for seed, state in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(state)
        found.append(updates(combine(make(*ALIKE[:1], ALIKE[0]), how, 0.5, seed)))
    path = next(iter(found[0]))
    assert torch.equal(found[0][path], found[1][path])
    assert torch.equal(found[0][path], found[2][path]) != how.startswith("dare")


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
def test_an_average_of_adapters_is_the_average_of_whole_models(
    family: str, make: Make, batch: dict[str, Tensor]
) -> None:
    adapter = combine(make(*LORAS[:1], ({"name": "lora", "r": 3}, 0.25), family=family), "average")
    soup = average_weights(make(*LORAS[:1], ({"name": "lora", "r": 3}, 0.25), family=family), context())
    assert adapter.config.name == "lora"
    assert soup.config.name == "full"
    with torch.no_grad():
        logits = adapter.model(batch).logits
        torch.testing.assert_close(soup.model(batch).logits, logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(adapter.model(batch).logits, logits, atol=0, rtol=0)


def test_heads_are_averaged_by_scaled_weights(make: Make) -> None:
    members = make(({"name": "lora"}, 3.0), ({"name": "lora"}, 1.0), family="deberta-v2")
    parts = [{name: weight.clone() for name, weight in member.model.head_parameters().items()} for member in members]
    assert any("pooler" in name for name in parts[0])
    found = combine(members, "ties", 0.5).model.head_parameters()
    assert set(found) == set(parts[0])
    for name, weight in found.items():
        torch.testing.assert_close(weight, 0.75 * parts[0][name] + 0.25 * parts[1][name])


@pytest.mark.parametrize("methods", [("full", "full"), ("bitfit", "ia3"), ("lora", "probe"), ("full", "adalora")])
def test_a_soup_is_the_mean_of_merged_weights(methods: tuple[str, str], make: Make) -> None:
    settings = [({"name": name}, 2.0) for name in methods]
    states = []
    for member in make(*settings):
        body = member.model.backbone
        merged = body.merge_and_unload() if hasattr(body, "merge_and_unload") else body
        states.append({f"backbone.{name}": value.clone() for name, value in merged.state_dict().items()})
    model = average_weights(make(*settings), context()).model
    found = model.state_dict()
    assert set(states[0]) == {name for name in found if name.startswith("backbone.")}
    for name in states[0]:
        torch.testing.assert_close(found[name], (states[0][name] + states[1][name]) / 2, atol=1e-6, rtol=1e-6)


def test_what_does_not_fit_is_named(make: Make) -> None:
    pair = [*make(*LORAS), *make(*LORAS[:1], outputs=3)]
    with pytest.raises(GraftError, match=r"run 0: has heads\.default\.classifier\.bias of shape \(3,\), and run 0 has"):
        combine([pair[0], pair[2]], "cat")
    with pytest.raises(GraftError, match="run 1: bottleneck cannot be merged"):
        average_weights(make(({"name": "full"}, 1.0), ({"name": "bottleneck"}, 1.0)), context())
