"""Suggesting the name that was meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause that names the nearest valid name, to put behind what was wrong.

    Args:
        name: What was given.
        valid: The names that exist.

    Returns:
        Such as " (did you mean 'mrpc'?)", or nothing where no name is near.
    """
    matches = difflib.get_close_matches(name.lower(), list(valid), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
