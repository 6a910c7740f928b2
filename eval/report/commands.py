"""Commands that make the runs again, read off their records."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from graft.eval.report.sources import Material

_NAMED = ("task", "model", "method", "strategy")
"""Sections whose name has a flag of the section's own."""


def commands(material: Material) -> str:
    """Write a shell script that trains every final run again and judges them.

    Settings that all runs share stand once, in an array; what is left is a line per method and task, over its seeds.

    Returns:
        Text for bash; empty where no record can be read.
    """
    recipes: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    seeds: dict[tuple[str, str, str], list[int]] = {}
    for result in material.comparison.results:
        found = [material.records[run] for run in result.runs if run in material.records]
        if found and not _further_split(result.task, found[0].recipe):
            key = (result.task, result.model, result.method)
            recipes[key] = dict(flags({name: value for name, value in found[0].recipe.items() if name != "seed"}))
            seeds[key] = [int(record.recipe["seed"]) for record in found]
    if not recipes:
        return ""
    first, *others = recipes.values()
    shared = [name for name, value in first.items() if all(other.get(name) == value for other in others)]
    lines = ["shared=(", *(f"  {_flag(name, first[name])}" for name in shared), ")"]
    for key, recipe in recipes.items():
        own = " ".join(_flag(name, value) for name, value in recipe.items() if name not in shared)
        lines += [
            "",
            f"for seed in {' '.join(map(str, seeds[key]))}; do",
            f'  graft train "${{shared[@]}}" {own}{" " if own else ""}--seed=$seed --out=runs',
            "done",
        ]
    return "\n".join([*lines, "", f"graft verdict runs {_verdict(material)}", ""])


def flags(recipe: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Spell a canonical recipe as flags: name → value, as `graft train` reads them back."""
    found: list[tuple[str, str]] = []
    for key, value in recipe.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found += flags(value, f"{path}.")
        else:
            found.append(
                (path.removesuffix(".name") if path in {f"{name}.name" for name in _NAMED} else path, _value(value))
            )
    return found


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        plain = all(isinstance(part, str) and part and not {*part} & set(',[]{}"\n') for part in value)
        return ",".join(value) if plain and value else json.dumps(value, ensure_ascii=False)
    return repr(value) if isinstance(value, float) else str(value)


def _flag(name: str, value: str) -> str:
    return f"--{name}={shlex.quote(value)}"


def _further_split(task: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a result is about another split of runs that are listed already."""
    return task != str(recipe["task"]["name"])


def _verdict(material: Material) -> str:
    protocol = material.comparison.protocol
    margin = [] if protocol.margin is None else [f"--margin {protocol.margin:g}"]
    return " ".join([*margin, f"--alpha {protocol.alpha:g}", f"--reference {shlex.quote(protocol.reference)}"])
