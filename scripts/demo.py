"""The first five minutes: one small pretrained encoder, two tasks that need no download, six ways to adapt it.

    make demo
    python scripts/demo.py [--tasks pocket/sentiment,pocket/paraphrase] [--examples 1500] [--out runs/demo]

Runs that are there already are reused, so that an interrupted demo goes on where it was.
"""

import argparse
import sys
import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from graft import Recipe, train
from graft.adapters.methods import METHODS
from graft.errors import GraftError
from graft.eval.records import RunRecord
from graft.recipes.options import RunOptions
from graft.recipes.stock import Stock

ORDER = ("full", "probe", "bitfit", "lora", "bottleneck", "prefix")
console = Console()


def recipe(task: str, method: str, arguments: argparse.Namespace) -> Recipe:
    """One run of the demo; every method has its own default learning rate and the same examples, steps and head."""
    return Recipe.model_validate(
        {
            "task": {"name": task, "train_size": arguments.examples},
            "model": {"name": "minilm", "pooling": "mean"},
            "method": method,
            "schedule": {"epochs": arguments.epochs},
            "seed": 1,
            "threads": arguments.threads,
        }
    )


def picture(records: dict[tuple[str, str], RunRecord], file: Path) -> None:
    """Draw score against trainable parameters, one panel per task."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(task for task, _ in records))
    figure, panels = plt.subplots(1, len(tasks), figsize=(5 * len(tasks), 4), squeeze=False, layout="constrained")
    for panel, task in zip(panels[0], tasks, strict=True):
        for (name, method), record in records.items():
            if name != task:
                continue
            learned = record.parameters.trainable
            panel.semilogx(learned, score(record), "o", color="tab:red" if method == "full" else "tab:blue")
            panel.annotate(method, (learned, score(record)), xytext=(6, 4), textcoords="offset points")
        panel.set(title=task, xlabel="trainable parameters", ylabel=next(iter(records.values())).primary_metric)
        panel.margins(x=0.25, y=0.15)
        panel.grid(alpha=0.3)
    figure.suptitle("One seed: a first look, no verdict")
    figure.savefig(file, dpi=120)


def score(record: RunRecord) -> float:
    """The primary metric on the validation split."""
    return record.scores["validation"][record.primary_metric]


def counted(number: int) -> str:
    """A number of parameters, short enough for a column."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def table(records: dict[tuple[str, str], RunRecord], costs: dict[str, dict[str, float]]) -> Table:
    """What every method scored, learned and cost."""
    tasks = list(dict.fromkeys(task for task, _ in records))
    grid = Table(title="One seed: no verdict", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("method", no_wrap=True)
    for task in tasks:
        metric = next(record.primary_metric for (name, _), record in records.items() if name == task)
        grid.add_column(f"{task.removeprefix('pocket/')}\n{metric}", justify="right")
    for heading in ("trainable\nparameters", "without\nhead", "seconds\na step", "peak\nmemory"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for method in dict.fromkeys(method for _, method in records):
        first = records[tasks[0], method]
        grid.add_row(
            method,
            *(f"{score(records[task, method]):.1f}" for task in tasks),
            counted(first.parameters.trainable),
            counted(first.parameters.trainable_without_head),
            f"{costs[method]['seconds_per_step']:.3f}",
            f"{costs[method]['peak_memory_bytes'] / 2**20:,.0f} MiB",
        )
    return grid


def main() -> int:
    """Train, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="pocket/sentiment,pocket/paraphrase")
    parser.add_argument("--methods", default=",".join(name for name in ORDER if name in METHODS))
    parser.add_argument("--examples", type=int, default=1500, help="training examples of each task")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--threads", type=int, help="threads of the processor  [default: one a core]")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args()
    tasks, methods = arguments.tasks.split(","), arguments.methods.split(",")
    started = time.monotonic()
    try:
        recipes = {(task, method): recipe(task, method, arguments) for task in tasks for method in methods}
        stock = Stock()
        for task in tasks:
            stock.data(
                recipes[task, methods[0]].task
            )  # so that a name that is none is refused before anything is trained
        records = {}
        for number, ((task, method), asked) in enumerate(recipes.items(), start=1):
            console.print(f"[bold]{number} of {len(recipes)}[/bold]  {task}, {method}")
            records[task, method] = train(asked, options=RunOptions(out=arguments.out), stock=stock).record
        minutes = (time.monotonic() - started) / 60
        console.print("What a step costs, each method in a process of its own ...")
        options = RunOptions(out=arguments.out, measure_cost=True)  # kept in the runs' records
        costs = {method: train(recipes[tasks[0], method], options=options).record.cost or {} for method in methods}
    except GraftError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    file = arguments.out / "demo.png"
    picture(records, file)
    console.print(table(records, costs))
    console.print(f"Scores are on the validation split. Training took {minutes:.1f} minutes.")
    console.print(f"Picture: {file}. Runs: {arguments.out}/")
    console.print(
        "Next: your own data, `graft train --task.text text --task.label label --data FILE.csv --method lora`, "
        "or what there is, `graft methods`, `graft tasks`."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
