"""A contestant in a process of its own, which takes a turn whenever it is told to.

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
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self

MARK = "contestant: "
"""What a line for the parent begins with; libraries print others."""

SET_BY_GRAFT = ("GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Variables that `import graft`, or graft at its first computation, sets in the parent."""

REST = 0.02
"""Seconds between turns, in which the threads of one contestant stop waiting busily for more to do."""


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
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its contestants
        )
        try:
            self.about = self.answer()
        except BaseException:  # also Ctrl-C while libraries are imported
            self.__exit__()
            raise
        """What it says of itself: weights and examples, the device, and which variables that graft sets it has."""

    def __enter__(self) -> Self:
        """Nothing more: the process is there."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def prepare(self, steps: int, turn: int | None = None) -> None:
        """Let it prepare a segment, and wait until it is about to take the first step.

        Args:
            steps: Of the segment.
            turn: Steps of a turn; none for one turn that is the whole segment.

        Raises:
            SystemExit: The process ended.
        """
        self._tell(f"{steps} {turn or steps}")
        self.answer()

    def go(self) -> None:
        """Let it take its turn; the answer comes later.

        Raises:
            SystemExit: The process ended.
        """
        self._tell("")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def answer(self) -> dict[str, Any]:
        """Wait for what it has to say.

        Returns:
            Where a segment's last turn is over, it, as `contestants.Segment`, with the process's `peak_memory_bytes`;
            else nothing.

        Raises:
            SystemExit: The process ended.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise self._ended()

    def _ended(self) -> SystemExit:
        code = self._process.wait()
        how = f"by signal {-code}" + (" (no memory left?)" if code == -9 else "") if code < 0 else f"with status {code}"
        return SystemExit(f"error: {self._name}: its process ended early, {how}")

    def segment(self, steps: int) -> dict[str, Any]:
        """Let it take so many steps in one turn, and wait."""
        self.prepare(steps)
        self.go()
        return self.answer()


def by_turns(contestants: Mapping[str, Turns], steps: int, turn: int, before: Callable[[], None]) -> dict[str, Any]:
    """Let each contestant take a segment, turn by turn.

    Whatever slows the machine for longer than a turn slows all of them.

    Args:
        contestants: By name. The first one to go is another one each time.
        steps: Of each segment.
        turn: Steps of a turn.
        before: Called before all have a turn.

    Returns:
        Name to segment, as `Turns.answer` gives it.
    """
    for contestant in contestants.values():
        contestant.prepare(steps, turn)
    found: dict[str, dict[str, Any]] = {}
    names = list(contestants)
    while len(found) < len(contestants):
        before()
        for name in names:
            if name in found:
                continue
            time.sleep(REST)
            contestants[name].go()
            if answer := contestants[name].answer():
                found[name] = answer
        names.append(names.pop(0))
    return found


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
            "learns": contestant.learns(),
            "examples": len(lengths),
            "tokens_per_example": float(lengths.mean()),
            "threads": contestant.recipe.threads,
            "device": device,
            "environment": {name: os.environ.get(name) for name in SET_BY_GRAFT},
        }
    )

    def wait() -> None:
        _say({})
        if not sys.stdin.readline():
            raise SystemExit  # nobody is there any more

    while line := sys.stdin.readline():
        gc.collect()  # Trainer makes itself anew for every segment
        steps, turn = map(int, line.split())
        segment = contestant.segment(steps, turn, wait)
        _say(asdict(segment) | {"peak_memory_bytes": hardware.peak_memory(device)})
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
