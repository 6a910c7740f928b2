"""A plan says which switches are on, what they do for this very run, and why."""

import pytest
import torch

from graft.errors import RecipeError
from graft.recipes import frozen, hardware, speed
from graft.recipes.building import build, gather
from graft.recipes.speed import explain_speed


def said(recipe):
    return explain_speed(recipe, build(gather(recipe), torch.device("cpu")))


def with_speed(recipe, **switches):
    return recipe.model_copy(update={"speed": recipe.speed.model_copy(update=switches)})


def test_every_switch_is_explained_and_nothing_else(tiny_recipe):
    recipe = tiny_recipe()
    assert list(said(recipe)) == list(type(recipe.speed).model_fields)


def test_precision_is_what_the_processor_computes_or_what_was_asked(tiny_recipe, monkeypatch):
    monkeypatch.setattr(hardware, "precision", lambda _: "bf16")
    automatic = with_speed(tiny_recipe(), precision="auto")
    assert said(automatic)["precision"] == "bf16: this processor computes bf16 natively"
    assert said(tiny_recipe())["precision"] == "fp32, as asked"


def test_buckets_tell_the_padding_with_and_without(tiny_recipe):
    long = tiny_recipe(schedule={"examples": 2})
    on, off = (said(with_speed(long, buckets=buckets))["buckets"] for buckets in (True, False))
    shares = [float(word.rstrip("%")) for word in on.split() if word.endswith("%")]
    assert shares[0] < shares[1]
    assert off.startswith(f"off: {shares[1]:.0f}%")


def test_buckets_without_effect_say_so(tiny_recipe):
    told = said(tiny_recipe(schedule={"examples": 8}))["buckets"]
    assert told.startswith("on, but an epoch of ")
    assert "is too short to sort" in told


@pytest.mark.parametrize(
    ("method", "sections", "expected"),
    [
        ("probe", {"model": {"pooling": "mean"}}, "on: pooled vectors"),
        ("full", {}, "nothing to keep: embeddings learns"),
        ("lora", {}, "nothing to keep: layer.0 learns"),
        ("probe", {"speed": {"cache": False}}, "off: pooled vectors"),
        (
            "probe",
            {"schedule": {"steps": 2}},
            "nothing to keep: the steps for which the layers below",
        ),
        ("full", {"schedule": {"steps": 2}}, "nothing to keep: embeddings learns"),
        ("prefix", {}, "nothing to keep: the method acts in all layers"),
        ("full", {"strategy": "probe_then_fine_tune", "schedule": {"epochs": 4}}, "on: pooled vectors"),
    ],
)
def test_what_is_kept_of_frozen_layers_is_told(tiny_recipe, method, sections, expected):
    assert said(tiny_recipe(method, **sections))["cache"].startswith(expected)


@pytest.mark.parametrize(
    ("method", "precision", "told"),
    [
        ("lora", "bf16", ["normalisation hands on bf16", "LoRA's update", "frozen weights are converted"]),
        ("lora", "fp32", ["LoRA's update"]),
        ({"name": "lora", "dora": True}, "fp32", ["nothing that it shortens"]),
        ("bitfit", "bf16", ["normalisation hands on bf16", "frozen weights are converted"]),
        ("bitfit", "fp32", ["nothing that it shortens"]),
    ],
)
def test_lean_layers_are_told_where_they_are(tiny_recipe, method, precision, told):
    said_of_layers = said(tiny_recipe(method, speed={"precision": precision}))["layers"]
    parts = said_of_layers.removeprefix("lean: ").split("; ")
    assert len(parts) == len(told)
    assert all(part.startswith(beginning) for part, beginning in zip(parts, told, strict=True))


def test_what_would_be_too_large_is_told(tiny_recipe, monkeypatch):
    monkeypatch.setattr(frozen, "LARGEST", 8)
    monkeypatch.setattr(speed, "LARGEST", 8)
    assert said(tiny_recipe("probe"))["cache"].startswith("nothing is kept: the outputs would take more than")


def test_stock_dropout_and_sdpa_are_named_and_an_architecture_without_sdpa_is_refused(tiny_recipe, monkeypatch):
    stock = with_speed(tiny_recipe(), dropout="stock", attention="sdpa")
    assert (said(stock)["dropout"][:6], said(stock)["attention"][:5]) == ("stock:", "sdpa:")
    from transformers import BertPreTrainedModel

    monkeypatch.setattr(BertPreTrainedModel, "_supports_sdpa", False)
    with pytest.raises(RecipeError, match=r"speed\.attention: transformers has no sdpa for bert"):
        said(stock)
