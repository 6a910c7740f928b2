"""Layers in fewer passes over memory: normalisation that hands on bf16, and LoRA inside the layer that it adapts.

Under autocast torch normalises into fp32, and each of the layers that read the result converts it again; peft's LoRA
converts its input back to fp32, scales and adds the update in operations of their own, and backward undoes each of
them. Here one bf16 tensor is handed on, and the update is added by the matrix product that computes it. Both compute
the same function as the stock layers, up to the rounding of bf16. Wherever a layer is not what it usually is
(several adapters at once, merged, DoRA, a quantised base, a hook), the stock code runs.
"""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


def install(model: nn.Module) -> None:
    """Give a model's normalisations and LoRA layers their lean forward pass; parameters and names stay as they are.

    Args:
        model: The model, adapters attached.
    """
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__dict__["forward"] = MethodType(_normalise, module)
        elif type(module) is LoraLinear:
            module.__dict__["forward"] = MethodType(_adapted, module)


def _normalise(module: nn.LayerNorm, hidden: Tensor) -> Tensor:
    """Normalise as `nn.LayerNorm`; under autocast into its type instead of fp32, with sums in fp32 all the same."""
    kind = _autocast(hidden)
    if kind is None:
        return nn.LayerNorm.forward(module, hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        # A residual stream in fp32 is normalised from fp32: only what is handed on is rounded.
        return nn.functional.layer_norm(hidden, module.normalized_shape, module.weight, module.bias, module.eps).to(
            kind
        )


def _autocast(hidden: Tensor) -> torch.dtype | None:
    """The type that autocast computes in where the tensor is; none where it is off."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _adapted(layer: LoraLinear, hidden: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """Run a linear layer and its one adapter in training; where there is anything else to do, peft's own code runs."""
    name = _only_adapter(layer)
    if name is None or arguments or named or not layer.training:
        return LoraLinear.forward(layer, hidden, *arguments, **named)
    base: Any = layer.base_layer
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    weight: Tensor = base.weight.T if isinstance(base, Conv1D) else base.weight
    bias: Tensor | None = base.bias
    kind = _autocast(hidden) or hidden.dtype
    dropped = layer.lora_dropout[name](hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        given = hidden.to(kind)
        flat = given.reshape(-1, given.shape[-1])
        apart = None if dropped is hidden else dropped.to(kind).reshape(-1, given.shape[-1])
        result: Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
            flat,
            apart,
            weight.to(kind),
            None if bias is None else bias.to(kind),
            down.to(kind),
            up.to(kind),
            float(layer.scaling[name]),
        )
    return result.view(*given.shape[:-1], -1)


def _only_adapter(layer: LoraLinear) -> str | None:
    """Name the layer's active adapter; none where it has not exactly one plain one on a plain frozen base."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1 or layer.disable_adapters or layer.merged or active[0] in layer.lora_variant:
        return None
    base: Any = layer.base_layer
    parts = (base, layer.lora_A[active[0]], layer.lora_B[active[0]])
    if type(base) not in (nn.Linear, Conv1D) or any(weight.requires_grad for weight in base.parameters()):
        return None
    if any(part._forward_hooks or part._forward_pre_hooks for part in parts) or parts[2].bias is not None:
        return None
    return active[0]


class _LowRank(torch.autograd.Function):
    """`x W' + b + s (d A') B'`, where `d` is `x` after dropout, with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        """Compute the layer.

        Args:
            ctx: For backward.
            given: x, (N, in).
            dropped: d, (N, in); none where it is x.
            weight: W, (out, in).
            bias: b, (out,).
            down: A, (r, in).
            up: B, (out, r).
            scale: s.
        """
        result = torch.mm(given, weight.T) if bias is None else torch.addmm(bias, given, weight.T)
        low = torch.mm(given if dropped is None else dropped, down.T)
        ctx.save_for_backward(given, dropped, weight, low, down, up)
        ctx.scale = scale
        return result.addmm_(low, up.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the inputs and of the adapter."""
        given, dropped, weight, low, down, up = ctx.saved_tensors
        of_low = torch.mm(gradient, up).mul_(ctx.scale)  # (N, r)
        of_down = torch.mm(of_low.T, given if dropped is None else dropped)
        of_up = torch.mm(gradient.T, low).mul_(ctx.scale)
        of_given = torch.mm(gradient, weight) if ctx.needs_input_grad[0] else None
        of_dropped = None
        if dropped is not None:
            of_dropped = torch.mm(of_low, down) if ctx.needs_input_grad[1] else None
        elif of_given is not None:
            of_given.addmm_(of_low, down)
        return of_given, of_dropped, None, None, of_down, of_up, None
