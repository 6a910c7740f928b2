"""What graft raises when something outside it is wrong: one family, so that callers catch one class.

Every message says what was wrong, where (file, key or row), and what to do about it. The command line turns a
`GraftError` into that one message and exit code 2; anything else is a bug of ours and keeps its stack trace.
"""

import difflib
from collections.abc import Iterable


class GraftError(Exception):
    """Something the user can put right: a recipe, a file, a checkpoint, a run folder."""


class RecipeError(GraftError):
    """A recipe is refused: an unknown key, a wrong type, or values that cannot go together."""


class DataError(GraftError):
    """A task's data is missing, unreadable, or not what the task's row declares."""


class CheckpointError(GraftError):
    """A pretrained checkpoint is missing, incomplete, unverified or of an unknown family."""


class RunError(GraftError):
    """A run folder is missing, half written, of another recipe, or in use."""


class TrainingError(GraftError):
    """Training cannot go on: a loss that is not finite, or no memory for a single example."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Point at the valid name that a wrong one probably meant, in a clause to put behind the wrong one.

    Args:
        name: What was given.
        valid: The names that exist.

    Returns:
        Such as " (did you mean 'mrpc'?)", or nothing where no name is near.
    """
    matches = difflib.get_close_matches(name.lower(), list(valid), n=1, cutoff=0.55)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
