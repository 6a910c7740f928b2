"""A finished run, and its model brought back exactly as it was scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from graft.adapters.checkpoint import resolve as resolve_checkpoint
from graft.adapters.loading import load_model, load_tokenizer
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.model import AdaptedModel
from graft.adapters.saving import load_adapter
from graft.errors import RunError
from graft.eval.kinds import KINDS, Kind
from graft.eval.records import RunRecord, read_record
from graft.recipes.attention import register
from graft.recipes.recipe import Recipe
from graft.recipes.streams import stream


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where it lies.
        record: What happened.
        reused: Whether it was there already.
    """

    folder: Path
    record: RunRecord
    reused: bool = False


@dataclass(frozen=True)
class LoadedRun:
    """A trained model that is ready to be used.

    Attributes:
        folder: The run folder.
        record: What happened in the run.
        recipe: The run's recipe, resolved.
        model: The model, on the CPU in fp32, in evaluation mode.
        tokenizer: The checkpoint's.
        kind: The task's kind.
    """

    folder: Path
    record: RunRecord
    recipe: Recipe
    model: AdaptedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind

    def logits(self, texts: Sequence[str | tuple[str, str]]) -> Tensor:
        """Score texts, or pairs of texts, in one batch.

        Args:
            texts: B texts, or pairs for a task of pairs; cut at the recipe's `task.max_length`.

        Returns:
            (B, outputs) logits; for a language model (B, T, vocabulary), padded at the right.
        """
        rows = [(text,) if isinstance(text, str) else text for text in texts]
        columns = [list(column) for column in zip(*rows, strict=True)]
        inputs = self.tokenizer(
            *columns, truncation=True, max_length=self.recipe.task.max_length, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits: Tensor = self.model(dict(inputs)).logits
        return logits


def load(run: str | Path) -> LoadedRun:
    """Load a run folder.

    Args:
        run: A folder that `graft train` made.

    Returns:
        The trained model; its logits are those that the run was scored by.

    Raises:
        RunError: The folder is no finished run, or the checkpoint that it was trained from has changed.
        CheckpointError: The checkpoint cannot be found, or the adapter does not fit it.
    """
    folder = Path(run)
    record = read_record(folder)
    recipe = Recipe.model_validate(record.recipe)
    checkpoint = resolve_checkpoint(recipe.model)
    if checkpoint.digest != record.checkpoint:
        raise RunError(
            f"{folder}: was trained from other weights than {recipe.model.name} holds now "
            f"({record.checkpoint[:12]} then, {checkpoint.digest[:12]} now); bring the old checkpoint back"
        )
    kind = KINDS[record.data.kind]
    model = load_model(
        checkpoint,
        kind.head,
        record.data.outputs,
        recipe.model,
        record.data.label_names or None,
        seed=stream(recipe.seed, "head"),
        attention=register(),
    )
    context = AttachContext(seed=stream(recipe.seed, "attach"), total_steps=record.planned_steps, checkpoint=checkpoint)
    attached = METHODS[recipe.method.name].attach(model, recipe.method, context)
    load_adapter(folder / "adapter", model, attached)
    return LoadedRun(folder, record, recipe, model.eval(), load_tokenizer(checkpoint), kind)
