"""The optimiser of one run: parameter groups by stage, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graft.adapters.methods import Attached
from graft.adapters.model import AdaptedModel
from graft.recipes.recipe import OptimConfig, ScheduleConfig


@dataclass(frozen=True)
class Learner:
    """One parameter that may learn, and how.

    Attributes:
        name: Its name in the run: `model.…` or `term.…`.
        weight: The parameter.
        stage: Number of the model's stage that it belongs to, counted from the input.
        rate: Factor of the recipe's learning rate.
        decays: Whether weight decay applies.
    """

    name: str
    weight: nn.Parameter
    stage: int
    rate: float
    decays: bool


def learners(model: AdaptedModel, attached: Attached, term_modules: nn.ModuleDict) -> tuple[Learner, ...]:
    """List everything that may learn: the method's largest set, the head, and the terms' modules.

    A parameter that several stages share (a tied embedding) belongs to the lowest of them, and one that no stage owns
    (a prefix, say) to the first, since the gradient passes through all above it.

    Args:
        model: The model, adapters attached.
        attached: What the method said about it.
        term_modules: The terms' own modules; they belong to the last stage of which something learns.
    """
    stages = model.stages()
    stage_of: dict[int, int] = {}
    for number, stage in enumerate(stages):
        for module in stage.modules:
            for weight in module.parameters():
                stage_of.setdefault(id(weight), number)
    named = dict(model.named_parameters())
    found = [
        Learner(
            f"model.{name}", named[name], stage_of.get(id(named[name]), 0), attached.rate(name), attached.decays(name)
        )
        for name in attached.learning
    ]
    last = max(learner.stage for learner in found)
    found += [
        Learner(f"term.{name}", weight, last, 1.0, weight.ndim > 1) for name, weight in term_modules.named_parameters()
    ]
    return tuple(found)


def make_optimizer(found: Iterable[Learner], config: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW over groups that share stage, rate and decay; a group remembers its `stage` and its `rate`."""
    assert config.lr is not None, "the recipe is not resolved"
    groups: dict[tuple[int, float, bool], list[nn.Parameter]] = {}
    for learner in found:
        groups.setdefault((learner.stage, learner.rate, learner.decays), []).append(learner.weight)
    return torch.optim.AdamW(
        [
            {
                "params": weights,
                "stage": stage,
                "rate": rate,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (stage, rate, decays), weights in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def schedule_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Give the share of the peak learning rate at a step: a line up, then down as the recipe says.

    Args:
        config: The recipe's schedule.
        step: Counted from 0.
        total_steps: Optimiser steps of the whole run.

    Returns:
        A number in (0, 1].
    """
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.decay == "constant":
        return 1.0
    left = (total_steps - step) / max(1, total_steps - warmup)
    return left if config.decay == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))


def optimizer_state(optimizer: torch.optim.Optimizer, found: Iterable[Learner]) -> dict[str, torch.Tensor]:
    """Flatten the optimiser's state into tensors named after the parameters, fit for safetensors."""
    return {
        f"{learner.name}/{key}": value
        for learner in found
        for key, value in optimizer.state.get(learner.weight, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, found: Iterable[Learner], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_state` gave; parameters without an entry have not learned yet."""
    by_name = {learner.name: learner.weight for learner in found}
    for key, tensor in tensors.items():
        name, field = key.rsplit("/", 1)
        weight = by_name[name]
        state: dict[str, Any] = optimizer.state[weight]
        state[field] = tensor.to(weight.device, copy=True)
