"""Where the sublayers of each architecture begin and end: one row per family, read by the bottleneck adapters.

Paths are within one layer. The tests hold each row against a hand-written forward pass of its family.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sublayers:
    """The seams of one layer.

    Attributes:
        attention: The last module of the attention sublayer: its output is what the residual is added to.
        feed_forward: The last module of the feed-forward sublayer, likewise.
        norm: The normalisation after the feed-forward sublayer's addition; none where layers normalise first, and the
            sum is the layer's output.
        span: The module that stretches over the feed-forward sublayer; none where there is no such module.
        span_adds: That module begins in the middle, but is handed the sublayer's input as well, to add it.
    """

    attention: str
    feed_forward: str
    norm: str | None = None
    span: str | None = None
    span_adds: bool = False


_BERT = Sublayers("attention.output.dropout", "output.dropout", "output.LayerNorm", "output", span_adds=True)
_LLAMA = Sublayers("self_attn.o_proj", "mlp.down_proj", span="mlp")

SUBLAYERS: dict[str, Sublayers] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "deberta-v2": _BERT,
    "mpnet": Sublayers("attention.dropout", "output.dropout", "output.LayerNorm", "output", span_adds=True),
    "distilbert": Sublayers("attention.out_lin", "ffn.dropout", "output_layer_norm", "ffn"),
    "albert": Sublayers(
        "albert_layers.0.attention.output_dropout",
        "albert_layers.0.ffn_output",
        "albert_layers.0.full_layer_layer_norm",
    ),
    "modernbert": Sublayers("attn.out_drop", "mlp.Wo", span="mlp"),
    "gpt2": Sublayers("attn.resid_dropout", "mlp.dropout", span="mlp"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}
