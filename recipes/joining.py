"""Which runs can take their steps together, and what keeps others apart."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor

from graft.recipes.dropout import Dropout
from graft.recipes.state import RunState

_OWN: dict[str, Any] = {"seed": True, "optim": {"lr", "weight_decay", "clip"}}
"""Parts of a recipe in which runs that step together may differ."""

States = Sequence[RunState]


def obstacle(states: States) -> str | None:
    """Tell what keeps runs from stepping together; none where nothing does.

    Args:
        states: Freshly built, or restored from checkpoints.
    """
    return next((reason for stands_in_the_way, reason in _OBSTACLES if stands_in_the_way(states)), None)


def lora_layers(state: RunState) -> list[LoraLinear]:
    """The layers with one plain adapter, in the model's order."""
    return [
        module
        for module in state.model.modules()
        if isinstance(module, LoraLinear) and list(module.lora_A) == ["default"] and not module.lora_variant
    ]


def pair(layer: LoraLinear) -> tuple[Tensor, Tensor]:
    """A layer's A, (r, in), and B, (out, r)."""
    down, up = (adapter["default"].get_parameter("weight") for adapter in (layer.lora_A, layer.lora_B))
    return down, up


def frozen_weights(state: RunState) -> list[Tensor]:
    """The parameters that never learn, in the model's order."""
    learning = {id(learner.weight) for learner in state.learners}
    return [weight for weight in state.model.parameters() if id(weight) not in learning]


def share(lead: RunState, other: RunState) -> None:
    """Let a run hold its frozen weights, which are equal to another's, in the other's memory."""
    for mine, shared in zip(frozen_weights(other), frozen_weights(lead), strict=True):
        mine.data = shared.data


def _differ(states: States) -> bool:
    shared = [(state.recipe.model_dump(exclude=_OWN), state.train.fingerprint) for state in states]
    return any(one != shared[0] for one in shared)


def _has_parts_of_its_own(states: States) -> bool:
    return bool(states[0].objective.terms) or states[0].recipe.budget.gradient_checkpointing


def _draws_from_torch(states: States) -> bool:
    speed = states[0].recipe.speed
    return speed.dropout != "counted" or speed.attention != "matmul"


def _drops_weights(states: States) -> bool:
    return any(isinstance(module, Dropout) and module.on_weights for module in states[0].model.modules())


def _learns_elsewhere(states: States) -> bool:
    lead = states[0]
    stacked = {id(weight) for layer in lora_layers(lead) for weight in pair(layer)}
    above = {id(weight) for module in lead.stages[-1] for weight in module.parameters()}
    return not stacked or any(id(learner.weight) not in stacked | above for learner in lead.learners)


def _rest(states: States) -> bool:
    return any(min(state.rates_at(step).values()) <= 0 for state in states for step in range(state.total_steps))


def _bases_differ(states: States) -> bool:
    first, *others = (frozen_weights(state) for state in states)
    return any(
        len(other) != len(first) or any(not torch.equal(one, two) for one, two in zip(first, other, strict=True))
        for other in others
    )


_OBSTACLES: tuple[tuple[Callable[[States], bool], str], ...] = (
    (lambda states: len(states) < 2, "there is one run"),
    (_differ, "they differ in more than seed, rate, weight decay and clipping"),
    (lambda states: len({state.step for state in states}) > 1, "they have done different numbers of steps"),
    (_has_parts_of_its_own, "terms and recomputed activations are a run's own"),
    (_draws_from_torch, "masks by torch's generator depend on what a step computes before them"),
    (_drops_weights, "the model drops elements of weights, by the run's seed"),
    (_learns_elsewhere, "something else learns than plain LoRA and a head"),
    (_rest, "their strategy lets parts of them rest"),
    (_bases_differ, "their frozen weights differ"),
)
