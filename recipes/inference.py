"""A finished run made ready to answer many texts fast: merged in place, on the machine's accelerator."""

import logging
from pathlib import Path

import torch

from graft.adapters.merging import fold
from graft.adapters.methods import METHODS
from graft.recipes import hardware
from graft.recipes.run import LoadedRun, load, refuse_language_model

log = logging.getLogger(__name__)


def ready(run: str | Path) -> LoadedRun:
    """Load a run for prediction; what it says equals what it was scored by, but for the last bits.

    Args:
        run: As for `graft.recipes.run.load`.

    Raises:
        RunError: The folder is no finished run, or a language model, which predicts no class and no score.
        GraftError: As for `graft.recipes.run.load`.
    """
    loaded = load(run)
    refuse_language_model(loaded.folder, loaded.record)
    fold(loaded.model, loaded.recipe.method)
    loaded.model.to(hardware.device())
    return loaded


def batch_tokens(loaded: LoadedRun) -> int:
    """Tokens of a batch, padding included, that predictions are fastest with."""
    return hardware.scoring_tokens(loaded.recipe.budget.tokens, loaded.device.type, torch.get_num_threads())


def warn_of_cuts(truncated: int, rows: int, loaded: LoadedRun) -> None:
    """Say that texts were cut, and by what."""
    if truncated:
        log.warning("%d of %d texts were longer than %s and were cut", truncated, rows, _what_cuts(loaded))


def _what_cuts(loaded: LoadedRun) -> str:
    """Name what bounds the length of a text: the recipe, or the positions that the model has left for it."""
    method, limit, positions = loaded.recipe.method, loaded.recipe.task.max_length, loaded.model.positions
    if positions is None or limit <= positions:
        return f"the run's task.max_length ({limit} tokens)"
    taken = METHODS[method.name].positions(method)
    beside = f" besides the {taken} positions of its {method.name}" if taken else ""
    return f"the {positions} tokens that the model takes{beside}"
