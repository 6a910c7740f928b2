"""Measure full fine-tuning and LoRA on four GLUE tasks under one protocol, and write docs/results.md from the records.

    python scripts/results.py --data FOLDER [--workers 2] [--seeds 1,2,3]
    python scripts/results.py --write-only

Every method gets the same trials, examples, steps and seeds. The learning rate is chosen on the holdout, by the
trials alone; the validation split is scored once per final run. Runs that are there already are reused, so an
interrupted measurement goes on where it was.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graft.eval.records import RunRecord, read_record

ROOT = Path(__file__).resolve().parent.parent
# The same for both methods; CoLA takes longest to learn anything.
TASKS: dict[str, dict[str, str]] = {
    "mrpc": {"schedule.epochs": "5"},
    "cola": {"schedule.epochs": "7"},
    "stsb": {"schedule.epochs": "4"},
    "sst2": {"schedule.epochs": "3", "task.train_size": "10000"},
}
# A factor of two apart, ten times higher for LoRA (Schulman et al. 2025, "LoRA without regret").
GRID = {"full": ("5e-5", "1e-4"), "lora": ("5e-4", "1e-3")}
TRIAL_SEED = "1"
FLOORS = {
    ("mrpc", "lora"): 87.0,
    ("mrpc", "full"): 86.5,
    ("cola", "lora"): 25.0,
    ("cola", "full"): 30.0,
    ("stsb", "lora"): 86.5,
    ("stsb", "full"): 86.0,
    ("sst2", "lora"): 86.0,
    ("sst2", "full"): 86.5,
}


def train(task: str, method: str, rate: str, seed: str, kind: str, arguments: argparse.Namespace) -> RunRecord:
    """Make one run, in a process of its own, or read the one that is there."""
    settings = TASKS[task] | {"optim.lr": rate, "seed": seed, "threads": str(arguments.threads)}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    command = [sys.executable, "-m", "graft.recipes.classify", "--task", task, "--model", "minilm", "--method", method]
    command += [
        "--data",
        str(arguments.data),
        "--out",
        str(arguments.out),
        "--kind",
        kind,
        "--resume",
        "--quiet",
        *flags,
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    record = read_record(Path(done.stdout.strip().splitlines()[-1].removeprefix("run: ")))
    split = "holdout" if kind == "trial" else "validation"
    score = record.scores[split][record.primary_metric]
    sys.stderr.write(f"{kind} {task} {method} lr {rate} seed {seed}: {split} {record.primary_metric} {score:.2f}\n")
    return record


def measure(task: str, method: str, arguments: argparse.Namespace) -> None:
    """Try the grid, choose on the holdout, and train the seeds; the chosen trial is one of them."""
    trials = {rate: train(task, method, rate, TRIAL_SEED, "trial", arguments) for rate in GRID[method]}
    chosen = max(trials, key=lambda rate: trials[rate].scores["holdout"][trials[rate].primary_metric])
    for seed in arguments.seeds.split(","):
        train(task, method, chosen, seed, "final", arguments)


def cells(out: Path) -> tuple[dict[tuple[str, str], list[RunRecord]], dict[tuple[str, str], list[RunRecord]]]:
    """Gather trials and final runs by task and method."""
    trials: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    finals: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for page in sorted(out.glob("*/record.json")):
        record = read_record(page.parent)
        cell = record.recipe["task"]["name"], record.recipe["method"]["name"]
        if str(record.recipe["seed"]) == TRIAL_SEED:  # the chosen trial has become final since
            trials[cell].append(record)
        if record.kind == "final":
            finals[cell].append(record)
    return trials, finals


def report(out: Path) -> str:
    """Write the page."""
    trials, finals = cells(out)
    lines = [
        "# Results",
        "",
        "Written by `scripts/results.py` from the run records. MiniLM (all-MiniLM-L6-v2, 22.7 M parameters),",
        "validation split, mean over seeds (± standard deviation over seeds; not an interval). The learning rate was",
        "chosen on the holdout (10 % of the training examples, never trained on) from two values per method, one",
        "trial each; the validation split was scored once per final run. Floors are what the project asks of itself.",
        "",
        "| task | metric | method | score | floor | seeds | learning rate | steps | trainable | less head | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, method), floor in FLOORS.items():
        records = sorted(finals.get((task, method), []), key=lambda record: record.recipe["seed"])
        if not records:
            lines.append(f"| {task} | | {method} | not measured | {floor} | | | | | | |")
            continue
        metric = records[0].primary_metric
        scores = [record.scores["validation"][metric] for record in records]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        lines.append(
            f"| {task} | {metric} | {method} | **{statistics.mean(scores):.1f}**{spread} | {floor} "
            f"| {', '.join(f'{score:.1f}' for score in scores)} | {records[0].recipe['optim']['lr']:g} "
            f"| {records[0].steps} | {records[0].parameters.trainable:,} "
            f"| {records[0].parameters.trainable_without_head:,} "
            f"| {statistics.median(record.train_seconds for record in records):.0f} |"
        )
    lines += ["", "## Trials", "", "| task | method | learning rate | holdout |", "|---|---|---|---|"]
    for (task, method), records in sorted(trials.items()):
        for record in sorted(records, key=lambda record: record.recipe["optim"]["lr"]):
            score = record.scores["holdout"][record.primary_metric]
            lines.append(f"| {task} | {method} | {record.recipe['optim']['lr']:g} | {score:.1f} |")
    some = next(iter(finals.values()), [])
    if some:
        versions = ", ".join(f"{name} {version}" for name, version in some[0].versions.items())
        hardware = some[0].hardware
        lines += [
            "",
            "## Where",
            "",
            (
                f"{hardware['device']} ({hardware['cpu_capability']}), {hardware['threads']} thread(s) a run, "
                f"{some[0].recipe['precision']}; seconds are those of runs side by side on a shared machine, so only "
                f"their order of magnitude counts. {versions}."
            ),
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder with GLUE tasks as <task>/train.parquet and validation.parquet"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "results")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument("--write-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.write_only:
        with ThreadPoolExecutor(arguments.workers) as pool:
            jobs = [pool.submit(measure, task, method, arguments) for task, method in FLOORS]
            for job in jobs:
                job.result()
    (ROOT / "docs" / "results.md").write_text(report(arguments.out))
    sys.stderr.write(json.dumps({"written": "docs/results.md"}) + "\n")


if __name__ == "__main__":
    main()
