"""Who carries runs out: jobs go to workers, whatever these are, and an outcome comes back for each.

A worker is a process of this machine, a Ray actor or a SLURM job; see `local_executor`, `ray_executor` and
`slurm_executor`. What a job is does not depend on it: the number of threads is part of the recipe.
"""

import json
import logging
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from graft.recipes.recipe import Recipe, canonical

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Times that a job is begun before it counts as failed, where its worker is lost each time."""


@dataclass(frozen=True)
class Job:
    """One thing to be done.

    Attributes:
        recipe: Resolved.
        kind: A trial, a final run, or `calibration`: a few steps, to tell how long the others will take.
        out: Folder of the run folders, absolute; workers on other machines see the same file system.
        measure_cost: Measure what the run's steps cost, in a solitary process, once it is there.
    """

    recipe: Recipe
    kind: Literal["trial", "final", "calibration"]
    out: Path
    measure_cost: bool = False

    def to_json(self) -> str:
        """Spell the job out in one line."""
        page = {"recipe": canonical(self.recipe), "kind": self.kind, "out": str(self.out)}
        return json.dumps(page | {"measure_cost": self.measure_cost})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        page = json.loads(text)
        return cls(Recipe.model_validate(page["recipe"]), page["kind"], Path(page["out"]), page["measure_cost"])


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        failure: Why it failed; none if it did not.
        interrupted: It was stopped, and can go on.
        seconds: It took, from the worker's taking it up.
        figures: What a calibration found.
    """

    failure: str | None = None
    interrupted: bool = False
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Spell the outcome out in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


class WorkerLostError(Exception):
    """A worker ended in the middle of a job: killed by the system, or its machine is gone."""


class Worker(Protocol):
    """Carries out one job at a time; the first one may take longer, as the worker then starts."""

    def carry_out(self, job: Job) -> Outcome:
        """Do a job and wait for it.

        Raises:
            WorkerLostError: As the name says; the next job finds a new worker in this one's place.
        """

    def stop(self) -> None:
        """Ask a job that is being done to stop in a state that it can go on from; called from another thread."""

    def close(self) -> None:
        """End the worker; no job is being done."""


class Executor(Protocol):
    """Takes jobs."""

    @property
    def size(self) -> int:
        """Jobs at a time."""

    def submit(self, job: Job) -> "Future[Outcome]":
        """Have a job done when there is a worker for it. Outcomes never raise."""

    def interrupt(self) -> None:
        """Stop all jobs resumably, wait until they have, and take no further ones."""

    def close(self) -> None:
        """End the workers."""


class Crew:
    """Several workers side by side, each with a thread that waits for it."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        """Take the workers over."""
        self._workers = tuple(workers)
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # a worker that has begun is used before a fresh one
        for worker in reversed(self._workers):
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(len(self._workers), thread_name_prefix="graft-worker")
        self._stopping = False

    @property
    def size(self) -> int:
        """As many jobs at a time as there are workers."""
        return len(self._workers)

    def submit(self, job: Job) -> "Future[Outcome]":
        """Have a job done; see `Executor`."""
        return self._threads.submit(self._carry_out, job)

    def interrupt(self) -> None:
        """Stop resumably; see `Executor`."""
        self._stopping = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.stop()
        try:
            self._threads.shutdown(wait=True)
        except KeyboardInterrupt:  # asked a second time: stop at once
            for worker in self._workers:
                worker.stop()
            self._threads.shutdown(wait=True)
            raise

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _carry_out(self, job: Job) -> Outcome:
        worker = self._free.get()
        lost: list[str] = []
        try:
            while len(lost) < ATTEMPTS and not self._stopping:
                try:
                    outcome = worker.carry_out(job)
                except WorkerLostError as error:
                    lost.append(str(error))
                    log.debug("a worker was lost: %s", error)
                else:
                    if not outcome.interrupted or self._stopping:
                        return outcome
                    lost.append("somebody else asked it to stop")
        finally:
            self._free.put(worker)
        if self._stopping:
            return Outcome(interrupted=True)
        return Outcome(failure=f"its worker was lost {len(lost)} times: {lost[-1]}")


class Together:
    """Every process of `accelerate launch` does every job, all of them together, one after the other."""

    size = 1

    def __init__(self, carry_out: Callable[[Job], Outcome]) -> None:
        """Do jobs by a function of this process."""
        self._carry_out = carry_out

    def submit(self, job: Job) -> "Future[Outcome]":
        """Do a job at once.

        Raises:
            KeyboardInterrupt: It was interrupted.
        """
        done: Future[Outcome] = Future()
        outcome = self._carry_out(job)
        if outcome.interrupted:
            raise KeyboardInterrupt
        done.set_result(outcome)
        return done

    def interrupt(self) -> None:
        """Nothing goes on."""

    def close(self) -> None:
        """Nothing to end."""


def describe(error: BaseException) -> str:
    """One line for a report: a user's mistake as it is, anything else by its class."""
    text: Any = " ".join(str(error).split())
    return text if type(error).__module__ == "graft.errors" else f"{type(error).__name__}: {text}"
