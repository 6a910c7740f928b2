"""LoRA: low-rank updates beside frozen linear layers (Hu et al. 2021, arXiv:2106.09685, eq. 3), by peft.

A layer gives W x + s B A x, with B zero at the start, so the model begins as the pretrained one. Variants by switch:
rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) and DoRA (Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from graft.adapters.config import MethodSettings, Targets
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release

if TYPE_CHECKING:
    import peft

    from graft.adapters.model import AdaptedModel


class LoraConfig(MethodSettings):
    """Settings of LoRA."""

    name: Literal["lora"] = "lora"
    """The method."""

    r: int = Field(default=8, ge=1)
    """Rank of each update."""

    alpha: float = Field(default=16.0, gt=0)
    """Numerator of the scale s = alpha / r (alpha / sqrt(r) with rslora)."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping inputs of A."""

    targets: Targets = ("all-linear",)
    """Which linear layers: `all-linear`, roles such as `query,value`, or names within a layer such as `c_attn`."""

    rslora: bool = False
    """Scale by alpha / sqrt(r), which keeps learning stable at high ranks."""

    dora: bool = False
    """Learn each weight's magnitude apart from its direction."""


def attach(model: AdaptedModel, config: LoraConfig, context: AttachContext) -> Attached:
    """Freeze the backbone and put low-rank updates beside the target layers.

    Raises:
        RecipeError: A target is no linear layer of the model's family.
    """
    from peft import LoraConfig as PeftLoraConfig

    settings = PeftLoraConfig(
        task_type="FEATURE_EXTRACTION",
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft's annotation says int; it only divides by r
        lora_dropout=config.dropout,
        target_modules=model.target_pattern(config.targets),
        fan_in_fan_out=model.family.transposed,
        use_rslora=config.rslora,
        use_dora=config.dora,
    )
    return release(model, wrap(model, settings, context))


def wrap(
    model: AdaptedModel,
    settings: peft.PeftConfig,
    context: AttachContext,
    wrapper: Callable[[Any, peft.PeftConfig], peft.PeftModel] | None = None,
) -> list[str]:
    """Let peft put an adapter on the backbone, with initial weights that depend on the context's seed alone.

    Args:
        model: The model; its backbone is replaced by peft's wrapper.
        settings: peft's own config.
        context: For the seed.
        wrapper: Makes the wrapper; none means peft's own choice.

    Returns:
        Names of the parameters that peft trains.
    """
    import torch
    from peft import get_peft_model
    from transformers import PreTrainedModel

    assert isinstance(model.backbone, PreTrainedModel)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for a deprecated attribute: nothing that a user can act upon.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(context.seed)
        model.backbone = (wrapper or get_peft_model)(model.backbone, settings)
    model.backbone.train(model.training)
    return [f"backbone.{name}" for name, parameter in model.backbone.named_parameters() if parameter.requires_grad]


LORA = Method(
    name="lora",
    config=LoraConfig,
    paper="Hu et al. 2021, arXiv:2106.09685",
    version=1,
    abilities=Abilities(mergeable=True, quantised_base=True),
    learning_rate=5e-4,  # about ten times that of full fine-tuning
    learning_rates=(2e-4, 5e-4, 1e-3, 2e-3),
    attach=attach,
    mixes=lambda config: not config.dora,  # peft refuses DoRA in a mixed batch, and combines no magnitudes
)
