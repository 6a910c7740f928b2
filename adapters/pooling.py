"""From the hidden states of all tokens to one vector per example."""

from typing import Any

import torch
from torch import Tensor

from graft.adapters.config import Pooling
from graft.adapters.families import Family


def pool(output: Any, inputs: dict[str, Tensor], pooling: Pooling, family: Family, config: Any) -> Tensor:
    """Pool the backbone's output as the recipe says.

    Args:
        output: What transformers' backbone returned.
        inputs: `input_ids` and `attention_mask`, both (B, T).
        pooling: The recipe's choice.
        family: Says what `native` is.
        config: The backbone's config, for `pad_token_id` and `classifier_pooling`.

    Returns:
        (B, H).
    """
    hidden: Tensor = output.last_hidden_state  # (B, T, H)
    mask = inputs["attention_mask"]
    if pooling == "native":
        return _native(output, inputs, family, config)
    if pooling == "mean":
        return _mean(hidden, mask)
    if pooling == "cls":
        return _first(hidden, mask)
    return _last(hidden, mask.ne(0))


def _native(output: Any, inputs: dict[str, Tensor], family: Family, config: Any) -> Tensor:
    """What transformers' own classifier of the family reads, to the last bit."""
    hidden: Tensor = output.last_hidden_state
    if family.pooling == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    if family.pooling == "last":
        # By the padding token, not by the mask, as transformers does it: an exported model must agree.
        return _last(hidden, inputs["input_ids"].ne(config.pad_token_id))
    if family.pooling == "config" and config.classifier_pooling == "mean":
        mask = inputs["attention_mask"]
        return (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return hidden[:, 0]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average over the tokens of the mask, (B, H)."""
    weights = mask.to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1)


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    """The first token that is not padding, whichever side the padding is on, (B, H)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return hidden[rows, mask.ne(0).int().argmax(dim=1)]


def _last(hidden: Tensor, real: Tensor) -> Tensor:
    """The rightmost real token, whichever side the padding is on, (B, H)."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    return hidden[rows, (positions * real).argmax(dim=1)]
