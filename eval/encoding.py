"""Tokenised examples, and the batches made of them. Text is tokenised once, without padding."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from graft.errors import CheckpointError, RecipeError
from graft.eval.ragged import Ragged
from graft.eval.splits import Labels, Split

_CHUNK = 2048  # texts per call of the tokenizer: its own objects are many times larger than the arrays kept


@dataclass(frozen=True)
class Encoded:
    """A split as token ids.

    Attributes:
        input_ids: int32 rows, special tokens included.
        token_type_ids: uint8 rows: segment of each token, for tokenizers that tell segments apart.
        labels: int64 class numbers or float32 scores (rows,); none for a language model.
        ids: int64 (rows,): the examples' ids, or block numbers of a language model.
        units: int64 (rows,): what a loss is averaged over: 1 per example, or predicted tokens of a block.
        pad_token_id: Fills batches up.
        truncated: Examples that lost text to the maximum length.
        lengths: int64 (rows,): tokens per row.
        fingerprint: Hash of all arrays.
    """

    input_ids: Ragged
    token_type_ids: Ragged | None
    labels: Labels | None
    ids: NDArray[np.int64]
    units: NDArray[np.int64]
    pad_token_id: int
    truncated: int
    lengths: NDArray[np.int64] = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        """Count the tokens and hash the content."""
        object.__setattr__(self, "lengths", self.input_ids.lengths)
        digest = hashlib.sha256(self.lengths.tobytes())
        segments = None if self.token_type_ids is None else self.token_type_ids.values
        for array in (self.input_ids.values, segments, self.labels, self.ids, self.units):
            digest.update(b"" if array is None else array.tobytes())
        object.__setattr__(self, "fingerprint", digest.hexdigest())

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.input_ids)


@dataclass(frozen=True)
class Batch:
    """Rows padded to the longest of them.

    Attributes:
        inputs: int64 (B, T) each: input_ids, attention_mask (1 where there is a token), and token_type_ids if any.
        labels: int64 or float32 (B,); none for a language model.
        ids: int64 (B,): as in `Encoded.ids`.
        units: int64 (B,): as in `Encoded.units`.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    ids: Tensor
    units: Tensor

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; the host does not wait until it is there."""
        return Batch(
            {name: _sent(tensor, device) for name, tensor in self.inputs.items()},
            None if self.labels is None else _sent(self.labels, device),
            _sent(self.ids, device),
            _sent(self.units, device),
        )


def _sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Send a tensor to a device; from pinned memory, a GPU fetches it while it computes."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def collate(encoded: Encoded, rows: Sequence[int], length: int | None = None) -> Batch:
    """Pad rows on the right to one length.

    Args:
        encoded: The split.
        rows: Positions in it, in the batch's order.
        length: Of all rows; none for that of the longest of them.

    Returns:
        A batch on the CPU.
    """
    positions = np.asarray(rows, dtype=np.int64)
    input_ids, mask = encoded.input_ids.padded(positions, encoded.pad_token_id, length)
    inputs = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
    if encoded.token_type_ids is not None:
        inputs["token_type_ids"] = torch.from_numpy(encoded.token_type_ids.padded(positions, 0, length)[0])
    return Batch(
        inputs,
        None if encoded.labels is None else torch.from_numpy(encoded.labels[positions]),
        torch.from_numpy(encoded.ids[positions]),
        torch.from_numpy(encoded.units[positions]),
    )


def encode_texts(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Tokenise examples one by one: a text, or a pair that shares the length.

    Args:
        split: Examples with one text column or two.
        tokenizer: The checkpoint's.
        max_length: Tokens per example at most, special tokens included.

    Returns:
        One row per example; a text that gives no token at all becomes one end-of-text token.

    Raises:
        RecipeError: The checkpoint does not take that many tokens.
        CheckpointError: The tokenizer has no padding token.
    """
    pad = _pad_token(tokenizer, max_length)
    segmented = "token_type_ids" in tokenizer.model_input_names
    input_ids: list[Ragged] = []
    segments: list[Ragged] = []
    truncated = 0
    for start in range(0, len(split), _CHUNK):
        columns = [list(column) for column in zip(*split.texts[start : start + _CHUNK], strict=True)]
        output = tokenizer(
            *columns, truncation=True, max_length=max_length, return_token_type_ids=segmented, verbose=False
        )
        truncated += _count_truncated(output, tokenizer, columns, max_length)
        tokens = output["input_ids"]
        if not all(tokens):  # GPT-2 adds no special tokens, and pooling needs one to read
            tokens = [row or [_separator(tokenizer)] for row in tokens]
        input_ids.append(Ragged.of(tokens, np.int32))
        if segmented:
            segments.append(Ragged.of([row or [0] for row in output["token_type_ids"]], np.uint8))
    units = np.ones(len(split), dtype=np.int64)
    return Encoded(
        Ragged.joined(input_ids, np.int32),
        Ragged.joined(segments, np.uint8) if segmented else None,
        split.labels,
        split.ids,
        units,
        pad,
        truncated,
    )


def encode_blocks(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
    """Join documents, each closed by an end-of-text token, and cut them into blocks.

    Packing as in Raffel et al. (2020), arXiv:1910.10683, section 3.1.4: attention crosses from a document to the
    next one. A block's first token is context only, the others are predicted; the last block may be shorter, and is
    dropped if it has a single token, which predicts nothing.

    Args:
        split: Documents, one text column.
        tokenizer: The checkpoint's.
        max_length: Tokens per block.

    Returns:
        One row per block, with block numbers as ids and no labels.

    Raises:
        RecipeError: The checkpoint does not take that many tokens.
        CheckpointError: The tokenizer has no token to end a document with.
    """
    pad = _pad_token(tokenizer, max_length)
    end = np.array([_separator(tokenizer)], dtype=np.int32)
    pieces: list[NDArray[np.int32]] = []
    for start in range(0, len(split), _CHUNK):
        texts = [text for (text,) in split.texts[start : start + _CHUNK]]
        output = tokenizer(texts, add_special_tokens=False, verbose=False)
        for row in output["input_ids"]:
            pieces += [np.array(row, dtype=np.int32), end]
    stream = np.concatenate(pieces)
    starts = np.append(np.arange(0, len(stream), max_length), len(stream))
    if len(stream) - starts[-2] == 1:
        starts = starts[:-1]
    blocks = Ragged(stream[: starts[-1]], starts)
    return Encoded(blocks, None, None, np.arange(len(blocks), dtype=np.int64), blocks.lengths - 1, pad, 0)


def _pad_token(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """The padding token, once the length is known to be one that the checkpoint takes."""
    if max_length > tokenizer.model_max_length:
        most = tokenizer.model_max_length
        raise RecipeError(f"task.max_length: {max_length} tokens; the checkpoint takes {most}: set it to that or less")
    pad: Any = tokenizer.pad_token_id
    if pad is None:
        raise CheckpointError(f"{tokenizer.name_or_path}: the tokenizer has no padding token; set its pad_token")
    return int(pad)


def _separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a document."""
    for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token is not None:
            return int(token)
    raise CheckpointError(f"{tokenizer.name_or_path}: the tokenizer has no end-of-text token; set its eos_token")


def _count_truncated(output: Any, tokenizer: PreTrainedTokenizerBase, columns: list[list[str]], max_length: int) -> int:
    """Examples that lost text."""
    if tokenizer.is_fast:
        return sum(1 for encoding in output.encodings if encoding.overflowing)
    whole = tokenizer(*columns, verbose=False)["input_ids"]
    return sum(1 for row in whole if len(row) > max_length)
