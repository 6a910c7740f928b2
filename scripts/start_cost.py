"""Measure what starting takes and how cost grows with the number of examples, and write docs/start.md.

    python scripts/start_cost.py [--rounds 3]

Each figure is of a process of its own: MiniLM with LoRA on sentences of random words, from the start of Python to the
end of the first step; and the same with 1,000 to 100,000 examples.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1_000, 10_000, 100_000)
STEPS = 20
PARTS = ("imports", "data", "model", "first step")


def write_examples(folder: Path, examples: int) -> None:
    """Write sentences of random words, none twice, with the presence of a word as label."""
    generator = np.random.default_rng(examples)
    words = np.array(["the", "a", "old", "new", "red", "small", "quiet", "film", "plot", "actor", "story", "music"])
    for split, size in (("train", examples), ("validation", 100)):
        with (folder / f"{split}.jsonl").open("w") as stream:
            for number in range(size):
                chosen = words[generator.integers(len(words), size=generator.integers(5, 31))].tolist()
                text = " ".join([*chosen, str(number)])
                stream.write(json.dumps({"text": text, "label": int("film" in chosen)}) + "\n")


def resident() -> int:
    """Resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def alone(folder: str, began: float, steps: int) -> dict[str, Any]:
    """Take a run's first steps, in this process.

    Args:
        folder: Where the examples are.
        began: When the process was started, by the wall clock.
        steps: How many.

    Returns:
        Seconds of each part, resident bytes at the end, and what was counted.
    """
    import torch

    from graft.recipes import hardware, heap
    from graft.recipes.building import build, gather
    from graft.recipes.recipe import from_mapping
    from graft.recipes.step import settle, train_step

    imported = time.time()
    recipe = from_mapping(
        {
            "task": {"data": folder, "text": "text", "label": "label", "holdout": 0},
            "model": "minilm",
            "method": "lora",
            "schedule": {"epochs": 3},
        }
    )
    materials = gather(recipe)
    gathered = time.time()
    torch.set_num_threads(materials.recipe.threads or torch.get_num_threads())
    accelerator = hardware.accelerator(materials.recipe.device)
    state = build(materials, accelerator.device)
    built = time.time()
    train_step([state], accelerator)
    settle(state, accelerator)
    first = time.time()
    for _ in range(steps - 1):
        train_step([state], accelerator)
    settle(state, accelerator)
    heap.give_back()  # free memory that the process has not handed back depends on the last step's shapes
    train = materials.encoded["train"]
    ids = [train.input_ids, *([] if train.token_type_ids is None else [train.token_type_ids])]
    return {
        "imports": imported - began,
        "data": gathered - imported,
        "model": built - gathered,
        "first step": first - built,
        "step": (time.time() - first) / max(1, steps - 1),
        "resident": resident(),
        "token_bytes": sum(part.values.nbytes for part in ids),
        "examples": len(train),
    }


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """Start a process that measures."""
    command = [sys.executable, __file__, "--alone", str(folder), repr(time.time()), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{found}\n")
    return found


def page(starts: list[dict[str, Any]], grown: list[dict[str, Any]]) -> str:
    """Write the page from what was measured."""
    parts = {name: statistics.median(start[name] for start in starts) for name in PARTS}
    total = statistics.median(sum(start[name] for name in PARTS) for start in starts)
    small, large = grown[0], grown[-1]
    more = large["examples"] - small["examples"]
    grew = (large["resident"] - small["resident"]) / more
    ids = (large["token_bytes"] - small["token_bytes"]) / more
    rows = [
        f"| {one['examples']:,} | {one['data']:.2f} | {1e6 * one['data'] / one['examples']:.0f} "
        f"| {1000 * one['step']:.0f} | {one['resident'] / 2**20:,.0f} |"
        for one in grown
    ]
    return "\n".join(
        [
            "# What starting takes, and what examples cost\n",
            "Written by `scripts/start_cost.py`: MiniLM with LoRA, each line a process of its own.\n",
            f"From the start of Python to the end of the first step, with {SIZES[0]:,} examples of 5 to 30 words,",
            f"median of {len(starts)} starts: **{total:.1f} s**.\n",
            "| " + " | ".join(PARTS) + " |",
            "|" + "---|" * len(PARTS),
            "| " + " | ".join(f"{parts[name]:.1f} s" for name in PARTS) + " |",
            "",
            "| examples | data, s | µs an example | ms a step | resident MiB |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"From {small['examples']:,} to {large['examples']:,} examples resident memory grows by {grew:.0f} bytes",
            f"an example, {ids:.0f} of them token ids; texts are kept in a file without a name.",
            "",
        ]
    )


def main() -> int:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts to take the median of")
    parser.add_argument("--alone", nargs=3, metavar=("FOLDER", "BEGAN", "STEPS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.alone:
        folder, began, steps = given.alone
        sys.stdout.write(f"{json.dumps(alone(folder, float(began), int(steps)))}\n")
        return 0
    with tempfile.TemporaryDirectory() as top:
        folders = {size: Path(top) / str(size) for size in SIZES}
        for size, folder in folders.items():
            folder.mkdir()
            write_examples(folder, size)
        starts = [measure(folders[SIZES[0]], 1) for _ in range(given.rounds)]
        grown = [measure(folder, STEPS) for folder in folders.values()]
    (ROOT / "docs" / "start.md").write_text(page(starts, grown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
