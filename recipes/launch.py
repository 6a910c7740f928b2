"""What every way to start training shares: read the flags, train, print where the run is, and say how it ended.

`graft train`, the scripts in this folder and `python -m` end here, so that they cannot differ.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graft.errors import GraftError, RecipeError

if TYPE_CHECKING:
    from graft.recipes.recipe import Recipe

DONE, BUG, USERS_MISTAKE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes, which other programs rely on; 130 is what a shell reports for Ctrl-C."""


def main(
    argv: Sequence[str],
    kinds: Sequence[str] = (),
    program: str = "graft train",
    defaults: Mapping[str, Any] | None = None,
) -> int:
    """Train what the flags describe.

    The last line on stdout is `run: <folder>`. Of several processes only the first one prints.

    Args:
        argv: Flags, without the program's name.
        kinds: The kinds of task that the program is for; none means any.
        program: What the user typed, for `--help`.
        defaults: Nested keys and values of a recipe that the program starts from.

    Returns:
        The exit code: 0 done, 2 the user's mistake, 1 a bug of ours, 130 interrupted and resumable.
    """

    def action() -> None:
        from graft.recipes import flags

        example = "--model MODEL --method lora --data DATA" if defaults else flags.EXAMPLE
        command = flags.parse(argv, program, defaults, example=example)
        check_given(command.recipe, program)
        if kinds:
            _check_kind(command.recipe.task.name, command.recipe.task.kind, kinds)
        log_to_stderr(quiet=command.options.quiet)
        from graft.recipes.train import train  # torch, so only once the flags are known to be right

        run = train(command.recipe, options=command.options)
        if _rank() == 0:
            print(f"run: {run.folder}", flush=True)  # noqa: T201 (what other programs read)

    return guarded(action)


def sweep(argv: Sequence[str]) -> int:
    """Train what the flags describe once for each seed and rate, together where that can be.

    The last lines on stdout are `run: <folder>`, one for each, seeds first.

    Args:
        argv: Flags, without the program's name.

    Returns:
        The exit code, as `main`.
    """

    def action() -> None:
        from graft.recipes import flags
        from graft.recipes.options import SweepOptions

        purpose = "Train one recipe with several seeds or rates, as one where the method allows it."
        example = "--task mrpc --model minilm --method lora --data DATA --seeds 1,2,3,4 --rates 5e-4,1e-3"
        command = flags.parse(argv, "graft sweep", purpose=purpose, example=example, options=SweepOptions)
        check_given(command.recipe, "graft sweep")
        assert isinstance(command.options, SweepOptions)
        log_to_stderr(quiet=command.options.quiet)
        from graft.recipes.sweeping import sweep as make

        for run in make(command.recipe, command.options):
            print(f"run: {run.folder}", flush=True)  # noqa: T201 (what other programs read)

    return guarded(action)


def show(argv: Sequence[str]) -> int:
    """Print the recipe that the flags of `graft train` describe, in full.

    Args:
        argv: Flags, without the program's name.

    Returns:
        The exit code, as `main`.
    """

    def action() -> None:
        from graft.recipes import flags
        from graft.recipes.recipe import to_yaml

        purpose, example = "Print a recipe in full, from the flags of `graft train`.", "--task mrpc --method lora"
        sys.stdout.write(to_yaml(flags.parse(argv, "graft recipe show", purpose=purpose, example=example).recipe))

    return guarded(action)


def guarded(
    action: Callable[[], None],
    after_interruption: str = "add --resume to the same command to go on from a checkpoint, if there is one",
) -> int:
    """Do something for the command line and turn how it ended into an exit code.

    A user's mistake is one message on stderr, without a stack trace; a bug always has its stack trace.

    Args:
        action: What to do.
        after_interruption: What the user can do after Ctrl-C, unless the interruption itself says it.

    Returns:
        The exit code, as `main`.
    """
    try:
        action()
    except GraftError as error:
        _complain(f"error: {error}")
        return USERS_MISTAKE
    except KeyboardInterrupt as interruption:
        _complain(f"interrupted; {str(interruption) or after_interruption}")
        return INTERRUPTED
    except Exception:  # noqa: BLE001 (a bug, whatever it is, must not end without its stack trace)
        traceback.print_exc()
        _complain("this is a bug of graft's; please report it with the lines above")
        return BUG
    return DONE


def check_given(recipe: "Recipe", program: str) -> None:
    """Refuse a recipe that does not say what to train on, or from what, before anything is read."""
    task = recipe.task
    if not recipe.model.name.strip():
        raise RecipeError(
            "model.name: is empty; `graft models` lists what there is; a local folder or a Hub id works too"
        )
    if task.name != "custom" or task.text is not None:
        return
    if task.data is None:
        raise RecipeError(
            f"task: nothing to train on is named; give --task NAME, as in `{program} --task mrpc --data FOLDER` "
            "(`graft tasks` lists the names), or columns of your own, as in "
            f"`{program} --data FILE --task.text COLUMN --task.label COLUMN`"
        )
    raise RecipeError(
        f"task.text: which columns of {task.data} to read is not said; give --task.text COLUMN (or two: A,B) and "
        "--task.label COLUMN, or --task NAME where it holds one of `graft tasks`"
    )


def _check_kind(name: str, stated: str | None, kinds: Sequence[str]) -> None:
    """Refuse a task that belongs to another script; what the data alone can tell is left to the data."""
    from graft.eval.tasks import TASKS

    kind = stated or (TASKS[name].kind if name in TASKS else None)
    if kind is not None and kind not in kinds:
        script = "language_model" if kind == "causal_lm" else "classify"
        raise RecipeError(
            f"task.name: {name!r} is of kind {kind}, this script trains {' and '.join(kinds)}; "
            f"use recipes/{script}.py or `graft train`"
        )


def _rank() -> int:
    """Read which process this is from what launchers set: `accelerate launch` and torchrun both do."""
    return int(os.environ.get("RANK", "0"))


def _complain(message: str) -> None:
    rank = _rank()
    sys.stderr.write(f"[process {rank}] {message}\n" if rank else f"{message}\n")


def log_to_stderr(quiet: bool) -> None:
    """Show graft's own messages from the first process, and warnings from all; stdout is for the result."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("graft").setLevel(logging.WARNING if quiet or _rank() else logging.INFO)
