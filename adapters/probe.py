"""Linear probe: the pretrained model stays as it is, and only the head on its features learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release
from graft.errors import RecipeError

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel


class ProbeConfig(MethodSettings):
    """Settings of the linear probe: there are none."""

    name: Literal["probe"] = "probe"
    """The method."""


def refuse(model: AdaptedModel, config: ProbeConfig) -> None:  # noqa: ARG001
    """Refuse a model whose head came with the checkpoint.

    Raises:
        RecipeError: Nothing would learn.
    """
    if not model.head_parameters():
        raise RecipeError(
            f"method: probe trains a fresh head, and the language model {model.family.name} brings its own; "
            "use lora or full"
        )


def attach(model: AdaptedModel, config: ProbeConfig, context: AttachContext) -> Attached:  # noqa: ARG001
    """Let the head learn, and with it a pooler that the checkpoint did not bring.

    Raises:
        RecipeError: The head came with the checkpoint.
    """
    refuse(model, config)
    return release(model, ())


PROBE = Method(
    name="probe",
    config=ProbeConfig,
    paper="Alain and Bengio 2016, arXiv:1610.01644",
    version=1,
    # There is nothing to merge: the backbone has not changed.
    abilities=Abilities(mergeable=True, quantised_base=True),
    # A logistic regression: one layer from fresh weights stands rates of 1e-3 to 1e-2 with AdamW, and wants them when
    # it gets a few epochs only.
    learning_rate=3e-3,
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    attach=attach,
    refuse=refuse,
)
