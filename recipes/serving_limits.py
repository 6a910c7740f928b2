"""What bounds a service, and the refusal of bodies that are too large or too slow before anyone reads them whole."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What bounds a service.

    Attributes:
        batch: Examples of a request, at most.
        size: Bytes of a request's body, at most.
        waiting: Examples that wait for the model, at most.
        patience: Seconds that a request waits for others to share its batch.
        body: Seconds that a client has to send a body.
    """

    batch: int = 256
    size: int = 2**20
    waiting: int = 1024
    patience: float = 0.002
    body: float = 30.0


class BodyLimit:
    """Reads the body of each request up to a limit, and refuses what is larger or does not come.

    Args:
        app: What answers.
        limits: The limits.
        refused: Is told the status of each refusal.
    """

    def __init__(self, app: App, limits: Limits, refused: Callable[[int], None]) -> None:
        self.app = app
        self.limits = limits
        self.refused = refused

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.body):
                body = await self._read(dict(scope["headers"]), receive)
        except TimeoutError:
            await self._refuse(send, 408, f"the body did not come within {self.limits.body:g} seconds")
            return
        if body is None:
            await self._refuse(send, 413, f"the body is larger than {self.limits.size} bytes; send fewer texts at once")
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # that the client left
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
        """The body; none if it is too large."""
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limits.size:
            return None
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.size:
                return None
        return bytes(body)

    async def _refuse(self, send: Send, status: int, detail: str) -> None:
        self.refused(status)
        content = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        headers.append((b"connection", b"close"))  # the rest of the body is not read
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})
