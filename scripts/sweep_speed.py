"""Let runs of a sweep take steps together and one after the other, in turns, and print what that takes.

    python scripts/sweep_speed.py [--runs 8] [--steps 40] [--device auto] [--examples 32] [--model minilm]

Both sides are the same runs: LoRA on query and value with as many seeds. The last line is JSON; a ratio above 1 says
that together is faster, and `largest_difference` is that of their losses.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import torch

from graft.recipes import hardware
from graft.recipes.building import build, gather
from graft.recipes.recipe import from_mapping
from graft.recipes.state import RunState
from graft.recipes.step import settle, train_step
from graft.recipes.stock import Stock
from graft.recipes.sweep import join


def runs(given: argparse.Namespace, stock: Stock) -> list[RunState]:
    """Build the runs of a sweep over seeds."""
    materials = [
        gather(
            from_mapping(
                {
                    "task": {"name": "pocket/paraphrase", "train_size": 2000, "holdout": 0},
                    "model": given.model,
                    "method": {"name": "lora", "targets": ["query", "value"]},
                    "schedule": {"examples": given.examples, "steps": 2 * given.steps + 20},
                    "budget": {"tokens": 64 * given.runs * given.examples},
                    "device": given.device,
                    "seed": seed,
                }
            ),
            stock=stock,
        )
        for seed in range(given.runs)
    ]
    device = hardware.accelerator(materials[0].recipe.device).device
    return [build(one, device) for one in materials]


def timed(states: Sequence[RunState], *, together: bool) -> float:
    """Take one step in every run and tell the seconds."""
    accelerator = hardware.accelerator(states[0].device.type)
    started = time.perf_counter()
    for group in [states] if together else [[state] for state in states]:
        train_step(group, accelerator)
    for state in states:
        settle(state, accelerator)
    if states[0].device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    stock = Stock()
    joined, alone = runs(given, stock), runs(given, stock)
    reason = join(joined, hardware.accelerator(joined[0].device.type))
    if reason is not None:
        raise SystemExit(f"the runs cannot step together: {reason}")
    ratios, seconds = [], {"together": [0.0], "alone": [0.0]}
    for step in range(given.steps + 5):
        taken = {}
        for name in ("together", "alone") if step % 2 else ("alone", "together"):
            taken[name] = timed(joined if name == "together" else alone, together=name == "together")
        if step >= 5:  # caches, allocators and thread pools are filled
            ratios.append(taken["alone"] / taken["together"])
            for name, one in taken.items():
                seconds[name].append(one)
    found = {
        "device": str(joined[0].device),
        "runs": given.runs,
        "examples": given.examples,
        "seconds": {name: statistics.median(values[1:]) for name, values in seconds.items()},
        "ratio": statistics.median(ratios),
        "largest_difference": max(
            abs(one - other)
            for mine, theirs in zip(joined, alone, strict=True)
            for one, other in zip(mine.losses, theirs.losses, strict=True)
        ),
    }
    sys.stdout.write(f"{json.dumps(found)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
