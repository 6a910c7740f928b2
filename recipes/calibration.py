"""A few steps of a run, to tell how long all of it will take."""

import numpy as np
import torch

from graft.recipes import hardware
from graft.recipes.building import build, gather
from graft.recipes.cost import Trial
from graft.recipes.recipe import Recipe
from graft.recipes.speed import kept_at
from graft.recipes.stock import Stock

_STEPS = 3
_FORWARD = 0.35
"""Time of a forward pass, as a share of a training step's on as many tokens."""


def calibrate(recipe: Recipe, stock: Stock) -> dict[str, float]:
    """Take a few steps of middling length; nothing is kept of them.

    Args:
        recipe: Resolved.
        stock: What earlier jobs have read.

    Returns:
        `seconds` that training with its evaluations will take, `steps` there are, `seconds_per_step`, `trainable`
        parameters, and `resident_bytes` of this process.

    Raises:
        GraftError: The recipe cannot be carried out.
    """
    materials = gather(recipe, stock=stock)
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads or before)
    try:
        accelerator = hardware.accelerator(materials.recipe.device)
        state = build(materials, accelerator.device)
        kept = kept_at(state) is not None
        trial = Trial(state, accelerator)
        lengths = {name: encoded.lengths for name, encoded in materials.encoded.items()}
        steps = sorted(trial.epoch(), key=lambda rows: int(lengths["train"][rows].sum()))
        middle = steps[len(steps) // 2]
        seconds = min(trial.take(middle) for _ in range(min(_STEPS, state.total_steps)))
    finally:
        torch.set_num_threads(before)
    mean = float(np.mean([lengths["train"][rows].sum() for rows in steps]))
    per_token = seconds / float(lengths["train"][middle].sum())
    every = recipe.schedule.evaluate or state.epoch_steps
    evaluations = -(-state.total_steps // every)
    scored = float(lengths["holdout"].sum()) * evaluations if "holdout" in lengths else 0.0
    tokens = mean * state.total_steps + _FORWARD * scored
    if kept:  # what a step takes is a forward pass, and later epochs look up what the first one computed
        tokens = mean * min(state.total_steps, state.epoch_steps) + scored / evaluations
    return {
        "seconds": per_token * tokens,
        "steps": float(state.total_steps),
        "seconds_per_step": seconds,
        "trainable": float(sum(learner.weight.numel() for learner in state.learners)),
        "resident_bytes": float(hardware.peak_memory(recipe.device)),
    }
