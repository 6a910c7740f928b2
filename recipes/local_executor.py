"""Workers on this machine: processes with cores, or a GPU, of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from graft.recipes.execution import Crew, Job, Outcome, WorkerLostError
from graft.recipes.solitary import LAUNCHER

_PATIENCE = 10.0
"""Seconds that a process has to end by itself."""


def open_crew(count: int | None, threads: int, device: str, logs: Path) -> Crew:
    """Prepare workers; each starts with its first job.

    Args:
        count: How many; none means one for every `threads` cores, or one for every GPU.
        threads: Of each run.
        device: Where runs compute.
        logs: Folder for what the workers print.
    """
    gpus = _gpus() if device == "cuda" else 0
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    total = len(cores) or os.cpu_count() or 1
    count = count or (gpus if device == "cuda" else 1 if device != "cpu" else max(1, total // threads))
    shares = [cores[number * threads : (number + 1) * threads] for number in range(count)]
    pinned = device == "cpu" and all(len(share) == threads for share in shares)
    logs.mkdir(parents=True, exist_ok=True)
    return Crew(
        [
            LocalWorker(
                logs / f"worker-{number}.log",
                cores=shares[number] if pinned else [],
                environment={"OMP_NUM_THREADS": str(threads)}
                | ({"CUDA_VISIBLE_DEVICES": _visible(number % gpus)} if gpus else {}),
            )
            for number in range(count)
        ]
    )


class LocalWorker:
    """A process that is asked through its standard input."""

    def __init__(self, log: Path, cores: Sequence[int], environment: dict[str, str]) -> None:
        """Prepare.

        Args:
            log: What the process prints.
            cores: Where it may run; none means anywhere.
            environment: Variables of its own.
        """
        inherited = {key: value for key, value in os.environ.items() if key not in LAUNCHER}
        self._log, self._cores, self._environment = log, set(cores), inherited | environment
        self._process: subprocess.Popen[str] | None = None

    def carry_out(self, job: Job) -> Outcome:
        """Do a job; see `graft.recipes.execution.Worker`."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(job.to_json() + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:
            answer = ""
        if not answer.endswith("\n"):
            self._process = None
            raise WorkerLostError(self._last_words(_end(process)))
        return Outcome.from_json(answer)

    def stop(self) -> None:
        """Ask the job to stop; a process that is just starting, or waiting, ends."""
        if (process := self._process) is not None:
            process.terminate()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "graft.recipes.worker"]
        # A session of its own: Ctrl-C reaches the comparison alone, which then asks the workers to stop.
        with self._log.open("w") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._environment,
                start_new_session=True,
            )
        if self._cores:
            os.sched_setaffinity(process.pid, self._cores)
        return process

    def _last_words(self, code: int) -> str:
        words = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        if code == -9:
            return "killed (signal 9), most likely for lack of memory; use fewer --workers, or lower budget.tokens"
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"it ended with {how}{f': {words[0]}' if words else ''} (see {self._log})"


def _end(process: "subprocess.Popen[str]") -> int:
    """Close a process's input, wait for its end, and make one."""
    try:
        process.communicate(timeout=_PATIENCE)
    except (subprocess.TimeoutExpired, ValueError, OSError):
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None and not stream.closed:
            stream.close()
    return process.returncode


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _visible(number: int) -> str:
    """The name of a GPU, out of those that this process may see."""
    allowed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return allowed[number] if allowed else str(number)
