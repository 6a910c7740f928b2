"""What the checkpoint was before anything learned: an immutable provider for L2-SP, EWC, distillation and their kin.

The copy is taken before the method attaches itself, because a method may change the base (PiSSA and OLoRA do), and a
merged or disabled adapter is then no way back. What neither learns nor was changed is not kept twice: the copy shares
it with the model that learns.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from graft.adapters.model import AdaptedModel, Outputs
from graft.errors import GraftError


class FrozenReference:
    """The pretrained model, beside the one that learns.

    Attributes:
        bytes: Memory of the parameters that it does not share with the model that learns.
    """

    def __init__(
        self,
        pretrained: AdaptedModel,
        values: Mapping[str, Tensor],
        moving: Sequence[tuple[nn.Parameter, Tensor]],
        own_bytes: int,
    ) -> None:
        """Hold the pretrained model; use `Snapshot` to make one.

        Args:
            pretrained: The model as it was loaded, frozen, in evaluation mode.
            values: The values that the checkpoint brought, by the names of their parameters in the model that learns.
            moving: The backbone's pretrained parameters that learn, each with what it was.
            own_bytes: Memory of the parameters that are not shared.
        """
        self._pretrained = pretrained
        self._values = values
        self._moving = moving
        self.bytes = own_bytes

    def forward(self, inputs: dict[str, Tensor], need: frozenset[str] = frozenset()) -> Outputs:
        """Say what the pretrained model makes of a batch, for distillation and LwF.

        It is as it was loaded: nothing is dropped, and nothing differentiated. The logits mean something where the
        checkpoint brought its head; a fresh head or pooler is the one that training started from.

        Args:
            inputs: As for `AdaptedModel`, on the device of the model that learns; (B, T) int64.
            need: Extra outputs: `"hidden"` for all hidden states.

        Returns:
            Features, logits and what was needed.
        """
        with torch.no_grad():
            outputs: Outputs = self._pretrained(inputs, need=need)
        return outputs

    def weight(self, name: str) -> Tensor:
        """Look up what one parameter was.

        Args:
            name: Its name now, in `named_parameters()` of the model that learns.

        Returns:
            The pretrained value, on the parameter's device; not to be written to.

        Raises:
            GraftError: The checkpoint did not bring it: it is fresh, or the method's own.
        """
        if name not in self._values:
            raise GraftError(f"{name}: has no pretrained value; the checkpoint did not bring this parameter")
        return self._values[name]

    def distance_squared(self) -> Tensor:
        """Sum the squared differences between the backbone's weights that learn and what they were.

        Returns:
            A scalar on the weights' device, differentiable in what learns.

        Raises:
            GraftError: The method added weights of its own only, so nothing pretrained is learning.
        """
        if not self._moving:
            raise GraftError(
                "nothing pretrained is learning under this method, so there is nothing to pull back; "
                "drop the term or choose a method that changes the checkpoint's own weights, such as full"
            )
        return torch.stack([(weight - before).square().sum() for weight, before in self._moving]).sum()


class Snapshot:
    """A copy of the whole model, taken between loading and attaching."""

    def __init__(self, model: AdaptedModel) -> None:
        """Copy a model that no method has touched yet."""
        self._live = dict(model.named_parameters())  # held, so that nothing else takes their identities
        self._fresh = model.fresh
        self._pretrained = copy.deepcopy(model).requires_grad_(False).eval()

    def reference(self, model: AdaptedModel, learning: Iterable[str]) -> FrozenReference:
        """Keep the copies of those weights that learn or that the method changed, and let the others go.

        The snapshot is used up: it may become one reference only.

        Args:
            model: The same model, after attaching, where it is to learn.
            learning: Names of the method's learning set.
        """
        copies = dict(self._pretrained.named_parameters())
        before = {id(self._live[name]): name for name in copies}
        now = dict(model.named_parameters())
        known = {name: before[id(weight)] for name, weight in now.items() if id(weight) in before}
        learns = set(learning)
        kept = set(copies) - {old for name, old in known.items() if name not in learns and self._share(copies, old)}
        device = next(iter(now.values())).device
        self._pretrained.to(device)
        backbone = {name: old for name, old in known.items() if old.startswith("backbone.") and old not in self._fresh}
        return FrozenReference(
            self._pretrained,
            {name: copies[old] for name, old in known.items() if old not in self._fresh},
            [(now[name], copies[old]) for name, old in backbone.items() if name in learns],
            sum(copies[old].nbytes for old in kept),
        )

    def _share(self, copies: Mapping[str, nn.Parameter], name: str) -> bool:
        """Let a copy give way to the model's own parameter, if that is still what it was."""
        live = self._live[name]
        before = copies[name].to(live.device)
        same = before.dtype == live.dtype and torch.equal(live, before)
        if same:
            copies[name].data = live.data
        return same
