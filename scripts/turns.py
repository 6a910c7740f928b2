"""A contestant in a process of its own, which takes a segment whenever it is told to.

Each runs with what it sets for a process, and nothing that another one set: graft bounds oneDNN's caches and how
long threads wait busily; Trainer and the bare loop have torch's defaults. Memory, caches and thread pools are nobody
else's either, so that a process's peak is its contestant's.
"""

import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

MARK = "contestant: "
"""What a line for the parent begins with; libraries print others."""

SET_BY_GRAFT = ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Variables that `import graft`, or graft at its first computation, sets in the parent."""


class Turns:
    """The parent's end of a contestant."""

    def __init__(self, name: str, settings: Mapping[str, str]) -> None:
        """Start the process and wait until it is ready.

        Args:
            name: Of the contestant.
            settings: A recipe by dotted names.

        Raises:
            SystemExit: The process ended.
        """
        self._name = name
        environment = {key: value for key, value in os.environ.items() if key not in SET_BY_GRAFT}
        if "threads" in settings:
            environment["OMP_NUM_THREADS"] = settings["threads"]
        self._process = subprocess.Popen(
            [sys.executable, __file__, name, json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.about = self.answer()
        """What it says of itself: weights and examples, the device, and which variables that graft sets it has."""

    def __enter__(self) -> Self:
        """Nothing more: the process is there."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def begin(self, steps: int) -> None:
        """Let it take so many steps; the answer comes later.

        Raises:
            SystemExit: The process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise SystemExit(f"{self._name}: its process ended early") from error

    def answer(self) -> dict[str, Any]:
        """Wait for what it has to say: a segment, as `contestants.Segment`, with the process's `peak_memory_bytes`.

        Raises:
            SystemExit: The process ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise SystemExit(f"{self._name}: its process ended early")

    def segment(self, steps: int) -> dict[str, Any]:
        """Let it take so many steps, and wait."""
        self.begin(steps)
        return self.answer()


def _say(what: Mapping[str, Any]) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(what)}\n")  # whatever a library printed before
    sys.stdout.flush()


def _main(name: str, settings: str) -> int:
    """Be a contestant, until there is nothing more to read."""
    # Whichever comes first: what graft sets for a process counts only if torch comes later.
    importlib.import_module("graft" if name == "graft" else "torch")
    from contestants import CONTESTANTS, weights_outside_embeddings

    from graft.errors import GraftError
    from graft.recipes import hardware

    try:
        contestant = CONTESTANTS[name](json.loads(settings))
    except GraftError as error:
        raise SystemExit(f"error: {error}") from None
    lengths, device = contestant.train.lengths, contestant.recipe.device
    _say(
        {
            "backbone_weights": weights_outside_embeddings(contestant) if name == "graft" else None,
            "examples": len(lengths),
            "tokens_per_example": float(lengths.mean()),
            "threads": contestant.recipe.threads,
            "device": device,
            "environment": {name: os.environ.get(name) for name in SET_BY_GRAFT},
        }
    )
    for line in sys.stdin:
        gc.collect()  # Trainer makes itself anew for every segment
        segment = contestant.segment(int(line))
        _say(asdict(segment) | {"peak_memory_bytes": hardware.peak_memory(device)})
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
