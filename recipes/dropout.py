"""Dropout whose masks are a pure function of (seed, step, site, example): no generator, no state.

A mask belongs to an example, not to the batch that it happens to sit in. However a step is cut into micro-batches, for
memory, for several processes or after running out of memory, every example meets the same masks, and so does a
step that is repeated after a resume or recomputed by gradient checkpointing. The hash runs in plain integer tensor
operations, the same on every device, and on a CPU costs a quarter of `torch.nn.functional.dropout`, whose
random numbers are drawn one after the other.

A module that a forward pass calls several times (ALBERT's shared layers) meets the same mask in every call.
"""

import torch
from torch import Tensor, nn

from graft.recipes.streams import stream

# Odd multipliers: SplitMix64's (Steele et al. 2014) for the keys, MurmurHash3's finaliser (Appleby 2011) for the bits.
_KEY_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_KEY_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_KEY_SECOND = 0x94D049BB133111EB - (1 << 64)
_BITS_INCREMENT = -0x61C88647
_BITS_FIRST = 0x85EBCA6B - (1 << 32)
_BITS_SECOND = 0xC2B2AE35 - (1 << 32)
_LANES = 1 << 16  # a mask element is 16 bits wide, so rates are multiples of 1 / 65536
_ROW_STRIDE = 1 << 12  # lane pairs in a row of attention probabilities: sequences up to 8192
_HEAD_STRIDE = _ROW_STRIDE << 13


def _mix(keys: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose output bits depend on all input bits."""
    keys = (keys ^ _shift(keys, 30, 64)) * _KEY_FIRST
    keys = (keys ^ _shift(keys, 27, 64)) * _KEY_SECOND
    return keys ^ _shift(keys, 31, 64)


def _shift(bits: Tensor, places: int, width: int) -> Tensor:
    """Shift right without the sign: torch has no unsigned shift, and the signed one would lose a bit to the XOR."""
    return (bits >> places).bitwise_and_((1 << (width - places)) - 1)


class DropoutStream:
    """What the masks of one run depend on just now; shared by all dropout sites of a model.

    Outside a training step (`rows` is None) the sites refuse to drop anything, since no example is named.
    """

    def __init__(self, seed: int) -> None:
        """Start before the first step.

        Args:
            seed: The recipe's seed.
        """
        self._seed = seed
        self.rows: Tensor | None = None  # (B,) int64, one key per example of the micro-batch

    def begin(self, step: int, ids: Tensor, source: str = "train") -> None:
        """Name the examples of the next forward pass.

        Args:
            step: The optimiser step, counted from 0.
            ids: The examples' ids, (B,) int64, on the model's device.
            source: The data stream that the ids belong to.
        """
        base = stream(self._seed, "dropout", source, step)
        self.rows = _mix(ids * _KEY_INCREMENT + base)

    def end(self) -> None:
        """Leave the step: nothing is dropped until the next one begins."""
        self.rows = None

    def mask(self, shape: torch.Size, rate: float, site: int, dtype: torch.dtype) -> Tensor:
        """Draw the mask of one site, scaled so that the mean is kept.

        Args:
            shape: (B, ...) or, for attention probabilities, (B, heads, queries, keys); B may be a multiple of the
                number of examples when a model folds another axis into it.
            rate: Probability of dropping an element.
            site: The site's number.
            dtype: Type of the result.

        Returns:
            Zeros and 1 / (1 - rate), of the given shape.
        """
        rows = self.rows
        if rows is None:
            raise RuntimeError("dropout outside of a training step: put the model into evaluation mode first")
        if shape[0] % len(rows):
            raise RuntimeError(f"dropout over {tuple(shape)} does not divide into {len(rows)} examples")
        keys = _mix(rows ^ site)
        low = keys.to(torch.int32)[:, None]
        high = (keys >> 32).to(torch.int32)[:, None]
        index = _attention_index(shape, rows.device) if len(shape) == 4 else _flat_index(shape, len(rows), rows.device)
        bits = index * _BITS_INCREMENT + low  # (B, lane pairs)
        bits ^= _shift(bits, 16, 32)
        bits *= _BITS_FIRST
        bits ^= high  # two keys, so that no two examples read shifted copies of one sequence
        bits ^= _shift(bits, 13, 32)
        bits *= _BITS_SECOND
        bits ^= _shift(bits, 16, 32)
        lanes = bits.view(torch.int16)
        if len(shape) == 4:
            _, heads, queries, keys_length = shape
            lanes = lanes.view(shape[0], heads, queries, -1)[..., :keys_length]
        else:
            lanes = lanes[:, : shape.numel() // len(rows)].reshape(shape)
        kept = lanes >= round(rate * _LANES) - _LANES // 2
        return kept.to(dtype).mul_(1 / (1 - rate))


def _flat_index(shape: torch.Size, examples: int, device: torch.device) -> Tensor:
    """Number the lane pairs of one example row by row: padding at the end leaves the earlier ones alone."""
    pairs = (shape.numel() // examples + 1) // 2
    return torch.arange(pairs, dtype=torch.int32, device=device)


def _attention_index(shape: torch.Size, device: torch.device) -> Tensor:
    """Number the lane pairs of (heads, queries, keys) by fixed strides, independent of the padded length."""
    _, heads, queries, keys_length = shape
    head = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None] * _HEAD_STRIDE
    query = torch.arange(queries, dtype=torch.int32, device=device)[:, None] * _ROW_STRIDE
    pair = torch.arange((keys_length + 1) // 2, dtype=torch.int32, device=device)
    return (head + query + pair).reshape(-1)


def site_number(name: str) -> int:
    """Number a site by its module's name, a signed 64-bit integer."""
    return stream(0, "site", name)


class Dropout(nn.Module):
    """Stands in for `nn.Dropout` at one site of the model."""

    def __init__(self, rate: float, site: str, draws: DropoutStream) -> None:
        """Make a site.

        Args:
            rate: Probability of dropping an element.
            site: The module's name in the model.
            draws: The run's stream.
        """
        super().__init__()
        self.p = rate
        self.site = site_number(site)
        self.draws = draws

    def forward(self, hidden: Tensor) -> Tensor:
        """Drop elements in training mode; hand the tensor through in evaluation mode."""
        if not self.training or self.p == 0.0:
            return hidden
        if self.p == 1.0:
            return torch.zeros_like(hidden)
        return hidden * self.draws.mask(hidden.shape, self.p, self.site, hidden.dtype)


def install(model: nn.Module, draws: DropoutStream) -> int:
    """Put our dropout in the place of every `nn.Dropout`, and tell attention modules the run's stream.

    Attention functions drop probabilities without a module of their own; `graft.recipes.attention` reads
    the stream and the site from the attention module that calls it.

    Args:
        model: The model, adapters attached.
        draws: The run's stream.

    Returns:
        How many sites there are.
    """
    sites = 0
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                path = f"{name}.{child_name}"
                module.add_module(child_name, Dropout(child.p, path, draws))
                sites += 1
        module.__dict__["graft_dropout"] = (draws, site_number(f"{name}#probabilities"))
    return sites
