"""Flags for a recipe: `--method lora --method.r 8`, `--recipe FILE.yaml`, and the options of a run.

argparse reads them, from a parser that is made out of the recipe's own fields; pydantic turns their text into values.
jsonargparse, pydantic-settings and tyro were tried: each spells a choice of method in a form of its own and refuses
`--task mrpc --method lora`, and none drops the settings of the file's method when a flag names another.
"""

import argparse
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from graft.errors import RecipeError, nearest
from graft.recipes.options import RunOptions
from graft.recipes.recipe import Recipe, from_mapping, read_yaml
from graft.recipes.refusal import branches, explain

_SHORT = {"data": "task.data", "train-size": "task.train_size"}
"""Flags for what is asked for so often that its section goes without saying."""

EXAMPLE = "--task mrpc --model minilm --method lora --method.r 16 --data DATA"
"""Flags of a run, for the end of the help."""


@dataclass(frozen=True)
class Flag:
    """One flag of the command line.

    Attributes:
        path: The dotted path of the field that it sets; a section's own path stands for its name.
        help: What the field is for, with its default; empty for a flag that is understood but not shown.
        value: What stands for the value in the help.
        many: It takes a list: `a,b`, or YAML.
        switch: It is true when it stands alone.
        choices: All its values, where they can be listed.
    """

    path: str
    help: str
    value: str = "NAME"
    many: bool = False
    switch: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """What a command line asks for."""

    recipe: Recipe
    options: RunOptions


@dataclass(frozen=True)
class Given:
    """What stands on a command line.

    Attributes:
        file: The recipe file that it names.
        overrides: Nested keys and values of what is done, in short or full form.
        options: Values by field of how it is carried out.
    """

    file: Path | None
    overrides: dict[str, Any]
    options: dict[str, Any]


def parse(
    argv: Sequence[str],
    program: str,
    defaults: Mapping[str, Any] | None = None,
    purpose: str = "Adapt a checkpoint to a task.",
    example: str = EXAMPLE,
    options: type[RunOptions] = RunOptions,
) -> Command:
    """Read the flags of a training command.

    Later sources win: defaults, then the file that `--recipe` names, then flags.

    Args:
        argv: Arguments, without the program's name.
        program: What the user typed to get here, for `--help`.
        defaults: Nested keys and values of a recipe that this program starts from.
        purpose: What the program does, for `--help`.
        example: Flags that work, for the end of `--help`.
        options: What else the program takes.

    Raises:
        RecipeError: A flag is unknown, or a value is refused.
        SystemExit: After `--help`.
    """
    given = read(argv, program, recipe_flags(), options_of(options), purpose=purpose, example=example)
    file = given.file
    recipe = merge(_named(merge(defaults or {}, read_yaml(file) if file else {})), given.overrides)
    try:
        return Command(from_mapping(recipe), options.model_validate(given.options))
    except ValidationError as error:
        raise RecipeError(explain(error, options)) from None
    except RecipeError as error:
        where = f"{file}, with the flags: " if given.overrides else f"{file}: "
        raise RecipeError(f"{where if file else ''}{error}") from None


def read(
    argv: Sequence[str],
    program: str,
    flags: Mapping[str, Flag],
    options: Mapping[str, Flag],
    *,
    purpose: str,
    example: str,
) -> Given:
    """Read a command line, as far as flags alone tell what its values are.

    Args:
        argv: Arguments, without the program's name.
        program: What the user typed to get here, for `--help`.
        flags: Flags of what is done, by name.
        options: Flags of how it is carried out, by name.
        purpose: What the program does, for `--help`.
        example: Flags that work, for the end of `--help`.

    Raises:
        RecipeError: A flag is unknown or empty.
        SystemExit: After `--help`.
    """
    given = _read(argv, _parser(program, purpose, example, flags, options), {*flags, *options})
    file = given.pop("recipe", None)
    chosen: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for name, text in given.items():
        if name in options:
            chosen[options[name].path] = _value(text, options[name])
        else:
            overrides = merge(overrides, _nested(flags[name].path, _value(text, flags[name])))
    return Given(Path(file) if file else None, overrides, chosen)


def _named(recipe: dict[str, Any]) -> dict[str, Any]:
    """Say the default names that a recipe left unsaid, so that a flag which names another drops their settings."""
    filled = dict(recipe)
    for key, value in recipe.items():
        if len(_sections(Recipe, key)) > 1 and isinstance(value, Mapping):
            default = Recipe.model_fields[key].get_default(call_default_factory=True)
            filled[key] = {"name": default.name, **value}
    return filled


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one recipe over another, both as nested keys and values, in short or full form.

    Where the upper one names another method or strategy, the lower one's settings of it go.
    """
    return _laid_over(under, over, (Recipe,))


def _laid_over(
    under: Mapping[str, Any], over: Mapping[str, Any], models: tuple[type[BaseModel], ...]
) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = tuple(part for model in models for part in _sections(model, key))
        old, new = (_full(side.get(key), below) for side in (under, over))
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
            merged[key] = value
        elif len(below) > 1 and "name" in new and old.get("name", new["name"]) != new["name"]:
            merged[key] = dict(new)
        else:
            merged[key] = _laid_over(old, new, below)
    return merged


def _full(value: Any, models: tuple[type[BaseModel], ...]) -> Any:
    """Expand a bare name where the field holds an object that has one."""
    return {"name": value} if isinstance(value, str) and models else value


def _sections(model: type[BaseModel], key: str) -> tuple[type[BaseModel], ...]:
    """List the models that a field holds one of; none for a plain value or a list."""
    field = model.model_fields.get(key)
    return () if field is None or _is_list(field.annotation) else branches(field.annotation)


def _nested(path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: _nested(rest, value) if rest else value}


def _value(text: str, flag: Flag) -> Any:
    """Read a flag's text as far as pydantic cannot: YAML in brackets, lists with commas, and `null`."""
    if not text.strip() and not flag.many:
        raise RecipeError(f"--{flag.path}: is empty; give it a value, or leave it out for the default")
    if text == "null":
        return None
    if text[:1] in ("[", "{"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--{flag.path}: {text!r} begins like YAML, but is none: {error}") from None
    if not flag.many:
        return text
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(parts):
        raise RecipeError(f"--{flag.path}: {text!r} has an empty part between its commas")
    return parts


def recipe_flags() -> dict[str, Flag]:
    """Flags for the fields of a recipe, by name."""
    flags = flags_of(Recipe)
    return flags | {short: replace(flags[path], help=f"Short for --{path}.") for short, path in _SHORT.items()}


def flags_of(model: type[BaseModel]) -> dict[str, Flag]:
    """Flags for the fields of a model, by dotted path."""
    return {flag.path: flag for flag in _flags(model, "")}


def options_of(model: type[BaseModel]) -> dict[str, Flag]:
    """Flags for the fields of a model without sections, by name, written with dashes."""
    return {path.replace("_", "-"): flag for path, flag in flags_of(model).items()}


def _flags(model: type[BaseModel], prefix: str) -> Iterator[Flag]:
    """List the flags of a model, sections in the order of its fields."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        description = " ".join((field.description or "").split())
        default = field.get_default(call_default_factory=True)
        sections = _sections(model, name)
        if sections and "name" in sections[0].model_fields:
            tags = [tag for section in sections for tag in _choices(section.model_fields["name"].annotation)]
            value = "{" + ",".join(tags) + "}" if tags else "NAME"
            yield Flag(path, f"{description} Default: {default.name}.", value, choices=tuple(tags))
            yield Flag(f"{path}.name", "", choices=tuple(tags))  # the long form of the flag above
        elif not sections:
            shown = "" if default in (None, (), {}, PydanticUndefined) else f" Default: {_shown(default)}."
            many, switch = _is_list(field.annotation), isinstance(default, bool)
            choices = _choices(field.annotation)
            yield Flag(path, description + shown, _placeholder(field.annotation), many, switch, choices)
        yield from _merged(sections, path)


def _merged(sections: Sequence[type[BaseModel]], prefix: str) -> Iterator[Flag]:
    """List the flags of a section; where it is one of several models, a flag says whose it is."""
    found: dict[str, dict[str, Flag]] = {}
    for section in sections:
        tag = ",".join(_choices(section.model_fields["name"].annotation)) if len(sections) > 1 else ""
        for flag in _flags(section, f"{prefix}."):
            if flag.path != f"{prefix}.name":
                found.setdefault(flag.path, {})[tag] = flag
    for flags in found.values():
        owners: dict[str, list[str]] = {}
        for tag, flag in flags.items():
            owners.setdefault(flag.help, []).append(tag)
        texts = (f"[{', '.join(tags)}] {text}" if any(tags) else text for text, tags in owners.items())
        yield replace(next(iter(flags.values())), help=" ".join(texts))


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _placeholder(annotation: Any) -> str:
    """Say what a value looks like: its choices, or its type."""
    if choices := _choices(annotation):
        return "{" + ",".join(choices) + "}"
    names = {int: "INT", float: "FLOAT", bool: "BOOL", Path: "PATH"}
    return "A,B" if _is_list(annotation) else names.get(_plain(annotation), "TEXT")


def _plain(annotation: Any) -> Any:
    """Look through `Annotated` and `... | None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return _plain(parts[0]) if len(parts) == 1 else annotation
    return annotation


def _is_list(annotation: Any) -> bool:
    return get_origin(_plain(annotation)) is tuple


def _choices(annotation: Any) -> tuple[str, ...]:
    plain = _plain(annotation)
    return tuple(str(choice) for choice in get_args(plain)) if get_origin(plain) is Literal else ()


class _Parser(argparse.ArgumentParser):
    """argparse, except that a mistake raises instead of printing and leaving."""

    def error(self, message: str) -> NoReturn:
        raise RecipeError(f"{message}; see {self.prog} --help")


def _parser(
    program: str, purpose: str, example: str, flags: Mapping[str, Flag], options: Mapping[str, Flag]
) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        usage="%(prog)s [--recipe FILE.yaml] [--FIELD VALUE ...]",
        description=f"{purpose}\nFlags override the recipe file; `null` empties a field.",
        epilog=f"example:\n  {program} {example}",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=30, width=min(shutil.get_terminal_size().columns, 110)
        ),
    )
    running = parser.add_argument_group("the run")
    running.add_argument("--recipe", metavar="FILE", help="A recipe in YAML.")
    for name, flag in options.items():
        _add(running, name, flag)
    sections = [flag.path.partition(".")[0] for flag in flags.values() if "." in flag.path]
    groups = {section: parser.add_argument_group(section) for section in (*dict.fromkeys(sections), "other")}
    for name, flag in flags.items():
        _add(groups.get(flag.path.partition(".")[0], groups["other"]), name, flag)
    return parser


def _add(group: argparse._ArgumentGroup, name: str, flag: Flag) -> None:
    text = flag.help.replace("%", "%%") or argparse.SUPPRESS
    if flag.switch:
        group.add_argument(f"--{name}", dest=name, nargs="?", const="true", metavar="BOOL", help=text)
    else:
        group.add_argument(f"--{name}", dest=name, metavar=flag.value, help=text)


def _read(argv: Sequence[str], parser: argparse.ArgumentParser, known: set[str]) -> dict[str, str]:
    known = known | {"recipe", "help"}
    given, unknown = parser.parse_known_args(_joined_negatives([_underscored(argument) for argument in argv]))
    for argument in unknown:
        if not argument.startswith("--"):
            raise RecipeError(f"{argument!r} belongs to no flag; lists are written with commas: `--task.text a,b`")
        name = argument[2:].partition("=")[0]
        if fields := [f"--{flag}" for flag in sorted(known) if flag.startswith(f"{name}.")]:
            raise RecipeError(f"--{name}: is a section; set one of its fields: {', '.join(fields)}")
        inside = [f"--{flag}" for flag in sorted(known) if flag.endswith(f".{name}")]  # `--lr` for `--optim.lr`
        meant = f" (did you mean {' or '.join(inside)}?)" if inside else nearest(name, known)
        raise RecipeError(f"--{name}: unknown flag{meant or f'; see {parser.prog} --help'}")
    return vars(given)


def _joined_negatives(argv: Sequence[str]) -> list[str]:
    """Let a value begin with a minus and a digit, `--seeds -1,2`, which argparse would take for a flag."""
    joined: list[str] = []
    for argument in argv:
        if re.match(r"-[\d.]", argument) and joined and re.match("--[^=]+$", joined[-1]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _underscored(argument: str) -> str:
    """Let the fields of a section be written with dashes too: `--task.train-size` for `--task.train_size`."""
    if not argument.startswith("--") or "." not in argument.partition("=")[0]:
        return argument
    name, equals, value = argument[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
