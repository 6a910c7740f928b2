"""Compare `graft predict` with `transformers.pipeline` at its defaults, and write the table in docs/serving.md.

    python scripts/predict_speed.py --data GLUE [--count 10000] [--rounds 5] [--threads 1] [--write]

MiniLM is adapted to SST-2 by LoRA, and exported merged for the pipeline. Both sides predict the same sentences in this
one process, by turns, in fp32: the pipeline a list of them, graft a jsonl file into another one. Each round takes
other sentences. What each needs before
its first prediction, imports and loading, is not counted; reading and writing files is, on graft's side.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
import transformers
from measuring import train_apart
from page_parts import machine, replace_part

from graft.recipes.export import export
from graft.recipes.file_prediction import predict_file
from graft.recipes.inference import batch_tokens, ready
from graft.recipes.run import LoadedRun
from graft.recipes.survey import survey

PAGE = Path(__file__).resolve().parent.parent / "docs" / "serving.md"
FLAGS = ["--task", "sst2", "--model", "minilm", "--method", "lora", "--train-size", "2000", "--schedule.epochs", "1"]
WARM = 64
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        sentences: How many.
        theirs: Seconds of the clock and of the processor that the pipeline took.
        ours: The same of graft.
    """

    sentences: int
    theirs: tuple[float, float]
    ours: tuple[float, float]


def prepare(data: Path, work: Path) -> tuple[Path, Path]:
    """Train and export, unless that was done; give the run folder and the merged checkpoint."""
    record = train_apart([*FLAGS, "--data", str(data), "--threads", "1"], "final", work / "runs")
    (run,) = (work / "runs").glob("sst2-*")
    merged = work / "merged"
    if not merged.exists():
        export(run, merged)
    sys.stderr.write(f"{run.name}: {record.scores['validation']}\n")
    return run, merged


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """What something gives, and the seconds of the clock and of the processor that it takes."""
    processor, clock = time.process_time(), time.perf_counter()
    found = action()
    return found, time.perf_counter() - clock, time.process_time() - processor


def differ(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> tuple[int, float]:
    """Labels that differ, and the largest difference of a probability."""
    pairs = list(zip(theirs, ours, strict=True))
    labels = sum(their["label"] != our["prediction"] for their, our in pairs)
    return labels, max(abs(their["score"] - our["probabilities"][their["label"]]) for their, our in pairs)


def measure(data: Path, work: Path, count: int, rounds: int, threads: int) -> list[str]:
    """Measure both, and word the table."""
    torch.set_num_threads(threads)
    run, merged = prepare(data, work)
    sentences = pyarrow.parquet.read_table(data / "sst2" / "train.parquet")["sentence"].to_pylist()[:count]
    pipeline: Any = transformers.pipeline("text-classification", model=str(merged), device="cpu")
    loaded = ready(run)
    pipeline(sentences[:WARM])
    loaded.predict(sentences[:WARM])
    rounds_found, labels, largest = [], 0, 0.0
    for number in range(rounds):
        share = sentences[number::rounds]
        theirs, ours = one_round(pipeline, loaded, share, work, first=number % 2)
        differing, difference = differ(theirs[0], ours[0])
        labels, largest = labels + differing, max(largest, difference)
        rounds_found.append(Round(len(share), theirs[1:], ours[1:]))
        sys.stderr.write(f"round {number}: {theirs[1]:.1f} s against {ours[1]:.1f} s\n")
    if labels or largest > TOLERANCE:
        raise SystemExit(f"{labels} labels differ, and probabilities by up to {largest:.1g}")
    return worded(rounds_found, largest, batch_tokens(loaded), threads)


def one_round(pipeline: Any, loaded: LoadedRun, sentences: list[str], work: Path, first: int) -> list[Any]:
    """Predict some sentences on both sides, which take turns in beginning; give what each says and takes."""
    file, out = work / "in.jsonl", work / "out.jsonl"
    file.write_text("".join(json.dumps({"sentence": sentence}) + "\n" for sentence in sentences))

    def theirs() -> Any:
        return pipeline(sentences)

    def ours() -> Any:
        return predict_file(loaded, file, out, survey(file, out, loaded.columns), quiet=True)

    sides = (theirs, ours)
    found = {side: timed(sides[side]) for side in (first, 1 - first)}
    written = [json.loads(line) for line in out.read_text().splitlines()]
    return [found[0], (written, *found[1][1:])]


def worded(rounds: list[Round], largest: float, tokens: int, threads: int) -> list[str]:
    """The table."""
    lines = ["| | sentences per second | milliseconds of processor time each |", "|---|---|---|"]
    names = ("`transformers.pipeline`, defaults", f"`graft predict`, batches of {tokens} tokens")
    by_clock, by_processor = ([each.theirs[kind] / each.ours[kind] for each in rounds] for kind in (0, 1))
    middle = rounds[by_clock.index(statistics.median_low(by_clock))]  # both rates of one round, so of one load
    for name, side in zip(names, ("theirs", "ours"), strict=True):
        rate = middle.sentences / getattr(middle, side)[0]
        cost = statistics.median(getattr(each, side)[1] / each.sentences * 1000 for each in rounds)
        lines.append(f"| {name} | {rate:.0f} | {cost:.1f} |")
    lines.append(f"| **ratio** | **{statistics.median(by_clock):.2f}** | **{statistics.median(by_processor):.2f}** |")
    count, ratios = sum(each.sentences for each in rounds), ", ".join(f"{ratio:.2f}" for ratio in by_clock)
    return [
        *lines,
        "",
        f"{count:,} sentences of SST-2, fp32, in {len(rounds)} rounds by turns; rates of the median round, whose",
        f"neighbours' ratios show the noise ({ratios}), and medians of the rest.",
        f"Labels are the same, probabilities differ by {largest:.1g} at most.",
        f"{machine(threads)};",
        "other programs used the machine meanwhile, which is why the sides take turns.",
    ]


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/*.parquet")
    parser.add_argument("--work", type=Path, default=Path("runs/predict_speed"), help="where run and files go")
    parser.add_argument("--count", type=int, default=10_000, help="sentences")
    parser.add_argument("--rounds", type=int, default=5, help="each takes its share of the sentences")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/serving.md's table")
    given = parser.parse_args()
    lines = measure(given.data, given.work, given.count, given.rounds, given.threads)
    if given.write:
        replace_part(PAGE, "predict speed", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
