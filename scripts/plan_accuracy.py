"""Compare the peak memory that `graft plan` tells with what runs take, and write docs/plan.md.

    python scripts/plan_accuracy.py [--data FOLDER] [--only TEXT] [--write-only]

Every row is planned, and measured by `graft.recipes.cost.measure` in a process of its own; full fine-tuning and LoRA
are also trained, for 40 steps with evaluations and checkpoints between. Rows that were measured already are kept in
the folder `--out` and not measured again, so an interrupted measurement goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measuring import as_flags, train_apart

from graft.adapters.methods import METHODS
from graft.recipes.cost import measure
from graft.recipes.flags import parse
from graft.recipes.plan import plan
from graft.recipes.recording import versions

ROOT = Path(__file__).resolve().parent.parent
ALIKE = {"model": "minilm", "threads": "1", "schedule.steps": "40", "schedule.evaluate": "15"}
TRAINED = ("full", "lora")
SPECIAL = {
    "gradient checkpointing": {"method": "full", "budget.gradient_checkpointing": "true"},
    "l2sp": {"method": "full", "objective.terms": "l2sp"},
    "64 examples, 16,384 tokens": {"method": "lora", "schedule.examples": "64", "budget.tokens": "16384"},
    "cpu, fp32": {"method": "lora", "device": "cpu", "speed.precision": "fp32"},
}
KINDS = ("runtime", "weights", "gradients", "optimiser", "activations", "reference", "best", "scoring", "saving")
ALLOWED = 0.15


def rows(data: Path | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name each row: method, setting, and the recipe as settings by dotted name."""
    tasks = {"sentiment": {"task": "pocket/sentiment"}}
    if data is not None:
        tasks["mrpc"] = {"task": "mrpc", "data": str(data)}
    for name, task in tasks.items():
        for method in METHODS:
            yield method, name, ALIKE | task | {"method": method}
    name, task = list(tasks.items())[-1]  # the longer texts, where they are there
    for setting, added in SPECIAL.items():
        yield added["method"], f"{name}, {setting}", ALIKE | task | added


def take(method: str, setting: str, settings: dict[str, str], out: Path) -> None:
    """Plan and measure one row, unless that was done."""
    page = out / f"{method} {setting}.json"
    if page.exists():
        return
    flags = as_flags(settings)
    recipe = parse(flags, "plan_accuracy.py").recipe
    planned, alone = plan(recipe), measure(recipe)
    found: dict[str, Any] = {
        "memory": {kind: getattr(planned.memory, kind) for kind in (*KINDS, "workspace", "total")},
        "measured": alone["peak_memory_bytes"],
        "trained": None,
        "seconds_per_step": [planned.seconds_per_step, alone["seconds_per_step"]],
    }
    if setting in ("mrpc", "sentiment") and method in TRAINED:
        found["trained"] = train_apart(flags, "final", out / "runs").peak_memory_bytes
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(json.dumps(found))
    sys.stderr.write(f"{page.stem}: {found}\n")


def line(method: str, setting: str, out: Path) -> str:
    """One line of the table."""
    page = out / f"{method} {setting}.json"
    if not page.exists():
        return f"| {method} | {setting} | not measured |" + " |" * (len(KINDS) + 5)
    found = json.loads(page.read_text())
    memory, trained = found["memory"], found["trained"]
    sizes = [f"{memory[kind] / 2**20:.0f}" for kind in (*KINDS, "workspace", "total")]
    against = [f"{found['measured'] / 2**20:.0f}", _ratio(memory["total"], found["measured"])]
    against += ["", ""] if trained is None else [f"{trained / 2**20:.0f}", _ratio(memory["total"], trained)]
    return f"| {method} | {setting} | {' | '.join([*sizes, *against])} |"


def _ratio(planned: int, measured: int) -> str:
    ratio = planned / measured
    return f"{ratio:.2f}" + ("" if abs(ratio - 1) <= ALLOWED else ", off")


def report(data: Path | None, out: Path) -> str:
    """Write the page."""
    columns = ["method", "setting", *KINDS, "workspace", "planned", "measured", "ratio", "trained", "ratio"]
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# How well a plan tells the peak memory",
        "",
        "Written by `scripts/plan_accuracy.py`. A plan is worth asking for if it tells, before anything is trained,",
        f"what the training then takes; graft asks of it to be within {ALLOWED:.0%}.",
        "",
        "MiniLM (22.7 M parameters), one thread, runs of 40 steps that evaluate every 15; sizes in MiB, of",
        "resident memory on a CPU. *planned* is the total of `graft.recipes.plan.plan`, before it its kinds.",
        "Steps, scoring and saving take turns, so that the total is below the sum. *measured* is the peak that",
        "`graft.recipes.cost.measure` finds in a process of its own: 20 steps, then the run's largest steps and",
        "scorings. *trained* is the peak of a whole run, from its record.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(line(method, setting, out) for method, setting, _ in rows(data)),
        "",
        "A plan rehearses the same things as `measure`, so their agreement says that a process repeats, no more; the",
        "independent witness is *trained*. Workspace is mostly memory that the C library keeps in pieces; it",
        "differs from run to run, and grows a little with more steps than a plan takes.",
        "",
        "## Where",
        "",
        f"{used}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mrpc/train.parquet and validation.parquet")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "plan_accuracy")
    parser.add_argument("--only", default="", help="measure rows whose method and setting have this in them")
    parser.add_argument("--write-only", action="store_true")
    arguments = parser.parse_args()
    for method, setting, settings in rows(arguments.data):
        if not arguments.write_only and arguments.only in f"{method} {setting}":
            take(method, setting, settings, arguments.out)
    (ROOT / "docs" / "plan.md").write_text(report(arguments.data, arguments.out))
    sys.stderr.write("written: docs/plan.md\n")


if __name__ == "__main__":
    main()
