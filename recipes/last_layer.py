"""The last layer, computed for the one token that the head reads.

A classifier that reads the first token reads nothing of what the last layer makes of the others: there they matter
as keys and values alone. So the last layer asks its question, and runs its feed-forward part, for the first token of
each example; with six layers that is an eighth of a step. The loss and its gradient are those of the whole layer, up to
the rounding of sums. So are the dropout masks, where they are counted; torch's own generator, which has fewer elements
to draw for, goes on with others.

Only training is shortened: in evaluation mode the whole layer runs, as an exported model's does, and so it does while
the layer and all below it rest.
"""

from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertSelfAttention
from transformers.models.electra.modeling_electra import ElectraSelfAttention
from transformers.models.roberta.modeling_roberta import RobertaSelfAttention
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaSelfAttention

from graft.adapters.model import AdaptedModel

_KNOWN = (BertSelfAttention, RobertaSelfAttention, XLMRobertaSelfAttention, ElectraSelfAttention)
"""One forward pass under four names; their layers add the residual in `attention.output`, which sees one token then."""


def shortens(model: AdaptedModel) -> bool:
    """Tell whether the head reads the first token alone, from a last layer that is known here.

    Args:
        model: With or without a method's adapters.
    """
    config = model.origin.config
    first = model.pooling == "cls" or (model.pooling == "native" and model.family.pooling in ("pooler", "first"))
    # A decoder's first token sees itself alone, which torch's kernels do not know of a single query; chunks of the
    # feed-forward part would have to divide one token.
    plain = not getattr(config, "is_decoder", False) and getattr(config, "chunk_size_feed_forward", 0) <= 1
    return model.kind == "classification" and first and plain and type(_attention(model, "self")) in _KNOWN


def install(model: AdaptedModel) -> None:
    """Let a model that `shortens` compute its last layer for the first token, while training.

    Args:
        model: The model, adapters attached. Examples must be padded on the right.
    """
    for name, forward in (("self", _ask_for_first), ("output", _add_to_first)):
        module = _attention(model, name)
        assert module is not None
        # A bound method, not a closure: a deep copy of the module must call its own layers.
        module.__dict__["forward"] = MethodType(forward, module)


def _attention(model: AdaptedModel, name: str) -> nn.Module | None:
    """A part of the last layer's attention, where it has one of this name."""
    *_, last = model.body.get_submodule(model.family.layers).children()
    return dict(last.named_modules()).get(f"attention.{name}")


def _ask_for_first(
    module: Any, hidden: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend as `BertSelfAttention` does, with the first token's query alone.

    Args:
        module: The attention module.
        hidden: (B, T, H).
        attention_mask: Broadcast over (B, heads, T, T); none for no mask.
        past_key_values: Keys and values of a prefix, where a method has one.
        **named: What else the layer hands on.

    Returns:
        (B, 1, H) and the probabilities; in evaluation mode, (B, T, H).
    """
    if not module.training:
        whole: tuple[Tensor, Tensor | None] = type(module).forward(
            module, hidden, attention_mask, past_key_values, **named
        )
        return whole
    shape = (len(hidden), -1, module.num_attention_heads, module.attention_head_size)
    query, key, value = (
        project(given).view(shape).transpose(1, 2)
        for project, given in ((module.query, hidden[:, :1]), (module.key, hidden), (module.value, hidden))
    )
    if past_key_values is not None:
        own = getattr(past_key_values, "self_attention_cache", past_key_values)
        key, value = own.update(key, value, module.layer_idx)
    if attention_mask is not None:
        attention_mask = attention_mask[..., :1, :]
    mixed, probabilities = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation](
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=module.dropout.p,
        scaling=module.scaling,
        **named,
    )
    return mixed.reshape(len(hidden), 1, -1), probabilities


def _add_to_first(module: nn.Module, mixed: Tensor, residual: Tensor) -> Tensor:
    """Add the residual of the tokens that attention was computed for."""
    summed: Tensor = type(module).forward(module, mixed, residual[:, : mixed.shape[1]])
    return summed
