"""The making of runs: where one lives, who may make it, its steps, its scores, its folder.

`graft.recipes.train` makes one run with these, `graft.recipes.sweeping` several that take their steps together.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from graft.adapters.saving import save_adapter
from graft.errors import RecipeError, RunError
from graft.eval.predict import Predictions
from graft.eval.records import RECORD, RunRecord, read_record, write_examples, write_predictions, write_record
from graft.files import atomic_folder
from graft.recipes import checkpoints, hardware
from graft.recipes.building import Materials, build
from graft.recipes.frozen import Frozen
from graft.recipes.interruption import deferred
from graft.recipes.loop import fit
from graft.recipes.objective import Term
from graft.recipes.options import RunOptions
from graft.recipes.recipe import canonical
from graft.recipes.recording import make_record
from graft.recipes.scoring import HOLDOUT, metrics_of, score_splits, splits_of
from graft.recipes.state import RunState
from graft.recipes.watching import Display, Trackers, Watch, flattened


@dataclass(frozen=True)
class Begun:
    """A run in the making.

    Attributes:
        materials: What its recipe names.
        folder: Where it will be.
        state: The run.
    """

    materials: Materials
    folder: Path
    state: RunState


def find(out: Path, materials: Materials) -> tuple[Path, RunRecord | None]:
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


def _folder_name(materials: Materials) -> str:
    recipe = materials.recipe
    name = f"{recipe.task.name}-{Path(recipe.model.name).name}-{recipe.method.name}-s{recipe.seed}"
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name).lstrip('.')}-{materials.digest[:12]}"


def check_holdout(materials: Materials, run_kind: str) -> None:
    """Refuse to choose by a holdout that there is none of.

    Raises:
        RecipeError: The run is a trial, or stops early, and there is no holdout.
    """
    if HOLDOUT in materials.encoded:
        return
    if run_kind == "trial":
        raise RecipeError("task.holdout: 0 leaves a trial nothing to be scored on; keep a part, such as 0.1")
    if materials.recipe.schedule.patience is not None:
        raise RecipeError("schedule.patience: there is no holdout to stop by; set task.holdout, or leave patience out")


def claim(folder: Path, digest: str, options: RunOptions) -> FileLock:
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


def begin(
    materials: Materials, folder: Path, accelerator: Accelerator, options: RunOptions, terms: Sequence[Term] = ()
) -> Begun:
    """Build a run, or bring it to where its newest checkpoint was."""
    state = build(materials, accelerator.device, terms)
    state.frozen = Frozen(keep=materials.recipe.speed.cache)
    if options.resume and (newest := checkpoints.newest(folder)) is not None:
        checkpoints.restore(newest, state, materials.digest)
    return Begun(materials, folder, state)


def learn(
    runs: Sequence[Begun],
    accelerator: Accelerator,
    options: RunOptions,
    ended: Callable[[Begun], object] = lambda _: None,
) -> None:
    """Take the steps of one run, or of several together, with progress shown and checkpoints written.

    Args:
        runs: Begun.
        accelerator: Says which process of how many this is.
        options: How they are made.
        ended: Told of each run as soon as it has come to its end.
    """
    main = accelerator.is_main_process
    if options.track:
        accelerator.init_trackers("graft", config=flattened(canonical(runs[0].materials.recipe)))
    by_state = {id(run.state): run for run in runs}

    def score(scored: RunState) -> dict[str, float]:
        materials = by_state[id(scored)].materials
        names = [HOLDOUT] if HOLDOUT in materials.encoded else []
        return metrics_of(materials, score_splits(scored, materials, names, accelerator)).get(HOLDOUT, {})

    def end(state: RunState) -> None:
        ended(by_state[id(state)])

    def save(saved: RunState) -> None:
        run = by_state[id(saved)]
        if main:
            checkpoints.save(run.folder, saved, run.materials.digest)

    states = [run.state for run in runs]
    with (
        ExitStack() as stack,
        deferred() as interrupted,
        Display(states, visible=main and not options.quiet) as display,
    ):
        for state in states:
            if state.frozen is not None and accelerator.num_processes == 1:  # several must agree before they stop
                state.frozen.interrupted = interrupted
        if options.track:
            stack.callback(accelerator.end_training)
        watches: list[Watch] = [display, Trackers(accelerator)] if options.track else [display]
        fit(
            states,
            accelerator,
            score=score,
            save=save,
            save_every=options.checkpoint_steps,
            watches=watches,
            interrupted=interrupted,
            ended=end,
        )


def finish(run: Begun, accelerator: Accelerator, run_kind: str) -> RunRecord:
    """Score a trained run and write its folder.

    Args:
        run: After its last step, with the weights that it keeps.
        accelerator: Says which process of how many this is; the first one writes.
        run_kind: `trial` or `final`.
    """
    materials, state = run.materials, run.state
    predictions = score_splits(state, materials, splits_of(materials, run_kind), accelerator)
    peak = hardware.peak_memory(accelerator.device.type)
    record = make_record(state, materials, predictions, run_kind, accelerator, peak)
    if accelerator.is_main_process:
        _write(run, predictions, record)
    return record


def _write(run: Begun, predictions: dict[str, Predictions], record: RunRecord) -> None:
    """Write the run folder; the record comes last, since its presence says that all else is there."""
    folder, state = run.folder, run.state
    write_examples(folder.parent, run.materials.data)
    with atomic_folder(folder / "adapter") as adapter:
        save_adapter(adapter, state.model, state.attached, state.recipe.method, run.materials.checkpoint)
    write_predictions(folder, predictions)
    write_record(folder, record)
    checkpoints.clear(folder)
