"""Frozen weights in bf16, converted once instead of at every step.

Autocast keeps what it converted of weights that learn until the end of a forward pass, and of frozen ones nothing: with
LoRA it reads all of the base in fp32 and writes it in bf16 at every step. Beside matrix products on tiles (AMX) that is
one part in twenty of a step of short sentences, and without tiles one in ninety. The copies hold the very numbers that
autocast would compute, so nothing else changes. They take two bytes for each frozen weight of a linear layer in
training mode, as a step without them does, whose backward pass reads what it converted.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.pytorch_utils import Conv1D

_COPIES: MutableMapping[Tensor, tuple[tuple[torch.dtype, int, int], Tensor]] = WeakTensorKeyDictionary()
"""Weight to what it was when it was converted, and its copy; a weight that is gone takes its copy along."""


def install(model: nn.Module) -> None:
    """Let the linear layers of a model convert what is frozen once; parameters and names stay as they are.

    Args:
        model: The model, adapters attached.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ConvertedLinear
        elif type(module) is Conv1D:
            module.__class__ = ConvertedConv1D


def forget(model: nn.Module) -> None:
    """Give up a model's copies, before whatever may change its weights past autograd.

    Args:
        model: Any model.
    """
    for weight in model.parameters():
        _COPIES.pop(weight, None)


def copied(model: nn.Module) -> int:
    """Tell how many bytes the copies take that the next step of a model finds or makes.

    Args:
        model: In the modes that it trains in, which of its layers may differ in.
    """
    every = (layer for layer in model.modules() if isinstance(layer, ConvertedLinear | ConvertedConv1D))
    converting = (layer for layer in every if layer.training and not layer.weight.requires_grad)
    parts = {id(part): part for layer in converting for part in layer.parameters() if not part.requires_grad}
    return sum(2 * part.numel() for part in parts.values())


def copies(model: nn.Module) -> list[Tensor]:
    """The copies that a model has just now."""
    return [_COPIES[weight][1] for weight in model.parameters() if weight in _COPIES]


class ConvertedLinear(nn.Linear):
    """`nn.Linear` that, in training under autocast, has its frozen weights at hand in autocast's type."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """Run the layer."""
        kind = _kind(self, input)
        if kind is None:
            return super().forward(input)
        return nn.functional.linear(input, *weights(self, kind))


class ConvertedConv1D(Conv1D):
    """transformers' `Conv1D`, GPT-2's linear layer, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        kind = _kind(self, x)
        if kind is None:
            stock: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
            return stock
        return nn.functional.linear(x, *weights(self, kind))


LAYERS = (nn.Linear, Conv1D, ConvertedLinear, ConvertedConv1D)
"""Types of linear layers that `weights` knows."""


def weights(layer: Any, kind: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Hand out what a linear layer multiplies by and adds.

    Args:
        layer: Of one of `LAYERS`.
        kind: In which type.

    Returns:
        The weight as (out, in), and the bias, (out,), or none.
    """
    convert = _kept if isinstance(layer, ConvertedLinear | ConvertedConv1D) else Tensor.to
    weight, bias = convert(layer.weight, kind), layer.bias
    return weight.T if isinstance(layer, Conv1D) else weight, None if bias is None else convert(bias, kind)


def _kind(layer: ConvertedLinear | ConvertedConv1D, given: Tensor) -> torch.dtype | None:
    """Tell the type to have a layer's weights in; none where the stock code runs. Copies end where weights learn."""
    if layer.weight.requires_grad:
        for part in layer.parameters():
            _COPIES.pop(part, None)
        return None
    return autocast_type(given) if layer.training else None


def _kept(weight: Tensor, kind: torch.dtype) -> Tensor:
    """Find the copy of a frozen weight, or make it where there is none or the weight has changed since.

    What learns changes at every step, and is converted as often. A change past autograd (`weight.data += ...`) cannot
    be told: whoever makes one must `forget`.
    """
    if weight.requires_grad:
        return weight.to(kind)
    now = (kind, weight._version, weight.data_ptr())
    then, copy = _COPIES.get(weight, (None, weight))
    if then != now:
        with torch.inference_mode(mode=False):  # what is converted while scoring must serve training, too
            copy = weight.detach().to(kind)
        _COPIES[weight] = (now, copy)
    return copy


def autocast_type(given: Tensor) -> torch.dtype | None:
    """Tell the type that autocast computes in where a tensor is; none where it is off."""
    device = given.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
