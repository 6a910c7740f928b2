"""What a step costs, measured alone: a short process of its own, with nothing cached and no neighbour in it.

Peak memory never falls inside a process, and seconds are spoiled by evaluations and caches; figures that are compared
must therefore come from here.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from graft.errors import TrainingError
from graft.files import write_json
from graft.recipes import hardware
from graft.recipes.recipe import Recipe, canonical

STEPS = 20
_WARM_UP = 3
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def measure(recipe: Recipe, *, steps: int = STEPS) -> dict[str, Any]:
    """Measure a recipe's training steps in a fresh solitary process.

    Args:
        recipe: What would be trained; its length and evaluations do not matter.
        steps: Steps to take; the first three are not timed.

    Returns:
        `peak_memory_bytes`, `memory_before_training_bytes` (model loaded, no step taken), `seconds_per_step`
        (median), `samples_per_second`, `steps`.

    Raises:
        TrainingError: The process failed; its last words are in the message.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "recipe.json"
        write_json(page, canonical(recipe))
        done = subprocess.run(
            [sys.executable, "-m", "graft.recipes.cost", str(page), str(steps)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    if done.returncode:
        raise TrainingError(f"measuring the cost failed: {done.stderr.strip()[-2000:]}")
    cost: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return cost


def _main(page: Path, steps: int) -> dict[str, Any]:
    """Take the steps and look at the clock and the memory."""
    from graft.recipes.building import build, gather
    from graft.recipes.step import train_step

    recipe = Recipe.model_validate(json.loads(page.read_text()))
    materials = gather(recipe)
    torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
    accelerator = Accelerator(mixed_precision="no", cpu=materials.recipe.device == "cpu")
    state = build(materials, accelerator.device)
    before = hardware.peak_memory(accelerator.device.type)
    seconds: list[float] = []
    for _ in range(min(steps, state.total_steps)):
        started = time.perf_counter()
        train_step([state], accelerator)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[_WARM_UP:] or seconds)
    return {
        "peak_memory_bytes": hardware.peak_memory(accelerator.device.type),
        "memory_before_training_bytes": before,
        "seconds_per_step": median,
        "samples_per_second": recipe.schedule.examples / median,
        "steps": len(seconds),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(Path(sys.argv[1]), int(sys.argv[2]))) + "\n")
