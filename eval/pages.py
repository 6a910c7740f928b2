"""Pages of JSON with a versioned layout: read back whole, or refused with what to do."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from graft.errors import RunError

Page = TypeVar("Page", bound=BaseModel)


def read_page(path: Path, model: type[Page], schema: int, *, what: str, absent: str, again: str) -> Page:
    """Read a page that graft wrote.

    Args:
        path: The file.
        model: Its layout; the page names the layout's version as `schema`.
        schema: The newest version that can be read.
        what: What the page is, with its article.
        absent: Why there may be none, and what to do.
        again: How to make it again.

    Raises:
        RunError: There is none, it is damaged or something else, or a newer graft wrote it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(f"{path}: not there: {absent}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: damaged ({error}); {again}") from error
    found = value.get("schema") if isinstance(value, dict) else None
    if isinstance(found, int) and found > schema:
        raise RunError(f"{path}: of a newer graft (schema {found}, and this one reads up to {schema}); upgrade graft")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise RunError(f"{path}: not {what}: {where}: {first['msg']}; {again}") from error
