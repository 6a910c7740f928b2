"""What all tests share: a tiny random checkpoint, a tiny task, and recipes over them that train in a second."""

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from graft.recipes import export, exporting
from graft.recipes.recipe import Recipe
from graft.recipes.solitary import PROVER, Solitary

# What graft keeps for later stays out of the user's folder, in processes that tests start, too.
os.environ["GRAFT_CACHE"] = tempfile.mkdtemp(prefix="graft-tests-")
atexit.register(shutil.rmtree, os.environ["GRAFT_CACHE"], ignore_errors=True)

WORDS = [f"w{number}" for number in range(40)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 40,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "eos_token_id": 3, "bos_token_id": 3},
}


def write_checkpoint(folder: Path, family: str = "bert") -> Path:
    """Write a random checkpoint with a word-level tokenizer."""
    config = AutoConfig.for_model(
        family, vocab_size=len(SPECIAL) + len(WORDS), pad_token_id=0, initializer_range=0.2, **SIZES[family]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = (AutoModelForCausalLM if family == "gpt2" else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_max_length=40,
    ).save_pretrained(folder)
    return folder


def write_task(folder: Path, train: int = 61, validation: int = 37) -> Path:
    """Write a two-class task of odd sizes: which of two words comes more often."""
    generator = np.random.default_rng(3)
    folder.mkdir(parents=True)
    for split, size in (("train", train), ("validation", validation)):
        with (folder / f"{split}.jsonl").open("w") as stream:
            for _ in range(size):
                label = int(generator.integers(2))
                words = generator.choice(WORDS[: 20 + 20 * label], size=generator.integers(2, 15)).tolist()
                stream.write(json.dumps({"text": " ".join([*words, f"w{label}"]), "label": label}) + "\n")
    return folder


class ProverAtHand:
    """Proves exports as the process does that it stands in for, but in this one, which has imported what that takes."""

    def __init__(self, module: str) -> None:
        assert module == PROVER

    def __enter__(self) -> "ProverAtHand":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, recipe: Recipe, *arguments: Any) -> dict[str, Any]:
        """Answer as `Solitary` does, after the same way through JSON."""
        from graft.recipes.parity import prove

        before = torch.get_num_threads()  # proving sets those of its process, which is this one
        try:
            found: dict[str, Any] = json.loads(json.dumps(prove(recipe, *arguments)))
        finally:
            torch.set_num_threads(before)
        return found


@pytest.fixture(scope="session", autouse=True)
def prover_at_hand() -> Iterator[None]:
    """Start no process to prove an export, which takes ten times as long as what it proves; see `fresh_prover`."""
    with patch.object(export, "Solitary", ProverAtHand), patch.object(exporting, "Solitary", ProverAtHand):
        yield


@pytest.fixture
def fresh_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove exports in processes of their own, as everywhere but in tests."""
    for module in (export, exporting):
        monkeypatch.setattr(module, "Solitary", Solitary)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny models only lose by sharing their work among threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers and 16 dimensions, with its tokenizer; it brings a pooler."""
    return write_checkpoint(tmp_path_factory.mktemp("bert") / "tiny")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 2 layers and 16 dimensions, with its tokenizer."""
    return write_checkpoint(tmp_path_factory.mktemp("gpt2") / "tiny", "gpt2")


@pytest.fixture(scope="session")
def word_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 training and 37 validation examples."""
    return write_task(tmp_path_factory.mktemp("task") / "words")


@pytest.fixture
def tiny_recipe(tiny_bert: Path, tiny_gpt2: Path, word_task: Path) -> Callable[..., Recipe]:
    """Make `recipe(method="full", family="bert", **sections)`: 7 steps of 8 examples a pass, one thread, fp32."""

    def make(method: Any = "full", family: str = "bert", **sections: Any) -> Recipe:
        mapping: dict[str, Any] = {
            "task": {"data": str(word_task), "text": "text", "label": "label", "max_length": 24},
            "model": {"name": str(tiny_bert if family == "bert" else tiny_gpt2)},
            "method": method,
            "optim": {"lr": 1e-2},
            "schedule": {"epochs": 2, "examples": 8},
            "speed": {"precision": "fp32"},
            "threads": 1,
            "seed": 1,
        }
        for name, value in sections.items():
            mapping[name] = mapping[name] | value if isinstance(value, dict) and name in mapping else value
        return Recipe.model_validate(mapping)

    return make
