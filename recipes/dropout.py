"""Dropout whose masks are a pure function of (seed, step, site, example): no generator, no state.

A mask belongs to an example, not to the batch that it happens to sit in. However a step is cut into micro-batches, for
memory, for several processes or after running out of memory, every example meets the same masks, and so does a
step that is repeated after a resume or recomputed by gradient checkpointing. The hash runs in plain integer tensor
operations, the same on every device, and on a CPU costs a tenth of `torch.nn.functional.dropout`, whose
random numbers are drawn one after the other.

A module that a forward pass calls several times (ALBERT's shared layers, the dropout of RoBERTa's head) meets the same
mask in every call.

DeBERTa also drops elements of a weight: its table of relative positions, which all examples read. Such a mask is a
function of (seed, step, site) alone. Anything else whose first axis is not the examples is refused, since a guess at
whose row is whose would be wrong in silence.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from graft.recipes.streams import stream

# Dropouts, by their owner's class, that act on a weight all examples share.
WEIGHT_SITES: dict[type[nn.Module], frozenset[str]] = {DisentangledSelfAttention: frozenset({"pos_dropout"})}

# Odd multipliers: SplitMix64's (Steele et al. 2014) for the keys, MurmurHash3's finaliser (Appleby 2011) for the bits.
_KEY_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_KEY_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_KEY_SECOND = 0x94D049BB133111EB - (1 << 64)
_BITS_FIRST = 0x85EBCA6B - (1 << 32)
_BITS_SECOND = 0xC2B2AE35 - (1 << 32)
_LANES = 4  # elements that one word of 32 bits decides, by 8 bits each
_LEVELS = 1 << 8  # what an element's bits can be
_FRACTIONS = 1 << 16  # of a level, between which an example's threshold is drawn
_ROW_STRIDE = 1 << 12  # words in a row of attention probabilities: keys up to 16384
_HEAD_STRIDE = _ROW_STRIDE << 13  # queries up to 8192, and so sequences; 128 heads
_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Integers as wide as a number of each type."""

# For the operations on whole masks as tensors, which spares each of them the conversion of a number.
_FIFTEEN, _THIRTEEN, _MULTIPLIER = torch.tensor([15, 13, _BITS_SECOND], dtype=torch.int32)
_SIGN = torch.tensor(15, dtype=torch.int16)


def _mix(keys: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 whose output bits depend on all input bits."""
    keys = (keys ^ _shift(keys, 30, 64)) * _KEY_FIRST
    keys = (keys ^ _shift(keys, 27, 64)) * _KEY_SECOND
    return keys ^ _shift(keys, 31, 64)


def _shift(bits: Tensor, places: int, width: int) -> Tensor:
    """Shift right without the sign: torch has no unsigned shift, and the signed one would lose a bit to the XOR."""
    return (bits >> places).bitwise_and_((1 << (width - places)) - 1)


_Site = tuple[int, float]
"""A site's number, and its rate."""


@dataclass(frozen=True)
class _Keys:
    """What the masks of B examples at one site begin from.

    Attributes:
        low: (B, 1) int32.
        high: (B, 1) int32.
        dropped: The highest of an element's levels at which it is dropped, (B, 1) int16.
    """

    low: Tensor
    high: Tensor
    dropped: Tensor


def _keys_of(rows: Tensor, sites: Tensor, leasts: Tensor) -> list[_Keys]:
    """Combine the keys of examples with the numbers of sites.

    The highest level at which an example's elements are dropped is one of the two next to the rate, by a chance that
    meets the rate: each element is dropped with probability `rate`, and two elements of an example are correlated by at
    most 4e-6 / (rate (1 - rate)).

    Args:
        rows: (B,) int64.
        sites: (S,) int64.
        leasts: What `_least` makes of each site's rate, (S,) int32.

    Returns:
        One for each site.
    """
    mixed = _mix(rows ^ sites[:, None])  # (S, B)
    fractions = (_mix(mixed) & (_FRACTIONS - 1)).to(torch.int32)
    dropped = ((fractions + leasts[:, None]) >> 16).to(torch.int16) - 1
    keys = (mixed.to(torch.int32), (mixed >> 32).to(torch.int32), dropped)
    return [_Keys(*parts) for parts in zip(*(part[..., None].unbind() for part in keys), strict=True)]


def _least(rate: float) -> int:
    """Place a rate between an element's levels, -128 to 127, in fractions of a level."""
    return round(rate * _LEVELS * _FRACTIONS) - _LEVELS // 2 * _FRACTIONS


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
        self._shared: Tensor | None = None  # (1,) int64, the step's key for what belongs to no example
        self._on_weights = False
        self._places: dict[torch.Size, Tensor] = {}  # of the forward pass at hand, whose layers are alike
        self._sites: list[_Site] = []  # that have drawn so far: the keys of all are made together
        self._keys: dict[_Site, _Keys] = {}
        self._keyed: Tensor | None = None  # the examples that `_keys` is for
        self._sent: tuple[Tensor, Tensor] | None = None  # what `_keys_of` takes of `_sites`, on the model's device
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
        self._places.clear()
        self._shared = _mix(torch.full_like(ids[:1], stream(self._seed, "dropout", "weights", step)))

    def end(self) -> None:
        """Leave the step: nothing is dropped until the next one begins."""
        self.rows = self._shared = self._keyed = None
        self._keys = {}
        self._places.clear()

    @contextmanager
    def joined(self, others: Sequence["DropoutStream"]) -> Iterator[None]:
        """Within, the examples of the next forward pass are those that the others have begun with, in their order."""
        before = self.rows, self._shared
        self.rows = torch.cat([other.begun for other in others])
        self._shared = torch.zeros_like(self.rows[:1])  # weights that all examples share have no such mask
        try:
            yield
        finally:
            self.rows, self._shared = before

    @property
    def begun(self) -> Tensor:
        """One key for each example that `begin` named, (B,)."""
        if self.rows is None:
            raise RuntimeError("no step has begun: name its examples first")
        return self.rows

    @contextmanager
    def on_weights(self) -> Iterator[None]:
        """Within, tensors come from weights alone: they have no axis of examples, and every micro-batch's are equal."""
        before, self._on_weights = self._on_weights, True
        try:
            yield
        finally:
            self._on_weights = before

    def mask(self, shape: torch.Size, rate: float, site: int, dtype: torch.dtype) -> Tensor:
        """Draw the mask of one site, scaled so that the mean is kept.

        Args:
            shape: (B, ...) or, for attention probabilities, (B, heads, queries, keys); any within `on_weights`.
            rate: Probability of dropping an element.
            site: The site's number.
            dtype: Type of the result.

        Returns:
            Zeros and 1 / (1 - rate), of the given shape.

        Raises:
            RuntimeError: No example is named, or the first axis is not the examples.
        """
        kept = self._drawn(shape, rate, site, dtype)
        kept &= _scale(rate, dtype)
        return _cut(kept, shape).view(dtype)

    def kept(self, shape: torch.Size, rate: float, site: int, dtype: torch.dtype) -> Tensor:
        """Draw the mask of one site as bits, to be combined with those of what it drops elements of.

        Args:
            shape: As for `mask`, and the same elements are kept.
            rate: Probability of dropping an element.
            site: The site's number.
            dtype: Type of what it is for.

        Returns:
            Integers as wide as a number of that type, of the given shape: all bits where kept, none where dropped.

        Raises:
            RuntimeError: As `mask`.
        """
        return _cut(self._drawn(shape, rate, site, dtype), shape)

    def _drawn(self, shape: torch.Size, rate: float, site: int, dtype: torch.dtype) -> Tensor:
        """Draw as `kept`, in the shape that `_cut` takes."""
        if self.rows is None or self._shared is None:
            raise RuntimeError("dropout outside of a training step: put the model into evaluation mode first")
        if self._on_weights:
            least = torch.full_like(self._shared, _least(rate), dtype=torch.int32)
            keys = _keys_of(self._shared, torch.full_like(self._shared, site), least)[0]
            return self._draw(torch.Size((1, shape.numel())), dtype, keys)
        if shape[0] != len(self.rows):
            raise RuntimeError(
                f"dropout over {tuple(shape)}: the first axis is not the {len(self.rows)} examples; "
                "if the tensor comes from weights alone, name its site in graft.recipes.dropout.WEIGHT_SITES"
            )
        return self._draw(shape, dtype, self._at((site, rate), self.rows))

    def _at(self, site: _Site, rows: Tensor) -> _Keys:
        """Look up the keys of the examples at a site: a step's sites are the last step's, so all are made at once."""
        if self._keyed is not rows:
            self._keys, self._keyed = {}, rows
        if site not in self._keys:
            if site not in self._sites:
                self._sites.append(site)
                self._sent = None
            if self._sent is None:  # kept, since to send them is to wait for an accelerator
                numbers = torch.tensor([number for number, _ in self._sites], device=rows.device)
                leasts = torch.tensor([_least(rate) for _, rate in self._sites], dtype=torch.int32, device=rows.device)
                self._sent = numbers, leasts
            self._keys = dict(zip(self._sites, _keys_of(rows, *self._sent), strict=True))
        return self._keys[site]

    def _draw(self, shape: torch.Size, dtype: torch.dtype, keys: _Keys) -> Tensor:
        """Draw integers, all bits where kept and none where dropped, for a mask of shape (B, ...).

        By integers alone: to compare and to convert booleans takes a processor ten times as long.

        Returns:
            (B, lanes) or, for attention probabilities, (B, heads, queries, lanes), with some more lanes than elements
            at the end.
        """
        if shape[1:] not in self._places:
            self._places[shape[1:]] = _places(shape[1:], keys.low.device)
        bits = self._places[shape[1:]] + keys.low  # (B, words)
        # What the signed shift loses is one bit of the 32; what is shifted is mixed already.
        bits ^= bits >> _FIFTEEN
        torch.add(keys.high, bits, alpha=_BITS_FIRST, out=bits)
        bits ^= bits >> _THIRTEEN
        bits *= _MULTIPLIER
        lanes = bits.view(torch.int8)
        if len(shape) == 4:
            lanes = lanes.view(len(lanes), *shape[1:-1], lanes.shape[1] // math.prod(shape[1:-1]))
        kept = lanes.to(torch.int16)
        torch.sub(keys.dropped.view(-1, *([1] * (lanes.dim() - 1))), kept, out=kept)  # negative where kept
        kept >>= _SIGN
        return kept.to(_INTEGERS[dtype])


def _cut(drawn: Tensor, shape: torch.Size) -> Tensor:
    """Leave out the lanes that belong to no element."""
    cut = drawn[..., : shape[-1]] if drawn.dim() == 4 else drawn[:, : shape.numel() // max(1, len(drawn))]
    return cut.view(shape)


@cache
def _scale(rate: float, dtype: torch.dtype) -> Tensor:
    """The factor of what is kept, as the integer of the same bits, a scalar."""
    return torch.tensor(1 / (1 - rate), dtype=dtype).view(_INTEGERS[dtype])


def _places(shape: torch.Size, device: torch.device) -> Tensor:
    """What the words of an example of this shape begin from, (words,) int32, by MurmurHash3's finaliser.

    Mixed once for all examples and sites, they need less mixing with an example's keys, and no two examples share a
    sequence that is shifted.
    """
    bits = _attention_index(shape, device) if len(shape) == 3 else _flat_index(shape, device)
    bits = (bits ^ _shift(bits, 16, 32)) * _BITS_FIRST
    bits = (bits ^ _shift(bits, 13, 32)) * _BITS_SECOND
    return bits ^ _shift(bits, 16, 32)


def _flat_index(shape: torch.Size, device: torch.device) -> Tensor:
    """Number the words of one example row by row: padding at the end leaves the earlier ones alone."""
    return torch.arange(-(-shape.numel() // _LANES), dtype=torch.int32, device=device)


def _attention_index(shape: torch.Size, device: torch.device) -> Tensor:
    """Number the words of (heads, queries, keys) by fixed strides, independent of the padded length."""
    heads, queries, keys_length = shape
    head = torch.arange(heads, dtype=torch.int32, device=device)[:, None, None] * _HEAD_STRIDE
    query = torch.arange(queries, dtype=torch.int32, device=device)[:, None] * _ROW_STRIDE
    word = torch.arange(-(-keys_length // _LANES), dtype=torch.int32, device=device)
    return (head + query + word).reshape(-1)


def site_number(name: str) -> int:
    """Number a site by its module's name, a signed 64-bit integer."""
    return stream(0, "site", name)


class Dropout(nn.Module):
    """Stands in for `nn.Dropout` at one site of the model."""

    def __init__(self, rate: float, site: str, draws: DropoutStream, *, on_weights: bool = False) -> None:
        """Make a site.

        Args:
            rate: Probability of dropping an element.
            site: The module's name in the model.
            draws: The run's stream.
            on_weights: What it drops elements of is a weight, the same for all examples.
        """
        super().__init__()
        self.p = rate
        self.site = site_number(site)
        self.draws = draws
        self.on_weights = on_weights

    def forward(self, hidden: Tensor) -> Tensor:
        """Drop elements in training mode; hand the tensor through in evaluation mode."""
        if not self.training or self.p == 0.0:
            return hidden
        if self.p == 1.0:
            return torch.zeros_like(hidden)
        with self.draws.on_weights() if self.on_weights else nullcontext():
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
        weights = WEIGHT_SITES.get(type(module), frozenset())
        for child_name, child in list(module.named_children()):
            if type(child) is nn.Dropout:
                site = Dropout(child.p, f"{name}.{child_name}", draws, on_weights=child_name in weights)
                module.add_module(child_name, site)
                sites += 1
        module.__dict__["graft_dropout"] = (draws, site_number(f"{name}#probabilities"))
        if isinstance(module, DisentangledSelfAttention):
            # A bound method, not a closure: a deep copy of the module must call its own projections.
            module.__dict__["disentangled_attention_bias"] = MethodType(_relative_position_bias, module)
    return sites


def _relative_position_bias(module: DisentangledSelfAttention, *arguments: Any) -> Tensor:
    """Project the table of relative positions, through adapters whose dropout meets hidden states everywhere else."""
    draws, _ = module.__dict__["graft_dropout"]
    project: Callable[..., Tensor] = type(module).disentangled_attention_bias
    with draws.on_weights():
        return project(module, *arguments)
