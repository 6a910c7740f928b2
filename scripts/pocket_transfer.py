"""Measure what the pocket suite asks of itself, transfer from pretraining, and write docs/pocket.md from the records.

    python scripts/pocket_transfer.py [--tasks acceptability,sentiment] [--seeds 1,2,3] [--workers 1]
    python scripts/pocket_transfer.py --write-only

Every task is learnt by MiniLM and by a copy of it with random weights. The learning rate is chosen on the holdout, by
one trial per rate; the validation split, whose words no training example has, is scored once per final run. Runs that
are there already are reused.
"""

import argparse
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from measuring import as_flags, train_apart

from graft.adapters.checkpoint import resolve
from graft.adapters.config import ModelConfig
from graft.eval.pocket import SUITE
from graft.eval.records import RECORD, RunRecord, read_record

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
Records = dict[tuple[str, str], list[RunRecord]]


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
    """Make one run, or read the one that is there."""
    settings = {
        "task": task,
        "model": "minilm" if system.pretrained else str(arguments.out / "random"),
        "model.pooling": "mean",
        "method": system.method,
        "optim.lr": rate,
        "schedule.epochs": EPOCHS,
        "seed": seed,
        "threads": str(arguments.threads),
    }
    return train_apart(as_flags(settings), kind, arguments.out / "runs")


def measure(task: str, system: System, arguments: argparse.Namespace) -> None:
    """Choose the rate on the holdout where there is a choice, and train the seeds."""
    chosen = system.rates[0]
    if len(system.rates) > 1:
        trials = {rate: train(task, system, rate, TRIAL_SEED, "trial", arguments) for rate in system.rates}
        chosen = max(trials, key=lambda rate: trials[rate].scores["holdout"][trials[rate].primary_metric])
    for seed in arguments.seeds.split(","):
        train(task, system, chosen, seed, "final", arguments)


def finals(tasks: Sequence[str], out: Path) -> Records:
    """Gather the final runs on these very examples by task and system."""
    found: Records = defaultdict(list)
    versions = {name: SUITE[name].version for name in tasks}
    for record in (read_record(page.parent) for page in sorted((out / "runs").glob(f"*/{RECORD}"))):
        name, pretrained = record.recipe["task"]["name"], record.recipe["model"]["name"] == "minilm"
        if record.kind != "final" or versions.get(name) != record.data.task_version:
            continue
        for system in SYSTEMS:
            if (system.pretrained, system.method) == (pretrained, record.recipe["method"]["name"]):
                found[name, system.name].append(record)
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
        lines += ["", f"{EPOCHS} epochs, mean pooling, {some[0].recipe['speed']['precision']}. {versions}."]
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
    if not arguments.write_only:
        write_random_checkpoint(arguments.out / "random")
        with ThreadPoolExecutor(arguments.workers) as pool:
            jobs = [pool.submit(measure, task, system, arguments) for system in SYSTEMS for task in tasks]
            for job in jobs:
                job.result()
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(report(tasks, finals(tasks, arguments.out)), encoding="utf-8")
    sys.stderr.write(f"written: {arguments.page}\n")


if __name__ == "__main__":
    main()
