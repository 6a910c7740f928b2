"""Compare the latency of a base model, of the same with a LoRA adapter beside it, and of the two merged.

    python scripts/merge_latency.py --data GLUE [--rounds 30] [--threads 1] [--write]

MiniLM is adapted to MRPC by LoRA on all linear layers for a few steps, and exported in both forms. The three take turns
on the same batches of the validation split, in fp32; `--write` puts the table into docs/publishing.md.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from measuring import train_apart
from page_parts import machine, replace_part
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from graft.eval.encoding import collate
from graft.recipes.building import gather
from graft.recipes.export import export
from graft.recipes.run import load

PAGE = Path(__file__).resolve().parent.parent / "docs" / "publishing.md"
FLAGS = ["--task", "mrpc", "--model", "minilm", "--method", "lora", "--schedule.steps", "5", "--threads", "1"]
SIZES = (1, 32)
WARM = 3


def prepare(data: Path, work: Path) -> tuple[dict[str, nn.Module], dict[int, dict[str, Tensor]]]:
    """Train and export, unless that was done; give the models by name, and a batch by its size."""
    train_apart([*FLAGS, "--data", str(data)], "final", work / "runs")
    (run,) = (work / "runs").glob("mrpc-*")
    for form in ("merged", "adapter"):
        if not (work / form).exists():
            export(run, work / form, adapter=form == "adapter")
    loaded = load(run)
    base = str(loaded.checkpoint.path)
    models: dict[str, nn.Module] = {
        "base": AutoModelForSequenceClassification.from_pretrained(base, num_labels=2),
        "base and adapter": PeftModel.from_pretrained(
            AutoModelForSequenceClassification.from_pretrained(base, num_labels=2), work / "adapter"
        ),
        "merged": AutoModelForSequenceClassification.from_pretrained(work / "merged"),
    }
    validation = gather(loaded.recipe).encoded["validation"]
    middle = validation.lengths.argsort()[len(validation) // 2 :]
    batches = {size: collate(validation, middle[:size].tolist()).inputs for size in SIZES}
    return {name: model.eval() for name, model in models.items()}, batches


def measure(models: dict[str, nn.Module], batch: dict[str, Tensor], rounds: int) -> dict[str, float]:
    """Milliseconds of the processor that each model takes for a batch, the median over the rounds."""
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for number in range(rounds + WARM):
            for name, model in models.items():
                started = time.process_time()
                model(**batch)
                if number >= WARM:
                    taken[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def worded(found: dict[int, dict[str, float]], tokens: dict[int, int], threads: int) -> list[str]:
    """The table."""
    lines = ["| milliseconds of processor time a batch | " + " | ".join(f"{size} examples" for size in found) + " |"]
    lines.append("|---|" + "---|" * len(found))
    for name in next(iter(found.values())):
        cells = [f"{of[name]:.1f} ({of[name] / of['base']:.2f})" for of in found.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    longest = " and ".join(str(count) for count in tokens.values())
    return [*lines, "", f"In brackets as shares of the base; {longest} tokens an example, fp32; {machine(threads)}."]


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mrpc/*.parquet")
    parser.add_argument("--work", type=Path, default=Path("runs/merge_latency"), help="where run and exports go")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/publishing.md's table")
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    models, batches = prepare(given.data, given.work)
    torch.set_num_threads(given.threads)
    found = {size: measure(models, batch, given.rounds) for size, batch in batches.items()}
    lines = worded(found, {size: batch["input_ids"].shape[1] for size, batch in batches.items()}, given.threads)
    if given.write:
        replace_part(PAGE, "merge latency", lines)
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
