"""Compare mixed batches of several LoRA runs with a pass for each run, for the table in docs/adapters.md.

    python scripts/several_speed.py --data GLUE [--rounds 7] [--threads 1]

MiniLM is adapted to four tasks of single sentences or pairs by LoRA on all linear layers, for a few steps, since
weights do not change speed. Both ways serve the same texts in this one process by turns; tokenising is part of both.
Processor time counts.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from measuring import train_apart
from page_parts import machine

from graft import load
from graft.recipes.several import LoadedRuns

TASKS = ("sst2", "mrpc", "cola", "rte")
FEW = ["--train-size", "64", "--schedule.steps", "2", "--threads", "1"]
COUNTS = (8, 32, 256)
TOLERANCE = 1e-5
HEADER = (
    "| adapters | texts in a call | mixed, texts per second | grouped | mixed over grouped | largest difference |\n"
    "|---|---|---|---|---|---|\n"
)


def prepare(data: Path, work: Path) -> dict[str, Path]:
    """Train, unless that was done; give each task's run folder."""
    folders = {}
    for task in TASKS:
        flags = ["--task", task, "--model", "minilm", "--method", "lora", "--data", str(data), *FEW]
        train_apart(flags, "final", work / "runs")
        (folders[task],) = (work / "runs").glob(f"{task}-*")
    return folders


def texts_of(data: Path, runs: LoadedRuns, count: int) -> tuple[list[Any], list[str]]:
    """So many texts, the runs taking turns, and the run of each."""
    names = [list(runs.runs)[number % len(runs.runs)] for number in range(count)]
    rows = {}
    for name, run in runs.runs.items():
        table = pyarrow.parquet.read_table(data / name / "validation.parquet")
        columns = [table.column(column).to_pylist() for column in run.columns]
        rows[name] = iter([row if len(row) > 1 else row[0] for row in zip(*columns, strict=True)] * 8)
    return [next(rows[name]) for name in names], names


def seconds(runs: LoadedRuns, texts: list[Any], names: list[str], *, mixed: bool, repeats: int) -> float:
    """Of the processor, for serving all texts once."""
    start = time.process_time()
    for _ in range(repeats):
        runs.predict(texts, names, mixed=mixed)
    return (time.process_time() - start) / repeats


def row(data: Path, folders: dict[str, Path], adapters: int, count: int, rounds: int) -> str:
    """Measure one line of the table."""
    runs = load({task: folders[task] for task in TASKS[:adapters]})
    texts, names = texts_of(data, runs, count)
    together, apart = (runs.logits(texts, names, mixed=mixed) for mixed in (True, False))
    largest = max(float((one - other).abs().max()) for one, other in zip(together, apart, strict=True))
    if largest > TOLERANCE:
        raise SystemExit(f"a logit of a mixed batch differs by {largest:.2g}")
    repeats = max(1, 32 // count)
    found = [
        [seconds(runs, texts, names, mixed=mixed, repeats=repeats) for mixed in (True, False)] for _ in range(rounds)
    ]
    ratios = sorted(grouped / mixed for mixed, grouped in found)
    rates = [count / statistics.median(values) for values in zip(*found, strict=True)]
    return (
        f"| {adapters} | {count} | {rates[0]:,.0f} | {rates[1]:,.0f} | {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}) | {largest:.1g} |"
    )


def memory(folders: dict[str, Path]) -> str:
    """Say how much the weights take."""
    together = load(folders).held_bytes
    apart = sum(load({task: folder}).held_bytes for task, folder in folders.items())
    return (
        f"The weights of {len(folders)} runs take {together / 2**20:.1f} MiB on one base, "
        f"and {apart / 2**20:.1f} MiB in models of their own."
    )


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Folder with a folder for each GLUE task.")
    parser.add_argument("--work", type=Path, default=Path("runs") / "several-speed", help="Where runs go.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    folders = prepare(asked.data, asked.work)
    setting = (
        f"MiniLM, LoRA of rank 8 on all linear layers, fp32, {machine(asked.threads)}. Medians of {asked.rounds} "
        f"rounds by turns, with the extremes of the ratio. {memory(folders)}"
    )
    sys.stdout.write(HEADER)
    for adapters in (2, 4):
        for count in COUNTS:
            sys.stdout.write(f"{row(asked.data, folders, adapters, count, asked.rounds)}\n")
            sys.stdout.flush()
    sys.stdout.write(f"\n{setting}\n")


if __name__ == "__main__":
    main()
