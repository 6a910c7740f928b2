"""Checkpoints of a run in progress: what learns, the optimiser's moments, and a page of numbers.

The base model is not in them: it is the checkpoint that the recipe names. Everything random is a pure function of
(seed, step), so there is no generator state either, and a resumed run goes on bit for bit.
"""

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from graft.errors import RunError
from graft.files import atomic_folder, write_json
from graft.recipes.optimisation import load_optimizer_state, optimizer_state
from graft.recipes.state import Evaluation, RunState

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
_SCHEMA = 1


@dataclass(frozen=True)
class _Page:
    """The numbers of a checkpoint, as `state.json` holds them; see `RunState` for what they mean."""

    schema: int
    digest: str
    step: int
    losses: list[float]
    evaluations: list[dict[str, Any]]
    best_step: int | None
    examples_seen: int
    seconds: float
    tokens: int
    stopped: bool
    method: dict[str, Any]


def newest(folder: Path) -> Path | None:
    """Find the newest checkpoint of a run folder; none if there is none."""
    return max((folder / FOLDER).glob("step-*"), default=None)


def save(folder: Path, state: RunState, digest: str) -> Path:
    """Write a checkpoint, whole or not at all, and then drop the older ones.

    Args:
        folder: The run folder.
        state: The run.
        digest: Of the run; a checkpoint is only ever resumed by the run that made it.

    Returns:
        The checkpoint's folder.

    Raises:
        GraftError: It cannot be written (the disk is full, say); the checkpoint before it stands.
    """
    path = folder / FOLDER / f"step-{state.step:08d}"
    method_numbers, method_tensors = _apart(state.attached.state())
    with atomic_folder(path) as temporary:
        save_file(_owned(state.learned()), temporary / "learned.safetensors")
        save_file(_owned(optimizer_state(state.optimizer, state.learners)), temporary / "optimizer.safetensors")
        tensors = {f"method/{key}": tensor for key, tensor in method_tensors.items()}
        tensors |= {f"{t.name}/{key}": tensor for t in state.objective.terms for key, tensor in t.state().items()}
        save_file(_owned(tensors), temporary / "rest.safetensors")
        if state.best is not None:
            save_file(_owned(state.best), temporary / "best.safetensors")
        page = _Page(
            schema=_SCHEMA,
            digest=digest,
            step=state.step,
            losses=state.losses,
            evaluations=[asdict(evaluation) for evaluation in state.evaluations],
            best_step=state.best_step,
            examples_seen=state.examples_seen,
            seconds=state.seconds,
            tokens=state.tokens,
            stopped=state.stopped,
            method=method_numbers,
        )
        write_json(temporary / "state.json", asdict(page))
    for older in (folder / FOLDER).glob("step-*"):
        if older != path:
            shutil.rmtree(older, ignore_errors=True)
    return path


def restore(path: Path, state: RunState, digest: str) -> None:
    """Bring a freshly built run to where a checkpoint was.

    Args:
        path: The checkpoint's folder.
        state: The run, built from the same recipe; changed in place.
        digest: Of the run.

    Raises:
        RunError: The checkpoint is damaged or of another run.
    """
    try:
        page = _Page(**json.loads((path / "state.json").read_text()))
        evaluations = [Evaluation(**evaluation) for evaluation in page.evaluations]
        learned = load_file(path / "learned.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        rest = load_file(path / "rest.safetensors")
        best = load_file(path / "best.safetensors") if page.best_step is not None else None
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise RunError(f"{path}: the checkpoint is damaged ({error}); delete it and train again") from error
    if page.schema != _SCHEMA or page.digest != digest:
        raise RunError(f"{path}: the checkpoint belongs to another run; choose another --out or delete it")
    shapes = {learner.name: learner.weight.shape for learner in state.learners}
    if any({name: weight.shape for name, weight in kept.items()} != shapes for kept in (learned, best or learned)):
        raise RunError(f"{path}: the checkpoint is damaged (it lacks weights); delete it and train again")
    state.load_learned(learned)
    load_optimizer_state(state.optimizer, state.learners, moments)
    method = page.method | {k.removeprefix("method/"): v for k, v in rest.items() if k.startswith("method/")}
    state.attached.load_state(method)
    for term in state.objective.terms:
        prefix = f"{term.name}/"
        term.load_state({k.removeprefix(prefix): v for k, v in rest.items() if k.startswith(prefix)})
    state.best, state.best_step = best, page.best_step
    state.step, state.losses, state.tokens, state.evaluations = page.step, page.losses, page.tokens, evaluations
    state.examples_seen, state.seconds, state.stopped = page.examples_seen, page.seconds, page.stopped
    log.info("going on from step %d (%s)", state.step, path)


def clear(folder: Path) -> None:
    """Drop a run's checkpoints once it is done."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _apart(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Part a method's state into what JSON holds and what safetensors holds."""
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    return {key: value for key, value in state.items() if key not in tensors}, tensors


def _owned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give every tensor memory of its own, as safetensors asks."""
    return {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
