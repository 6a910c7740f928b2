"""Run one of our modules on a recipe in a fresh process: nothing cached, no neighbour, a peak of memory of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from graft import errors
from graft.errors import GraftError, TrainingError
from graft.recipes.recipe import Recipe, canonical

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PROVER = "graft.recipes.parity"
"""The module that says whether an export says what its run said."""


class Solitary:
    """A fresh process that imports one of our modules at once, and is asked about one recipe when there is one.

    Started early, it has imported what it needs while this process does something else. Leaving the block ends it.
    """

    def __init__(self, module: str) -> None:
        """Start the process.

        Args:
            module: One of ours, that ends in `answer`.
        """
        self.module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in LAUNCHER},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def ask(self, recipe: Recipe, *arguments: str) -> dict[str, Any]:
        """Hand the recipe over, wait, and read what the module found.

        Args:
            recipe: What the module is about.
            arguments: What else it takes.

        Returns:
            What the module found.

        Raises:
            GraftError: The module refused the recipe; the error is of the class that it raised.
            TrainingError: The process failed; its last words are in the message.
        """
        question = json.dumps({"recipe": canonical(recipe), "arguments": arguments})
        answered, words = self._process.communicate(question)
        code = self._process.returncode
        if code < 0:
            raise TrainingError(f"{self.module} was killed (signal {-code}): most likely there was no memory left")
        if code:
            raise TrainingError(f"{self.module} failed: {words.strip()[-2000:]}")
        said: dict[str, Any] = json.loads(answered.strip().splitlines()[-1])
        if "error" in said:
            kind: type[GraftError] = getattr(errors, said["error"])
            raise kind(said["message"])
        found: dict[str, Any] = said["found"]
        return found


def run_alone(module: str, recipe: Recipe, *arguments: str) -> dict[str, Any]:
    """Start a process, ask it about a recipe, and end it.

    Args:
        module: One of ours, that ends in `answer`.
        recipe: What the module is about.
        arguments: What else it takes.

    Returns:
        As `Solitary.ask`.

    Raises:
        GraftError: As `Solitary.ask`.
    """
    with Solitary(module) as process:
        return process.ask(recipe, *arguments)


def answer(work: Callable[..., dict[str, Any]]) -> None:
    """Wait for a question, do the work, and print what was found or why the recipe is refused.

    Args:
        work: From the recipe, and what else was given with it as text, to a mapping of JSON types.
    """
    line = sys.stdin.read()
    if not line:  # nobody asks any more
        return
    question = json.loads(line)
    recipe = Recipe.model_validate(question["recipe"])
    try:
        said: dict[str, Any] = {"found": work(recipe, *question["arguments"])}
    except GraftError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(said) + "\n")
