"""Scoring a split: every example exactly once, whatever the batches and the number of processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor

from graft.errors import TrainingError
from graft.eval.encoding import Batch, Encoded
from graft.eval.kinds import Kind
from graft.eval.splits import Labels

Scored = tuple[int, list[float]]


@dataclass(frozen=True)
class Predictions:
    """Scores of a split, in the order of its rows.

    Attributes:
        ids: int64 (rows,): examples' ids, or block numbers of a language model.
        labels: int64 or float32 (rows,); none for a language model.
        scores: float32 (rows, k): logits, a score, or summed log-likelihood and tokens.
        units: int64 (rows,): which unit of its example a row is about; none where each row is a whole example.
    """

    ids: NDArray[np.int64]
    labels: Labels | None
    scores: NDArray[np.float32]
    units: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)


def plan_batches(lengths: NDArray[np.int64], tokens: int) -> list[list[int]]:
    """Group rows of similar length, the longest first, so that padded batches stay within a budget.

    Args:
        lengths: int64 (rows,), tokens per row.
        tokens: Rows times longest row of a batch, at most; a row that is longer by itself gets its own batch.

    Returns:
        Row numbers of each batch; every row once.
    """
    batches: list[list[int]] = []
    longest = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * longest <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            longest = int(lengths[row])
    return batches


def predict(
    forward: Callable[[Batch], Tensor],
    kind: Kind,
    encoded: Encoded,
    *,
    tokens: int,
    gather: Callable[[list[Any]], list[Any]],
    rank: int,
    world: int,
    device: torch.device,
) -> Predictions:
    """Score every row of a split once.

    Batches depend on the lengths alone, so that scores do not depend on the number of processes. Processes may run
    different numbers of them: `forward` must not communicate.

    Args:
        forward: From a batch on the device to logits; runs in inference mode. Evaluation mode is the caller's matter.
        kind: What is kept of the logits.
        encoded: The split.
        tokens: Budget of a batch, padding included.
        gather: Joins the lists of all processes; the identity for a single one.
        rank: This process's number.
        world: How many processes there are.
        device: Where `forward` computes.

    Returns:
        Scores in the order of the rows, on every process.

    Raises:
        TrainingError: There is no memory for a single example.
        RuntimeError: A row was scored twice or not at all: a bug in `gather` or here.
    """
    mine: list[Scored] = []
    with torch.inference_mode():
        for rows in plan_batches(encoded.lengths, tokens)[rank::world]:
            mine += _scored(rows, forward, kind, encoded, device)
    scored: list[Scored] = sorted(gather(mine), key=lambda item: item[0])
    if [row for row, _ in scored] != list(range(len(encoded))):
        rows_seen = {row for row, _ in scored}
        raise RuntimeError(
            f"{len(encoded)} rows must be scored once each; {len(scored)} scores came, of {len(rows_seen)} rows"
        )
    return Predictions(encoded.ids, encoded.labels, np.array([values for _, values in scored], dtype=np.float32))


def _scored(
    rows: list[int], forward: Callable[[Batch], Tensor], kind: Kind, encoded: Encoded, device: torch.device
) -> list[Scored]:
    """Score one batch, or its halves where memory runs out."""
    try:
        batch = kind.collate(encoded, rows).to(device)
        return list(zip(rows, kind.scores(forward(batch), batch), strict=True))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        if len(rows) == 1:
            raise TrainingError(
                f"scoring: no memory for a single example of {int(encoded.lengths[rows[0]])} tokens; lower "
                "task.max_length, or choose a smaller model"
            ) from error
    half = len(rows) // 2
    parts = (rows[:half], rows[half:])  # outside of the handler, which would keep the failed batch alive
    return [scored for part in parts for scored in _scored(part, forward, kind, encoded, device)]
