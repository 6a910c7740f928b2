"""How a run is carried out, beside the recipe: nothing here changes a result, so nothing here is hashed."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class RunOptions(BaseModel):
    """Where a run is written, how often it is saved and who watches it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    out: Path = Path("runs")
    """Folder that holds the run folders."""
    resume: bool = False
    """Go on from the newest checkpoint of this recipe, where there is one."""
    wait: bool = False
    """Where another process is training this very run, wait for it and take its result, instead of refusing."""
    kind: Literal["trial", "final"] = "final"
    """A trial scores the holdout only; a final run scores the validation splits too, once."""
    measure_cost: bool = False
    """Measure peak memory and seconds a step in a separate solitary process, and add them to the record."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between checkpoints; none means every evaluation of the holdout."""
    track: tuple[str, ...] = ()
    """Accelerate's names of the trackers to log to: tensorboard, trackio, wandb."""
    quiet: bool = False
    """No progress display."""


class SweepOptions(RunOptions):
    """Which runs of one recipe to make together, and how."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    """Seeds, instead of the recipe's one: `1,2,3`."""
    rates: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()
    """Learning rates, instead of the recipe's one: `1e-4,3e-4`; each with each seed."""
