"""Bottleneck adapters as a tuner of peft's: import this module, and plain peft knows the type `BOTTLENECK`.

An adapter is A(x) = s (W_up f(W_down x + b_down) + b_up), with W_up and b_up zero at the start, and sits in one of
three placements:

- `houlsby` (Houlsby et al. 2019, arXiv:1902.00751, section 2.1): two a layer, h + A(h) for the output h of each
  sublayer, attention and feed-forward, after its projection and dropout and before the residual is added.
- `pfeiffer` (Pfeiffer et al. 2020, arXiv:2005.00247, as AdapterHub configures it, arXiv:2007.07779): one a layer. With
  h the feed-forward sublayer's output and x its input, the layer gives LN(h + A(LN(h + x)) + x): the adapter reads what
  the normalisation made of the sum, adds to the sublayer's output, and the same normalisation acts on the new sum.
  Where layers normalise first (GPT-2, Llama, ModernBERT) the layer gives y + A(y) with y = h + x, as in AdapterHub.
- `parallel` (He et al. 2021, arXiv:2110.04366, section 4): F(x) + A(x) for the whole feed-forward sublayer F and what
  it reads, x; with s = 4. Where layers normalise first, x is the normalised input.

peft has no public way to add a type from outside: its three tables are written to, which the tests guard.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from graft.adapters.families import FAMILIES
from graft.adapters.sublayers import SUBLAYERS
from graft.errors import GraftError, RecipeError

NAME = "BOTTLENECK"
PREFIX = "bottleneck_"

Placement = Literal["houlsby", "pfeiffer", "parallel"]
Nonlinearity = Literal["relu", "gelu", "silu", "tanh"]
Seam = Literal["output", "norm", "layer", "span", "sum"]

NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
}


@dataclass
class BottleneckConfig(PeftConfig):
    """What peft keeps in `adapter_config.json`.

    Attributes:
        placement: Where the adapters sit.
        size: Width of the bottleneck.
        nonlinearity: f.
        scaling: s.
        dropout: Probability of dropping elements of f's output while training.
        init_std: Standard deviation of the initial W_down.
        target_modules: Regular expression of the modules that are wrapped; none looks them up by architecture.
        seam: How they are wrapped; it goes with `target_modules`.
        modules_to_save: Other modules that learn whole, such as the head.
    """

    placement: Placement = "pfeiffer"
    size: int = 64
    nonlinearity: Nonlinearity = "relu"
    scaling: float = 1.0
    dropout: float = 0.0
    init_std: float = 0.02
    target_modules: str | None = None
    seam: Seam | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        """Set the type, as peft's own configs do."""
        super().__post_init__()  # type: ignore[no-untyped-call]  # peft has no annotation here
        self.peft_type = NAME


def places(model_type: str, placement: Placement) -> tuple[str, Seam]:
    """Where the adapters of a placement sit in an architecture.

    Args:
        model_type: transformers' name of the architecture.
        placement: Which placement.

    Returns:
        A regular expression of the names of modules, and how those are wrapped.

    Raises:
        RecipeError: The architecture is not known, or has no module for this placement.
    """
    if model_type not in SUBLAYERS:
        raise RecipeError(f"method: bottleneck does not know {model_type}; use one of {', '.join(sorted(SUBLAYERS))}")
    row = SUBLAYERS[model_type]
    layer = rf"(?:.*\.)?{re.escape(FAMILIES[model_type].layers)}\.\d+"
    if placement == "houlsby":
        return rf"{layer}\.(?:{re.escape(row.attention)}|{re.escape(row.feed_forward)})", "output"
    if placement == "pfeiffer":
        return (layer, "layer") if row.norm is None else (rf"{layer}\.{re.escape(row.norm)}", "norm")
    if row.span is None:
        raise RecipeError(
            f"method.placement: parallel does not work on {model_type}, where no module spans the feed-forward "
            "sublayer; use houlsby or pfeiffer"
        )
    return rf"{layer}\.{re.escape(row.span)}", "sum" if row.span_adds else "span"


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module of the model with adapters at it; how they are wired is up to the subclasses.

    Args:
        base_layer: The module.
        near: A parameter beside it; its device and floating-point type are the adapters'.
        features: H, the width of the hidden states.
    """

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_dropout", "bottleneck_settings")

    def __init__(self, base_layer: nn.Module, near: nn.Parameter, features: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.features = features
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_dropout = nn.ModuleDict()
        self.bottleneck_settings: dict[str, BottleneckConfig] = {}
        self._near = (near,)  # in a tuple, so that it is not registered here
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Put an adapter here; with W_up at zero it changes nothing yet."""
        down, up = nn.Linear(self.features, config.size), nn.Linear(config.size, self.features)
        nn.init.normal_(down.weight, std=config.init_std)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.bottleneck_dropout[adapter_name] = nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        self.bottleneck_settings[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def change(self, hidden: Tensor) -> Tensor | None:
        """What the active adapters make of hidden states, added up.

        Args:
            hidden: (B, T, H).

        Returns:
            (B, T, H), or none where no adapter is active.
        """
        total = None
        active = () if self.disable_adapters else self.active_adapters
        for name in active:
            if name not in self.bottleneck_down:
                continue
            settings, down = self.bottleneck_settings[name], self.bottleneck_down.get_submodule(name)
            assert isinstance(down, nn.Linear)
            inner = down(self._cast_input_dtype(hidden, down.weight.dtype))  # (B, T, size)
            inner = self.bottleneck_dropout[name](NONLINEARITIES[settings.nonlinearity](inner))
            change = settings.scaling * self.bottleneck_up[name](inner)
            total = change if total is None else total + change
        return None if total is None else total.to(hidden.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse.

        Raises:
            GraftError: Always.
        """
        raise GraftError(_NO_MERGE)

    def unmerge(self) -> None:
        """Refuse, since nothing can have been merged.

        Raises:
            GraftError: Always.
        """
        raise GraftError(_NO_MERGE)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        """The neighbour's: a dropout has no weight, and a whole layer no single one."""
        return self._near[0].device, self._near[0].dtype


class AtOutput(BottleneckLayer):
    """Reads a module's output and adds to it: y + A(y)."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module and the adapters."""
        output: Tensor = self.base_layer(*args, **kwargs)
        change = self.change(output)
        return output if change is None else output + change


class AtNorm(BottleneckLayer):
    """Reads the normalised sum and adds to the sum: LN(z + A(LN(z)))."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the normalisation twice, with the adapters between."""
        normalised: Tensor = self.base_layer(hidden)
        change = self.change(normalised)
        if change is None:
            return normalised
        again: Tensor = self.base_layer(hidden + change)
        return again


class AtSpan(BottleneckLayer):
    """Stands beside a module: F(x) + A(x)."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Run the module and the adapters on the same input."""
        output: Tensor = self.base_layer(hidden)
        change = self.change(hidden)
        return output if change is None else output + change


class AtSum(BottleneckLayer):
    """Stands beside a sublayer that ends in a module which adds the sublayer's input x: F(inner) + (x + A(x))."""

    def forward(self, inner: Tensor, given: Tensor) -> Tensor:
        """Run the module, with the adapters' change added to what it adds."""
        change = self.change(given)
        output: Tensor = self.base_layer(inner, given if change is None else given + change)
        return output


class AtLayer(BottleneckLayer):
    """Reads a whole layer's output and adds to it: y + A(y).

    A hook on the layer does it, ahead of those with which transformers records hidden states, and the layer's own
    attributes stay visible, since models look at them.
    """

    def __init__(self, base_layer: nn.Module, near: nn.Parameter, features: int) -> None:
        super().__init__(base_layer, near, features)
        self._handle = base_layer.register_forward_hook(self._add, prepend=True)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the layer."""
        output: Tensor = self.base_layer(*args, **kwargs)
        return output

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Give the layer back as it was; peft calls this in place of its own way.

        Raises:
            GraftError: It is to be merged.
        """
        if merge:
            self.merge(safe_merge, adapter_names)
        self._handle.remove()
        return self.base_layer

    def __getattr__(self, name: str) -> Any:
        """Look at the layer for what is not here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not set yet
                raise
            return getattr(self.base_layer, name)

    def _add(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        """Add the adapters' change to the layer's output."""
        change = self.change(output)
        return output if change is None else output + change


_SEAMS: dict[Seam, type[BottleneckLayer]] = {
    "output": AtOutput,
    "norm": AtNorm,
    "layer": AtLayer,
    "span": AtSpan,
    "sum": AtSum,
}
_NO_MERGE = (
    "bottleneck adapters have a nonlinearity and cannot be merged into the model's weights; "
    "keep the adapter beside the model, or choose a method that can be merged, such as lora"
)


class BottleneckModel(BaseTuner):
    """The model with bottleneck adapters in it."""

    prefix = PREFIX
    tuner_layer_cls = BottleneckLayer

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        """Look up the modules by architecture, where the config does not name them."""
        if peft_config.target_modules is None:
            peft_config.target_modules, peft_config.seam = places(model_config["model_type"], peft_config.placement)
        return peft_config

    def _check_new_adapter_config(self, config: Any) -> None:
        """Refuse a second placement: wrapping what is wrapped would rename the first adapter's weights."""
        super()._check_new_adapter_config(config)
        configs: dict[str, Any] = self.peft_config
        placements = {other.placement for other in configs.values()}
        if len(placements) > 1:
            raise GraftError(
                f"adapters of one model must have one placement, not {' and '.join(sorted(placements))}; "
                "put them on two copies of the model"
            )

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        """Wrap a module, or add an adapter to one that is wrapped."""
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = _SEAMS[peft_config.seam](target, next(parent.parameters()), self.model.config.hidden_size)
        layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config)
        self._replace_module(parent, target_name, layer.train(target.training), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        """Put one module in the place of another; peft's own way wants weights, and a dropout has none."""
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        """Refuse.

        Raises:
            GraftError: Always.
        """
        raise GraftError(_NO_MERGE)


def register() -> None:
    """Make the type known to peft; doing so again changes nothing."""
    name: Any = NAME  # peft's keys are members of an enum, which are strings and hash as such
    PEFT_TYPE_TO_CONFIG_MAPPING[name] = BottleneckConfig
    PEFT_TYPE_TO_TUNER_MAPPING[name] = BottleneckModel
    PEFT_TYPE_TO_PREFIX_MAPPING[name] = PREFIX


register()
