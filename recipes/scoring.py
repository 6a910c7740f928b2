"""Scoring a run's splits, in fp32 whatever the training's precision, so that a reloaded model says the same."""

from collections.abc import Collection
from functools import partial

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from graft.eval.encoding import Batch, Encoded
from graft.eval.predict import Predictions, predict
from graft.recipes import hardware
from graft.recipes.building import Materials
from graft.recipes.state import RunState

HOLDOUT = "holdout"


def splits_of(materials: Materials, run_kind: str) -> tuple[str, ...]:
    """Name the splits that a run is scored on: a trial's holdout; a final run's validation splits, too."""
    names = tuple(name for name in materials.encoded if name != "train")
    return names if run_kind == "final" else tuple(name for name in names if name == HOLDOUT)


def score_splits(
    state: RunState, materials: Materials, names: Collection[str], accelerator: Accelerator
) -> dict[str, Predictions]:
    """Score splits; every example once, shared among the processes.

    Args:
        state: The run; its model is switched to evaluation mode, and the next step switches it back.
        materials: What holds the tokenised splits.
        names: Which of them.
        accelerator: Says which process of how many this is.

    Returns:
        Split → predictions, on every process.
    """
    with state.evaluating():
        if state.frozen is not None:
            for name in names:
                state.frozen.prepare(state, materials.encoded[name], precision="fp32")
        return {
            name: predict(
                partial(_logits, state, materials.encoded[name]),
                materials.kind,
                materials.encoded[name],
                tokens=budget(state),
                gather=gather_object if accelerator.num_processes > 1 else list,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                device=accelerator.device,
            )
            for name in names
        }


def _logits(state: RunState, encoded: Encoded, batch: Batch) -> Tensor:
    known = None if state.frozen is None else state.frozen.run(state, encoded, batch, precision="fp32")
    logits: Tensor = state.model(batch.inputs).logits if known is None else known.logits
    return logits


def budget(state: RunState) -> int:
    """Tokens of a scored batch, padding included: a function of the recipe and the device, as the scores are."""
    recipe = state.recipe
    return hardware.scoring_tokens(recipe.budget.tokens, state.device.type, recipe.threads)


def metrics_of(materials: Materials, predictions: dict[str, Predictions]) -> dict[str, dict[str, float]]:
    """Turn predictions into the task's metrics: split → metric → value."""
    return {
        name: materials.kind.metrics(materials.data.task, found.scores, found.labels)
        for name, found in predictions.items()
    }
