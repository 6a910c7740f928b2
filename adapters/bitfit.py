"""BitFit: only the backbone's biases learn (Ben Zaken et al. 2021, arXiv:2106.10199, section 3).

That is every bias vector of query, key, value, output, feed-forward and normalisation layers, beside the head. Biases
have no weight decay here, as under every method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release
from graft.adapters.families import FAMILIES
from graft.errors import RecipeError

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel


class BitFitConfig(MethodSettings):
    """Settings of BitFit: there are none."""

    name: Literal["bitfit"] = "bitfit"
    """The method."""


def _biases(model: AdaptedModel) -> list[str]:
    """Names of the pretrained biases; those of a fresh pooler are the head's."""
    fresh = model.fresh
    prefix = model.body_prefix
    names = (name for name, _ in model.named_parameters())
    return [name for name in names if name.startswith(prefix) and name.endswith(".bias") and name not in fresh]


def refuse(model: AdaptedModel, config: BitFitConfig) -> None:  # noqa: ARG001
    """Refuse an architecture without biases.

    Raises:
        RecipeError: There are none, as in Llama.
    """
    if not _biases(model):
        raise RecipeError(
            f"method: bitfit trains biases, and {model.family.name} has none in this checkpoint; use ia3 or lora"
        )


def attach(model: AdaptedModel, config: BitFitConfig, context: AttachContext) -> Attached:  # noqa: ARG001
    """Let the biases and the head learn.

    Raises:
        RecipeError: The architecture has no biases.
    """
    refuse(model, config)
    return release(model, _biases(model))


BITFIT = Method(
    name="bitfit",
    config=BitFitConfig,
    paper="Ben Zaken et al. 2021, arXiv:2106.10199",
    version=1,
    # There is nothing to merge: the backbone itself has learned. Left out are the architectures that are published
    # without biases; what decides in the end is whether a checkpoint has some.
    abilities=Abilities(
        mergeable=True, quantised_base=True, families=frozenset(FAMILIES) - {"llama", "mistral", "modernbert", "qwen3"}
    ),
    # The paper searches 1e-4 to 1e-3 for BERT on GLUE, and its code's example runs RTE at 1e-3; small models stand the
    # larger steps.
    learning_rate=1e-3,
    learning_rates=(1e-4, 4e-4, 7e-4, 1e-3),
    attach=attach,
    refuse=refuse,
)
