"""What lies below all that learns says the same of an example at every step: it is computed once and then looked up.

The frozen part is computed in batches of its own, the same whatever a step's examples are: in fp32 the last bits of a
matrix product depend on how many rows it has. So results are equal bit for bit whether the outputs were kept from an
earlier epoch, from another run, or computed anew.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from graft.adapters import families
from graft.adapters.model import AdaptedModel, Outputs
from graft.errors import TrainingError
from graft.eval import encoding, kinds, predict
from graft.eval.encoding import Batch, Encoded
from graft.files import fingerprint
from graft.recipes import attention, frozen_store, hardware, lean
from graft.recipes.recording import arithmetic_of, versions
from graft.recipes.stand_ins import stand_ins

if TYPE_CHECKING:
    from graft.recipes.state import RunState

log = logging.getLogger(__name__)

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


def find_cut(state: "RunState") -> Cut | str:
    """Find where the frozen part ends at the coming step.

    Args:
        state: The run.

    Returns:
        The cut, or why nothing that is worth keeping lies below all that learns.
    """
    model, lowest = state.model, state.lowest
    if state.objective.needs:
        return "a term needs all hidden states"
    if _has_strays(model):
        return "the method acts in all layers"
    config, stages = model.origin.config, model.stages()
    name, depth = stages[lowest].name, len(_layers(model))
    kind, _, number = name.partition(".")
    below = int(number) if kind == "layer" else 0 if kind == "embeddings" else depth
    if not below:
        return f"{name} learns"
    if not _pays(state):
        return "the steps for which the layers below stay frozen do not go once over all examples"
    if name == "head" and model.kind == "classification" and len(stages[lowest].modules) == len(model.heads):
        return Cut(lowest, None)
    if depth != config.num_hidden_layers:
        return "layers are called several times"
    positions = getattr(config, "rope_parameters", None) or {}
    if positions.get("rope_type") in ("dynamic", "longrope"):
        return "positions depend on what came before"
    return Cut(lowest, below)


def _pays(state: "RunState") -> bool:
    """Whether the steps for which the frozen part stays as it is look at as many examples as there are, or more."""
    steps = int((state.lowest_by_step == state.lowest).sum())
    return steps * state.recipe.schedule.examples >= len(state.train)


def _has_strays(model: AdaptedModel) -> bool:
    """Whether the backbone has parameters, such as a prefix, that act in all stages and belong to none."""
    owned = {id(weight) for stage in model.stages() for module in stage.modules for weight in module.parameters()}
    return any(id(weight) not in owned for weight in model.backbone.parameters())


class Frozen:
    """Looks up, for one run, what its frozen part says."""

    def __init__(self, *, keep: bool, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Begin with nothing.

        Args:
            keep: Keep outputs on disk; else they are computed anew in every epoch.
            interrupted: Asked between batches whether to stop.
        """
        self.interrupted = interrupted
        self._keep = keep
        self._cuts: dict[int, Cut | None] = {}
        self._weights: dict[int, str] = {}
        self._orders: dict[str, NDArray[np.int64]] = {}
        self._rows: dict[tuple[str, str], tuple[tuple[Cut, int], frozen_store.Rows]] = {}
        self._too_much = False

    def prepare(self, state: "RunState", encoded: Encoded, *, precision: str) -> frozen_store.Rows | None:
        """Make sure of a split's outputs, also where this process has none of the coming examples.

        Args:
            state: The run, in its coming step or in evaluation mode.
            encoded: The split.
            precision: `fp32` or `bf16`.

        Returns:
            The outputs; none where nothing is kept and the whole model must be run.
        """
        cut = self._cut(state)
        if cut is None or self._too_much or size_of(state.model, cut, encoded) > LARGEST:
            return None
        try:
            return self._outputs_of(state, cut, encoded, precision)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        log.warning("no memory to run the frozen layers by themselves: they are run at every step; lower budget.tokens")
        self._too_much = True
        return None

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
        outputs = self.prepare(state, encoded, precision=precision)
        if outputs is None:
            return None
        cut = self._cut(state)
        assert cut is not None
        parts = [outputs.of(row) for row in (self._places(encoded, batch) if rows is None else rows)]
        if cut.layers is None:
            features = torch.cat(parts).to(state.device)
            return Outputs(features, state.model.logits(features), None)
        hidden = pad_sequence(parts, batch_first=True)  # (B, longest, H)
        if missing := batch.inputs["input_ids"].shape[1] - hidden.shape[1]:
            hidden = pad(hidden, (0, 0, 0, missing))
        hidden = hidden.to(state.device)
        skipped = _layers(state.model)[: cut.layers]
        with stand_ins(skipped, [_known(hidden, outputs.parts)] * len(skipped)):
            return state.model(batch.inputs)  # type: ignore[no-any-return]  # nn.Module's annotation

    def _cut(self, state: "RunState") -> Cut | None:
        """Find where the frozen part ends, once for each place."""
        if state.lowest not in self._cuts:
            found = find_cut(state)
            self._cuts[state.lowest] = found if isinstance(found, Cut) else None
        return self._cuts[state.lowest]

    def _places(self, encoded: Encoded, batch: Batch) -> list[int]:
        """Find the rows of a batch in its split."""
        if encoded.fingerprint not in self._orders:
            self._orders[encoded.fingerprint] = np.argsort(encoded.ids)
        order = self._orders[encoded.fingerprint]
        found: list[int] = order[np.searchsorted(encoded.ids, batch.ids.cpu().numpy(), sorter=order)].tolist()
        return found

    def _outputs_of(self, state: "RunState", cut: Cut, encoded: Encoded, precision: str) -> frozen_store.Rows:
        """Look up a split's outputs, or compute them."""
        what = (encoded.fingerprint, precision)
        when = (cut, 0 if self._keep else state.step // state.epoch_steps)
        if what not in self._rows or self._rows[what][0] != when:
            starts = _starts(cut, encoded)
            fill = partial(self._computed, state, cut, encoded, precision)
            with torch.inference_mode(mode=False):  # what is kept while scoring must serve training, too
                self._rows[what] = when, self._stored(state, cut, encoded, precision, starts, fill)
        return self._rows[what][1]

    def _stored(
        self,
        state: "RunState",
        cut: Cut,
        encoded: Encoded,
        precision: str,
        starts: NDArray[np.int64],
        fill: frozen_store.Fill,
    ) -> frozen_store.Rows:
        """Take the outputs from disk, or put them there.

        Raises:
            TrainingError: There is no room for them.
        """
        if self._keep:
            try:
                return frozen_store.kept(self._key(state, cut, encoded, precision), starts, fill)
            except (OSError, NotImplementedError) as error:  # NotImplementedError: a file system without locks
                folder = frozen_store.cache_folder()
                log.warning("%s: frozen layers' outputs cannot be kept there (%s); set GRAFT_CACHE", folder, error)
        try:
            return frozen_store.temporary(starts, fill)
        except OSError as error:
            raise TrainingError(
                f"{tempfile.gettempdir()}: no room for the outputs of frozen layers ({error}); make some, or set "
                "TMPDIR to another folder"
            ) from error

    def _computed(
        self, state: "RunState", cut: Cut, encoded: Encoded, precision: str
    ) -> Iterator[tuple[int, Tensor, int]]:
        """Run the frozen part over a split, in batches that depend on the examples' lengths alone.

        Raises:
            KeyboardInterrupt: Somebody asked to stop.
        """
        log.info("running the frozen layers over %s examples, once", f"{len(encoded):,}")
        for rows in predict.plan_batches(encoded.lengths, _tokens(state)):
            batch = state.kind.collate(encoded, rows).to(state.device)
            with torch.no_grad(), torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
                outputs, parts = _outputs(state.model, cut.layers, batch)
            outputs = outputs.cpu()
            for place, row in enumerate(rows):
                yield row, outputs[place, : 1 if cut.layers is None else int(encoded.lengths[row])], parts
            if self.interrupted():
                raise KeyboardInterrupt

    def _key(self, state: "RunState", cut: Cut, encoded: Encoded, precision: str) -> str:
        """Name the outputs by all that they depend on, to the last bit."""
        if cut.stages not in self._weights:
            self._weights[cut.stages] = _content(state, cut)
        recipe = state.recipe
        return fingerprint(
            {
                "weights": self._weights[cut.stages],
                "layers": cut.layers,
                "pooling": state.model.pooling if cut.layers is None else None,
                "examples": encoded.fingerprint,
                "arithmetic": [precision, recipe.threads, recipe.speed.attention, recipe.speed.layers, _tokens(state)],
                "hardware": arithmetic_of(state.device),
                "versions": versions(),
                "code": _code(),
            }
        )[:32]


def size_of(model: AdaptedModel, cut: Cut, encoded: Encoded) -> int:
    """Bytes, at most, of a split's outputs."""
    rows = len(encoded) if cut.layers is None else int(encoded.lengths.sum())
    return rows * int(model.origin.config.hidden_size) * _WIDEST


def _layers(model: AdaptedModel) -> list[nn.Module]:
    return list(model.body.get_submodule(model.family.layers).children())


def _tokens(state: "RunState") -> int:
    recipe = state.recipe
    return hardware.scoring_tokens(recipe.budget.tokens, state.device.type, recipe.threads)


def _starts(cut: Cut, encoded: Encoded) -> NDArray[np.int64]:
    """Where each example's rows begin: one row for a pooled vector, one for each token otherwise."""
    counts = np.ones(len(encoded), np.int64) if cut.layers is None else encoded.lengths
    return np.concatenate([[0], np.cumsum(counts)])


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


def _known(hidden: Tensor, parts: int) -> Callable[..., Any]:
    """Hand on what is known of the last frozen layer's output, instead of computing it."""
    return lambda *_, **__: (hidden, *([None] * (parts - 1))) if parts else hidden


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


@cache
def _code() -> str:
    """Hash our own code that takes part in a forward pass: it changes without a version's changing."""
    adapters = Path(families.__file__).parent
    parts = (attention, lean, frozen_store, encoding, kinds, predict)  # the last three say what is in a batch
    files = [*sorted(adapters.glob("*.py")), *(Path(str(part.__file__)) for part in parts), Path(__file__)]
    return fingerprint([path.read_text(encoding="utf-8") for path in files])
