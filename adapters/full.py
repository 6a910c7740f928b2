"""Full fine-tuning: everything learns. The reference that every other method is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel


class FullConfig(MethodSettings):
    """Settings of full fine-tuning: there are none."""

    name: Literal["full"] = "full"
    """The method."""


def attach(model: AdaptedModel, config: FullConfig, context: AttachContext) -> Attached:  # noqa: ARG001
    """Let every parameter learn."""
    return release(model, (name for name, _ in model.named_parameters()))


FULL = Method(
    name="full",
    config=FullConfig,
    paper="Devlin et al. 2018, arXiv:1810.04805, section 4",
    version=1,
    # There is nothing to merge: the backbone itself has learned. "Mutates" means before training; it does not.
    abilities=Abilities(mergeable=True, quantised_base=False),
    learning_rate=5e-5,
    learning_rates=(2e-5, 5e-5, 1e-4, 2e-4),
    attach=attach,
)
