"""`graft serve`: a run as a small HTTP service, until it is told to stop."""

import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from graft.errors import GraftError
from graft.recipes import launch
from graft.recipes.inventory import print_json, write_out
from graft.recipes.serving_limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from graft.recipes.run import LoadedRun

log = logging.getLogger(__name__)

_GRACE = 30
"""Seconds that requests under way have to finish in, once the service is told to stop."""


@dataclass(frozen=True)
class Request:
    """What to serve.

    Attributes:
        run: The run folder, or a repository's name on the Hub.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        max_batch: Examples of a request, at most.
        max_bytes: Bytes of a request, at most.
        max_waiting: Examples that wait for the model, at most.
        wait_ms: Milliseconds that a request waits for others to share its batch.
        check: Answer one example without listening, and stop.
    """

    run: str | Path
    host: str = "127.0.0.1"
    port: int = 8000
    max_batch: int = Limits.batch
    max_bytes: int = Limits.size
    max_waiting: int = Limits.waiting
    wait_ms: float = Limits.patience * 1000
    check: bool = False


def main(request: Request) -> int:
    """Serve until SIGTERM or Ctrl-C; the only line on stdout is `serving: <address>`, once requests are taken.

    Returns:
        The exit code, as `graft.recipes.launch.main`; 0 after SIGTERM.
    """

    def action() -> None:
        launch.log_to_stderr(quiet=False)
        _require_packages()
        from graft.recipes.inference import ready
        from graft.recipes.serving_app import create_app

        limits = Limits(
            batch=request.max_batch,
            size=request.max_bytes,
            waiting=request.max_waiting,
            patience=request.wait_ms / 1000,
        )
        if request.check:
            _check(ready(request.run))
            return
        with _listening(request.host, request.port) as listener:  # a port in use is told before the model is loaded
            _serve(create_app(ready(request.run), limits), listener)

    return launch.guarded(action, after_interruption="requests under way were answered")


def _require_packages() -> None:
    """Refuse where the extra is not installed.

    Raises:
        GraftError: As the name says.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise GraftError(f'serving needs {error.name}; install it with: pip install "graft-nlp[serve]"') from error


def _check(loaded: "LoadedRun") -> None:
    """Ask a served run for one example, and print the question and the answer."""
    from fastapi.testclient import TestClient

    from graft.recipes.serving_app import create_app

    example = {"text": "One.", "text_pair": "Another."} if len(loaded.columns) == 2 else "One."
    with TestClient(create_app(loaded)) as client:
        answered = client.post("/predict", json={"inputs": example})
        health = client.get("/health").json()
    print_json(health | {"inputs": example, "answer": answered.json()})


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Take a port.

    Raises:
        GraftError: The address is none of this machine's, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it each answer takes 40 ms longer.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise GraftError(f"--host {host} --port {port}: {reason}; choose another") from error
        yield listener


def _serve(app: "FastAPI", listener: socket.socket) -> None:
    """Answer requests until a signal says to stop, and what is under way then, too."""
    import uvicorn

    class Server(uvicorn.Server):
        """Says when it takes requests, and ends well on SIGTERM."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            host, port = listener.getsockname()[:2]
            write_out(f"serving: http://{f'[{host}]' if ':' in host else host}:{port}\n")

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if sig == signal.SIGTERM:
                self.should_exit = True  # uvicorn's own way ends the process by the signal, which is no success
            else:
                super().handle_exit(sig, frame)

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE)
    Server(config).run([listener])
