"""Tiny random checkpoints of every family, on disk as `save_pretrained` writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from graft.adapters.checkpoint import Checkpoint, resolve
from graft.adapters.config import ModelConfig

_BERT_SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
_LLAMA_SIZES = _BERT_SIZES | {"num_key_value_heads": 1, "eos_token_id": 2, "bos_token_id": 3}

SIZES: dict[str, dict[str, Any]] = {
    "bert": _BERT_SIZES,
    "roberta": _BERT_SIZES | {"type_vocab_size": 1},
    "xlm-roberta": _BERT_SIZES | {"type_vocab_size": 1},
    "electra": _BERT_SIZES | {"embedding_size": 8},
    "distilbert": {
        "vocab_size": 60,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 24,
        "max_position_embeddings": 40,
    },
    "albert": _BERT_SIZES | {"embedding_size": 8},
    "mpnet": _BERT_SIZES,
    "deberta-v2": _BERT_SIZES
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    "modernbert": _BERT_SIZES
    | {"pad_token_id": 0, "cls_token_id": 3, "sep_token_id": 2, "bos_token_id": 3, "eos_token_id": 2},
    "gpt2": {
        "vocab_size": 60,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 40,
        "eos_token_id": 2,
        "bos_token_id": 2,
    },
    "llama": _LLAMA_SIZES,
    "mistral": _LLAMA_SIZES,
    "qwen2": _LLAMA_SIZES,
    "qwen3": _LLAMA_SIZES | {"head_dim": 8},
}

LOADERS = {
    "classification": AutoModelForSequenceClassification,
    "language_model": AutoModelForCausalLM,
    None: AutoModel,
}

Tiny = Callable[..., Checkpoint]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """Make `tiny(family, head=None, **config)`: a random checkpoint of the family, with a head of HF's or without."""

    def make(family: str, head: str | None = None, *, folder: str | None = None, **overrides: Any) -> Checkpoint:
        path = tmp_path / (folder or f"{family}-{head}")
        config = AutoConfig.for_model(family, **(SIZES[family] | overrides))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            model = LOADERS[head].from_config(config)
            for parameter in model.parameters():  # large enough that every part shows in the logits
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(path)
        return resolve(ModelConfig(name=str(path)))

    return make


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two sequences of unlike lengths, padded on the right with token 0, no other token 0 in them."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, 60, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, 5:] = 0
    mask[0, 5:] = 0
    ids[2, 7:] = 0
    mask[2, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def put_tokenizer() -> Callable[..., None]:
    """Make `put(folder, **special)`: a word-level tokenizer with the special tokens that are given."""

    def put(folder: Path, **special: str) -> None:
        words = {"[PAD]": 0, "[UNK]": 1, "<end>": 2, "a": 4, "b": 5}
        tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **special).save_pretrained(folder)

    return put
