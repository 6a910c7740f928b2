"""Why a recipe is refused, in one line per mistake: its dotted path, what was wrong, and the nearest valid name."""

import re
import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from graft.errors import nearest


def _valid(wrong: str, valid: Iterable[str]) -> str:
    """Point at the nearest valid name or, where none is near, list them all."""
    names = sorted(valid)
    return nearest(wrong, names) or (f"; valid: {', '.join(names)}" if names else "")


def branches(annotation: Any) -> tuple[type[BaseModel], ...]:
    """List the pydantic models that a type allows, looking through unions, tuples and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) is Annotated:
        return branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return tuple(model for part in get_args(annotation) for model in branches(part))
    return ()


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Say what was wrong with a recipe, one line per mistake.

    Args:
        error: What pydantic found.
        root: The model that was validated, whose fields name what would have been valid.

    Returns:
        Lines such as `optim.lrr: unknown key (did you mean 'lr'?)`.
    """
    return "\n".join(_line(details, root) for details in error.errors(include_url=False))


def _line(details: ErrorDetails, root: type[BaseModel]) -> str:
    path, known = _locate(details["loc"], root)
    where, context, given = ".".join(path) or "recipe", details.get("ctx", {}), details["input"]
    match details["type"]:
        case "extra_forbidden":
            return f"{where}: unknown key{_valid(path[-1], known)}"
        case "union_tag_invalid":
            expected = re.findall(r"'([^']*)'", str(context["expected_tags"]))
            return f"{where}.name: {context['tag']!r} is unknown{_valid(str(context['tag']), expected)}"
        case "union_tag_not_found":
            return f"{where}.name: missing; say which one is meant, as in `{where}: {{name: ...}}`"
        case "literal_error":
            expected = re.findall(r"'([^']*)'", str(context["expected"]))
            return f"{where}: {given!r} is not valid{_valid(str(given), expected)}"
        case "missing":
            return f"{where}: missing; give it a value"
        case "value_error":
            return f"{where}: {context.get('error', details['msg'])}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{where}: expected keys with values, found {given!r}"
    message = details["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where}: expected {message}, found {given!r}"


def _locate(location: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[str], set[str]]:
    """Follow an error's location from the root, leaving out the tags that pydantic adds for the branches of a union.

    Returns:
        The path as its parts, and the field names that are valid at its last part.
    """
    path: list[str] = []
    models: tuple[type[BaseModel], ...] = (root,)
    known: set[str] = set(root.model_fields)
    for position, key in enumerate(location):
        chosen = [m for m in models if "name" in m.model_fields and key in get_args(m.model_fields["name"].annotation)]
        if chosen and position + 1 < len(location):  # a tag: it picks the branch, and is no part of the path
            models = tuple(chosen)
            continue
        path.append(str(key))
        known = {name for model in models for name in model.model_fields}
        if not isinstance(key, int):
            models = tuple(
                model
                for owner in models
                if key in owner.model_fields
                for model in branches(owner.model_fields[key].annotation)
            )
    return path, known
