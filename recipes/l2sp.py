"""L2-SP: pull what learns back towards where it started (Li et al. 2018, arXiv:1802.01483, eq. 2)."""

from typing import Any

from torch import Tensor

from graft.recipes.objective import StepContext, Term


class L2SP(Term):
    """Penalises the distance between the backbone's learning weights and their pretrained values.

    Fresh weights (the head) have no pretrained value and are left to plain weight decay.
    """

    name = "l2sp"
    wants_reference = True

    def __init__(self, strength: float = 0.01) -> None:
        """Make the term.

        Args:
            strength: Weight of the penalty, in units of task loss per squared weight. The paper uses 0.1 to 1
                with SGD; with AdamW start ten times lower.
        """
        self.strength = strength

    def identity(self) -> dict[str, Any]:
        """Name the strength."""
        return {"name": self.name, "strength": self.strength}

    def loss(self, step: StepContext) -> Tensor:
        """Half the squared distance, summed over all learning backbone weights.

        Returns:
            A scalar on the weights' device; zero at the first step.

        Raises:
            GraftError: The method added weights of its own only, so nothing pretrained is learning.
        """
        assert step.reference is not None
        return 0.5 * self.strength * step.reference.distance_squared()
