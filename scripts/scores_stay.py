"""Ask whether what makes training fast changes scores, and write docs/scores_stay.md.

    python scripts/scores_stay.py [--out FOLDER] [--workers 2]

Every pocket classification task is learnt with full fine-tuning and with LoRA, with ten seeds, twice: with all of
`speed` on, and with all of it off (fp32, no buckets, torch's own dropout and attention, stock layers, no cache). The
rates, the sizes and the seeds are written down here; nothing is chosen by scores. Runs that are there are reused.
Texts are pooled by their mean, so that the last layer is computed for all tokens on either side.
"""

import argparse
import itertools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import train
from graft.eval.influence import flip
from graft.eval.paired import Bounds, mean_over_tasks
from graft.eval.pocket import SUITE
from graft.eval.records import read_predictions
from graft.recipes.options import RunOptions
from graft.recipes.recipe import from_mapping
from graft.recipes.recording import versions
from graft.recipes.stock import Stock

ROOT = Path(__file__).resolve().parent.parent
RATES = {"full": 1e-4, "lora": 1e-3}
SEEDS = range(1, 11)
EXAMPLES, EPOCHS = 1000, 2
OFF = {
    "precision": "fp32",
    "buckets": False,
    "dropout": "stock",
    "attention": "sdpa",
    "layers": "stock",
    "cache": False,
}
MARGIN = 1.5
"""Points within which the mean difference is to stay."""
TASKS = tuple(
    name for name, task in SUITE.items() if task.kind == "classification" and not name.startswith("pocket/sentiment-")
)
Run = tuple[str, str, int, bool]
"""Task, method, seed, and whether all of `speed` is on."""


def settings(run: Run) -> dict[str, Any]:
    """Spell a run as a recipe."""
    task, method, seed, fast = run
    return {
        "task": {"name": task, "train_size": EXAMPLES, "holdout": 0},
        "model": {"name": "minilm", "pooling": "mean"},
        "method": method,
        "optim": {"lr": RATES[method]},
        "schedule": {"epochs": EPOCHS},
        "speed": {} if fast else OFF,
        "seed": seed,
        "threads": 1,
    }


@cache
def _stock() -> Stock:
    return Stock()


def correct(run: Run, out: Path) -> NDArray[np.float64]:
    """Train a run, or find it, and tell which validation examples it gets right.

    Returns:
        100 where right and 0 where wrong, float64 (examples,).
    """
    made = train(from_mapping(settings(run)), options=RunOptions(out=out, resume=True, quiet=True), stock=_stock())
    predictions = read_predictions(made.folder)["validation"]
    assert predictions.labels is not None
    right = predictions.scores.argmax(axis=1) == predictions.labels
    return 100.0 * right[np.argsort(predictions.ids)]


def page(found: dict[Run, NDArray[np.float64]]) -> str:
    """Write the page from which examples each run got right."""

    def arms(task: str, method: str) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        on, off = (np.stack([found[task, method, seed, fast] for seed in SEEDS]) for fast in (True, False))
        return on, off, flip("accuracy")

    lines = [
        "# Whether speed changes scores\n",
        "Written by `scripts/scores_stay.py`: accuracy with all of `speed` on less accuracy with all of it off",
        "(fp32, no buckets, torch's own dropout and attention, stock layers, no cache), in points, with its 95 %",
        f"interval over seeds and examples ([how](statistics.md)). MiniLM, mean pooling, {EXAMPLES} training examples,",
        f"{EPOCHS} epochs, {len(SEEDS)} seeds, rates fixed beforehand",
        f"(full {RATES['full']:g}, LoRA {RATES['lora']:g}); run once.\n",
        "| | on | off | difference | interval |",
        "|---|---|---|---|---|",
    ]
    for method in RATES:
        for task in TASKS:
            contrast = arms(task, method)
            lines.append(_row(f"{task}, {method}", contrast[:2], mean_over_tasks([[contrast]], 0.05)[0]))
    verdicts = []
    for name, methods in (("**full**", ["full"]), ("**LoRA**", ["lora"]), ("**both**", list(RATES))):
        parts = []
        for task in TASKS:  # both methods learn from the same seeds and are scored on the same examples: one contrast
            on, off = (np.mean([arms(task, method)[side] for method in methods], axis=0) for side in (0, 1))
            parts.append((on, off, flip("accuracy")))
        bounds = mean_over_tasks([parts], 0.05)[0]
        means = tuple(np.stack([part[side].mean() for part in parts]) for side in (0, 1))
        lines.append(_row(f"{name}, mean over tasks", means, bounds))
        low, high = _ends(bounds)
        inside = low > -MARGIN and high < MARGIN
        verdicts.append(f"{name.strip('*')}: {'inside' if inside else 'not shown to be inside'} ±{MARGIN} points")
    named = ", ".join(f"{name} {version}" for name, version in versions().items())
    return "\n".join([*lines, "", f"{'; '.join(verdicts)}.", "", f"{named}.", ""])


def _row(name: str, arms: tuple[NDArray[np.float64], ...], bounds: Bounds) -> str:
    (on, off), (low, high) = (arm.mean() for arm in arms), _ends(bounds)
    return f"| {name} | {on:.1f} | {off:.1f} | {bounds.paired.difference:+.2f} | {low:+.2f} … {high:+.2f} |"


def _ends(bounds: Bounds) -> tuple[float, float]:
    assert bounds.low is not None
    assert bounds.high is not None
    return bounds.low, bounds.high


def main() -> int:
    """Make the runs that are not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "scores_stay", help="folder of the run folders")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each")
    given = parser.parse_args()
    runs: list[Run] = [
        (task, method, seed, fast) for seed, task, method, fast in itertools.product(SEEDS, TASKS, RATES, (True, False))
    ]
    with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = {}
        for run, right in zip(runs, pool.map(correct, runs, itertools.repeat(given.out)), strict=True):
            found[run] = right
            sys.stderr.write(f"{len(found)} of {len(runs)}: {run} {right.mean():.1f}\n")
    (ROOT / "docs" / "scores_stay.md").write_text(page(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
