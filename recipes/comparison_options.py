"""How a comparison is carried out, and its command line: nothing here changes a result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graft.errors import RecipeError
from graft.recipes import flags
from graft.recipes.comparison_config import ComparisonConfig, from_mapping, overlay
from graft.recipes.flags import Flag
from graft.recipes.recipe import read_yaml
from graft.recipes.refusal import explain

EXAMPLE = "--task mrpc --model minilm --methods full,lora --seeds 2 --trials 1 --margin 1 --data DATA"
PURPOSE = "Compare methods fairly: the same trials, seeds and examples for each, and a verdict with intervals."

_SHARED = ("task.", "model.")
"""Sections whose settings go to each of several tasks or models."""


class CompareOptions(BaseModel):
    """Where runs are written, and who carries them out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    out: Path = Path("runs")
    """Folder for the run folders, the comparison and its report. What is there already is not trained again."""
    plan: bool = False
    """Say what it will take and what it can decide, and stop."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """Who carries the runs out: processes of this machine, a Ray cluster, or SLURM jobs."""
    workers: int | None = Field(default=None, ge=1)
    """Runs at a time. Left out: as many as cores or GPUs allow; 32 jobs on SLURM."""
    address: str | None = None
    """Address of a Ray cluster. Left out: one is started on this machine."""
    slurm: dict[str, str | int] = {}
    """Parameters of SLURM jobs as submitit names them, such as `{partition: gpu, timeout_min: 120}`."""
    costs: bool = True
    """Measure memory and seconds of each method at the end, alone on the machine."""
    figures: Path | None = None
    """Folder for static pictures of the report."""
    quiet: bool = False
    """No live display."""


@dataclass(frozen=True)
class Command:
    """What a command line asks for."""

    config: ComparisonConfig
    options: CompareOptions


def comparison_flags() -> dict[str, Flag]:
    """Flags for what is compared, by name."""
    own = {
        path if "." in path else path.replace("_", "-"): flag for path, flag in flags.flags_of(ComparisonConfig).items()
    }
    shared = {
        name: flag
        for name, flag in flags.recipe_flags().items()
        if flag.path.startswith(_SHARED) and not flag.path.endswith(".name")
    }
    own["seeds"] = replace(own["seeds"], value="N or A,B", many=False)
    own["task"] = replace(own["task"], many=False)
    own["model"] = replace(own["model"], many=False, help="The checkpoints to start from. Default: minilm.")
    return own | shared


def parse(argv: Sequence[str], program: str) -> Command:
    """Read the flags of a comparison.

    Args:
        argv: Arguments, without the program's name.
        program: What the user typed to get here, for `--help`.

    Raises:
        RecipeError: A flag is unknown, or a value is refused.
        SystemExit: After `--help`.
    """
    given = flags.read(
        argv, program, comparison_flags(), flags.options_of(CompareOptions), purpose=PURPOSE, example=EXAMPLE
    )
    file = given.file
    try:
        config = from_mapping(overlay(read_yaml(file) if file else {}, given.overrides))
        return Command(config, CompareOptions.model_validate(given.options))
    except ValidationError as error:
        raise RecipeError(explain(error, CompareOptions)) from None
    except RecipeError as error:
        where = f"{file}, with the flags: " if given.overrides else f"{file}: "
        raise RecipeError(f"{where if file else ''}{error}") from None
