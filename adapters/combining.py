"""Combine what several runs learned on one base into one adapter, or into one set of weights.

Adapters are combined by peft's `add_weighted_adapter`, under peft's names; the plain mean of whole models is a soup
(Wortsman et al. 2022, arXiv:2203.05482, uniform where the weights are equal).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from graft.adapters.config import MethodSettings
from graft.adapters.contract import AttachContext, Attached
from graft.adapters.families import ALL_LINEAR
from graft.adapters.full import FullConfig
from graft.adapters.lora import LoraConfig
from graft.adapters.merging import fold
from graft.adapters.methods import METHODS
from graft.adapters.mixing import HOST, lora_layers, share, stack
from graft.adapters.model import AdaptedModel
from graft.errors import GraftError

AVERAGE = "average"


@dataclass(frozen=True)
class Way:
    """A way to combine adapters.

    Attributes:
        name: peft's `combination_type`; `average` is ours.
        what: What it does.
        sparse: It keeps a fraction of the numbers, and needs a density.
        equal_ranks: It adds A and B matrices by themselves, whose shapes must be equal.
        elects: It divides by the number of runs that agree, so that weights of one keep the scale.
    """

    name: str
    what: str
    sparse: bool = False
    equal_ranks: bool = False
    elects: bool = False


_TIES, _DARE = "TIES (Yadav et al. 2023, arXiv:2306.01708)", "DARE (Yu et al. 2023, arXiv:2311.03099)"
_ROWS = (
    Way(AVERAGE, "the weighted mean of what the runs made of the weights, exactly"),
    Way("cat", "the weighted sum of the updates, exactly; the ranks add up"),
    Way("svd", "the weighted sum of the updates, cut to the largest of the ranks"),
    Way(
        "linear", "the weighted sum of A and of B matrices apart: rough where runs began from other A", equal_ranks=True
    ),
    Way("ties", f"{_TIES} on A and on B matrices apart", sparse=True, equal_ranks=True, elects=True),
    Way("ties_svd", f"{_TIES} on the updates, cut to the largest rank", sparse=True, elects=True),
    Way("dare_linear", f"{_DARE} on A and on B matrices apart, then their sum", sparse=True, equal_ranks=True),
    Way("dare_linear_svd", f"{_DARE} on the updates, then their sum, cut to the largest rank", sparse=True),
    Way("dare_ties", f"{_DARE} and TIES on A and on B matrices apart", sparse=True, equal_ranks=True, elects=True),
    Way("dare_ties_svd", f"{_DARE} and TIES on the updates, cut to the largest rank", sparse=True, elects=True),
    Way("magnitude_prune", "the largest numbers of A and of B matrices apart, summed", sparse=True, equal_ranks=True),
    Way("magnitude_prune_svd", "the largest numbers of the updates, summed, cut to the largest rank", sparse=True),
)
WAYS: dict[str, Way] = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class Member:
    """One of the models that are combined.

    Attributes:
        name: What messages call it.
        model: In fp32, in evaluation mode; it is used up.
        config: Its method's settings.
        weight: How much it counts.
    """

    name: str
    model: AdaptedModel
    config: MethodSettings
    weight: float


@dataclass(frozen=True)
class Combined:
    """One model made of several.

    Attributes:
        model: In evaluation mode.
        attached: Its method: LoRA for combined adapters, full fine-tuning for averaged weights.
        config: The method's settings.
    """

    model: AdaptedModel
    attached: Attached
    config: MethodSettings


def combine_adapters(
    members: Iterable[Member], way: Way, density: float | None, seed: int, context: AttachContext
) -> Combined:
    """Combine LoRA adapters into one, and average the heads with the weights scaled to sum to one.

    Args:
        members: At least two from one checkpoint, with methods that mix; each shares the first one's base once it is
            there.
        way: How.
        density: Fraction of the numbers that is kept, for a way that needs it.
        seed: Of what DARE drops.
        context: For the new adapter.

    Returns:
        The combination, with LoRA of scale one.

    Raises:
        GraftError: The heads do not fit each other.
    """
    arrived: list[Member] = []
    for member in members:
        if arrived:
            share(arrived[0].model, member.model)
        arrived.append(member)
    host = arrived[0].model
    heads = _mean_heads(arrived)
    backbone: Any = stack(host, {f"guest{number}": member.model for number, member in enumerate(arrived[1:], 1)})
    names = [HOST, *(f"guest{number}" for number in range(1, len(arrived)))]
    weights = _scaled(arrived) if way.name == AVERAGE else [member.weight for member in arrived]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The density 1")  # nothing is dropped, as was asked for
        torch.manual_seed(seed)
        backbone.base_model.add_weighted_adapter(
            names,
            weights,
            "combined",
            combination_type="cat" if way.name == AVERAGE else way.name,
            density=density,
            svd_full_matrices=False,
        )
    learned = {
        path: (layer.lora_A["combined"].weight, layer.lora_B["combined"].weight)
        for path, layer in lora_layers(backbone).items()
    }
    config = _settings([member.config for member in arrived], backbone.peft_config["combined"].r)
    return _rebuilt(host, config, learned, heads, context)


def average_weights(members: Iterable[Member], context: AttachContext) -> Combined:
    """Merge each model and average all weights, the heads' too: a soup.

    Args:
        members: At least two from one checkpoint, with methods that merge; one at a time is in memory beside the sum.
        context: For the method of the result.

    Returns:
        The mean, in which every weight counts as learned.

    Raises:
        GraftError: A model has weights that another one has not, or of another shape.
    """
    first: Member | None = None
    total: dict[str, Tensor] = {}
    weight = 0.0
    for member in members:
        fold(member.model, member.config)
        if isinstance(member.model.backbone, PeftModel):
            raise GraftError(f"{member.name}: {member.config.name} cannot be merged, and whole models are averaged")
        state = {name: tensor for name, tensor in member.model.state_dict().items() if tensor.is_floating_point()}
        if first is None:
            first, total = member, {name: torch.zeros_like(tensor) for name, tensor in state.items()}
        _check_same(first.name, _shapes(total), member.name, _shapes(state))
        for name, tensor in state.items():
            total[name].add_(tensor, alpha=member.weight)
        weight += member.weight
    assert first is not None
    model = first.model
    model.load_state_dict({name: tensor / weight for name, tensor in total.items()}, strict=False)
    config = FullConfig()
    return Combined(model, METHODS[config.name].attach(model, config, context), config)


def _mean_heads(members: Sequence[Member]) -> dict[str, Tensor]:
    """The weighted mean of what learned besides the adapters: heads, and a pooler that the checkpoint did not bring."""
    parts = [member.model.head_parameters() for member in members]
    for member, part in zip(members[1:], parts[1:], strict=True):
        _check_same(members[0].name, _shapes(parts[0]), member.name, _shapes(part))
    scaled = _scaled(members)
    return {
        name: torch.stack([weight * part[name].detach() for weight, part in zip(scaled, parts, strict=True)]).sum(0)
        for name in parts[0]
    }


def _settings(configs: Sequence[MethodSettings], rank: int) -> LoraConfig:
    """Settings of LoRA that hold the combination: scale one, and the targets of all."""
    targets = {target for config in configs if isinstance(config, LoraConfig) for target in config.targets}
    return LoraConfig(r=rank, alpha=rank, targets=(ALL_LINEAR,) if ALL_LINEAR in targets else tuple(sorted(targets)))


def _rebuilt(
    model: AdaptedModel,
    config: LoraConfig,
    learned: Mapping[str, tuple[Tensor, Tensor]],
    heads: Mapping[str, Tensor],
    context: AttachContext,
) -> Combined:
    """The bare base with one adapter, as if it had been trained so."""
    backbone: Any = model.backbone
    model.backbone = backbone.unload()
    attached = METHODS[config.name].attach(model, config, context)
    layers = lora_layers(model.backbone)
    assert set(layers) == set(learned)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for path, (down, up) in learned.items():
            layers[path].lora_A[HOST].weight.copy_(down)
            layers[path].lora_B[HOST].weight.copy_(up)
        for name, mean in heads.items():
            parameters[name].copy_(mean)
    return Combined(model.eval(), attached, config)


def _scaled(members: Sequence[Member]) -> list[float]:
    """The weights, scaled to sum to one."""
    total = sum(member.weight for member in members)
    return [member.weight / total for member in members]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check_same(
    first: str, wanted: Mapping[str, tuple[int, ...]], other: str, found: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse tensors that cannot be averaged one by one.

    Raises:
        GraftError: Names the run and the first weight that does not fit.
    """
    for name in sorted(set(wanted) | set(found)):
        if wanted.get(name) != found.get(name):
            said = [
                f"has no {name}" if shape is None else f"has {name} of shape {shape}"
                for shape in (found.get(name), wanted.get(name))
            ]
            raise GraftError(f"{other}: {said[0]}, and {first} {said[1]}; such runs cannot be combined")
