"""Softmax attention with counter-based dropout, under transformers' attention interface as "graft".

Below a few hundred tokens plain matrix products win over the CPU's flash kernel, whose bf16 backward pass is slow
and which falls back to a slower path as soon as probabilities are dropped.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from graft.recipes import hardware

NAME = "graft"
_LANES = 32
"""Numbers of 16 bits in a register of 512: below so many keys, torch's softmax in bf16 is the slower one."""
Attention = Literal["matmul", "sdpa"]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend as transformers' eager attention does.

    Args:
        module: The attention module that calls; carries the run's dropout stream.
        query: (B, heads, queries, width).
        key: (B, key heads, keys, width); heads is a multiple of key heads.
        value: As `key`.
        attention_mask: Added to the scores, (B or 1, 1, queries, keys); none for no mask.
        scaling: Factor of the scores; none means 1 / sqrt(width).
        dropout: Probability of dropping a probability; transformers passes 0 in evaluation mode.

    Returns:
        The mixed values, (B, queries, heads, width), and the probabilities, (B, heads, queries, keys).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (B, heads, queries, keys)
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    probabilities = _softmax(scores).to(query.dtype)
    if dropout > 0.0 and module.training:
        probabilities = _dropped(module, probabilities, dropout)
    mixed = torch.matmul(probabilities, value)  # (B, heads, queries, width)
    return mixed.transpose(1, 2).contiguous(), probabilities


def _softmax(scores: Tensor) -> Tensor:
    """Normalise over the last axis, with sums in fp32; gives the scores' type where that is the faster one, or fp32."""
    if scores.device.type == "cpu":
        result: Tensor
        if scores.shape[-1] < _LANES // 2:
            wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
            result = ShortSoftmax.apply(wide)  # type: ignore[no-untyped-call]
            return result
        if scores.dtype == torch.bfloat16 and scores.shape[-1] >= _LANES:
            result = Softmax.apply(scores)  # type: ignore[no-untyped-call]
            return result
    return torch.softmax(scores, dim=-1, dtype=torch.float32)


class Softmax(torch.autograd.Function):
    """Softmax over the last axis, whose backward pass reads what it gave instead of what that was rounded from.

    On a processor the backward pass is then a third as long, conversions left out; it adds up in fp32 all the same.
    So is the forward pass shorter, but only where rows fill whole registers: the rest of a row goes number by number.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        """Normalise scores, (..., keys)."""
        narrow = scores.dtype == torch.bfloat16 and scores.shape[-1] % _LANES != 0
        result = torch.softmax(scores, dim=-1, dtype=torch.float32 if narrow else None).to(scores.dtype)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Compute the gradient of the scores, by an operation that has a derivative itself."""
        (result,) = ctx.saved_tensors
        return torch._softmax_backward_data(gradient, result, -1, result.dtype)


class ShortSoftmax(torch.autograd.Function):
    """Softmax over a last axis so short that it fills no register, as torch's own then goes number by number.

    Its operations are over all rows at once; all together they take a processor a third to half of the time.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        """Normalise scores, (..., keys), of a type to add them up in."""
        powers = (scores - scores.amax(dim=-1, keepdim=True)).exp_()
        result = powers.mul_(powers.sum(dim=-1, keepdim=True).reciprocal_())
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Compute the gradient of the scores, by operations that have derivatives themselves."""
        result: Tensor = ctx.saved_tensors[0]
        weighted = result * gradient
        return weighted - result * weighted.sum(dim=-1, keepdim=True)


def _dropped(module: nn.Module, probabilities: Tensor, rate: float) -> Tensor:
    """Drop probabilities by the run's stream, or as torch does where none is installed."""
    if "graft_dropout" not in module.__dict__:
        return nn.functional.dropout(probabilities, rate)
    draws, site = module.__dict__["graft_dropout"]
    mask: Tensor = draws.mask(probabilities.shape, rate, site, probabilities.dtype)
    return probabilities * mask


def added_mask(**named: Any) -> Tensor | None:
    """Make transformers' eager mask, but do not ask a device that queues its work whether there is padding at all.

    Args:
        **named: As for transformers' `eager_mask`.

    Returns:
        What is added to the scores, (B, 1, queries, keys); none where it is known that there is nothing to add.
    """
    padding: Tensor | None = named.get("attention_mask")
    if padding is not None and hardware.queues(padding.device):
        named["allow_is_bidirectional_skip"] = False
    made: Tensor | None = eager_mask(**named)
    return made


def implementation(chosen: Attention) -> str:
    """Tell by what name transformers knows an attention, and make ours known; doing so again changes nothing.

    Args:
        chosen: `matmul`, ours; `sdpa`, torch's own kernels, which drop probabilities by torch's own generator.

    Returns:
        The name to load a model with.
    """
    if chosen == "sdpa":
        return chosen
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, added_mask)
    return NAME
