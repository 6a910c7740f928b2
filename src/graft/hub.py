"""Whether the Hugging Face Hub answers, found out soon: its clients retry for minutes before they say that it does not.

This module imports nothing of ours, so that every folder may use it.
"""

import ssl
import threading
import urllib.error
import urllib.request

PATIENCE = 5.0
"""Seconds that the Hub has to answer."""


OFFLINE = "HF_HUB_OFFLINE is set"
"""The reason where the user says not to ask the Hub."""


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
