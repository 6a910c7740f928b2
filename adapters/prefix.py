"""Prefix tuning: learned keys and values before the text's, in every layer (Li and Liang 2021, arXiv:2101.00190).

Each layer attends to n learned pairs of key and value as well as to the tokens (section 4.2), by peft. The model is not
the pretrained one at the start, whatever the prefix holds: it takes attention from the tokens, which also move up by n
positions, so that sequences are shorter by n. The prefix is handed over as a cache of past keys and values: only
architectures that take one can be adapted, and activations cannot be computed twice.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release
from graft.adapters.lora import wrap
from graft.errors import RecipeError

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel

# The parameter of peft's wrapper that holds the prefix, or what it is made from.
EMBEDDINGS = "prompt_encoder.default.embedding.weight"
# The architectures whose backbones take past keys and values.
CACHING = frozenset({"bert", "roberta", "xlm-roberta", "electra", "gpt2", "llama", "mistral", "qwen2", "qwen3"})


class PrefixConfig(MethodSettings):
    """Settings of prefix tuning."""

    name: Literal["prefix"] = "prefix"
    """The method."""

    tokens: int = Field(default=20, ge=1)
    """n, the length of the prefix; sequences may have that many tokens fewer."""

    projection: bool = False
    """Make the prefix from n embeddings by a network of two layers, which is learned with them (eq. 3 of the paper)."""

    projection_size: int | None = Field(default=None, ge=1)
    """Width of that network. Left out: the model's own."""

    init_std: float = Field(default=0.02, gt=0, allow_inf_nan=False)
    """Standard deviation of the initial prefix; with `projection` that network's own initial weights decide."""


def refuse(model: AdaptedModel, config: PrefixConfig) -> None:
    """Refuse architectures without a cache, and a prefix that leaves no room.

    Raises:
        RecipeError: So it is.
    """
    if model.family.name not in CACHING:
        raise RecipeError(
            f"method: prefix does not work on {model.family.name}, which takes no past keys and values; "
            "use bottleneck or lora"
        )
    known = model.positions
    if known is not None and config.tokens >= known:
        raise RecipeError(f"method.tokens: {config.tokens} leaves no room among {known} positions; use fewer")


def attach(model: AdaptedModel, config: PrefixConfig, context: AttachContext) -> Attached:
    """Freeze the backbone and put a prefix before it.

    Raises:
        RecipeError: The architecture takes no past keys and values, or the prefix is too long.
    """
    import torch
    from peft import PrefixTuningConfig

    from graft.adapters.prefixed import PrefixedBackbone

    refuse(model, config)
    settings = PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=config.tokens,
        prefix_projection=config.projection,
        encoder_hidden_size=config.projection_size,  # type: ignore[arg-type]  # peft fills in none
    )
    own = wrap(model, settings, context, PrefixedBackbone)
    if model.positions is not None:
        model.positions -= config.tokens
    assert isinstance(model.backbone, PrefixedBackbone)
    model.backbone.word_embeddings = None  # for other methods of peft's; here a second name of the same weights
    if not config.projection:
        generator = torch.Generator().manual_seed(context.seed)
        torch.nn.init.normal_(model.backbone.get_parameter(EMBEDDINGS), std=config.init_std, generator=generator)
    plain = release(model, own)
    # The prefix is an activation, which has no reason to be small; the network that makes it consists of weights.
    return dataclasses.replace(plain, decaying=plain.decaying - {f"backbone.{EMBEDDINGS}"})


PREFIX = Method(
    name="prefix",
    config=PrefixConfig,
    paper="Li and Liang 2021, arXiv:2101.00190",
    version=1,
    abilities=Abilities(
        mergeable=False,
        quantised_base=True,
        families=CACHING,
        identity_at_start=False,
        gradient_checkpointing=False,
    ),
    # P-tuning v2 (Liu et al. 2021, arXiv:2110.07602) is prefix tuning of BERT without the network; its code runs BoolQ
    # at 5e-3 and RTE at 1e-2. With the network, Li and Liang use 5e-5.
    learning_rate=5e-3,
    learning_rates=(1e-3, 2e-3, 5e-3, 1e-2),
    attach=attach,
    refuse=refuse,
    positions=lambda config: int(config.tokens),
)
