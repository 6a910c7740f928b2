"""Run one of our modules on a recipe in a fresh process: nothing cached, no neighbour, a peak of memory of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graft import errors
from graft.errors import GraftError, TrainingError
from graft.files import write_json
from graft.recipes.recipe import Recipe, canonical

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_alone(module: str, recipe: Recipe, *arguments: str) -> dict[str, Any]:
    """Call `python -m MODULE PAGE ARGUMENTS` and read the JSON that it prints last.

    Args:
        module: One of ours, that ends in `answer`.
        recipe: What the module is about.
        arguments: What else it takes.

    Returns:
        What the module printed.

    Raises:
        GraftError: The module refused the recipe; the error is of the class that it raised.
        TrainingError: The process failed; its last words are in the message.
    """
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "recipe.json"
        write_json(page, canonical(recipe))
        command = [sys.executable, "-m", module, str(page), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode < 0:
        raise TrainingError(f"{module} was killed (signal {-done.returncode}): most likely there was no memory left")
    if done.returncode:
        raise TrainingError(f"{module} failed: {done.stderr.strip()[-2000:]}")
    said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "error" in said:
        kind: type[GraftError] = getattr(errors, said["error"])
        raise kind(said["message"])
    found: dict[str, Any] = said["found"]
    return found


def answer(work: Callable[[Recipe], dict[str, Any]]) -> None:
    """Read the recipe that `run_alone` wrote, do the work, and print what was found or why the recipe is refused.

    Args:
        work: From the recipe to a mapping of JSON types.
    """
    recipe = Recipe.model_validate(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    try:
        said: dict[str, Any] = {"found": work(recipe)}
    except GraftError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(said) + "\n")
