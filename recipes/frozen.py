"""What lies below all that learns says the same of an example at every step: it is computed once and then looked up.

The frozen part is computed in batches of its own, the same whatever a step's examples are: in fp32 the last bits of a
matrix product depend on how many rows it has. So results are equal bit for bit whether the outputs were kept from an
earlier epoch, from another run, or computed anew.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from graft.adapters.model import AdaptedModel, Outputs
from graft.eval.encoding import Batch, Encoded
from graft.eval.predict import plan_batches
from graft.recipes import frozen_store, hardware
from graft.recipes.recording import versions

if TYPE_CHECKING:
    from graft.recipes.state import RunState

LARGEST = 4 * 2**30
"""Bytes of the outputs for one split; what would be larger is computed at every step."""
_WIDEST = 4
"""Bytes of a number, at most."""
_OF_THE_TASK = frozenset(("_name_or_path", "architectures", "id2label", "label2id", "problem_type"))
"""Keys of a config on which hidden states do not depend."""


@dataclass(frozen=True)
class Cut:
    """Where the frozen part ends.

    Attributes:
        stages: How many of the model's stages are frozen.
        layers: How many of its layers, whose hidden states are kept; none where all but the head is frozen, and what
            is kept is the pooled vector.
    """

    stages: int
    layers: int | None


def find_cut(model: AdaptedModel, lowest: int) -> Cut | None:
    """Find where the frozen part ends.

    Args:
        model: The model, adapters attached.
        lowest: Number of the lowest stage of which something has learned or is about to.

    Returns:
        The cut; none where nothing that is worth keeping lies below it.
    """
    stages = model.stages()
    layers = model.body.get_submodule(model.family.layers)
    depth = len(list(layers.children()))
    name = stages[lowest].name
    if name == "head" and model.kind == "classification" and len(stages[lowest].modules) == len(model.heads):
        return Cut(lowest, None)
    if depth != model.origin.config.num_hidden_layers:  # layers that are called several times
        return None
    kind, _, number = name.partition(".")
    below = int(number) if kind == "layer" else 0 if kind == "embeddings" else depth
    return Cut(lowest, below) if below else None


class Frozen:
    """Looks up, for one run, what its frozen part says."""

    def __init__(self, *, keep: bool) -> None:
        """Begin with nothing.

        Args:
            keep: Keep outputs on disk; else they are computed anew in every epoch.
        """
        self._keep = keep
        self._cuts: dict[tuple[int, str], Cut | None] = {}
        self._weights: dict[int, str] = {}
        self._orders: dict[str, NDArray[np.int64]] = {}
        self._rows: dict[tuple[str, str], tuple[tuple[Cut, int], frozen_store.Rows]] = {}

    def run(
        self,
        state: "RunState",
        encoded: Encoded,
        batch: Batch,
        rows: Sequence[int] | None = None,
        *,
        precision: str,
    ) -> Outputs | None:
        """Run what is above the frozen part.

        Args:
            state: The run, in its coming step or in evaluation mode.
            encoded: The split.
            batch: Some of its examples, on the model's device.
            rows: Where they are in the split; looked up by their ids where it is not known.
            precision: `fp32` or `bf16`; the caller has switched autocast on.

        Returns:
            Features and logits; none where nothing is kept and the whole model must be run.
        """
        cut = self._cut(state, encoded)
        if cut is None or state.objective.needs:
            return None
        found = self._known(state, cut, encoded, precision)
        rows = self._places(encoded, batch) if rows is None else rows
        if cut.layers is None:
            features = torch.cat([found.of(row) for row in rows]).to(state.device)
            return Outputs(features, state.model.logits(features), None)
        hidden = pad_sequence([found.of(row) for row in rows], batch_first=True)
        with _known_below(_layers(state.model)[: cut.layers], hidden.to(state.device), found.parts):
            return state.model(batch.inputs)  # type: ignore[no-any-return]  # nn.Module's annotation

    def _cut(self, state: "RunState", encoded: Encoded) -> Cut | None:
        """Find where the frozen part ends; none where its outputs would be too large."""
        at = (state.lowest, encoded.fingerprint)
        if at not in self._cuts:
            cut = find_cut(state.model, state.lowest)
            fits = cut is not None and size_of(state.model, cut, encoded) <= LARGEST
            self._cuts[at] = cut if fits else None
        return self._cuts[at]

    def _places(self, encoded: Encoded, batch: Batch) -> list[int]:
        """Find the rows of a batch in its split."""
        if encoded.fingerprint not in self._orders:
            self._orders[encoded.fingerprint] = np.argsort(encoded.ids)
        order = self._orders[encoded.fingerprint]
        found: list[int] = order[np.searchsorted(encoded.ids, batch.ids.cpu().numpy(), sorter=order)].tolist()
        return found

    def _known(self, state: "RunState", cut: Cut, encoded: Encoded, precision: str) -> frozen_store.Rows:
        """Look up a split's outputs, or compute them."""
        what = (encoded.fingerprint, precision)
        when = (cut, 0 if self._keep else state.step // state.epoch_steps)
        if what not in self._rows or self._rows[what][0] != when:
            starts = _starts(cut, encoded)
            fill = partial(_computed, state, cut, encoded, precision)
            with torch.inference_mode(mode=False):  # what is kept while scoring must serve training, too
                if self._keep:
                    rows = frozen_store.kept(self._key(state, cut, encoded, precision), starts, fill)
                else:
                    rows = frozen_store.passing(starts, fill)
            self._rows[what] = when, rows
        return self._rows[what][1]

    def _key(self, state: "RunState", cut: Cut, encoded: Encoded, precision: str) -> str:
        """Name the outputs by all that they depend on."""
        if cut.stages not in self._weights:
            self._weights[cut.stages] = _content(state, cut)
        recipe = state.recipe
        parts = {
            "weights": self._weights[cut.stages],
            "layers": cut.layers,
            "pooling": state.model.pooling if cut.layers is None else None,
            "examples": encoded.fingerprint,
            "arithmetic": [precision, state.device.type, recipe.threads, recipe.speed.attention, _tokens(state)],
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def size_of(model: AdaptedModel, cut: Cut, encoded: Encoded) -> int:
    """Bytes, at most, of a split's outputs."""
    rows = len(encoded) if cut.layers is None else int(encoded.lengths.sum())
    return rows * int(model.origin.config.hidden_size) * _WIDEST


def _layers(model: AdaptedModel) -> list[nn.Module]:
    return list(model.body.get_submodule(model.family.layers).children())


def _tokens(state: "RunState") -> int:
    recipe = state.recipe
    return hardware.scoring_tokens(recipe.budget.tokens, state.device.type, recipe.threads)


def _starts(cut: Cut, encoded: Encoded) -> Any:
    """Where each example's rows begin: one row for a pooled vector, one for each token otherwise."""
    counts = np.ones(len(encoded), np.int64) if cut.layers is None else encoded.lengths
    return np.concatenate([[0], np.cumsum(counts)])


def _computed(state: "RunState", cut: Cut, encoded: Encoded, precision: str) -> Iterator[tuple[int, Tensor, int]]:
    """Run the frozen part over a split, in batches that depend on the examples' lengths alone."""
    for rows in plan_batches(encoded.lengths, _tokens(state)):
        batch = state.kind.collate(encoded, rows).to(state.device)
        with torch.no_grad(), torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
            outputs, parts = _outputs(state.model, cut.layers, batch)
        outputs = outputs.cpu()
        for place, row in enumerate(rows):
            yield row, outputs[place, : 1 if cut.layers is None else int(encoded.lengths[row])], parts


class _Reached(Exception):  # noqa: N818 (a way out of a forward pass, no error)
    """The last frozen layer is done."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output


def _outputs(model: AdaptedModel, layers: int | None, batch: Batch) -> tuple[Tensor, int]:
    """Run a batch through the frozen part alone.

    Returns:
        Hidden states, (B, T, H), or pooled vectors, (B, 1, H); and how many elements the last frozen layer's tuple has,
        0 for a tensor.
    """
    if layers is None:
        return model.features(batch.inputs)[:, None], 0

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        raise _Reached(output)

    hook = _layers(model)[layers - 1].register_forward_hook(leave)
    try:
        model.features(batch.inputs)
    except _Reached as reached:
        output = reached.output
        return (output, 0) if isinstance(output, Tensor) else (output[0], len(output))
    finally:
        hook.remove()
    raise RuntimeError(f"{model.family.name}: a forward pass went past layer {layers - 1}")


@contextmanager
def _known_below(layers: Sequence[nn.Module], hidden: Tensor, parts: int) -> Iterator[None]:
    """Let layers hand on what is known of the last one's output, instead of computing it."""

    def known(*_: Any, **__: Any) -> Any:
        return (hidden, *([None] * (parts - 1))) if parts else hidden

    own = [layer.__dict__.get("forward") for layer in layers]  # a wrapper that recomputes, say
    for layer in layers:
        layer.__dict__["forward"] = known
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.__dict__["forward"]
            if forward is not None:
                layer.__dict__["forward"] = forward


def _content(state: "RunState", cut: Cut) -> str:
    """Hash the frozen part: its weights, its architecture, and the settings of a method that may be part of it."""
    config = {key: value for key, value in state.model.origin.config.to_dict().items() if key not in _OF_THE_TASK}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    if isinstance(state.model.backbone, PeftModel):
        digest.update(state.recipe.method.model_dump_json().encode())
    for number, stage in enumerate(state.stages[: cut.stages]):
        for module in stage:
            for name, tensor in module.state_dict().items():
                digest.update(f"{number} {name} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
