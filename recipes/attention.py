"""Softmax attention with counter-based dropout, under transformers' attention interface as "graft".

Below a few hundred tokens plain matrix products win over the CPU's flash kernel, whose bf16 backward pass is slow
and which falls back to a slower path as soon as probabilities are dropped.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from graft.recipes import converted, hardware

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
        The mixed values, (B, queries, heads, width), and the probabilities, (B, heads, queries, keys), those included
        that are dropped.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    kind = converted.autocast_type(query) or query.dtype
    query, key, value = query.to(kind), key.to(kind), value.to(kind)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[-2]]
    rate = dropout if module.training else 0.0
    counted = "graft_dropout" in module.__dict__
    with torch.autocast(query.device.type, enabled=False):
        if query.device.type == "cpu" and (counted or rate == 0.0):
            kept = _kept(module, query, key, rate) if rate > 0.0 else None
            mixed, probabilities = Attend.apply(  # type: ignore[no-untyped-call]
                query.contiguous(), key.contiguous(), value.contiguous(), attention_mask, kept, scaling, 1 / (1 - rate)
            )
            return mixed.transpose(1, 2).contiguous(), probabilities
        factors = _factors(module, query, key, rate) if rate > 0.0 else None
        mixed, probabilities = _stock(query, key, value, attention_mask, factors, scaling)
        return mixed.transpose(1, 2).contiguous(), probabilities


def _kept(module: nn.Module, query: Tensor, key: Tensor, rate: float) -> Tensor:
    """Draw which probabilities are kept, as bits, by the run's stream."""
    draws, site = module.__dict__["graft_dropout"]
    bits: Tensor = draws.kept(_shape(query, key), rate, site, query.dtype)
    return bits


def _factors(module: nn.Module, query: Tensor, key: Tensor, rate: float) -> Tensor:
    """Draw zeros and 1 / (1 - rate) by the run's stream, or as torch does where none is installed."""
    shape = _shape(query, key)
    if "graft_dropout" not in module.__dict__:
        return nn.functional.dropout(query.new_ones(shape), rate)
    draws, site = module.__dict__["graft_dropout"]
    mask: Tensor = draws.mask(shape, rate, site, query.dtype)
    return mask


def _shape(query: Tensor, key: Tensor) -> torch.Size:
    return torch.Size((*query.shape[:3], key.shape[2]))


def _stock(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, factors: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attend in stock operations; as for `attend`, with what each probability is multiplied by."""
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if mask is not None:
        scores = scores + mask
    wide = torch.promote_types(scores.dtype, torch.float32)
    probabilities = torch.softmax(scores, dim=-1, dtype=wide).to(query.dtype)
    mixed = torch.matmul(probabilities if factors is None else probabilities * factors, value)
    return mixed, probabilities


class Attend(torch.autograd.Function):
    """Attention on a processor, in fewer passes over memory than stock operations take.

    Matrix products scale what they compute, probabilities are dropped by their bits, and the backward pass of softmax
    reads what it gave, in the type of the queries.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        kept: Tensor | None,
        scaling: float,
        factor: float,
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            ctx: For backward.
            query: (B, heads, queries, width).
            key: (B, heads, keys, width).
            value: As `key`.
            mask: Added to the scores, broadcast to (B, heads, queries, keys).
            kept: All bits of the probabilities that are not dropped, (B, heads, queries, keys); none to drop nothing.
            scaling: Factor of the scores.
            factor: Of the probabilities that are kept.

        Returns:
            As `attend`.
        """
        shape = _shape(query, key)
        scores = _product(query, key.transpose(2, 3), scaling)
        if mask is not None:
            scores = scores.add_(mask) if mask.dtype == scores.dtype else scores + mask
        normal = _softmax(scores)
        probabilities = normal.to(query.dtype)
        used = probabilities if kept is None else _and(probabilities, kept)
        mixed = _product(used, value, factor)
        learned = mask if ctx.needs_input_grad[3] else None  # a mask that is given belongs to no layer
        ctx.save_for_backward(query, key, value, learned, kept, normal if shape[-1] < _LANES else probabilities, used)
        ctx.mask = mask if learned is None else None
        ctx.scaling, ctx.factor, ctx.shape = scaling, factor, shape
        ctx.set_materialize_grads(False)
        return mixed, probabilities

    @staticmethod
    def backward(ctx: Any, of_mixed: Tensor | None, of_probabilities: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute the gradients of queries, keys, values and mask."""
        query, key, value, learned, kept, normal, used = ctx.saved_tensors
        mask = ctx.mask if learned is None else learned
        if torch.is_grad_enabled():  # somebody wants a derivative of this one
            found = _derived(ctx, (query, key, value, mask), kept, (of_mixed, of_probabilities))
            return *found, None, None, None
        if of_mixed is None:
            of_mixed = query.new_zeros(*query.shape[:3], value.shape[3])
        of_mixed = of_mixed.contiguous()
        of_value = None
        if ctx.needs_input_grad[2]:
            of_value = _product(used.transpose(2, 3), of_mixed, ctx.factor)
        of_scores = _product(of_mixed, value.transpose(2, 3), ctx.factor)
        if kept is not None:
            of_scores = _and(of_scores, kept, in_place=True)
        if of_probabilities is not None:
            of_scores += of_probabilities
        of_scores = _softmax_backward(of_scores, normal)
        of_query = of_key = of_mask = None
        if ctx.needs_input_grad[0]:
            of_query = _product(of_scores, key, ctx.scaling)
        if ctx.needs_input_grad[1]:
            of_key = _product(of_scores.transpose(2, 3), query, ctx.scaling)
        if ctx.needs_input_grad[3]:
            of_mask = of_scores.sum_to_size(mask.shape).to(mask.dtype)
        return of_query, of_key, of_value, of_mask, None, None, None


def _derived(
    ctx: Any, given: Sequence[Any], kept: Tensor | None, gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Compute what `Attend.backward` does in operations that have derivatives themselves.

    Args:
        ctx: Of the forward pass.
        given: Queries, keys, values and mask.
        kept: As for `Attend.forward`.
        gradients: Of the mixed values and of the probabilities.

    Returns:
        The gradient of each of `given`.
    """
    # Each one apart: where keys come from queries, the gradient of queries is not to include what passes through keys.
    apart: list[Any] = [None if tensor is None else tensor.view_as(tensor) for tensor in given]
    query, key, value, mask = apart
    factors = None if kept is None else _and(query.new_full(ctx.shape, ctx.factor), kept)
    outputs = _stock(query, key, value, mask, factors, ctx.scaling)
    told = [
        (output, gradient)
        for output, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and output.requires_grad
    ]
    wanted = [tensor for tensor in apart if tensor is not None and tensor.requires_grad]
    if not told:
        return [None] * len(apart)
    found = iter(
        torch.autograd.grad(
            [output for output, _ in told],
            wanted,
            [gradient for _, gradient in told],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in apart]


def _product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """Multiply (B, heads, n, k) by (B, heads, k, m) and a number in one operation."""
    first, second = left.flatten(0, 1), right.flatten(0, 1)
    made = left.new_empty(*left.shape[:3], right.shape[3])
    made.flatten(0, 1).baddbmm_(first, second, beta=0, alpha=factor)
    return made


def _and(numbers: Tensor, bits: Tensor, *, in_place: bool = False) -> Tensor:
    """Keep the numbers whose bits are all set, and make zeros of those of which none is."""
    taken = numbers.view(bits.dtype)
    return (taken.bitwise_and_(bits) if in_place else taken & bits).view(numbers.dtype)


def _softmax(scores: Tensor) -> Tensor:
    """Normalise over the last axis, with sums in fp32; gives the scores' type where that is the faster one, or fp32.

    In rows that do not fill whole registers torch goes number by number, in bf16 at a multiple of the cost. Where a row
    fills none at all, operations over all rows at once take half of the time.
    """
    wide = torch.promote_types(scores.dtype, torch.float32)
    if scores.shape[-1] < _LANES // 2:
        powers = scores.to(wide, copy=True)
        powers -= powers.amax(dim=-1, keepdim=True)
        powers.exp_()
        return powers.mul_(powers.sum(dim=-1, keepdim=True).reciprocal_())
    if scores.dtype == torch.bfloat16 and scores.shape[-1] % _LANES == 0:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(scores, dim=-1, dtype=wide)


def _softmax_backward(gradient: Tensor, result: Tensor) -> Tensor:
    """Compute the gradient of softmax's scores, in the type of the given one, with sums in fp32.

    Args:
        gradient: Of what softmax gave, (..., keys).
        result: What it gave; where rows are short, before it was rounded.
    """
    keys = result.shape[-1]
    if keys >= _LANES:
        return torch._softmax_backward_data(gradient, result, -1, result.dtype)
    wide = gradient.to(result.dtype)
    if keys >= _LANES // 2:
        return torch._softmax_backward_data(wide, result, -1, result.dtype).to(gradient.dtype)
    weighted = result * wide
    return weighted.sub_(result * weighted.sum(dim=-1, keepdim=True)).to(gradient.dtype)


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
