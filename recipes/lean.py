"""Layers in fewer passes over memory: normalisation that hands on bf16, and LoRA inside the layer that it adapts.

Under autocast torch normalises into fp32, and each of the layers that read the result converts it again; peft's LoRA
converts its input back to fp32, scales and adds the update in operations of their own, and backward undoes each of
them. Here one bf16 tensor is handed on, and the update is added by the matrix product that computes it. Both compute
the same function as the stock layers, up to the rounding of bf16. Wherever a layer is not what it usually is
(several adapters at once, merged, DoRA, a quantised base, a hook), the stock code runs.
"""

from collections.abc import Iterable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

from graft.recipes import converted


def install(model: nn.Module, keep: Iterable[nn.Module] = ()) -> None:
    """Make a model's normalisations and LoRA layers lean; parameters and names stay as they are.

    Args:
        model: The model, adapters attached.
        keep: Modules whose normalisations stay in fp32: where one begins a residual stream that later layers only add
            to, rounding would stay in it.
    """
    kept = {id(part) for module in keep for part in module.modules()}
    for module in model.modules():
        if type(module) is nn.LayerNorm and id(module) not in kept:
            module.__class__ = LeanLayerNorm
        elif type(module) is LoraLinear:
            module.__class__ = LeanLora


class LeanLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that, under autocast, gives autocast's type instead of fp32."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Normalise, with sums in fp32; a residual stream in fp32 is normalised from fp32."""
        kind = converted.autocast_type(hidden)
        if kind is None:
            return super().forward(hidden)
        if hidden.device.type != "cpu":  # other devices' kernels want input and weights of one type
            hidden = hidden.float()
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.layer_norm(hidden, self.normalized_shape, self.weight, self.bias, self.eps).to(kind)


class LeanLora(LoraLinear):
    """peft's LoRA beside a linear layer, in training as one operation with the layer.

    Where there is anything else to do than to run one plain adapter, peft's own code runs.
    """

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """Run the layer and its adapter."""
        name = self.only_adapter()
        if name is None or arguments or named or not self.training:
            found: Tensor = super().forward(x, *arguments, **named)
            return found
        base: Any = self.base_layer
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        kind = converted.autocast_type(x) or x.dtype
        dropped = self.lora_dropout[name](x)
        with torch.autocast(x.device.type, enabled=False):
            given = x.to(kind)
            flat = given.reshape(-1, given.shape[-1])
            apart = None if dropped is x else dropped.to(kind).reshape(-1, given.shape[-1])
            weight, bias = converted.weights(base, kind)
            result: Tensor = LowRank.apply(  # type: ignore[no-untyped-call]
                flat,
                apart,
                weight,
                bias,
                down.to(kind),
                up.to(kind),
                float(self.scaling[name]),
            )
        return result.view(*given.shape[:-1], -1)

    def only_adapter(self) -> str | None:
        """Name the active adapter; none where there is not exactly one plain one on a plain frozen base."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if len(active) != 1 or self.disable_adapters or self.merged or active[0] in self.lora_variant:
            return None
        base: Any = self.base_layer
        parts = (base, self.lora_A[active[0]], self.lora_B[active[0]])
        if type(base) not in converted.LAYERS or any(weight.requires_grad for weight in base.parameters()):
            return None
        if any(_hooked(part) for part in parts) or parts[2].bias is not None:
            return None
        return active[0]


def _hooked(module: nn.Module) -> bool:
    """Whether somebody asked to see what goes through a module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


class LowRank(torch.autograd.Function):
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Compute the gradients of the inputs and of the adapter, in operations that have derivatives themselves."""
        given, dropped, weight, low, down, up = ctx.saved_tensors
        read = given if dropped is None else dropped
        if torch.is_grad_enabled():  # for second derivatives `low` must be seen to depend on its inputs
            low = torch.mm(read, down.T)
        of_low = torch.mm(gradient, up) * ctx.scale  # (N, r)
        of_down = torch.mm(of_low.T, read)
        of_up = torch.mm(gradient.T, low) * ctx.scale
        of_given = torch.mm(gradient, weight) if ctx.needs_input_grad[0] else None
        of_dropped = None
        if dropped is not None:
            of_dropped = torch.mm(of_low, down) if ctx.needs_input_grad[1] else None
        elif of_given is not None:
            of_given = torch.addmm(of_given, of_low, down)
        return of_given, of_dropped, None, None, of_down, of_up, None
