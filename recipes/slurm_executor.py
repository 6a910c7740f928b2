"""Workers on a SLURM cluster: a job of its own for every run, through submitit."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import RunError
from graft.recipes.execution import Crew, Job, Outcome, WorkerLostError

_SHARED = ("name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Parameters that submitit names alike for every kind of cluster; those of SLURM alone it wants prefixed."""

MOST = 32
"""Jobs in the queue at a time, where nothing else is said."""


def open_crew(count: int | None, threads: int, device: str, settings: Mapping[str, str | int], logs: Path) -> Crew:
    """Prepare to submit.

    Args:
        count: Most jobs at a time.
        threads: Of each run.
        device: Where runs compute.
        settings: Parameters as submitit names them, such as `partition` or `timeout_min`; `cluster: local` tries it
            out without SLURM.
        logs: Folder for what jobs print, which all machines see.

    Raises:
        RunError: submitit is not installed, this is no SLURM machine, or it knows no such parameter.
    """
    submitter = make_submitter(threads, device, settings, logs)
    return Crew([SlurmWorker(submitter) for _ in range(count or MOST)])


def make_submitter(threads: int, device: str, settings: Mapping[str, str | int], logs: Path) -> Any:
    """Make submitit's executor; arguments and errors as for `open_crew`."""
    try:
        import submitit
    except ImportError as error:
        raise RunError("--executor slurm: submitit is not installed; pip install 'graft-nlp[slurm]'") from error
    wanted: dict[str, Any] = {"name": "graft", "cpus_per_task": threads, "timeout_min": 24 * 60}
    wanted |= {"gpus_per_node": 1} if device == "cuda" else {}
    wanted |= {
        key if key in _SHARED or key.startswith("slurm_") else f"slurm_{key}": value
        for key, value in settings.items()
        if key != "cluster"
    }
    try:
        submitter = submitit.AutoExecutor(folder=logs, cluster=str(settings.get("cluster", "slurm")))
        submitter.update_parameters(**wanted)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        raise RunError(f"--executor slurm: {error}") from error
    return submitter


class SlurmWorker:
    """Submits one job at a time and waits for it."""

    def __init__(self, submitter: Any) -> None:
        """Use submitit's executor."""
        self._submitter = submitter
        self._job: Any = None

    def carry_out(self, job: Job) -> Outcome:
        """Do a job; see `graft.recipes.execution.Worker`."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        self._job = self._submitter.submit(answer, job.to_json())
        try:
            return Outcome.from_json(self._job.result())
        except (FailedJobError, UncompletedJobError) as error:
            raise WorkerLostError(" ".join(str(error).split())[:500]) from error

    def stop(self) -> None:
        """Cancel the job: SLURM asks it to end, and it writes a checkpoint first."""
        if self._job is not None:
            with contextlib.suppress(Exception):
                self._job.cancel()

    def close(self) -> None:
        """Nothing outlives its job."""


def answer(text: str) -> str:
    """Do one job in a process that ends with it; see `graft.recipes.worker.Carrier.answer`."""
    from graft.recipes.worker import Carrier

    return Carrier().answer(text)
