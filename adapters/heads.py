"""Heads: what turns features into logits, made of transformers' own modules under transformers' own names."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graft.adapters.families import Family


class Head(nn.Module):
    """Modules of a transformers head, applied in order.

    The names of the modules are those of transformers' class, so that keys of a state dict map back unchanged.

    Args:
        modules: Name and module, in the order of the family's row.
        family: Says how they are applied; a language model's head has one module and none of these habits.
        pooled: The head reads pooled features (B, H); otherwise those of every token (B, T, H).
    """

    def __init__(self, modules: Iterable[tuple[str, nn.Module]], family: Family, *, pooled: bool) -> None:
        super().__init__()
        self.family = family
        self.pooled = pooled
        self.order: tuple[str, ...] = ()
        for name, module in modules:
            self.add_module(name, module)
            self.order += (name,)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, outputs) of features (B, H), or (B, T, V) of (B, T, H)."""
        if self.pooled and self.family.sequence_head:
            features = features.unsqueeze(1)  # (B, 1, H): the module takes the first token itself
        for name in self.order:
            features = self.get_submodule(name)(features)
            if self.pooled and name == self.family.relu_after:
                features = torch.relu(features)
        return features

    @property
    def outputs(self) -> int:
        """Logits per example, or per token."""
        layer: Any = self.get_submodule(self.family.output if self.pooled else self.order[-1])
        return int(layer.weight.shape[0])

    def resized(self, outputs: int, seed: int, spread: float) -> "Head":
        """A fresh head of the same make with another number of outputs.

        Args:
            outputs: Logits per example.
            seed: Of the initial weights; nothing else enters them.
            spread: Standard deviation of the initial weights (the config's `initializer_range`).

        Returns:
            A head that shares nothing with this one.
        """
        head = copy.deepcopy(self)
        parent_path, _, name = self.family.output.rpartition(".")
        parent = head.get_submodule(parent_path)
        old = parent.get_submodule(name)
        assert isinstance(old, nn.Linear)
        setattr(parent, name, nn.Linear(old.in_features, outputs, bias=old.bias is not None))
        generator = torch.Generator().manual_seed(seed)
        for module in head.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return head.to(old.weight.device)
