"""A worker: carries jobs out one after the other, and keeps what they share.

`python -m graft.recipes.worker` reads a job a line on standard input and answers with an outcome a line, until the
input ends. Ray and SLURM workers call `Carrier` in processes of their own.
"""

import os
import queue
import signal
import sys
import threading
import time
import traceback

from graft.errors import GraftError
from graft.recipes.execution import Job, Outcome, describe


class Carrier:
    """Carries jobs out in this process."""

    def __init__(self) -> None:
        """Import what all jobs need."""
        from graft.recipes.stock import Stock

        self._stock = Stock()

    def carry_out(self, job: Job) -> Outcome:
        """Do a job; whatever goes wrong is in the outcome, so that other jobs go on."""
        from graft.recipes.calibration import calibrate
        from graft.recipes.options import RunOptions
        from graft.recipes.train import train

        started = time.monotonic()
        failure, interrupted, figures = None, False, {}
        try:
            if job.kind == "calibration":
                figures = calibrate(job.recipe, self._stock)
            else:
                options = RunOptions(
                    out=job.out, kind=job.kind, resume=True, wait=True, measure_cost=job.measure_cost, quiet=True
                )
                train(job.recipe, options=options, stock=self._stock)
        except GraftError as error:
            failure = describe(error)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:  # noqa: BLE001 (a bug in one run must not keep the others from going on)
            traceback.print_exc()
            failure = describe(error)
        return Outcome(failure, interrupted, time.monotonic() - started, figures)

    def answer(self, text: str) -> str:
        """Do a job that is spelled out, and spell its outcome out."""
        return self.carry_out(Job.from_json(text)).to_json()


def main() -> int:
    """Answer on standard output until standard input ends."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever else is printed must not be taken for an answer
        jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        busy = threading.Event()
        threading.Thread(target=_read, args=(jobs, busy), daemon=True).start()
        carrier: Carrier | None = None
        while (line := jobs.get()) is not None:
            busy.set()
            carrier = carrier or Carrier()
            answer = carrier.answer(line)
            busy.clear()
            try:
                answers.write(answer + "\n")
                answers.flush()
            except BrokenPipeError:  # whoever asked is gone
                return 1
    return 0


def _read(jobs: "queue.SimpleQueue[str | None]", busy: threading.Event) -> None:
    """Pass jobs on. When the asking process is gone, stop what is being done, in a state to go on from."""
    for line in sys.stdin:
        jobs.put(line)
    jobs.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
