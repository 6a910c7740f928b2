"""Train one recipe: reuse the run if it was made, else make it, and write down what happened."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator

from graft.adapters.saving import load_adapter
from graft.eval.records import RunRecord, diagnose, read_predictions, write_predictions, write_record
from graft.recipes import hardware
from graft.recipes.building import Materials, build, gather, warn_of_cuts
from graft.recipes.cost import measure
from graft.recipes.making import begin, check_holdout, claim, find, finish, learn
from graft.recipes.objective import Term
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe
from graft.recipes.run import Run
from graft.recipes.scoring import metrics_of, score_splits, splits_of
from graft.recipes.state import RunState
from graft.recipes.stock import Stock
from graft.recipes.watching import check_trackers

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
    check_holdout(materials, options.kind)
    folder, there = find(options.out, materials)
    if there is not None and processes == 1 and not left_to_do(there, options):  # several decide it together
        log.info("%s is there already: nothing to train", folder)
        return Run(folder, there, reused=True)
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
        accelerator = hardware.accelerator(
            materials.recipe.device, log_with=list(options.track) or None, project_dir=str(folder)
        )
        if accelerator.is_main_process:
            stack.callback(claim(folder, materials.digest, options).release)
        accelerator.wait_for_everyone()
        folder, there = find(options.out, materials)  # again: another process may just have made it
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


def left_to_do(there: RunRecord, options: RunOptions) -> bool:
    """Tell whether a finished run lacks something that is asked for.

    Args:
        there: Its record.
        options: What is asked for.
    """
    unscored = there.kind == "trial" and options.kind == "final"
    return unscored or (options.measure_cost and there.cost is None)


def _make(
    materials: Materials, accelerator: Accelerator, folder: Path, options: RunOptions, terms: Sequence[Term]
) -> RunRecord:
    """Train, score and write a run."""
    run = begin(materials, folder, accelerator, options, terms)
    learn([run], accelerator, options)
    return finish(run, accelerator, options.kind)


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
