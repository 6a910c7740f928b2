"""A finished run, and its model brought back exactly as it was scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from graft.adapters.checkpoint import Checkpoint
from graft.adapters.checkpoint import resolve as resolve_checkpoint
from graft.adapters.config import ModelConfig
from graft.adapters.loading import load_model, load_tokenizer
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.model import AdaptedModel
from graft.adapters.saving import add_saved_heads, load_adapter
from graft.errors import CheckpointError, DataError, RunError
from graft.eval.encoding import Encoded, collate, encode_texts
from graft.eval.kinds import KINDS, Kind
from graft.eval.predict import predict
from graft.eval.records import RunRecord, read_record
from graft.eval.splits import Split
from graft.eval.tasks import TASKS
from graft.eval.wording import shown
from graft.recipes import hardware
from graft.recipes.attention import implementation
from graft.recipes.exported import learned_folder, read_manifest
from graft.recipes.pull import find
from graft.recipes.recipe import Recipe
from graft.recipes.rich_html import loaded_html, run_html
from graft.recipes.streams import stream

if TYPE_CHECKING:
    from graft.recipes.several import LoadedRuns


Runs = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...] | Mapping[str, str | Path]
"""Several runs, in a list or by names of one's own."""


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

    def _repr_html_(self) -> str:
        return run_html(self)


@dataclass(frozen=True)
class Prediction:
    """What a trained model says of one example.

    Attributes:
        value: The class's name, or the score.
        probabilities: Class to probability, in the order of the classes; empty for a score.
    """

    value: str | float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class LoadedRun:
    """A trained model that is ready to be used.

    Attributes:
        folder: The run folder.
        record: What happened in the run.
        recipe: The run's recipe, resolved.
        model: The model, on the CPU in fp32, in evaluation mode; it may be moved to another device.
        tokenizer: The checkpoint's.
        kind: The task's kind.
        checkpoint: What it was loaded from: the base model, or an export that holds all of it.
    """

    folder: Path
    record: RunRecord
    recipe: Recipe
    model: AdaptedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    checkpoint: Checkpoint

    @property
    def columns(self) -> tuple[str, ...]:
        """The task's text columns: one, or two for pairs."""
        return text_columns(self.recipe)

    def logits(self, texts: Sequence[str | tuple[str, ...]]) -> Tensor:
        """Score texts, or pairs of texts, in one batch.

        Args:
            texts: B texts, or pairs for a task of pairs; cut at the recipe's `task.max_length`. One may be empty.

        Returns:
            (B, outputs) logits; for a language model (B, T, vocabulary), padded at the right.

        Raises:
            DataError: There are no texts, or one is none that the task's columns can hold.
        """
        encoded = self.encode(texts)
        if not len(encoded):
            raise DataError("texts: there are none; give at least one")
        batch = collate(encoded, range(len(encoded))).to(self.device)
        with torch.inference_mode():
            logits: Tensor = self.model(batch.inputs).logits
        return logits

    def predict(self, texts: Sequence[str | tuple[str, ...]]) -> list[Prediction]:
        """Say which class texts have, or which score, as the run's own validation was scored.

        Args:
            texts: Any number of texts, or pairs for a task of pairs; cut at the recipe's `task.max_length`.

        Returns:
            One prediction for each, in their order.

        Raises:
            DataError: A text is none that the task's columns can hold.
            RunError: The run is a language model.
        """
        refuse_language_model(self.folder, self.record)
        return self.judge(self.encode(texts)) if texts else []

    def encode(self, texts: Sequence[str | tuple[str, ...]]) -> Encoded:
        """Tokenise texts as the run did, and count those that are cut.

        Raises:
            DataError: A text is none that the task's columns can hold.
        """
        rows = tuple(self._row(number, text) for number, text in enumerate(texts))
        split = Split("texts", "texts", np.arange(len(rows), dtype=np.int64), rows, None)
        return encode_texts(split, self.tokenizer, self._longest())

    def judge(self, encoded: Encoded, tokens: int | None = None) -> list[Prediction]:
        """Turn tokenised texts into predictions.

        Args:
            encoded: What `encode` gave.
            tokens: Budget of a batch, padding included; none means as many as the run was scored with.
        """
        return self.named(self.score(encoded, tokens))

    def score(self, encoded: Encoded, tokens: int | None = None) -> NDArray[np.float32]:
        """Logits of tokenised texts, in batches of like length; arguments as for `judge`.

        Returns:
            (rows, outputs), in their order.
        """
        found = predict(
            lambda batch: self.model(batch.inputs).logits,
            self.kind,
            encoded,
            tokens=tokens or hardware.scoring_tokens(self.recipe.budget.tokens, self.device.type, self.recipe.threads),
            gather=list,
            rank=0,
            world=1,
            device=self.device,
        )
        return found.scores

    def named(self, scores: NDArray[np.float32]) -> list[Prediction]:
        """Turn logits (rows, outputs) into predictions."""
        names = self.record.data.label_names
        if not names:
            return [Prediction(float(score), {}) for score in scores[:, 0]]
        probabilities = softmax(scores.astype(np.float64), axis=1)  # (rows, classes)
        return [
            Prediction(names[int(row.argmax())], dict(zip(names, map(float, row), strict=True)))
            for row in probabilities
        ]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def _repr_html_(self) -> str:
        return loaded_html(self)

    def _row(self, number: int, text: str | tuple[str, ...]) -> tuple[str, ...]:
        row = tuple(text) if isinstance(text, tuple | list) else (text,)
        if len(row) != len(self.columns) or not all(isinstance(part, str) for part in row):
            wanted = "one text" if len(self.columns) == 1 else f"a pair ({' and '.join(self.columns)})"
            raise DataError(f"text {number} (the first is 0): expected {wanted}, found {shown(text)}")
        try:
            "".join(row).encode()
        except UnicodeEncodeError as error:
            raise DataError(f"text {number} (the first is 0): is not UTF-8: {shown(text)}") from error
        return row

    def _longest(self) -> int:
        """Tokens that an example may have: the recipe's limit, or fewer where the model has not so many positions."""
        limit, positions = self.recipe.task.max_length, self.model.positions
        return limit if positions is None else min(limit, positions)


def text_columns(recipe: Recipe) -> tuple[str, ...]:
    """Name the text columns of a recipe's task: its own, or the task's."""
    return recipe.task.text or TASKS[recipe.task.name].text


def refuse_language_model(folder: Path, record: RunRecord) -> None:
    """Refuse to predict with a model of no classes and no scores.

    Raises:
        RunError: As the name says.
    """
    if record.data.kind == "causal_lm":
        raise RunError(
            f"{folder}: is a language model, which predicts no class and no score; its logits of a text are "
            "`graft.load(...).logits([text])`"
        )


@overload
def load(run: str | Path, *, revision: str | None = None) -> LoadedRun: ...


@overload
def load(run: Runs, *, revision: None = None) -> "LoadedRuns": ...


def load(run: str | Path | Runs, *, revision: str | None = None) -> "LoadedRun | LoadedRuns":
    """Load a run folder, an export, or what `graft push` published; or several of them on one base.

    Args:
        run: A folder that `graft train`, `graft export` or `graft pull` made, or a repository's name on the Hub,
            `user/name`. A folder of that name comes first, and a `Path` is always a folder. Several in a list, or in a
            mapping that names them, share one base in memory.
        revision: Branch, tag or commit of the repository; none means its main branch.

    Returns:
        The trained model; its logits are those that the run was scored by, or, merged, equal to them but for rounding.
        For several, an object that answers each text by the run that is named for it.

    Raises:
        RunError: The folder is no finished run, the checkpoint that it was trained from has changed, or several runs
            cannot share a base.
        CheckpointError: The checkpoint cannot be found, or the adapter does not fit it.
        GraftError: The repository is not there, cannot be reached, or was not made by graft.
    """
    if isinstance(run, str | Path):
        return _load(run, revision)
    from graft.recipes.several import names_for, together

    if revision is not None:
        raise RunError("revision: belongs to one repository; load several from pulled folders, or leave it out")
    return together((name, _load(one, None)) for name, one in names_for(run).items())


def _load(run: str | Path, revision: str | None) -> LoadedRun:
    """Load one run."""
    folder = find(run, revision)
    record = read_record(folder)
    recipe = Recipe.model_validate(record.recipe)
    manifest = read_manifest(folder)
    if manifest is not None and manifest.form == "merged":
        return _load_merged(folder, record, recipe)
    checkpoint = resolve_checkpoint(recipe.model)
    if checkpoint.digest != record.checkpoint:
        raise RunError(
            f"{folder}: was trained from other weights than {recipe.model.name} holds now "
            f"({record.checkpoint[:12]} then, {checkpoint.digest[:12]} now); bring the old checkpoint back"
        )
    model, learned = _untrained(checkpoint, record, recipe), learned_folder(folder)
    add_saved_heads(learned, model)
    context = AttachContext(seed=stream(recipe.seed, "attach"), total_steps=record.planned_steps, checkpoint=checkpoint)
    attached = METHODS[recipe.method.name].attach(model, recipe.method, context)
    load_adapter(learned, model, attached)
    return _ready(folder, record, recipe, model, checkpoint)


def _load_merged(folder: Path, record: RunRecord, recipe: Recipe) -> LoadedRun:
    """Load an export that holds the whole model, with nothing of the method left."""
    checkpoint = resolve_checkpoint(ModelConfig(name=str(folder.absolute())))
    model = _untrained(checkpoint, record, recipe)
    if model.fresh:
        raise CheckpointError(f"{folder}: lacks weights ({min(model.fresh)}, ...); export or pull it again")
    return _ready(folder, record, recipe, model, checkpoint)


def _untrained(checkpoint: Checkpoint, record: RunRecord, recipe: Recipe) -> AdaptedModel:
    """A checkpoint's model as the run had it before a method was attached."""
    return load_model(
        checkpoint,
        KINDS[record.data.kind].head,
        record.data.outputs,
        recipe.model,
        record.data.label_names or None,
        seed=stream(recipe.seed, "head"),
        attention=implementation(recipe.speed.attention),
    )


def _ready(folder: Path, record: RunRecord, recipe: Recipe, model: AdaptedModel, checkpoint: Checkpoint) -> LoadedRun:
    kind, tokenizer = KINDS[record.data.kind], load_tokenizer(checkpoint)
    return LoadedRun(folder, record, recipe, model.eval(), tokenizer, kind, checkpoint)
