"""A merged model says what the adapted one said, and is made of the base model's own modules and no others."""

from typing import Any

import pytest
import torch

from graft.adapters.config import ModelConfig
from graft.adapters.families import FAMILIES
from graft.adapters.loading import load_model, to_transformers
from graft.adapters.merging import merge, obstacle
from graft.adapters.methods import METHODS, AttachContext
from graft.errors import GraftError, RecipeError

MERGEABLE = [name for name, row in METHODS.items() if row.abilities.mergeable]
DENSE = [name for name in METHODS if name not in MERGEABLE]


def trained(checkpoint: Any, method: str, batch: Any, **config: Any) -> tuple[Any, Any]:
    model = load_model(checkpoint, "classification", 2, ModelConfig(**config), None, seed=3)
    settings = METHODS[method].config()
    attached = METHODS[method].attach(model, settings, AttachContext(5, 20, checkpoint))
    named = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name in attached.learning:  # as if it had learned: far enough from the start to show everywhere
            named[name] += 0.1 * torch.randn_like(named[name])
    return model, settings


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("method", MERGEABLE)
def test_a_merged_model_says_the_same_and_is_the_base_models_own(
    method: str, family: str, tiny: Any, batch: Any
) -> None:
    checkpoint = tiny(family)
    try:
        model, settings = trained(checkpoint, method, batch)
    except RecipeError:
        pytest.skip(f"{method} refuses {family}")
    before = model(batch).logits.detach()
    untouched = load_model(checkpoint, "classification", 2, ModelConfig(), None, seed=3)
    assert not torch.allclose(untouched(batch).logits, before, atol=1e-2)
    base = to_transformers(untouched)
    merged = merge(model, settings)
    takes = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    scale = max(1.0, float(before.abs().max()))
    assert float((merged(**takes).logits - before).abs().max()) <= 1e-5 * scale
    assert [(name, type(module)) for name, module in merged.named_modules()] == [
        (name, type(module)) for name, module in base.named_modules()
    ]
    assert list(merged.state_dict()) == list(base.state_dict())


@pytest.mark.parametrize("method", DENSE)
def test_a_method_without_a_dense_form_is_refused_with_the_alternative(method: str, tiny: Any, batch: Any) -> None:
    model, settings = trained(tiny("bert"), method, batch)
    assert obstacle(model, settings) is not None
    with pytest.raises(GraftError, match="--adapter"):
        merge(model, settings)


def test_a_pooling_that_transformers_does_not_have_is_refused(tiny: Any, batch: Any) -> None:
    model, settings = trained(tiny("bert"), "lora", batch, pooling="mean")
    with pytest.raises(GraftError, match="BertForSequenceClassification cannot pool by 'mean'"):
        merge(model, settings)


def test_weights_that_are_not_finite_are_not_merged(tiny: Any, batch: Any) -> None:
    model, settings = trained(tiny("bert"), "lora", batch)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(GraftError, match="cannot be used"):
        merge(model, settings)
