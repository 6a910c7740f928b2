"""The last layer, computed for the one token that the head reads.

A classifier that reads the first token reads nothing of what the last layer makes of the others: there they matter
as keys and values alone. So the last layer asks its question, and runs its feed-forward part, for the first token of
each example; with six layers that is an eighth of a step. The loss and its gradient are those of the whole layer, up to
the rounding of sums. So are the dropout masks, where they are counted; torch's own generator, which has fewer elements
to draw for, goes on with others.

Only training is shortened: in evaluation mode the whole layer runs, as an exported model's does, and so it does while
the layer and all below it rest.
"""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Layer
from transformers.models.distilbert.modeling_distilbert import TransformerBlock as DistilBertLayer
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.roberta.modeling_roberta import RobertaLayer
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaLayer

from graft.adapters.model import AdaptedModel


def shortens(model: AdaptedModel) -> bool:
    """Tell whether the head reads the first token alone, from a last layer that is known here.

    Args:
        model: With or without a method's adapters.
    """
    config, layers = model.origin.config, _layers(model)
    first = model.pooling == "cls" or (model.pooling == "native" and model.family.pooling in ("pooler", "first"))
    # A decoder's first token sees itself alone, which torch's kernels do not know of a single query; chunks of the
    # feed-forward part would have to divide one token; and DeBERTa may have a convolution after its first layer.
    plain = not getattr(config, "is_decoder", False) and getattr(config, "chunk_size_feed_forward", 0) <= 1
    return model.kind == "classification" and first and plain and len(layers) > 1 and type(layers[-1]) in _WAYS


def install(model: AdaptedModel) -> None:
    """Let a model that `shortens` compute its last layer for the first token, while training.

    Args:
        model: The model, adapters attached. Examples must be padded on the right.
    """
    last = _layers(model)[-1]
    for path, forward in _WAYS[type(last)].items():
        module = last.get_submodule(path)
        # A bound method, not a closure: a deep copy of the module must call its own layers.
        module.__dict__["forward"] = MethodType(forward, module)


def _layers(model: AdaptedModel) -> list[nn.Module]:
    return list(model.body.get_submodule(model.family.layers).children())


def _bert_attention(
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
        whole: tuple[Tensor, Tensor | None] = _whole(module, hidden, attention_mask, past_key_values, **named)
        return whole
    query, key, value = (
        _heads(project(given), module.attention_head_size)
        for project, given in ((module.query, hidden[:, :1]), (module.key, hidden), (module.value, hidden))
    )
    if past_key_values is not None:
        own = getattr(past_key_values, "self_attention_cache", past_key_values)
        key, value = own.update(key, value, module.layer_idx)
    return _attend(module, query, key, value, attention_mask, **named)


def _distilbert_attention(
    module: Any, hidden: Tensor, attention_mask: Tensor | None = None, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend as `DistilBertSelfAttention` does, with the first token's query alone; as `_bert_attention`."""
    if not module.training:
        whole: tuple[Tensor, Tensor | None] = _whole(module, hidden, attention_mask, **named)
        return whole
    query, key, value = (
        _heads(project(given), module.attention_head_size)
        for project, given in ((module.q_lin, hidden[:, :1]), (module.k_lin, hidden), (module.v_lin, hidden))
    )
    mixed, probabilities = _attend(module, query, key, value, attention_mask, **named)
    return module.out_lin(mixed), probabilities


def _distilbert_layer(module: Any, hidden: Tensor, attention_mask: Tensor | None = None, **named: Any) -> Tensor:
    """Run a layer as DistilBERT's does, on as many tokens as its attention answers for."""
    mixed, _ = module.attention(hidden, attention_mask=attention_mask, **named)
    mixed = module.sa_layer_norm(mixed + hidden[:, : mixed.shape[1]])
    summed: Tensor = module.output_layer_norm(module.ffn(mixed) + mixed)
    return summed


def _add_to_first(module: nn.Module, mixed: Tensor, residual: Tensor) -> Tensor:
    """Add the residual as `BertSelfOutput` does, for the first token; in evaluation mode, for all."""
    if module.training:
        mixed, residual = mixed[:, :1], residual[:, :1]
    summed: Tensor = _whole(module, mixed, residual)
    return summed


def _whole(module: nn.Module, *given: Any, **named: Any) -> Any:
    """Run a module as its class does."""
    forward: Callable[..., Any] = type(module).forward
    return forward(module, *given, **named)


def _heads(projected: Tensor, width: int) -> Tensor:
    """Divide (B, T, H) among heads, (B, heads, T, width)."""
    return projected.view(*projected.shape[:2], -1, width).transpose(1, 2)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Let one query of each example attend, through the attention that the model was loaded with; gives (B, 1, H)."""
    mixed, probabilities = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation](
        module,
        query,
        key,
        value,
        None if attention_mask is None else attention_mask[..., :1, :],
        dropout=module.dropout.p,
        scaling=module.scaling,
        **named,
    )
    return mixed.reshape(len(query), 1, -1), probabilities


_BERT: Mapping[str, Callable[..., Any]] = {"attention.self": _bert_attention, "attention.output": _add_to_first}
_WAYS: Mapping[type[nn.Module], Mapping[str, Callable[..., Any]]] = {
    BertLayer: _BERT,
    RobertaLayer: _BERT,
    XLMRobertaLayer: _BERT,
    ElectraLayer: _BERT,
    DistilBertLayer: {"attention": _distilbert_attention, "": _distilbert_layer},
    # Its attention, of which positions are a part of their own, answers for all tokens.
    DebertaV2Layer: {"attention.output": _add_to_first},
}
"""By a layer's class, what runs instead of which of its modules; the path of the layer itself is empty."""
