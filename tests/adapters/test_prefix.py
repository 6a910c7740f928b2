"""Prefix tuning equals a hand-written concatenation of keys and values, in every family, precision and mode."""

import inspect
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftModelForFeatureExtraction
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForSequenceClassification
from transformers.masking_utils import eager_mask

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model
from graft.adapters.methods import METHODS, AttachContext
from graft.adapters.prefix import EMBEDDINGS
from graft.adapters.prefixed import PrefixedBackbone
from graft.adapters.saving import save_adapter
from graft.errors import GraftError, RecipeError
from graft.recipes.attention import implementation
from graft.recipes.dropout import DropoutStream, install

ROW = METHODS["prefix"]
TOKENS = 4


def _load(checkpoint: Any, **config: Any) -> Any:
    return load_model(
        checkpoint, "classification", 2, ModelConfig(**config), None, seed=3, attention=implementation("matmul")
    )


def _attach(model: Any, checkpoint: Any, **settings: Any) -> Any:
    return ROW.attach(model, ROW.config(tokens=TOKENS, **settings), AttachContext(5, 20, checkpoint))


def _prefixed(checkpoint: Any, config: Any = None, **settings: Any) -> tuple[Any, Any]:
    model = _load(checkpoint, **(config or {}))
    attached = _attach(model, checkpoint, init_std=0.7, **settings)
    return model, attached


@pytest.fixture
def pairs(batch: Any) -> Any:
    """The batch, with a second text in every row."""
    kinds = torch.zeros_like(batch["input_ids"])
    kinds[:, 3:] = 1
    return batch | {"token_type_ids": kinds * batch["attention_mask"]}


def _concatenate(module: Any, query: Any, key: Any, value: Any, mask: Any, **settings: Any) -> Any:
    """Softmax attention over a prefix and the text; the prefix hangs on the module as (2, heads, n, width)."""
    keys, values = (part.expand(len(key), -1, -1, -1) for part in module.by_hand)
    key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * settings["scaling"]
    if mask is not None:
        scores = scores + torch.nn.functional.pad(mask, (keys.shape[2], 0))  # nothing of the prefix is masked
    probabilities = scores.softmax(dim=-1)
    return (probabilities @ value).transpose(1, 2).contiguous(), probabilities


def _by_hand(checkpoint: Any, prefix: torch.Tensor, inputs: Any) -> torch.Tensor:
    """Last hidden states of the plain backbone with a prefix (n, layers, 2, heads, width) at its attention modules."""
    AttentionInterface.register("by_hand", _concatenate)
    AttentionMaskInterface.register("by_hand", eager_mask)
    model = load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=3, attention="by_hand")
    number = 0
    for module in model.backbone.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "is_causal"):
            module.by_hand = prefix[:, number].permute(1, 2, 0, 3)
            number += 1
    assert number == prefix.shape[1]
    mask = inputs["attention_mask"]
    positions = torch.arange(mask.shape[1]).expand_as(mask) + TOKENS
    if model.family.name in ("roberta", "xlm-roberta"):  # counted from the padding token's id on, its own position
        pad = model.origin.config.pad_token_id
        real = inputs["input_ids"].ne(pad)
        positions = torch.where(real, real.cumsum(dim=1) + TOKENS + pad, pad)
    arguments = dict(inputs) | {"position_ids": positions}
    if FAMILIES[model.family.name].decoder:
        arguments["use_cache"] = False
    return model.backbone(**arguments).last_hidden_state


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("family", sorted(ROW.abilities.families))
def test_a_prefix_equals_a_hand_written_concatenation(
    family: str, projection: bool, tiny: Any, batch: Any, pairs: Any
) -> None:
    checkpoint = tiny(family, pad_token_id=0, **({"type_vocab_size": 2} if FAMILIES[family].token_types else {}))
    inputs = pairs if FAMILIES[family].token_types else batch
    model, _ = _prefixed(checkpoint, projection=projection)
    encoder = model.backbone.prompt_encoder["default"]
    prefix = encoder.embedding.weight
    if projection:
        prefix = encoder.transform[2](torch.tanh(encoder.transform[0](prefix)))
    config = model.origin.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    with torch.no_grad():
        expected = _by_hand(checkpoint, prefix.view(TOKENS, 2, 2, heads, -1), inputs)
        output = model.backbone(**inputs, **({"use_cache": False} if FAMILIES[family].decoder else {}))
        features = model.features(inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(output.last_hidden_state[real], expected[real], rtol=1e-4, atol=1e-5)
    assert output.last_hidden_state.shape == expected.shape  # the real tokens alone
    if FAMILIES[family].pooling == "first":
        torch.testing.assert_close(features, expected[:, 0], rtol=1e-4, atol=1e-5)
    if FAMILIES[family].pooling == "last":
        last = expected[torch.arange(len(expected)), inputs["attention_mask"].sum(dim=1) - 1]
        torch.testing.assert_close(features, last, rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_the_real_tokens(tiny: Any, batch: Any) -> None:
    checkpoint = tiny("bert")
    model, _ = _prefixed(checkpoint, {"pooling": "mean"})
    mask = batch["attention_mask"].unsqueeze(-1)
    hidden = model.backbone(**batch).last_hidden_state
    expected = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
    torch.testing.assert_close(model.features(batch), expected)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("training", [False, True])
def test_an_example_is_read_alike_alone_and_among_others_with_dropout(
    family: str, training: bool, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family, pad_token_id=0)
    model, _ = _prefixed(checkpoint, {"dropout": 0.3})
    draws = DropoutStream(7)
    install(model, draws)
    model.train(training)

    def features(rows: list[int], length: int, step: int) -> torch.Tensor:
        draws.begin(step, torch.tensor(rows))
        return model.features({key: value[rows, :length] for key, value in batch.items()}).detach()

    together, alone = features([0, 1, 2], 9, 0), features([0], 5, 0)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    assert torch.allclose(features([0, 1, 2], 9, 1), together, atol=1e-5) == (not training)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_bf16_is_near_fp32_and_learns(family: str, tiny: Any, batch: Any) -> None:
    checkpoint = tiny(family, pad_token_id=0)
    model, attached = _prefixed(checkpoint)
    full = model(batch).logits
    with torch.autocast("cpu", torch.bfloat16):
        half = model(batch).logits
    torch.testing.assert_close(half.float(), full, rtol=0.1, atol=0.1)
    half.float().square().sum().backward()
    named = dict(model.named_parameters())
    assert all(named[name].grad.isfinite().all() and named[name].grad.any() for name in attached.learning)


def test_plain_peft_sees_the_same_token_types(tiny: Any, pairs: Any, tmp_path: Any) -> None:
    checkpoint = tiny("bert")
    model, attached = _prefixed(checkpoint)
    save_adapter(tmp_path / "adapter", model, attached, ROW.config(tokens=TOKENS), checkpoint)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint.path, attn_implementation="eager")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    without = {key: value for key, value in pairs.items() if key != "token_type_ids"}
    torch.testing.assert_close(theirs(**pairs).logits, model(pairs).logits, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(model(without).logits, model(pairs).logits, atol=1e-3)


def test_activations_computed_twice_are_refused_rather_than_forgetting_the_prefix(tiny: Any, batch: Any) -> None:
    model, _ = _prefixed(tiny("bert"))
    model.body.activation_checkpointing_enable({"use_reentrant": False})
    model(batch)  # nothing is computed twice in evaluation mode
    with pytest.raises(GraftError, match=r"budget\.gradient_checkpointing: .*switch it off"):
        model.train()(batch)


def test_a_prefix_as_long_as_the_model_is_refused(tiny: Any) -> None:
    checkpoint = tiny("bert")
    model = _load(checkpoint)
    with pytest.raises(RecipeError, match=r"method\.tokens: 40 leaves no room among 40 positions"):
        ROW.attach(model, ROW.config(tokens=40), AttachContext(5, 20, checkpoint))
    assert model.body is model.backbone


def test_the_longest_example_that_passes_the_check_is_read(tiny: Any) -> None:
    for family in ("bert", "roberta", "gpt2"):
        model, _ = _prefixed(tiny(family, pad_token_id=0))
        longest = model.positions
        assert longest == (39 if family == "roberta" else 40) - TOKENS
        for length, fits in ((longest, True), (longest + 1, False)):
            ids = torch.full((1, length), 5)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if fits:
                model(inputs)
            else:
                with pytest.raises(GraftError, match=f"takes {longest}"):
                    model(inputs)


def test_the_initial_spread_is_the_settings(tiny: Any) -> None:
    checkpoint = tiny("bert")
    model = _load(checkpoint)
    ROW.attach(model, ROW.config(tokens=39, init_std=0.25), AttachContext(5, 20, checkpoint))
    assert model.backbone.get_parameter(EMBEDDINGS).std().item() == pytest.approx(0.25, rel=0.05)


def test_what_is_used_of_pefts_inside_is_as_it_was() -> None:
    """The version is pinned; when it is raised, this says what to look at."""
    name = "_adjust_prompt_learning_kwargs"
    ours, theirs = (
        inspect.signature(getattr(of, name)).parameters for of in (PrefixedBackbone, PeftModelForFeatureExtraction)
    )
    assert list(ours) == list(theirs)
    assert name in inspect.getsource(PeftModelForFeatureExtraction.forward)
