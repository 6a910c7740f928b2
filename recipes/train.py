"""Train one recipe: reuse the run if it was made, else make it, and write down what happened."""

import logging
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from graft.adapters.saving import load_adapter, save_adapter
from graft.errors import RecipeError, RunError
from graft.eval.predict import Predictions
from graft.eval.records import (
    RECORD,
    RunRecord,
    diagnose,
    read_predictions,
    read_record,
    write_examples,
    write_predictions,
    write_record,
)
from graft.files import atomic_folder
from graft.recipes import checkpoints, hardware
from graft.recipes.building import Materials, build, gather, warn_of_cuts
from graft.recipes.cost import measure
from graft.recipes.frozen import Frozen
from graft.recipes.interruption import deferred
from graft.recipes.loop import fit
from graft.recipes.objective import Term
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe, canonical
from graft.recipes.recording import make_record
from graft.recipes.run import Run
from graft.recipes.scoring import HOLDOUT, metrics_of, score_splits, splits_of
from graft.recipes.state import RunState
from graft.recipes.stock import Stock
from graft.recipes.watching import Display, Trackers, Watch, check_trackers, flattened

log = logging.getLogger(__name__)


def train(
    recipe: Recipe, *, options: RunOptions | None = None, terms: Sequence[Term] = (), stock: Stock | None = None
) -> Run:
    """Train, score and save one run, or hand back the run of this digest that is there already.

    A final run whose trial is there is not trained again either: its validation splits are scored, once.

    Under `accelerate launch` every process calls this; the first one writes.

    Args:
        recipe: What to train; open values are resolved first.
        options: Where to write, whether to resume, what to measure.
        terms: Terms of your own on top of the recipe's; each says what it is in its `identity()`.
        stock: What earlier runs of this process have read, for whoever makes several.

    Returns:
        The finished run.

    Raises:
        RecipeError, DataError, CheckpointError: The recipe cannot be carried out.
        RunError: The run folder is in use, or holds an unfinished run and `resume` is off.
        TrainingError: A loss that is not finite, or no memory for one example.
    """
    options = options or RunOptions()
    check_trackers(options.track)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    materials = gather(recipe, terms=terms, processes=processes, stock=stock)
    _check_holdout(materials, options.kind)
    folder, there = _find(options.out, materials)
    if there is not None and processes == 1 and not _left_to_do(there, options):  # several decide it together
        log.info("%s is there already: nothing to train", folder)
        return Run(folder, there, reused=True)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
        accelerator = hardware.accelerator(
            materials.recipe.device, log_with=list(options.track) or None, project_dir=str(folder)
        )
        if accelerator.is_main_process:
            stack.callback(_claim(folder, materials.digest, options).release)
        accelerator.wait_for_everyone()
        folder, there = _find(options.out, materials)  # again: another process may just have made it
        if there is None:
            if accelerator.is_main_process:
                warn_of_cuts(materials)
            record = _make(materials, accelerator, folder, options, terms)
        elif there.kind == "trial" and options.kind == "final":
            record = _promote(there, build(materials, accelerator.device, terms), materials, accelerator, folder)
        else:
            log.info("%s is there already: nothing to train", folder)
            record = there
        if options.measure_cost and record.cost is None and accelerator.is_main_process:
            record = record.model_copy(update={"cost": measure(materials.recipe)})
            write_record(folder, record)
        accelerator.wait_for_everyone()
    return Run(folder, record, reused=there is not None)


def _find(out: Path, materials: Materials) -> tuple[Path, RunRecord | None]:
    """Find the folder of a run by its digest, under whatever name of its model it was made or begun.

    Returns:
        The folder, and its record if the run is finished.

    Raises:
        RunError: The record is damaged, or another run's.
    """
    named = out / _folder_name(materials)
    folders = [named, *sorted(out.glob(f"*-{materials.digest[:12]}"))]
    for folder in folders:
        if (folder / RECORD).exists():
            record = read_record(folder)
            if record.digest != materials.digest:
                raise RunError(f"{folder}: holds the run of another recipe; move it away or choose another --out")
            return folder, record
    return next((folder for folder in folders if checkpoints.newest(folder) is not None), named), None


def _left_to_do(there: RunRecord, options: RunOptions) -> bool:
    """Whether a finished run lacks something that is asked for."""
    unscored = there.kind == "trial" and options.kind == "final"
    return unscored or (options.measure_cost and there.cost is None)


def _check_holdout(materials: Materials, run_kind: str) -> None:
    """Refuse to choose by a holdout that there is none of."""
    if HOLDOUT in materials.encoded:
        return
    if run_kind == "trial":
        raise RecipeError("task.holdout: 0 leaves a trial nothing to be scored on; keep a part, such as 0.1")
    if materials.recipe.schedule.patience is not None:
        raise RecipeError("schedule.patience: there is no holdout to stop by; set task.holdout, or leave patience out")


def _make(
    materials: Materials, accelerator: Accelerator, folder: Path, options: RunOptions, terms: Sequence[Term]
) -> RunRecord:
    """Train, score and write a run."""
    state = build(materials, accelerator.device, terms)
    state.frozen = Frozen(keep=materials.recipe.speed.cache)
    if options.resume and (newest := checkpoints.newest(folder)) is not None:
        checkpoints.restore(newest, state, materials.digest)
    _train_visibly(state, materials, accelerator, folder, options)
    predictions = score_splits(state, materials, splits_of(materials, options.kind), accelerator)
    peak = hardware.peak_memory(accelerator.device.type)
    record = make_record(state, materials, predictions, options.kind, accelerator, peak)
    if accelerator.is_main_process:
        _write(folder, state, materials, predictions, record)
    return record


def _promote(
    trial: RunRecord, state: RunState, materials: Materials, accelerator: Accelerator, folder: Path
) -> RunRecord:
    """Make a trial final: it is trained already, so all that is left is to score the validation splits, once."""
    log.info("%s was trained as a trial: only scoring is left", folder)
    load_adapter(folder / "adapter", state.model, state.attached)
    names = [name for name in splits_of(materials, "final") if name not in trial.scores]
    added = score_splits(state, materials, names, accelerator)
    changes = {
        "kind": "final",
        "scores": trial.scores | metrics_of(materials, added),
        "diagnostics": trial.diagnostics | diagnose(trial.data, added),
    }
    record = trial.model_copy(update=changes)
    if accelerator.is_main_process:
        write_predictions(folder, read_predictions(folder) | added)
        write_record(folder, record)
    return record


def _folder_name(materials: Materials) -> str:
    recipe = materials.recipe
    name = f"{recipe.task.name}-{Path(recipe.model.name).name}-{recipe.method.name}-s{recipe.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name).lstrip('.')}-{materials.digest[:12]}"


def _claim(folder: Path, digest: str, options: RunOptions) -> FileLock:
    """Take a run for this process.

    Raises:
        RunError: Another live process has it, an unfinished run would be overwritten, or nothing can be written there.
    """
    out = options.out
    lock = FileLock(out / ".locks" / digest[:12])
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if options.wait else 0)
    except Timeout as error:
        raise RunError(f"{folder}: another process is training this very run; wait for it or stop it") from error
    except OSError as error:
        raise RunError(f"--out {out}: cannot write there ({error.strerror}); name a folder") from error
    newest = checkpoints.newest(folder)
    if newest is not None and not options.resume:
        lock.release()
        raise RunError(f"{folder}: holds an unfinished run ({newest.name}); add --resume to go on, or delete it")
    return lock


def _train_visibly(
    state: RunState, materials: Materials, accelerator: Accelerator, folder: Path, options: RunOptions
) -> None:
    main = accelerator.is_main_process
    if options.track:
        accelerator.init_trackers("graft", config=flattened(canonical(materials.recipe)))

    def score(scored: RunState) -> dict[str, float]:
        names = [HOLDOUT] if HOLDOUT in materials.encoded else []
        return metrics_of(materials, score_splits(scored, materials, names, accelerator)).get(HOLDOUT, {})

    def save(saved: RunState) -> None:
        if main:
            checkpoints.save(folder, saved, materials.digest)

    with (
        ExitStack() as stack,
        deferred() as interrupted,
        Display([state], visible=main and not options.quiet) as display,
    ):
        if state.frozen is not None and accelerator.num_processes == 1:  # several must agree before they stop
            state.frozen.interrupted = interrupted
        if options.track:
            stack.callback(accelerator.end_training)
        watches: list[Watch] = [display, Trackers(accelerator)] if options.track else [display]
        fit(
            [state],
            accelerator,
            score=score,
            save=save,
            save_every=options.checkpoint_steps,
            watches=watches,
            interrupted=interrupted,
        )


def _write(
    folder: Path, state: RunState, materials: Materials, predictions: dict[str, Predictions], record: RunRecord
) -> None:
    """Write the run folder; the record comes last, since its presence says that all else is there."""
    write_examples(folder.parent, materials.data)
    with atomic_folder(folder / "adapter") as adapter:
        save_adapter(adapter, state.model, state.attached, state.recipe.method, materials.checkpoint)
    write_predictions(folder, predictions)
    write_record(folder, record)
    checkpoints.clear(folder)
