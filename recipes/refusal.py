"""Why a recipe is refused, in one line per mistake: its dotted path, what was wrong, and the nearest valid name."""

import re
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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
    place = _locate(details["loc"], root)
    where, context, given = ".".join(place.path) or "recipe", details.get("ctx", {}), details["input"]
    match details["type"]:
        case "extra_forbidden":
            return _unknown_key(where, place)
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
        case "invalid_key":
            return f"{where}: a key must be a name, such as {', '.join(sorted(place.known))}; found {given!r}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{where}: expected {_section(place)}, found {given!r}"
    return f"{where}: expected {_wanted(details)}, found {given!r}"


def _unknown_key(where: str, place: "_Place") -> str:
    """Point at the nearest key or, where another of several sections has it, at the name of that one."""
    key = place.path[-1]
    owners = sorted(_tag(model) for model in place.passed_over if key in model.model_fields)
    if owners and place.chosen is not None:
        flag = f" (--{place.path[0]} {owners[0]})" if len(place.path) == 2 else ""
        return f"{where}: unknown key for {_tag(place.chosen)}; it is a setting of {', '.join(owners)}{flag}"
    return f"{where}: unknown key{_valid(key, place.known)}"


def _section(place: "_Place") -> str:
    """Say what a section looks like: a name, where a bare name stands for one, and its keys."""
    if place.tags:
        return f"keys with values, or a name alone ({', '.join(place.tags)})"
    keys = f"keys with values ({', '.join(place.inside)})" if place.inside else "keys with values"
    return f"a name, or {keys}" if "name" in place.inside else keys


def _wanted(details: ErrorDetails) -> str:
    """Say what a value should have been, in the words of recipe files."""
    kind = details["type"]
    if kind in ("tuple_type", "list_type"):
        return "a list such as `[a, b]`"
    if kind == "path_type":
        return "a path"
    if kind in ("int_type", "int_parsing", "int_from_float"):
        return "an integer"
    if kind in ("float_type", "float_parsing"):
        return "a number"
    if kind in ("bool_type", "bool_parsing"):
        return "true or false"
    message = re.sub(r"^(Input|Tuple|List|String) should (be|have) ", "", details["msg"]).removeprefix("a valid ")
    return re.sub(r" after validation, not (\d+)$", "", message)


@dataclass(frozen=True)
class _Place:
    """Where in a recipe a mistake is.

    Attributes:
        path: The path, as its parts.
        known: Field names that are valid at its last part.
        inside: Field names of the section that the last part holds, if it holds one section.
        tags: Names that stand for the section, where it is one of several or has a name.
        chosen: The section, of several, that holds the last part.
        passed_over: The others of those.
    """

    path: list[str]
    known: set[str]
    inside: list[str]
    tags: list[str]
    chosen: type[BaseModel] | None
    passed_over: tuple[type[BaseModel], ...]


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """The names that pick a model out of a union; none for a model that is no part of one."""
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _tag(model: type[BaseModel]) -> str:
    return "/".join(map(str, _tags(model)))


def _locate(location: tuple[int | str, ...], root: type[BaseModel]) -> _Place:
    """Follow an error's location from the root, leaving out the tags that pydantic adds for the branches of a union."""
    path: list[str] = []
    models: tuple[type[BaseModel], ...] = (root,)
    known: set[str] = set(root.model_fields)
    chosen: type[BaseModel] | None = None
    passed_over: tuple[type[BaseModel], ...] = ()
    for position, key in enumerate(location):
        tagged = tuple(model for model in models if key in _tags(model))
        if tagged and (len(models) > 1 or position + 1 < len(location)):  # it picks the branch; no part of the path
            passed_over = tuple(model for model in models if model not in tagged)
            models, chosen = tagged, tagged[0]
            continue
        if key == "[key]":  # pydantic's mark for a key that is no string
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
    inside = list(models[0].model_fields) if len(models) == 1 else []
    return _Place(path, known, inside, [_tag(model) for model in models if _tag(model)], chosen, passed_over)
