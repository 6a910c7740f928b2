"""(IA)³: rescale keys, values and inner activations by learned vectors (Liu et al. 2022, arXiv:2205.05638), by peft.

Attention becomes softmax(Q (l_k ⊙ K)ᵀ / √d) (l_v ⊙ V), and the feed-forward sublayer (l_ff ⊙ f(W₁ x)) W₂ (section 3.3).
The vectors start at one, so the model begins as the pretrained one. Where one layer makes queries, keys and values
(GPT-2, ModernBERT), its vector covers the queries too, as in peft; in a gated feed-forward sublayer the vector
rescales the gated product.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from graft.adapters.config import MethodSettings
from graft.adapters.contract import Abilities, AttachContext, Attached, Method, release
from graft.adapters.lora import wrap

if TYPE_CHECKING:
    from graft.adapters.model import AdaptedModel


class Ia3Config(MethodSettings):
    """Settings of (IA)³: there are none."""

    name: Literal["ia3"] = "ia3"
    """The method."""


def attach(model: AdaptedModel, config: Ia3Config, context: AttachContext) -> Attached:  # noqa: ARG001
    """Freeze the backbone and put vectors of ones on keys, values and the input of the down-projection."""
    from peft import IA3Config

    settings = IA3Config(
        task_type="FEATURE_EXTRACTION",
        target_modules=model.target_pattern(("key", "value", "down")),
        feedforward_modules=model.target_pattern(("down",)),
        fan_in_fan_out=model.family.transposed,
    )
    own = wrap(model, settings, context)
    plain = release(model, own)
    # peft keeps the vectors as matrices of one row or column; decay would pull the scales from one towards zero.
    return dataclasses.replace(plain, decaying=plain.decaying - set(own))


IA3 = Method(
    name="ia3",
    config=Ia3Config,
    paper="Liu et al. 2022, arXiv:2205.05638",
    version=1,
    abilities=Abilities(mergeable=True, quantised_base=True),
    # The paper's recipe (T-Few) has 3e-3 with Adafactor; AdamW on models this much smaller stands a little more.
    learning_rate=3e-3,
    learning_rates=(1e-3, 3e-3, 1e-2, 3e-2),
    attach=attach,
)
