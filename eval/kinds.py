"""Kinds of task: how one is tokenised, what its loss is, and how predictions become metrics.

The loop knows a kind by these functions alone, so that a further kind needs no second loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from graft.eval.encoding import Batch, Encoded, collate, encode_blocks, encode_texts
from graft.eval.metrics import METRICS
from graft.eval.splits import Labels, Split
from graft.eval.tasks import Task

Array = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        name: What recipes call it.
        head: The head that a model needs for it.
        count_outputs: The head's outputs for a task: classes, 1 for a score, 0 for a language model's own vocabulary.
        tokenise: From split, tokenizer and maximum length to token ids.
        loss: From logits and their batch to float32 (B,): the loss *summed* over each row's units.
        scores: From logits and their batch to what predictions keep of each row.
        decide: From scores (rows, k) and labels (rows,) to the two arguments of a metric.
    """

    name: str
    head: Literal["classification", "language_model"]
    count_outputs: Callable[[Task], int]
    tokenise: Callable[[Split, PreTrainedTokenizerBase, int], Encoded]
    loss: Callable[[Tensor, Batch], Tensor]
    scores: Callable[[Tensor, Batch], list[list[float]]]
    decide: Callable[[Array, Labels | None], tuple[Array, Array]]

    def outputs(self, task: Task) -> int:
        """Outputs that the task's head has; 0 where the vocabulary decides."""
        return self.count_outputs(task)

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Tokenise a split, once.

        Args:
            split: The examples.
            tokenizer: The checkpoint's.
            max_length: Tokens per row at most.

        Returns:
            Token ids without padding, and how many examples were truncated.

        Raises:
            RecipeError: The checkpoint does not take that many tokens.
            CheckpointError: The tokenizer lacks a token that the kind needs.
        """
        return self.tokenise(split, tokenizer, max_length)

    def collate(self, encoded: Encoded, rows: Sequence[int], length: int | None = None) -> Batch:
        """Make a batch of rows, padded on the right to a length; without one, to the longest of them."""
        return collate(encoded, rows, length)

    def metrics(self, task: Task, scores: Array, labels: Labels | None) -> dict[str, float]:
        """Score predictions by the task's metrics, the selecting one first.

        Args:
            task: Names the metrics.
            scores: float32 (rows, k), as `scores` gave them.
            labels: (rows,), or none for a language model.

        Returns:
            Percent points for accuracy, F1 and correlations; nats for loss.
        """
        predictions, truth = self.decide(scores, labels)
        return {name: METRICS[name].value(predictions, truth) for name in task.metrics}


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of each example, in nats.

    Args:
        logits: (B, classes), any precision.
        batch: Has int64 labels (B,).

    Returns:
        float32 (B,).
    """
    return functional.cross_entropy(logits.float(), _labels(batch), reduction="none")


def squared_error(logits: Tensor, batch: Batch) -> Tensor:
    """Squared difference between score and label.

    Args:
        logits: (B, 1), any precision.
        batch: Has float32 labels (B,).

    Returns:
        float32 (B,).
    """
    return (logits.float().squeeze(-1) - _labels(batch).float()).square()


def token_cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of a block's tokens given those before them, summed, in nats.

    Args:
        logits: (B, T, vocabulary), any precision; position t predicts token t + 1.
        batch: Its `units` count the tokens that are summed over.

    Returns:
        float32 (B,).
    """
    tokens = batch.inputs["input_ids"][:, 1:]  # (B, T - 1)
    present = batch.inputs["attention_mask"][:, 1:].bool()
    losses = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), tokens, reduction="none")
    return losses.masked_fill(~present, 0.0).sum(dim=1)


def _labels(batch: Batch) -> Tensor:
    """Labels of a batch that must have them."""
    if batch.labels is None:
        raise ValueError("the batch has no labels, and this kind of task needs them")
    return batch.labels


def _rows(logits: Tensor, _batch: Batch) -> list[list[float]]:
    """Each example's outputs as they are."""
    rows: list[list[float]] = logits.float().cpu().tolist()
    return rows


def _likelihoods(logits: Tensor, batch: Batch) -> list[list[float]]:
    """Each block's summed log-likelihood and number of predicted tokens."""
    both = torch.stack([-token_cross_entropy(logits, batch), batch.units.to(logits.device).float()], dim=1)
    rows: list[list[float]] = both.cpu().tolist()
    return rows


def _truth(labels: Labels | None) -> Array:
    """Labels that metrics cannot do without."""
    if labels is None:
        raise ValueError("these predictions have no labels to be scored against")
    return labels


KINDS: dict[str, Kind] = {
    "classification": Kind(
        "classification",
        "classification",
        count_outputs=lambda task: len(task.label_names),
        tokenise=encode_texts,
        loss=cross_entropy,
        scores=_rows,
        decide=lambda scores, labels: (np.argmax(scores, axis=1), _truth(labels)),
    ),
    "regression": Kind(
        "regression",
        "classification",
        count_outputs=lambda _task: 1,
        tokenise=encode_texts,
        loss=squared_error,
        scores=_rows,
        decide=lambda scores, labels: (scores[:, 0], _truth(labels)),
    ),
    "causal_lm": Kind(
        "causal_lm",
        "language_model",
        count_outputs=lambda _task: 0,
        tokenise=encode_blocks,
        loss=token_cross_entropy,
        scores=_likelihoods,
        decide=lambda scores, _labels: (scores[:, 0], scores[:, 1]),
    ),
}
