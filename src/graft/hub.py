"""The Hugging Face Hub as graft meets it: whether it answers, what its refusals mean, and when to try again.

This module imports nothing of ours, so that every folder may use it.
"""

import contextlib
import logging
import os
import re
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Found = TypeVar("Found")

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that the Hub has to answer."""


OFFLINE = "HF_HUB_OFFLINE is set"
"""The reason where the user says not to ask the Hub."""

TRIES = 4
"""How often a request is made that fails for a reason which may pass."""
LONGEST_WAIT = 120.0
"""Seconds: a Hub that asks for more is not waited for."""
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass by themselves."""
CLIENT_ERRORS = (OSError, ValueError, RuntimeError)
"""What the Hub's client and its storage raise besides HTTP errors: a full disk, a refused file, a broken transfer."""
_TOKEN = re.compile(r"\b(?:hf|api)_[A-Za-z0-9_]{6,}")


@dataclass(frozen=True)
class Failure:
    """Why a request to the Hub failed.

    Attributes:
        status: The HTTP status of the answer; none where there was no answer.
        said: What the Hub said, or what broke, on one line and without tokens.
        wait: Seconds that the Hub asks to wait; none where it does not say.
    """

    status: int | None
    said: str
    wait: float | None = None

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed soon."""
        return self.status is None or self.status in TRANSIENT


def is_repository(name: object) -> bool:
    """Whether something has the form of a repository's name, `user/name`; a `Path` never has."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not by name

    if not isinstance(name, str) or name.count("/") != 1:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def without_tokens(text: str) -> str:
    """Take out of a text, such as a server's answer, whatever is or looks like an access token."""
    from huggingface_hub import get_token

    known = get_token()
    return _TOKEN.sub("[token]", text.replace(known, "[token]") if known else text)


def failure(error: BaseException) -> Failure | None:
    """Say why the Hub's client raised an error, or none where the error is about something else."""
    from huggingface_hub.errors import HfHubHTTPError

    transport = HfHubHTTPError.__bases__[0]  # the class of all errors of the client's HTTP library, whichever that is
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            said = cause.server_message or cause.response.reason_phrase
            return Failure(cause.response.status_code, one_line(said), _asked_to_wait(cause.response.headers))
        if isinstance(cause, transport | ConnectionError | TimeoutError):
            return Failure(None, one_line(str(cause) or type(cause).__name__))
        cause = cause.__cause__
    return None


def one_line(text: str) -> str:
    """Shorten what the Hub or its client says to one line without tokens."""
    return without_tokens(" ".join(text.split()))[:300]


def _asked_to_wait(headers: object) -> float | None:
    """Read `Retry-After`, or else the Hub's own header on rate limits."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # public, but not by name

    asked = headers.get("Retry-After", "").strip()  # type: ignore[attr-defined]  # a mapping of the HTTP library's own
    if asked.isdigit():
        return float(asked)
    limit = parse_ratelimit_headers(headers)  # type: ignore[arg-type]  # as above
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else None


def patiently(request: Callable[[], Found]) -> Found:
    """Make a request, and again while it fails for a reason that may pass: after 1, 2 and 4 seconds, or as it is asked.

    Args:
        request: May be made more than once.

    Returns:
        What it returned.

    Raises:
        Exception: The last error, as the Hub's client raised it; `failure` says what it means.
    """
    for number in range(1, TRIES + 1):
        try:
            return request()
        except Exception as error:
            found = failure(error)
            if found is None or not found.may_pass or number == TRIES:
                raise
            pause = float(2 ** (number - 1)) if found.wait is None else found.wait
            if pause > LONGEST_WAIT:
                raise
            said = f"the Hub answers {found.status}" if found.status else f"no answer from the Hub ({found.said})"
            log.warning("%s; trying again in %g s (%d of %d)", said, pause, number, TRIES - 1)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep this process, and those that it starts, from asking the Hub; what is in its cache is still found."""
    from huggingface_hub import constants

    before, said = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if said is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = said


def silence(address: str, patience: float) -> str | None:
    """Ask why an address does not answer.

    In a thread of its own: looking up a name knows no time limit, and may take a minute where there is no network.

    Args:
        address: The Hub's, `huggingface_hub.constants.ENDPOINT`.
        patience: Seconds to wait.

    Returns:
        The reason, or none if it answers, be it with a refusal or a certificate that only the Hub's client knows.
    """
    reasons: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=patience):  # noqa: S310 (the Hub client's own address)
                reasons.append(None)
        except urllib.error.HTTPError:
            reasons.append(None)
        except OSError as error:
            reason = getattr(error, "reason", error)
            reasons.append(None if isinstance(reason, ssl.SSLError) else str(reason))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience)
    return reasons[0] if reasons else f"no answer within {patience:g} seconds"


def unreachable() -> str | None:
    """Ask why the Hub cannot be used, so that only its local cache is left.

    Returns:
        The reason, or none if it answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return OFFLINE
    reason = silence(constants.ENDPOINT, PATIENCE)
    return f"{constants.ENDPOINT} cannot be reached ({reason})" if reason else None
