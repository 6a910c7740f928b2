"""Train one recipe with several seeds or rates: together where its method allows it, else one after the other."""

import itertools
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from graft.errors import RecipeError, RunError
from graft.recipes import hardware, joining
from graft.recipes.building import Materials, gather, warn_of_cuts
from graft.recipes.making import Begun, begin, check_holdout, claim, find, finish, learn
from graft.recipes.options import RunOptions, SweepOptions
from graft.recipes.recipe import Recipe
from graft.recipes.run import Run
from graft.recipes.stock import Stock
from graft.recipes.sweep import join, leave
from graft.recipes.train import left_to_do, train

log = logging.getLogger(__name__)


def sweep(recipe: Recipe, options: SweepOptions, *, stock: Stock | None = None) -> list[Run]:
    """Train one recipe once for each seed and each rate.

    Each run has the digest, the folder and the record that `train` gives it, and is handed back where it is there
    already. What is not there steps together, one forward pass for all, if all of it can; else each run is trained by
    itself. Figures of time are then a run's share, and peak memory is that of all.

    Args:
        recipe: What they share; its own seed or rate where no others are named.
        options: The seeds and rates, and how runs are made.
        stock: What earlier runs of this process have read.

    Returns:
        The runs, by seed and then by rate.

    Raises:
        RecipeError, DataError, CheckpointError: The recipe cannot be carried out.
        RunError: A run folder is in use, or holds an unfinished run and `resume` is off.
        TrainingError: A loss that is not finite, or no memory for one example; the runs that it does not name are
            done.
    """
    _check(options)
    stock = stock or Stock()
    plain = RunOptions.model_validate(options.model_dump(include=set(RunOptions.model_fields)))
    recipes = _recipes(recipe, options)
    materials = [gather(one, stock=stock) for one in recipes]
    for one in materials:
        check_holdout(one, options.kind)
    missing = [one for one in materials if find(options.out, one)[1] is None]
    if len(missing) > 1:
        _make_together(missing, plain)
    wanted = {one.digest for one in missing}
    found = [
        (one.digest in wanted and _whole(one, plain)) or train(recipe, options=plain, stock=stock)
        for recipe, one in zip(recipes, materials, strict=True)
    ]
    return [
        Run(run.folder, run.record, reused=one.digest not in wanted) for run, one in zip(found, materials, strict=True)
    ]


def _whole(materials: Materials, options: RunOptions) -> Run | None:
    """Look up a run of which nothing is left to do."""
    folder, there = find(options.out, materials)
    return None if there is None or left_to_do(there, options) else Run(folder, there)


def _check(options: SweepOptions) -> None:
    """Refuse what several runs at once cannot have.

    Raises:
        RecipeError: A seed or a rate stands twice.
        RunError: There are several processes, or trackers, of which each run would need its own.
    """
    for name, values in (("seeds", options.seeds), ("rates", options.rates)):
        if len(set(values)) < len(values):
            raise RecipeError(f"{name}: one stands there twice; name each once")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("a sweep is made by one process; start `graft sweep` itself, without a launcher")
    if options.track:
        raise RunError("track: several runs would write into one log; leave it out, or use `graft train` for each")


def _recipes(recipe: Recipe, options: SweepOptions) -> list[Recipe]:
    """The recipe with each seed and each rate."""
    rates: Sequence[float | None] = options.rates or (recipe.optim.lr,)
    return [
        recipe.model_copy(update={"seed": seed, "optim": recipe.optim.model_copy(update={"lr": rate})})
        for seed, rate in itertools.product(options.seeds or (recipe.seed,), rates)
    ]


def _make_together(missing: Sequence[Materials], options: RunOptions) -> None:
    """Make several runs that are not there, if they can take their steps together."""
    recipe = missing[0].recipe
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(recipe.threads or torch.get_num_threads())
        accelerator = hardware.accelerator(recipe.device)
        for materials in sorted(missing, key=lambda one: one.digest):  # two sweeps that wait must not wait in a ring
            stack.callback(claim(find(options.out, materials)[0], materials.digest, options).release)
        runs: list[Begun] = []
        for materials in missing:
            folder, there = find(options.out, materials)  # again: another process may just have made it
            if there is not None:
                continue
            runs.append(begin(materials, folder, accelerator, options))
            reason = joining.obstacle([runs[0].state, runs[-1].state])
            if reason is not None:
                log.warning("%d runs are trained one after the other: %s", len(missing), reason)
                return
            joining.share(runs[0].state, runs[-1].state)
        states = [run.state for run in runs]
        if (reason := join(states, accelerator)) is not None:
            log.info("trained by itself: %s", reason)
            return
        stack.callback(leave, states)
        log.info("%d runs take their steps together", len(runs))
        warn_of_cuts(missing[0])
        learn(runs, accelerator, options, ended=lambda run: finish(run, accelerator, options.kind))
