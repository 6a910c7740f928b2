"""What may come next on a command line, for the shell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graft.adapters.checkpoint import MODELS
from graft.recipes.flags import Flag, options_of, recipe_flags
from graft.recipes.options import RunOptions, SweepOptions


@dataclass(frozen=True)
class Suggestion:
    """One way to go on with a command line.

    Attributes:
        text: The flag or the value; empty where files are meant.
        help: What it is for.
        kind: `file` and `dir` leave it to the shell to complete paths.
    """

    text: str
    help: str = ""
    kind: Literal["plain", "file", "dir"] = "plain"


def complete(given: Sequence[str], incomplete: str, command: str = "train") -> list[Suggestion]:
    """Suggest how a command line may go on.

    Args:
        given: The arguments before the one that is being typed.
        incomplete: The beginning of that one; may be empty.
        command: The subcommand; any but `compare` and `sweep` has the flags of `train`.

    Returns:
        Values, after a flag that takes one; else flags.
    """
    flags = _flags_of(command)
    words = [word for word in given if word != "="]  # some shells make a word of the sign in `--method=lora`
    last = words[-1].removeprefix("--") if words and words[-1].startswith("--") else None
    if last == "recipe":
        return [Suggestion("", kind="file")]
    if last in flags and not flags[last].switch and not incomplete.startswith("--"):
        found = _values(flags[last])
    else:
        found = [Suggestion("--recipe", "A recipe in YAML."), Suggestion("--help", "All flags.")]
        found += [Suggestion(f"--{name}", flag.help) for name, flag in flags.items() if flag.help]
    return [suggestion for suggestion in found if suggestion.text.startswith(incomplete) or suggestion.kind != "plain"]


def _flags_of(command: str) -> dict[str, Flag]:
    if command == "compare":
        from graft.recipes.comparison_options import CompareOptions, comparison_flags

        return comparison_flags() | options_of(CompareOptions)
    return recipe_flags() | options_of(SweepOptions if command == "sweep" else RunOptions)


def _values(flag: Flag) -> list[Suggestion]:
    """List the values of a flag, as far as a table has them."""
    if flag.choices:
        return [Suggestion(choice) for choice in flag.choices]
    match flag.path:
        case "out":
            return [Suggestion("", kind="dir")]
        case "task.data":
            return [Suggestion("", kind="file")]
        case "task" | "task.name":
            from graft.eval.tasks import TASKS  # reads arrays and metrics, so only when a task is asked for

            return [Suggestion(name, row.kind) for name, row in TASKS.items()]
        case "model" | "model.name":
            return [*(Suggestion(name, row.hub_id) for name, row in MODELS.items()), Suggestion("", kind="dir")]
    return []
