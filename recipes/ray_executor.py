"""Workers on a Ray cluster, or on a Ray that is started on this machine."""

import contextlib
import logging
import os
import signal
import socket
import threading
from typing import Any

from graft.errors import RunError
from graft.recipes.execution import ATTEMPTS, Crew, Job, Outcome, WorkerLostError
from graft.recipes.worker import Carrier

_PATIENCE = 10.0
"""Seconds to wait for a cluster's answer."""


def open_crew(count: int | None, threads: int, device: str, address: str | None) -> Crew:
    """Connect, and make actors, each with the processors or the GPU that one run needs.

    Args:
        count: How many; none means as many as the cluster has room for.
        threads: Of each run.
        device: Where runs compute.
        address: Of the cluster; none starts one on this machine.

    Raises:
        RunError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError("--executor ray: Ray is not installed; pip install 'graft-nlp[ray]'") from error
    _check_address(address)
    local: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    if count is not None and address is None:
        local["num_cpus"] = max(count * threads, 1)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray announces to become its default
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"--address {address}: no Ray cluster can be reached there ({error})") from error
    if threading.current_thread() is threading.main_thread():  # Ray would end this process without a word
        signal.signal(signal.SIGTERM, on_termination)
    gpus = 1 if device == "cuda" else 0
    resources: dict[str, float] = ray.cluster_resources()
    room = resources.get("GPU", 0) if gpus else resources.get("CPU", 1) // threads
    return RayCrew([RayWorker(threads, gpus) for _ in range(count or max(1, int(room)))])


def _check_address(address: str | None) -> None:
    """Refuse an address where nobody listens, which Ray itself tries for minutes.

    Raises:
        RunError: As the name says.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return  # `auto`, or none
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise RunError(f"--address {address}: no Ray cluster can be reached there ({error})") from error


class RayCrew(Crew):
    """Workers that leave the cluster when they are closed."""

    def close(self) -> None:
        """End the workers and disconnect."""
        import ray

        super().close()
        ray.shutdown()


class RayWorker:
    """An actor, which Ray starts again where its process or its machine is lost."""

    def __init__(self, threads: int, gpus: int) -> None:
        """Ask for an actor; it starts when there is room."""
        import ray

        self._actor: Any = (
            ray.remote(Carrier)
            .options(
                num_cpus=threads,
                num_gpus=gpus,
                max_restarts=-1,
                max_task_retries=ATTEMPTS - 1,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}},
            )
            .remote()
        )

    def carry_out(self, job: Job) -> Outcome:
        """Do a job; see `graft.recipes.execution.Worker`."""
        import ray
        from ray.exceptions import RayError

        try:
            return Outcome.from_json(ray.get(self._actor.answer.remote(job.to_json())))
        except RayError as error:
            raise WorkerLostError(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error

    def stop(self) -> None:
        """End the actor: Ray cannot ask a running one to stop; the run goes on from its last checkpoint."""
        self.close()

    def close(self) -> None:
        """End the actor."""
        import ray

        with contextlib.suppress(ValueError):  # it is gone already
            ray.kill(self._actor)
