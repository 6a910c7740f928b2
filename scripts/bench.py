"""Train with graft and with what a user would run instead, in turns, and write docs/performance.md.

    python scripts/bench.py --data FOLDER [--rounds 5] [--steps 60] [--only TEXT] [--out FOLDER] [--write-only]

Every row is a task's shape and a method. Its contestants take segments in turns, and each round's ratio is of segments
that were neighbours in time, so that whatever else the machine does, it does to all; medians are over the rounds. Peak
memory comes from processes of their own. Rows that are measured already are kept in `--out` and not measured again.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, EXAMPLES, LONGEST, PEER_RATE, Contestant, Segment

from graft.recipes import hardware
from graft.recipes.recording import versions

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    "LoRA, query and value": {"method": "lora", "method.targets": "query,value"},
    "LoRA, all linear layers": {"method": "lora"},
    "full": {"method": "full"},
    "probe": {"method": "probe"},
    "bitfit": {"method": "bitfit"},
    "ia3": {"method": "ia3"},
}
VERDICT = ("full", "LoRA, all linear layers", "bitfit", "ia3", "probe")
"""The methods of a comparison whose trainings are added up, for MRPC."""
TRAININGS, EPOCHS, TRAINED_ON = 6, 3, 3301
"""Of each method: three trials and three seeds, of so many epochs and examples."""
TASKS: dict[str, int | None] = {"mrpc": None, "sst2": 10_000, "rte": None}
"""Task to the training examples that epochs are of; none for all."""

POCKET = {"mrpc": "pocket/paraphrase", "sst2": "pocket/sentiment", "rte": "pocket/entailment"}
"""What stands in for a task whose data are not there."""

READY = "ready"
"""What a process says that waits for the others."""

FLOPS = {"full": 6, "probe": 2}
"""Floating-point operations per weight and token; 4 where the backbone is frozen and passed through backward."""


def rows(data: Path | None) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Name each row: task, method, and the recipe as settings by dotted name."""
    for task, size in TASKS.items():
        where = {"task": task, "data": str(data)} if data is not None else {"task": POCKET[task]}
        for method, chosen in METHODS.items():
            if task != "mrpc" and method in ("bitfit", "ia3"):
                continue
            yield (
                task,
                method,
                where
                | chosen
                | {
                    "model": "minilm",
                    "task.max_length": str(LONGEST),
                    "task.holdout": "0",
                    "schedule.examples": str(EXAMPLES),
                    "schedule.epochs": "100",
                    "optim.lr": str(PEER_RATE),
                    "seed": "1",
                }
                | ({} if size is None else {"task.train_size": str(size)}),
            )


def take(settings: Mapping[str, str], rounds: int, steps: int) -> dict[str, Any]:
    """Let the contestants take turns.

    Returns:
        Contestant to its segments, and what model FLOP utilisation is computed from.
    """
    contestants: dict[str, Contestant] = {name: make(settings) for name, make in CONTESTANTS.items()}
    backbone = _backbone_weights(contestants["graft"])
    for contestant in contestants.values():  # caches, allocators and thread pools are filled
        contestant.segment(steps)
    segments: dict[str, list[Segment]] = {name: [] for name in contestants}
    rates = []
    for number in range(rounds):
        rates.append(gemm_rate())
        order = list(contestants) if number % 2 == 0 else list(reversed(contestants))
        for name in order:
            segments[name].append(contestants[name].segment(steps))
            sys.stderr.write(f"  {name}: {_speed(segments[name][-1]):,.0f} tokens a second\n")
    peaks = {name: _peak(name, settings, steps) for name in contestants}
    lengths = contestants["graft"].train.lengths
    return {
        "segments": {name: [asdict(one) for one in taken] for name, taken in segments.items()},
        "peak_memory_bytes": peaks,
        "gemm_flops": rates,
        "backbone_weights": backbone,
        "steps": steps,
        "tokens_per_example": float(lengths.mean()),
        "threads": torch.get_num_threads(),
    }


def gemm_rate(tokens: int = 2048, seconds: float = 0.5) -> float:
    """Measure bf16 matrix products of the shapes that MiniLM's feed-forward layers have.

    Returns:
        Floating-point operations a second, the median over products.
    """
    left = torch.randn(tokens, 384, dtype=torch.bfloat16)
    right = torch.randn(384, 1536, dtype=torch.bfloat16)
    taken: list[float] = []
    while sum(taken) < seconds:
        started = time.perf_counter()
        torch.mm(left, right)
        taken.append(time.perf_counter() - started)
    return 2 * tokens * 384 * 1536 / statistics.median(taken)


def _backbone_weights(contestant: Contestant) -> int:
    """Weights outside embeddings, adapters and heads left out."""
    state = contestant._state  # type: ignore[attr-defined]
    return sum(
        weight.numel()
        for name, weight in state.model.body.named_parameters()
        if "embeddings" not in name and "lora_" not in name
    )


def _peak(name: str, settings: Mapping[str, str], steps: int) -> int:
    """Take one segment in a process of its own and tell its peak memory."""
    command = [sys.executable, __file__, "--steps", str(steps), "--alone", name, json.dumps(dict(settings))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.strip().splitlines()[-1])


def side_by_side(settings: Mapping[str, str], steps: int) -> list[dict[str, Any]]:
    """Let as many processes as there are cores train at the same time with one thread each, as `graft compare` does.

    Returns:
        One segment for each.
    """
    alone = json.dumps(dict(settings) | {"threads": "1"})
    command = [sys.executable, __file__, "--steps", str(steps), "--beside", alone]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(hardware.threads())
    ]
    for worker in workers:  # all have warmed up before any is timed
        assert worker.stdout is not None
        while (line := worker.stdout.readline()).strip() != READY:
            if not line:
                raise SystemExit("a process beside others ended early")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    found = [worker.communicate()[0] for worker in workers]
    return [json.loads(text.strip().splitlines()[-1]) for text in found]


def _speed(segment: Segment) -> float:
    """Useful tokens a second: segments differ in how long their examples happen to be."""
    return segment.tokens / segment.seconds


def summary(found: Mapping[str, Any], method: str) -> list[list[str]]:
    """One line for each contestant of a row."""
    segments = {name: [Segment(**one) for one in taken] for name, taken in found["segments"].items()}
    ours = next(iter(segments))
    operations = FLOPS.get(method, 4) * found["backbone_weights"]
    rate = statistics.median(found["gemm_flops"])
    lines = []
    for name, taken in segments.items():
        ratio = statistics.median(_speed(a) / _speed(b) for a, b in zip(segments[ours], taken, strict=True))
        useful = statistics.median(map(_speed, taken))
        padding = 1 - sum(one.tokens for one in taken) / sum(one.padded for one in taken)
        lines.append(
            [
                name,
                f"{useful / found['tokens_per_example']:.1f}",
                "" if name == ours else f"{ratio:.2f}x",
                f"{useful:,.0f}",
                f"{100 * padding:.0f}%",
                f"{100 * useful * operations / rate:.0f}%",
                f"{found['peak_memory_bytes'][name] / 2**20:,.0f}",
            ]
        )
    return lines


HEADINGS = ("", "examples/s", "graft is faster by", "useful tokens/s", "padding", "of GEMM rate", "peak MiB")


def page(out: Path, data: Path | None) -> str:
    """Write the page from what was measured."""
    parts = [
        "# How fast graft trains\n",
        "Written by `scripts/bench.py`: graft against what a user would run instead, on the same examples with",
        f"the same dropout rates, {EXAMPLES} examples a step and at most {LONGEST} tokens, in turns in one",
        "process. *Trainer* is transformers' Trainer with peft as their documentation shows it: fp32 and dynamic",
        'padding; *best* adds `bf16=True` and `train_sampling_strategy="group_by_length"`. *bare loop* is the',
        "loop of a tutorial. Epochs are of all training examples (SST-2: 10,000 of them), and a segment is some",
        "steps of one. Rates are of tokens without padding, since segments differ in how long their examples",
        "happen to be, and medians over the rounds; examples a second are tokens a second over an example's mean",
        "length; a ratio's two segments are neighbours in time. *of GEMM rate* is model FLOP utilisation: 4 N D",
        "operations (full 6, probe 2) a second, N the weights outside the embeddings and D the tokens without",
        "padding, against bf16 matrix products measured between the segments. It counts the operations of a whole",
        "model; graft leaves out those of the last layer that nothing reads, a seventh of MiniLM's. Peaks are of",
        "processes of their own. All of them run with what graft sets for a process: threads that wait leave the",
        "processor, and oneDNN keeps what it prepared for 64 shapes instead of 1,024 ([why](plan.md)).\n",
    ]
    for task, method, _ in rows(data):
        file = out / f"{task} {method}.json"
        if not file.exists():
            continue
        found = json.loads(file.read_text())
        count, rate = len(next(iter(found["segments"].values()))), statistics.median(found["gemm_flops"]) / 1e9
        parts += [
            f"## {task}, {method}\n",
            f"{count} rounds of {found['steps']} steps, {found['threads']} threads,",
            f"{rate:.0f} GFLOP/s in bf16 matrix products.\n",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(line) + " |" for line in summary(found, method)),
            "",
        ]
    parts += verdict(out)
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    parts += ["## Where\n", f"{_machine()}; {named}.", ""]
    return "\n".join(parts)


def verdict(out: Path) -> list[str]:
    """Add up the trainings of a comparison, from the rates of its methods."""
    files = [out / f"mrpc {method}.json" for method in VERDICT]
    measured = [json.loads(file.read_text()) for file in files if file.exists()]
    if not all("side_by_side" in found for found in measured) or len(measured) < len(files):
        return []
    ours = "graft compare"
    minutes: dict[str, float] = {}
    for found in measured:
        rates = {ours: sum(_speed(Segment(**one)) for one in found["side_by_side"])}
        for name, taken in found["segments"].items():
            rates[name] = statistics.median(_speed(Segment(**one)) for one in taken)
        for name, rate in rates.items():
            tokens = TRAININGS * EPOCHS * TRAINED_ON * found["tokens_per_example"]
            minutes[name] = minutes.get(name, 0.0) + tokens / rate / 60
    return [
        "## Time to verdict\n",
        f"The trainings of a comparison on MRPC, extrapolated from the rates above: {', '.join(VERDICT)}; three trials",
        f"and three seeds each, {EPOCHS} epochs of {TRAINED_ON:,} examples. Later epochs of graft's probe look up",
        "what the first one computed, as its rate tells. *graft compare* lets a process of one thread for each core",
        "train at the same time, as `graft compare` does; the others, graft among them, take all cores for one",
        "training after the other. That graft does not train a chosen trial again is left out.\n",
        "| | minutes | to graft compare |",
        "|---|---|---|",
        *(f"| {name} | {took:.0f} | {took / minutes[ours]:.2f} |" for name, took in minutes.items()),
        "",
    ]


def _machine() -> str:
    """The processor and what of it may be used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = ", AVX-512 with bf16" if "avx512_bf16" in flags else ""
    return f"{model}, {hardware.threads()} cores{wide}"


def main() -> int:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLUE's files; without them, pocket tasks of such lengths")
    parser.add_argument("--rounds", type=int, default=5, help="segments of each contestant (default: 5)")
    parser.add_argument("--steps", type=int, default=60, help="steps of a segment (default: 60)")
    parser.add_argument("--only", nargs="*", default=[""], help="measure rows whose names hold one of these texts")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", help="where measurements are kept")
    parser.add_argument("--write-only", action="store_true", help="measure nothing, write the page")
    parser.add_argument("--alone", nargs=2, metavar=("NAME", "SETTINGS"), help=argparse.SUPPRESS)
    parser.add_argument("--beside", metavar="SETTINGS", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.beside:
        contestant = CONTESTANTS["graft"](json.loads(given.beside))
        contestant.segment(given.steps)
        sys.stdout.write(f"{READY}\n")
        sys.stdout.flush()
        sys.stdin.readline()
        sys.stdout.write(f"{json.dumps(asdict(contestant.segment(given.steps)))}\n")
        return 0
    if given.alone:
        name, settings = given.alone
        CONTESTANTS[name](json.loads(settings)).segment(given.steps)
        sys.stdout.write(f"{hardware.peak_memory('cpu')}\n")
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    for task, method, settings in rows(given.data):
        file = given.out / f"{task} {method}.json"
        if given.write_only or not any(part in file.stem for part in given.only):
            continue
        sys.stderr.write(f"{file.stem}\n")
        if not file.exists():
            file.write_text(json.dumps(take(settings, given.rounds, given.steps)))
        found = json.loads(file.read_text())
        if task == "mrpc" and method in VERDICT and "side_by_side" not in found:
            file.write_text(json.dumps(found | {"side_by_side": side_by_side(settings, given.steps)}))
    (ROOT / "docs" / "performance.md").write_text(page(given.out, given.data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
