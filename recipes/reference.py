"""What the checkpoint was before anything learned: an immutable provider for L2-SP and its kin.

The copy is taken before the method attaches itself, because a method may change the base (PiSSA and OLoRA do), and a
merged or disabled adapter is then no way back.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from graft.errors import GraftError


class FrozenReference:
    """The pretrained values of the backbone weights that learn."""

    def __init__(self, weights: list[tuple[nn.Parameter, Tensor]]) -> None:
        """Hold pairs of what learns and what it was; use `Snapshot` to make them."""
        self._weights = weights

    def distance_squared(self) -> Tensor:
        """Sum the squared differences between what learns and what it was.

        Returns:
            A scalar on the weights' device, differentiable in what learns.

        Raises:
            GraftError: The method added weights of its own only, so nothing pretrained is learning.
        """
        if not self._weights:
            raise GraftError(
                "nothing pretrained is learning under this method, so there is nothing to pull back; "
                "drop the term or choose a method that changes the checkpoint's own weights, such as full"
            )
        return torch.stack([(weight - before).square().sum() for weight, before in self._weights]).sum()

    @property
    def bytes(self) -> int:
        """Memory that the copies take."""
        return sum(before.nbytes for _, before in self._weights)


class Snapshot:
    """A copy of all backbone weights, taken between loading and attaching."""

    def __init__(self, backbone: nn.Module, fresh: Iterable[nn.Parameter]) -> None:
        """Copy the weights that the checkpoint brought.

        Args:
            backbone: The loaded backbone, before any method touched it.
            fresh: Weights that the checkpoint did not bring; they have no pretrained value.
        """
        skipped = {id(weight) for weight in fresh}
        self._copies = {
            id(weight): weight.detach().clone() for weight in backbone.parameters() if id(weight) not in skipped
        }

    def reference(self, learning: Iterable[nn.Parameter]) -> FrozenReference:
        """Keep the copies of those weights that learn, and let the others go.

        Args:
            learning: The parameters of the method's learning set, after attaching.
        """
        return FrozenReference(
            [(weight, self._copies[id(weight)]) for weight in learning if id(weight) in self._copies]
        )
