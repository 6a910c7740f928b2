"""One thread that owns the model, and answers requests that wait at the same time in one batch."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Text = TypeVar("Text")
Answer = TypeVar("Answer")


class Overloaded(Exception):  # noqa: N818 (a state, not a defect)
    """More examples wait than may."""


class Stopped(Exception):  # noqa: N818 (a state, not a defect)
    """No more requests are taken."""


@dataclass(frozen=True)
class _Job(Generic[Text, Answer]):
    """One request.

    Attributes:
        texts: Its examples.
        answers: Will hold an answer for each of them.
    """

    texts: Sequence[Text]
    answers: "Future[list[Answer]]" = field(default_factory=Future)


class Batcher(Generic[Text, Answer]):
    """Joins requests into batches.

    The thread takes all that waits as soon as the model is free; where that is little, it gives the next requests a
    few milliseconds to come.

    Args:
        answer: From texts to an answer for each; called in one thread alone.
        together: Examples that are enough for a batch.
        patience: Seconds that a batch with fewer waits for others.
        waiting: Examples that may wait; a request that comes when there are so many is refused.
    """

    def __init__(
        self, answer: Callable[[list[Text]], list[Answer]], *, together: int, patience: float, waiting: int
    ) -> None:
        self._answer = answer
        self._together = together
        self._patience = patience
        self._most_waiting = waiting
        self._jobs: queue.SimpleQueue[_Job[Text, Answer] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="graft-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Examples that wait for the model."""
        return self._waiting

    def submit(self, texts: Sequence[Text]) -> "Future[list[Answer]]":
        """Ask for answers to the texts of one request.

        Raises:
            Overloaded: Too many wait; one that comes when none wait is taken, whatever its size.
            Stopped: `stop` was called.
        """
        job = _Job[Text, Answer](texts)
        with self._lock:
            if self._stopped:
                raise Stopped
            if self._waiting and self._waiting + len(texts) > self._most_waiting:
                raise Overloaded
            self._waiting += len(texts)
            self._jobs.put(job)
        return job.answers

    def stop(self) -> None:
        """Answer what waits, take no more, and return when all is answered."""
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        going_on = True
        while going_on:
            jobs, going_on = self._gathered()
            jobs = [job for job in jobs if job.answers.set_running_or_notify_cancel()]
            self._serve(jobs)

    def _gathered(self) -> tuple[list[_Job[Text, Answer]], bool]:
        """Wait for requests that are answered together; say whether there will be more."""
        jobs: list[_Job[Text, Answer]] = []
        size, until = 0, 0.0
        while not jobs or size < self._together:
            try:
                left = max(0.0, until - time.monotonic())
                job = self._jobs.get(timeout=left) if jobs and left else self._jobs.get(block=not jobs)
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            until = until or time.monotonic() + self._patience
            jobs.append(job)
            size += len(job.texts)
            with self._lock:
                self._waiting -= len(job.texts)
        return jobs, True

    def _serve(self, jobs: Sequence[_Job[Text, Answer]]) -> None:
        """Answer requests together; if that fails, each by itself, so that one takes no other with it."""
        if not jobs:
            return
        try:
            answers = iter(self._answer([text for job in jobs for text in job.texts]))
            for job in jobs:
                job.answers.set_result([next(answers) for _ in job.texts])
        except Exception as error:  # noqa: BLE001 (whatever it is, it belongs to the request, and the thread lives on)
            if len(jobs) == 1:
                jobs[0].answers.set_exception(error)
                return
            for job in jobs:
                self._serve([job])
