"""Several adapted models on one backbone: equal weights are held once, and adapters of peft's stand side by side."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from graft.adapters.model import AdaptedModel

HOST = "default"
"""peft's name of the adapter that a model was loaded with."""
_PARTS = ("lora_A", "lora_B")


def share(host: AdaptedModel, guest: AdaptedModel) -> None:
    """Let a model use another one's parameters wherever both have the same numbers in the same place of the backbone.

    Whatever methods are attached: what each of them learned stays its own.

    Args:
        host: Keeps its parameters.
        guest: Gives up its own where they are equal; nothing that it computes changes.
    """
    known = {_place(name): parameter for name, parameter in host.body.named_parameters(remove_duplicate=False)}
    for name, parameter in list(guest.body.named_parameters(remove_duplicate=False)):
        same = known.get(_place(name))
        if same is not None and same.dtype == parameter.dtype and torch.equal(same, parameter):
            path, _, leaf = name.rpartition(".")
            setattr(guest.body.get_submodule(path), leaf, same)


def shares_all_but_adapter(host: AdaptedModel, guest: AdaptedModel) -> bool:
    """Whether two models differ in nothing but their heads and in the weights that peft put into the backbone."""
    known = {id(parameter) for parameter in host.body.parameters()}
    known |= {id(parameter) for name, parameter in guest.body.named_parameters() if "lora_" in name}
    return guest.pooling == host.pooling and all(id(parameter) in known for parameter in guest.body.parameters())


def stack(host: AdaptedModel, guests: Mapping[str, AdaptedModel]) -> PeftModel:
    """Put the adapters of other models beside a model's own, under names of their own; they share their weights.

    The host's own adapter stays the active one, and is called `default`.

    Args:
        host: A model with a method that mixes, in evaluation mode.
        guests: peft's name for it → a model from the same checkpoint with a method that mixes.

    Returns:
        The host's backbone.
    """
    backbone: Any = host.backbone
    for name, guest in guests.items():
        other: Any = guest.backbone
        with torch.random.fork_rng(devices=[]):  # peft draws initial weights, which are replaced at once
            backbone.add_adapter(name, other.peft_config[HOST])
        for path, layer in lora_layers(other).items():
            for part in _PARTS:
                getattr(backbone.get_submodule(path), part)[name] = getattr(layer, part)[HOST]
    backbone.set_adapter(HOST)
    backbone.eval()
    assert isinstance(backbone, PeftModel)
    return backbone


def held_bytes(models: Iterable[nn.Module]) -> int:
    """Bytes of all parameters and buffers of several models, those that they share counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in models
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def lora_layers(backbone: nn.Module) -> dict[str, Any]:
    """LoRA layers of peft by their path in a backbone."""
    return {path: module for path, module in backbone.named_modules() if isinstance(module, LoraLayer)}


def _place(name: str) -> str:
    """A parameter's name in the bare backbone, without the wrappers around its modules."""
    return ".".join(part for part in name.split(".") if part != "base_layer")
