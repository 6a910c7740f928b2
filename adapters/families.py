"""One row per architecture: where its parts are, which layers are linear, how it pools, what its head is made of.

A row is data about transformers' own module names. Everything that must know an architecture reads it from here, and
the tests check each row against a tiny random model of its family.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graft.errors import CheckpointError, RecipeError, nearest

NativePooling = Literal["pooler", "first", "last", "config"]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Family:
    """An architecture that transformers calls by one `model_type`.

    Attributes:
        name: transformers' `model_type`.
        embeddings: Paths, in the backbone, of everything that acts before the layers (or in all of them).
        layers: Path of the list of layers.
        linears: Role (query, value, ...) to the path of its linear layer within one layer; fused projections appear
            under each role that they hold.
        norm: Path of the final normalisation, where there is one.
        pooler: Path of a pooler inside the backbone, or none.
        pooler_linear: Path of the pooler's linear layer.
        pooling: What the family's own classifier reads: the pooler's output, the first token, the last token that is
            not padding, or what the config's `classifier_pooling` says.
        head: Module names of transformers' sequence classification head, in the order in which they are applied.
        output: Path, in the head, of the layer that gives the logits.
        sequence_head: The first module of the head wants all tokens (B, T, H) and takes the first itself.
        relu_after: A module of the head that transformers follows with a ReLU that is no module.
        dropouts: Keys of the config that hold dropout probabilities.
        token_types: The backbone takes `token_type_ids`.
        decoder: A causal language model.
        transposed: Its linear layers are GPT-2's Conv1D, with weights (in, out).
    """

    name: str
    embeddings: tuple[str, ...]
    layers: str
    linears: dict[str, str]
    head: tuple[str, ...]
    output: str
    pooling: NativePooling
    norm: str | None = None
    pooler: str | None = None
    pooler_linear: str | None = None
    sequence_head: bool = False
    relu_after: str | None = None
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    token_types: bool = False
    decoder: bool = False
    transposed: bool = False


_BERT_LINEARS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
_LLAMA_LINEARS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def _roberta_like(name: str) -> Family:
    """RoBERTa's layout, which XLM-RoBERTa shares: no pooler, a two-layer head on the first token."""
    return Family(
        name=name,
        embeddings=("embeddings",),
        layers="encoder.layer",
        linears=_BERT_LINEARS,
        head=("classifier",),
        output="classifier.out_proj",
        pooling="first",
        sequence_head=True,
        token_types=True,
    )


def _llama_like(name: str) -> Family:
    """Llama's layout: rotary positions, gated feed-forward, a linear score on the last token."""
    return Family(
        name=name,
        embeddings=("embed_tokens", "rotary_emb"),
        layers="layers",
        linears=_LLAMA_LINEARS,
        norm="norm",
        head=("score",),
        output="score",
        pooling="last",
        dropouts=("attention_dropout",),
        decoder=True,
    )


_ROWS = (
    Family(
        name="bert",
        embeddings=("embeddings",),
        layers="encoder.layer",
        linears=_BERT_LINEARS,
        pooler="pooler",
        pooler_linear="pooler.dense",
        head=("dropout", "classifier"),
        output="classifier",
        pooling="pooler",
        token_types=True,
    ),
    _roberta_like("roberta"),
    _roberta_like("xlm-roberta"),
    Family(
        name="electra",
        embeddings=("embeddings", "embeddings_project"),
        layers="encoder.layer",
        linears=_BERT_LINEARS,
        head=("classifier",),
        output="classifier.out_proj",
        pooling="first",
        sequence_head=True,
        token_types=True,
    ),
    Family(
        name="distilbert",
        embeddings=("embeddings",),
        layers="transformer.layer",
        linears={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "output": "attention.out_lin",
            "up": "ffn.lin1",
            "down": "ffn.lin2",
        },
        head=("pre_classifier", "dropout", "classifier"),
        output="classifier",
        pooling="first",
        relu_after="pre_classifier",
        dropouts=("dropout", "attention_dropout", "seq_classif_dropout"),
    ),
    Family(
        name="albert",
        embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"),
        layers="encoder.albert_layer_groups",  # all layers of a group share one set of weights
        linears={
            "query": "albert_layers.0.attention.query",
            "key": "albert_layers.0.attention.key",
            "value": "albert_layers.0.attention.value",
            "output": "albert_layers.0.attention.dense",
            "up": "albert_layers.0.ffn",
            "down": "albert_layers.0.ffn_output",
        },
        pooler="pooler",
        pooler_linear="pooler",
        head=("dropout", "classifier"),
        output="classifier",
        pooling="pooler",
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob"),
        token_types=True,
    ),
    Family(
        name="mpnet",
        embeddings=("embeddings", "encoder.relative_attention_bias"),
        layers="encoder.layer",
        linears={
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "output": "attention.attn.o",
            "up": "intermediate.dense",
            "down": "output.dense",
        },
        head=("classifier",),
        output="classifier.out_proj",
        pooling="first",
        sequence_head=True,
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob"),
    ),
    Family(
        name="deberta-v2",
        # The relative positions act in every layer: with the embeddings, so that they count as below all of them.
        embeddings=("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
        layers="encoder.layer",
        linears={
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
            "output": "attention.output.dense",
            "up": "intermediate.dense",
            "down": "output.dense",
        },
        head=("pooler", "dropout", "classifier"),
        output="classifier",
        pooling="first",
        sequence_head=True,
        dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout"),
        token_types=True,
    ),
    Family(
        name="modernbert",
        embeddings=("embeddings", "rotary_emb"),
        layers="layers",
        linears={
            "query": "attn.Wqkv",
            "key": "attn.Wqkv",
            "value": "attn.Wqkv",
            "output": "attn.Wo",
            "up": "mlp.Wi",
            "down": "mlp.Wo",
        },
        norm="final_norm",
        head=("head", "drop", "classifier"),
        output="classifier",
        pooling="config",
        dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"),
    ),
    Family(
        name="gpt2",
        embeddings=("wte", "wpe", "drop"),
        layers="h",
        linears={
            "query": "attn.c_attn",
            "key": "attn.c_attn",
            "value": "attn.c_attn",
            "output": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        norm="ln_f",
        head=("score",),
        output="score",
        pooling="last",
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        decoder=True,
        transposed=True,
    ),
    _llama_like("llama"),
    _llama_like("mistral"),
    _llama_like("qwen2"),
    _llama_like("qwen3"),
)

FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}


def family_of(model_type: str, where: str) -> Family:
    """Look up the row of a checkpoint.

    Args:
        model_type: What the checkpoint's config says.
        where: The checkpoint, for the message.

    Raises:
        CheckpointError: There is no row for it.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise CheckpointError(
        f"{where}: architecture {model_type!r} is not supported{nearest(model_type, FAMILIES)}; "
        f"use one of {', '.join(sorted(FAMILIES))}"
    )


def target_pattern(family: Family, targets: Sequence[str], *, pooler: bool) -> str:
    r"""The regular expression, for peft, of the linear layers that a recipe names.

    Args:
        family: The architecture.
        targets: Roles (`query`, `value`, ...), paths within a layer (`attn.c_attn`) or their last parts (`c_attn`),
            and `all-linear`: every linear layer of the layers and the pretrained pooler.
        pooler: The backbone has a pooler that the checkpoint brought. A fresh one learns whole, as part of the head.

    Returns:
        A pattern that fully matches module names, with or without the prefix that a head model adds, for example
        `(?:.*\.)?(?:encoder\.layer\.\d+\.(?:attention\.self\.query))`.

    Raises:
        RecipeError: A name is neither a role nor a linear layer of this family.
    """
    chosen: list[str] = []
    with_pooler = False
    for target in targets:
        if target == ALL_LINEAR:
            chosen += family.linears.values()
            with_pooler = pooler and family.pooler_linear is not None
        elif target == "pooler" and pooler and family.pooler_linear is not None:
            with_pooler = True
        else:
            chosen += _paths(family, target, pooler=pooler)
    if not chosen and not with_pooler:
        raise RecipeError(f"method.targets: is empty; use {ALL_LINEAR} or some of {', '.join(family.linears)}")
    alternatives = []
    if chosen:
        within = "|".join(re.escape(path) for path in dict.fromkeys(chosen))
        alternatives.append(rf"{re.escape(family.layers)}\.\d+\.(?:{within})")
    if with_pooler and family.pooler_linear is not None:
        alternatives.append(re.escape(family.pooler_linear))
    return rf"(?:.*\.)?(?:{'|'.join(alternatives)})"


def _paths(family: Family, target: str, *, pooler: bool) -> list[str]:
    """The linear layers within a layer that one name means: a role first, then a path or its end."""
    if target in family.linears:
        return [family.linears[target]]
    found = [path for path in family.linears.values() if path == target or path.endswith(f".{target}")]
    if found:
        return found
    extra = ["pooler"] if pooler and family.pooler_linear is not None else []
    known = [ALL_LINEAR, *family.linears, *extra]
    paths = [*known, *family.linears.values(), *(path.rpartition(".")[2] for path in family.linears.values())]
    raise RecipeError(
        f"method.targets: {target!r} is no linear layer of {family.name}{nearest(target, paths)}; "
        f"use {', '.join(known)}, or a path within a layer"
    )
