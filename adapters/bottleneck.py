"""Bottleneck adapters: small networks with a narrow middle in frozen layers (Houlsby et al. 2019, arXiv:1902.00751).

The placements, their papers and their equations are described in `graft.adapters.bottleneck_tuner`. The papers' other
choices are settings; layer normalisations, which Houlsby et al. also train, stay frozen, as in AdapterHub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release
from graft.adapters.lora import wrap

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel


class BottleneckConfig(MethodSettings):
    """Settings of bottleneck adapters."""

    name: Literal["bottleneck"] = "bottleneck"
    """The method."""

    placement: Literal["houlsby", "pfeiffer", "parallel"] = "pfeiffer"
    """`houlsby`: after each sublayer, two a layer; `pfeiffer`: after the feed-forward sublayer's addition and
    normalisation, one a layer; `parallel`: beside the feed-forward sublayer, one a layer."""

    reduction: float = Field(default=16.0, ge=1, allow_inf_nan=False)
    """The model's width over the bottleneck's (AdapterHub's default). Not used when `size` is given."""

    size: int | None = Field(default=None, ge=1)
    """Width of the bottleneck, instead of `reduction`."""

    nonlinearity: Literal["relu", "gelu", "silu", "tanh"] | None = None
    """In the middle. Left out: the paper's, `gelu` for houlsby and `relu` for the others."""

    scaling: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Factor s of the adapter's output. Left out: 4 for parallel (He et al.'s) and 1 for the others."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping elements of the middle."""

    init_std: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Standard deviation of the down-projection's initial weights (AdapterHub's default); the up-projection starts at
    zero, so that the model begins as the pretrained one."""


def refuse(model: AdaptedModel, config: BottleneckConfig) -> None:
    """Refuse an architecture that has no module for the placement.

    Raises:
        RecipeError: So it is, as for parallel adapters in ALBERT.
    """
    from graft.adapters.bottleneck_tuner import places

    places(model.family.name, config.placement)


def attach(model: AdaptedModel, config: BottleneckConfig, context: AttachContext) -> Attached:
    """Freeze the backbone and put adapters into its layers.

    Raises:
        RecipeError: The architecture has no module for the placement.
    """
    from graft.adapters.bottleneck_tuner import BottleneckConfig as TunerConfig

    refuse(model, config)
    parallel = config.placement == "parallel"
    settings = TunerConfig(
        task_type="FEATURE_EXTRACTION",
        placement=config.placement,
        size=config.size or max(1, round(model.origin.config.hidden_size / config.reduction)),
        nonlinearity=config.nonlinearity or ("gelu" if config.placement == "houlsby" else "relu"),
        scaling=config.scaling or (4.0 if parallel else 1.0),
        dropout=config.dropout,
        init_std=config.init_std,
    )
    return release(model, wrap(model, settings, context))


BOTTLENECK = Method(
    name="bottleneck",
    config=BottleneckConfig,
    paper="Houlsby et al. 2019, arXiv:1902.00751",
    version=1,
    abilities=Abilities(mergeable=False, quantised_base=True),
    # Houlsby et al. search 3e-5, 3e-4 and 3e-3 on GLUE with BERT-large, and their code's example runs MRPC with
    # BERT-base at 3e-4; narrower models want more.
    learning_rate=1e-3,
    learning_rates=(1e-4, 3e-4, 1e-3, 3e-3),
    attach=attach,
    refuse=refuse,
    imports="graft.adapters.bottleneck_tuner",
)
