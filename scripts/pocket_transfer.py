"""Measure what the pocket suite asks of itself, transfer from pretraining, and write docs/pocket.md from the records.

    python scripts/pocket_transfer.py [--tasks acceptability,sentiment] [--seeds 1,2,3] [--workers 1]
    python scripts/pocket_transfer.py --write-only

Every task is learnt by MiniLM and by a copy of it with random weights. The learning rate is chosen on the holdout, by
one trial per rate; the validation split, whose words no training example has, is scored once per final run. Runs that
are there already are reused.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from graft.adapters.checkpoint import resolve
from graft.adapters.config import ModelConfig
from graft.adapters.methods import METHODS
from graft.eval.pocket import SUITE, generate
from graft.eval.records import RunRecord, read_record
from graft.files import fingerprint, sha256_file

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = "3"
TRIAL_SEED = "1"
LOWEST_GAIN, SATURATED, LARGEST_LEAK = 20.0, 97.0, 8.0
"""Points: what pretraining must add to chance, what it must stay below, how far from chance random weights may be."""


@dataclass(frozen=True)
class System:
    """What is trained.

    Attributes:
        name: What the page calls it.
        method: How it is adapted.
        rates: Learning rates to choose from.
        pretrained: Whether the weights are MiniLM's, or random.
    """

    name: str
    method: str
    rates: tuple[str, ...]
    pretrained: bool = True


SYSTEMS = (
    System("random, full", "full", ("1e-4", "3e-4"), pretrained=False),
    System("MiniLM, full", "full", ("1e-4",)),
    System("MiniLM, LoRA", "lora", ("1e-3",)),
    System("MiniLM, probe", "probe", ("1e-2",)),
)
AVAILABLE = tuple(system for system in SYSTEMS if system.method in METHODS)
Records = dict[tuple[str, str], list[RunRecord]]


def write_tasks(tasks: Sequence[str], folder: Path) -> None:
    """Write the examples where every process of the measurement reads them."""
    for name in tasks:
        row = SUITE[name]
        for part, table in generate(name).items():
            columns = {column: table.values(column) for column in table.columns}
            if row.label_names:
                columns[row.label] = [row.label_names[label] for label in columns[row.label]]
            rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
            file = folder / name / f"{part}.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(json.dumps(values) + "\n" for values in rows), encoding="utf-8")


def runs_folder(task: str, out: Path) -> Path:
    """Where the runs on exactly these examples are, so that a changed generator starts afresh."""
    digests = [sha256_file(file) for file in sorted((out / "data" / task).glob("*.jsonl"))]
    return out / "runs" / f"{task.removeprefix('pocket/')}-{fingerprint(digests)[:12]}"


def write_random_checkpoint(folder: Path) -> None:
    """Save a model of MiniLM's shape and tokenizer with weights as transformers initialises them."""
    if (folder / "model.safetensors").is_file():
        return
    import torch
    from transformers import AutoConfig, AutoModel

    pretrained = resolve(ModelConfig(name="minilm")).path
    folder.mkdir(parents=True, exist_ok=True)
    for file in pretrained.iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, folder)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(pretrained)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


def train(task: str, system: System, rate: str, seed: str, kind: str, arguments: argparse.Namespace) -> RunRecord:
    """Make one run, in a process of its own, or read the one that is there."""
    row = SUITE[task]
    settings = {
        "task": task,
        "task.kind": row.kind,
        "task.text": ",".join(row.text),
        "task.label": row.label,
        "task.metrics": ",".join(row.metrics),
        "data": str(arguments.out / "data" / task),
        "model": "minilm" if system.pretrained else str(arguments.out / "random"),
        "model.pooling": "mean",
        "method": system.method,
        "optim.lr": rate,
        "schedule.epochs": EPOCHS,
        "seed": seed,
        "threads": str(arguments.threads),
        "kind": kind,
        "out": str(runs_folder(task, arguments.out)),
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "graft.recipes.classify", "--resume", "--quiet", *flags]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    record = read_record(Path(done.stdout.strip().splitlines()[-1].removeprefix("run: ")))
    split = "holdout" if kind == "trial" else "validation"
    score = record.scores[split][record.primary_metric]
    sys.stderr.write(f"{kind} {task} {system.name} lr {rate} seed {seed}: {split} {score:.1f}\n")
    return record


def measure(task: str, system: System, arguments: argparse.Namespace) -> None:
    """Choose the rate on the holdout where there is a choice, and train the seeds."""
    chosen = system.rates[0]
    if len(system.rates) > 1:
        trials = {rate: train(task, system, rate, TRIAL_SEED, "trial", arguments) for rate in system.rates}
        chosen = max(trials, key=lambda rate: trials[rate].scores["holdout"][trials[rate].primary_metric])
    for seed in arguments.seeds.split(","):
        train(task, system, chosen, seed, "final", arguments)


def finals(tasks: Sequence[str], out: Path) -> Records:
    """Gather the final runs by task and system."""
    found: Records = defaultdict(list)
    for page in (page for task in tasks for page in sorted(runs_folder(task, out).glob("*/record.json"))):
        record = read_record(page.parent)
        pretrained = record.recipe["model"]["name"] == "minilm"
        for system in SYSTEMS:
            same = (system.pretrained, system.method) == (pretrained, record.recipe["method"]["name"])
            if same and record.kind == "final":
                found[record.recipe["task"]["name"], system.name].append(record)
    return found


def scores_of(records: Sequence[RunRecord]) -> list[float]:
    """The first metric on the validation split, by seed."""
    ordered = sorted(records, key=lambda record: record.recipe["seed"])
    return [record.scores["validation"][record.primary_metric] for record in ordered]


def verdict(task: str, found: Records) -> str:
    """Whether the task holds what the suite promises of it."""
    random, pretrained = (found.get((task, name), []) for name in ("random, full", "MiniLM, full"))
    if not random or not pretrained:
        return "not measured"
    chance, low, high = SUITE[task].chance, scores_of(random), statistics.mean(scores_of(pretrained))
    faults = []
    if max(abs(score - chance) for score in low) > LARGEST_LEAK:
        faults.append("learnt from random weights")
    if high < chance + LOWEST_GAIN:
        faults.append("little transfer")
    if high >= SATURATED:
        faults.append("saturated")
    return ", ".join(faults) or "holds"


def report(tasks: Sequence[str], found: Records) -> str:
    """Write the page."""
    names = [system.name for system in SYSTEMS if any((task, system.name) in found for task in tasks)]
    lines = [
        "# The pocket suite",
        "",
        "Written by `scripts/pocket_transfer.py` from the run records. Validation split, first metric in points:",
        "mean over seeds, then each seed. Asked for: random weights stay within",
        f"{LARGEST_LEAK:g} points of chance for every seed; MiniLM, fully fine-tuned, gets at least {LOWEST_GAIN:g}",
        f"points above chance and stays below {SATURATED:g}.",
        "",
        f"| task | metric | chance | {' | '.join(names)} | verdict |",
        f"|---|---|---|{'---|' * len(names)}---|",
    ]
    for task in tasks:
        row = SUITE[task]
        cells = []
        for name in names:
            scores = scores_of(found.get((task, name), []))
            listed = ", ".join(f"{score:.1f}" for score in scores)
            cells.append(f"**{statistics.mean(scores):.1f}** ({listed})" if scores else "not measured")
        lines.append(f"| {task} | {row.metrics[0]} | {row.chance:.1f} | {' | '.join(cells)} | {verdict(task, found)} |")
    some = next(iter(found.values()), [])
    if some:
        versions = ", ".join(f"{name} {version}" for name, version in some[0].versions.items())
        lines += ["", f"{EPOCHS} epochs, mean pooling, {some[0].recipe['precision']}. {versions}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [name.removeprefix("pocket/") for name in SUITE if "-" not in name]
    parser.add_argument("--tasks", default=",".join(every), help="names without pocket/, separated by commas")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "pocket")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "pocket.md")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--workers", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--write-only", action="store_true")
    arguments = parser.parse_args()
    tasks = [f"pocket/{name}" for name in arguments.tasks.split(",")]
    write_tasks(tasks, arguments.out / "data")
    if not arguments.write_only:
        write_random_checkpoint(arguments.out / "random")
        with ThreadPoolExecutor(arguments.workers) as pool:
            jobs = [pool.submit(measure, task, system, arguments) for system in AVAILABLE for task in tasks]
            for job in jobs:
                job.result()
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(report(tasks, finals(tasks, arguments.out)), encoding="utf-8")
    sys.stderr.write(json.dumps({"written": str(arguments.page)}) + "\n")


if __name__ == "__main__":
    main()
