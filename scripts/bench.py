"""Train with graft and with what a user would run instead, in turns, and write docs/performance.md.

    python scripts/bench.py --data FOLDER [--rounds 5] [--pools 2] [--side-by-side] [--only TEXT] [--out FOLDER]
                            [--write-only]

Every row is a task's shape and a method. In a round its contestants take a segment each, step by step in turns (on an
accelerator, which is given several steps at once, segment by segment), and ratios are of segments of one round, so that
whatever else the machine does, it does to all; medians are over the rounds. Each has a process of its own, which waits
while another one's turn is on. Rows that are measured already are kept in `--out` and not measured again.

A segment is whole pools of Trainer's sampler: it sorts pools of up to 50 steps by length, the longest first, so that
the first steps of an epoch alone would be unlike the rest.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from contestants import CONTESTANTS, EXAMPLES, LONGEST, PEER_RATE, Segment
from turns import Turns, by_turns

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

SIDE_BY_SIDE = ("graft", "Trainer, best")
"""Contestants that are also run with a process for each core."""

PROTOCOL = 4
"""Raised when rows are measured otherwise than before: what was measured by another one is not shown beside them."""

ONCE = "bare loop"
"""The contestant that has one round alone: it is as fast as Trainer, and takes as long."""

FLAGS = {"avx512_bf16": "AVX-512 with bf16", "amx_bf16": "AMX with bf16"}
"""What of a processor matters here, by its name in /proc/cpuinfo."""

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


def take(settings: Mapping[str, str], rounds: int, pools: int) -> dict[str, Any]:
    """Let the contestants take turns.

    What graft's frozen layers say is kept in a folder of this row alone, so that the first pass computes it.

    Returns:
        Contestant to its segments, and what model FLOP utilisation is computed from.
    """
    with ExitStack() as stack:
        cache = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(patch.dict(os.environ, {"GRAFT_CACHE": cache}))
        contestants = {name: stack.enter_context(Turns(name, settings)) for name in CONTESTANTS}
        about = contestants["graft"].about
        steps = pools * min(about["examples"] // (4 * EXAMPLES), 50)
        # A segment that does not count: allocators and thread pools are filled, matrix products compiled for lengths
        # and, with a probe, what frozen layers say is computed. Trainings are longer than that many times over.
        first = {name: contestant.segment(steps)["seconds"] for name, contestant in contestants.items()}
        segments: dict[str, list[Segment]] = {name: [] for name in contestants}
        rates: list[float] = []
        peaks: dict[str, int] = {}
        for number in range(rounds):
            taking = {name: one for name, one in contestants.items() if name != ONCE or number == 0}
            turn = 1 if about["device"] == "cpu" else steps
            taken = by_turns(taking, steps, turn, lambda: rates.append(gemm_rate(about["device"])))
            for name, found in taken.items():
                peaks[name] = found.pop("peak_memory_bytes")
                segments[name].append(Segment(**found))
            told = ", ".join(f"{name} {_speed(segments[name][-1]):,.0f}" for name in taking)
            sys.stderr.write(f"  tokens a second: {told}\n")
    return {
        "segments": {name: [asdict(one) for one in taken] for name, taken in segments.items()},
        "peak_memory_bytes": peaks,
        "gemm_flops": rates,
        "protocol": PROTOCOL,
        "pools": pools,
        "steps": steps,
        "first_seconds": first,
        **{key: about[key] for key in ("backbone_weights", "tokens_per_example", "threads")},
    }


def gemm_rate(device: str = "cpu", tokens: int = 2048, seconds: float = 0.1) -> float:
    """Measure bf16 matrix products of the shapes that MiniLM's feed-forward layers have.

    Returns:
        Floating-point operations a second, the median over products.
    """
    left = torch.randn(tokens, 384, dtype=torch.bfloat16, device=device)
    right = torch.randn(384, 1536, dtype=torch.bfloat16, device=device)
    taken: list[float] = []
    while sum(taken) < seconds:
        started = time.perf_counter()
        torch.mm(left, right)
        if device != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - started)
    return 2 * tokens * 384 * 1536 / statistics.median(taken)


def measured(file: Path, pools: int | None = None) -> dict[str, Any]:
    """Read what a row measured, where it was measured as this script does; and, if asked, with segments so long."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("protocol") == PROTOCOL and pools in (None, found["pools"]) else {}


def side_by_side(name: str, settings: Mapping[str, str], steps: int) -> float:
    """Let as many processes as there are cores train at the same time, with one thread each.

    Returns:
        Tokens a second of all of them.
    """
    with ExitStack() as stack:
        each = dict(settings) | {"threads": "1"}
        workers = [stack.enter_context(Turns(name, each)) for _ in range(hardware.threads())]
        for _ in range(2):  # first to meet most lengths: in a comparison, a process trains many runs
            for worker in workers:
                worker.prepare(steps)
            for worker in workers:
                worker.go()
            found = [worker.answer() for worker in workers]
        return float(sum(one["tokens"] / one["seconds"] for one in found))


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
        ratios = [_speed(a) / _speed(b) for a, b in zip(segments[ours], taken, strict=False)]
        useful = statistics.median(map(_speed, taken))
        padding = 1 - sum(one.tokens for one in taken) / sum(one.padded for one in taken)
        lines.append(
            [
                name,
                f"{useful / found['tokens_per_example']:.1f}",
                "" if name == ours else f"{statistics.median(ratios):.2f}x",
                "" if name == ours or len(ratios) < 2 else f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{useful:,.0f}",
                f"{100 * padding:.0f}%",
                "" if method == "probe" and name == ours else f"{100 * useful * operations / rate:.0f}%",
                f"{found['peak_memory_bytes'][name] / 2**20:,.0f}",
                f"{found['first_seconds'][name]:.1f}",
                f"{statistics.median(one.seconds for one in taken):.1f}",
            ]
        )
    return lines


HEADINGS = (
    "",
    "examples/s",
    "graft is faster by",
    "in the rounds",
    "useful tokens/s",
    "padding",
    "of GEMM rate",
    "peak MiB",
    "first segment, s",
    "a later one, s",
)


def page(out: Path, data: Path | None) -> str:
    """Write the page from what was measured."""
    parts = [
        "# How fast graft trains\n",
        "Written by `scripts/bench.py`: graft against what a user would run instead, on the same examples with",
        f"the same dropout rates, {EXAMPLES} examples a step and at most {LONGEST} tokens, step by step in turns,",
        "each in a process of its own. *Trainer* is transformers' Trainer with peft as their documentation shows it:",
        'fp32 and dynamic padding; *best* adds `bf16=True` and `train_sampling_strategy="group_by_length"`. *bare',
        "loop* is the loop of a tutorial. Epochs are of all training examples (SST-2: 10,000 of them), and a",
        "segment is some steps of one; the first one of each process does not count and is told apart. Rates are",
        "of tokens without padding, since segments differ in how long their examples happen to be, and medians",
        "over the rounds; examples a second are tokens a second over an example's mean length; a ratio's two",
        "segments are of one round. *of GEMM rate* is model FLOP utilisation: 4 N D operations (full 6, probe 2)",
        "a second, N the weights outside the embeddings and D the tokens without padding, against bf16 matrix",
        "products measured while the turns went round. It counts the operations of a whole model; graft leaves out",
        "those of the last layer that nothing reads, a seventh of MiniLM's. Peaks are the processes'. Only graft's",
        "process has what graft sets: how long threads wait busily for one another, and how many compiled matrix",
        "products oneDNN keeps ([why](recipes.md)); the others have torch's defaults.\n",
    ]
    for task, method, _ in rows(data):
        found = measured(out / f"{task} {method}.json")
        if not found:
            continue
        count, rates = len(next(iter(found["segments"].values()))), [rate / 1e9 for rate in found["gemm_flops"]]
        parts += [
            f"## {task}, {method}\n",
            f"{count} rounds of {found['steps']} steps, {found['threads']} threads,",
            f"{statistics.median(rates):.0f} GFLOP/s in bf16 matrix products ({min(rates):.0f} to {max(rates):.0f}).\n",
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
    every = [measured(out / f"mrpc {method}.json") for method in VERDICT]
    if not all(every):
        return []
    beside_too = all("side_by_side" in found for found in every)
    minutes: dict[str, float] = {}
    for method, found in zip(VERDICT, every, strict=True):
        rates = {
            name: statistics.median(_speed(Segment(**one)) for one in taken)
            for name, taken in found["segments"].items()
        }
        if beside_too:
            rates |= {f"{name}, side by side": rate for name, rate in found["side_by_side"].items()}
        for name, rate in rates.items():
            tokens = TRAININGS * EPOCHS * TRAINED_ON * found["tokens_per_example"]
            once = found["first_seconds"]["graft"] if method == "probe" and name.startswith("graft") else 0.0
            minutes[name] = minutes.get(name, 0.0) + (tokens / rate + once) / 60
    ours = next(iter(minutes))
    return [
        "## Time to verdict\n",
        f"The trainings of a comparison on MRPC, extrapolated from the rates above: {', '.join(VERDICT)}; three trials",
        f"and three seeds each, {EPOCHS} epochs of {TRAINED_ON:,} examples. One training after the other takes all",
        "cores; *side by side*, each core has a process of one thread, which is how `graft compare` runs and how one",
        "could start Trainer, too. What the frozen layers say to graft's probes is computed once for all of them, and",
        "counted. That graft does not train a chosen trial again is left out.\n",
        "| | minutes | to graft |",
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
    wide = "".join(f", {told}" for flag, told in FLAGS.items() if flag in flags)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {hardware.threads()} cores{wide}{gpu}"


def main() -> int:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLUE's files; without them, pocket tasks of such lengths")
    parser.add_argument("--rounds", type=int, default=5, help="segments of each contestant (default: 5)")
    parser.add_argument("--pools", type=int, default=2, help="length of a segment, in pools (default: 2)")
    parser.add_argument("--only", nargs="*", default=[""], help="measure rows whose names hold one of these texts")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", help="where measurements are kept")
    parser.add_argument(
        "--side-by-side", action="store_true", help="measure trainings side by side as well, for the time to verdict"
    )
    parser.add_argument("--write-only", action="store_true", help="measure nothing, write the page")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for task, method, settings in rows(given.data):
        file = given.out / f"{task} {method}.json"
        if given.write_only or not any(part in file.stem for part in given.only):
            continue
        sys.stderr.write(f"{file.stem}\n")
        if not measured(file, given.pools):
            file.write_text(json.dumps(take(settings, given.rounds, given.pools)))
        found = json.loads(file.read_text())
        if given.side_by_side and task == "mrpc" and method in VERDICT and "side_by_side" not in found:
            together = {name: side_by_side(name, settings, found["steps"]) for name in SIDE_BY_SIDE}
            file.write_text(json.dumps(found | {"side_by_side": together}))
    (ROOT / "docs" / "performance.md").write_text(page(given.out, given.data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
