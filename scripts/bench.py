"""Train with graft and with what a user would run instead, in turns, and write a page about it.

    python scripts/bench.py --data FOLDER [--rounds 5] [--pools 2] [--side-by-side] [--only TEXT] [--out FOLDER]
                            [--page docs/performance.md] [--write-only]

Every row is a task's shape and a method. In a round its contestants take a segment each, step by step in turns (on an
accelerator, which is given several steps at once, segment by segment), and ratios are of segments of one round, so that
whatever else the machine does, it does to all; medians are over the rounds. Each has a process of its own, which waits
while another one's turn is on. Rows that are measured already, as they are asked for, are kept in `--out` and not
measured again.

A segment stands for an epoch. For Trainer it is whole pools of its sampler, which sorts pools of up to 50 steps by
length, the longest first; graft takes some steps of its epoch at even distances, from the shortest to the longest, in
random order.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from contestants import CONTESTANTS, EXAMPLES, LONGEST, PEER_RATE, Segment
from turns import Turns, by_turns

from graft.files import write_atomically, write_json
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
TRAININGS, EPOCHS, HELD_OUT = 6, 3, 0.1
"""Of each method: three trials and three seeds, of so many epochs, without the share that trials are chosen by."""
TASKS: dict[str, int | None] = {"mrpc": None, "sst2": 10_000, "rte": None}
"""Task to the training examples that epochs are of; none for all."""

POCKET = {"mrpc": "pocket/paraphrase", "sst2": "pocket/sentiment", "rte": "pocket/entailment"}
"""What stands in for a task whose data are not there."""

SIDE_BY_SIDE = ("graft", "Trainer, best")
"""Contestants that are also run with a process for each core."""

PROTOCOL = 5
"""Raised when rows are measured otherwise than before: what was measured by another one is not shown beside them."""

ONCE = "bare loop"
"""The contestant that has one round alone: it is as fast as Trainer, and takes as long."""

FLAGS = {"avx512_bf16": "AVX-512 with bf16", "amx_bf16": "AMX with bf16"}
"""What of a processor matters here, by its name in /proc/cpuinfo."""

FLOPS = {"full": 6, "probe": 2}
"""Floating-point operations per weight and token; 4 where the backbone is frozen and passed through backward."""


class Row(NamedTuple):
    """What is measured at once.

    Attributes:
        task: As graft names it.
        method: A key of `METHODS`.
        settings: The recipe, by dotted name.
    """

    task: str
    method: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """What `--only` looks into, and the stem of the row's file."""
        return f"{self.task.replace('/', '-')} {self.method}"


def rows(data: Path | None) -> Iterator[Row]:
    """Name each row, of GLUE's tasks or else of the pocket tasks that stand in for them."""
    for task, size in TASKS.items():
        where = {"task": task, "data": str(data)} if data is not None else {"task": POCKET[task]}
        for method, chosen in METHODS.items():
            if task != "mrpc" and method in ("bitfit", "ia3"):
                continue
            settings = where | chosen
            settings |= {
                "model": "minilm",
                "task.max_length": str(LONGEST),
                "task.holdout": "0",
                "schedule.examples": str(EXAMPLES),
                "schedule.epochs": "100",
                "optim.lr": str(PEER_RATE),
                "seed": "1",
            }
            yield Row(where["task"], method, settings if size is None else settings | {"task.train_size": str(size)})


@contextmanager
def scratch() -> Iterator[None]:
    """Give all contestants of a row one folder for what they keep, which is gone in the end, however they end."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        stack.enter_context(patch.dict(os.environ, {"GRAFT_CACHE": folder, "TMPDIR": folder}))
        yield


def take(settings: Mapping[str, str], rounds: int, pools: int) -> dict[str, Any]:
    """Let the contestants take turns.

    What graft's frozen layers say is kept in a folder of this row alone, so that the first pass computes it.

    Returns:
        Contestant to its segments, what model FLOP utilisation is computed from, and where all that was measured.

    Raises:
        SystemExit: A contestant ended, or does not train as much as another one.
    """
    with ExitStack() as stack:
        stack.enter_context(scratch())
        contestants = {name: stack.enter_context(Turns(name, settings)) for name in CONTESTANTS}
        about = contestants["graft"].about
        learned = {name: contestant.about["learns"] for name, contestant in contestants.items()}
        if len(set(learned.values())) > 1:
            raise SystemExit(f"error: not the same method on all sides; numbers that are trained: {learned}")
        steps = pools * max(min(about["examples"] // (4 * EXAMPLES), 50), 1)
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
        "settings": dict(settings),
        "rounds": rounds,
        "pools": pools,
        "steps": steps,
        "first_seconds": first,
        "where": where(),
        **{key: about[key] for key in ("backbone_weights", "examples", "learns", "tokens_per_example", "threads")},
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


def measured(file: Path) -> dict[str, Any]:
    """Read what a row measured; nothing where it was not, or by another protocol.

    Raises:
        SystemExit: The file cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {file}: unreadable ({error}); delete it to measure the row again") from error
    return found if found.get("protocol") == PROTOCOL else {}


def as_asked(found: Mapping[str, Any], row: Row, rounds: int, pools: int) -> bool:
    """Whether a row was measured with these settings, segments so long, and rounds enough."""
    return bool(found) and found["settings"] == row.settings and found["pools"] == pools and found["rounds"] >= rounds


def side_by_side(name: str, settings: Mapping[str, str], steps: int) -> float:
    """Let as many processes as there are cores train at the same time, with one thread each.

    Returns:
        Tokens a second of all of them, up to when the last one has ended.
    """
    with ExitStack() as stack:
        stack.enter_context(scratch())
        each = dict(settings) | {"threads": "1"}
        workers = [stack.enter_context(Turns(name, each)) for _ in range(hardware.threads())]
        for _ in range(2):  # first to meet most lengths: in a comparison, a process trains many runs
            for worker in workers:
                worker.prepare(steps)
            for worker in workers:
                worker.go()
            found = [worker.answer() for worker in workers]
        return float(sum(one["tokens"] for one in found) / max(one["seconds"] for one in found))


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
                "" if name == ours else f"{statistics.median(ratios):.2f}",
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
    "graft is so many times as fast",
    "in the rounds",
    "useful tokens/s",
    "padding",
    "of GEMM rate",
    "peak MiB",
    "first segment, s",
    "a later one, s",
)


def page(out: Path, data: Path | None) -> str:
    """Write the page from what was measured.

    Raises:
        SystemExit: Nothing was.
    """
    there = [(row, found) for row in rows(data) if (found := measured(out / f"{row.name}.json"))]
    if not there:
        raise SystemExit(f"error: {out}: no row was measured there, so there is no page to write")
    parts = [
        "# How fast graft trains\n",
        "Written by `scripts/bench.py`: graft against what a user would run instead, with as many numbers to train,",
        f"on the same examples, {EXAMPLES} in a step and at most {LONGEST} tokens long, step by step in turns, each in",
        "a process of its own. *Trainer* is transformers' Trainer with peft as their documentation shows it:",
        'fp32 and dynamic padding; *best* adds `bf16=True` and `train_sampling_strategy="group_by_length"`. *bare',
        "loop* is the loop of a tutorial, which has one round alone. Dropout has the same rates on all sides wherever",
        "something learns; below that graft's layers drop nothing (with LoRA and IA3 the embeddings, with a probe the",
        "whole encoder), which is what lets a probe's pooled vectors be kept. Epochs are of all training examples, but",
        "of 10,000 with SST-2's or in its place. A segment is some steps that stand for an epoch, whole pools",
        "of Trainer's sampler; the first one of each process is made in one go, does not count and is told apart.",
        "Rates are of tokens without padding, and medians over the rounds; examples a second are tokens a second over",
        "an example's mean length; a ratio's two segments are of one round. *of GEMM rate* is model FLOP utilisation:",
        "4 N D operations (full 6, probe 2) a second, N the weights outside the embeddings and D the tokens without",
        "padding, against bf16 matrix products measured while the turns went round. It counts the operations of a",
        "whole model; graft leaves out those of the last layer that nothing reads, a seventh of MiniLM's. Peaks are",
        "the processes'. Only graft's process has what graft sets: how long threads wait busily for one another, and",
        "how many compiled matrix products oneDNN keeps ([why](recipes.md)); the others have torch's defaults.\n",
    ]
    for row, found in there:
        count, rates = found["rounds"], [rate / 1e9 for rate in found["gemm_flops"]]
        parts += [
            f"## {row.task}, {row.method}\n",
            f"{count} {'round' if count == 1 else 'rounds'} of {found['steps']} steps, {found['threads']} threads,",
            f"{statistics.median(rates):.0f} GFLOP/s in bf16 matrix products ({min(rates):.0f} to {max(rates):.0f}).\n",
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "---|" * len(HEADINGS),
            *("| " + " | ".join(line) + " |" for line in summary(found, row.method)),
            "",
        ]
        if row.method == "probe":
            parts += _whole_probes(found)
    parts += verdict(there)
    parts += ["## Where\n", *(f"{told}." for told in dict.fromkeys(found["where"] for _, found in there)), ""]
    return "\n".join(parts)


def _whole_probes(found: Mapping[str, Any]) -> list[str]:
    """Tell what whole trainings of a probe take: later epochs are graft's fast ones."""
    took = {name: training(found, name, "probe", found["examples"]) for name in found["segments"]}
    told = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    return [f"A training of {EPOCHS} epochs, graft's first pass over the encoder counted: {told}.\n"]


def training(found: Mapping[str, Any], name: str, method: str, examples: int, *, once: bool = True) -> float:
    """Extrapolate how long the steps of a training take.

    Args:
        found: What its row measured.
        name: Of the contestant.
        method: Of the row.
        examples: That it learns from in an epoch.
        once: Count what graft computes once for all probes.

    Returns:
        Seconds.
    """
    rate = found.get("side_by_side", {}).get(name) or statistics.median(
        _speed(Segment(**one)) for one in found["segments"][name]
    )
    first = found["first_seconds"]["graft"] if once and method == "probe" and name.startswith("graft") else 0.0
    return float(EPOCHS * examples * found["tokens_per_example"] / rate + first)


def verdict(there: Iterable[tuple[Row, Mapping[str, Any]]]) -> list[str]:
    """Add up the trainings of a comparison, from the rates of its methods on the first task."""
    first = next(iter(TASKS))
    every = {row.method: found for row, found in there if row.task in (first, POCKET[first])}
    if not all(method in every for method in VERDICT):
        return []
    beside_too = all("side_by_side" in every[method] for method in VERDICT)
    names = list(every[VERDICT[0]]["segments"])
    minutes: dict[str, float] = {}
    for name in names + [f"{name}, side by side" for name in SIDE_BY_SIDE if beside_too]:
        for method in VERDICT:
            found = every[method]
            examples = round((1 - HELD_OUT) * found["examples"])
            took = [training(found, name, method, examples, once=not number) for number in range(TRAININGS)]
            minutes[name] = minutes.get(name, 0.0) + sum(took) / 60
    ours = names[0]
    beside = [
        "One training after the other takes all cores; *side by side*, each core has a process of one thread, which is",
        "how `graft compare` runs and how one could start Trainer, too.",
    ]
    found = every[VERDICT[0]]
    examples = round((1 - HELD_OUT) * found["examples"])
    return [
        "## Time to verdict\n",
        f"The trainings of a comparison on {found['settings']['task']}, extrapolated from the rates above:",
        f"{', '.join(VERDICT)}; three trials and three seeds each, {EPOCHS} epochs of {examples:,} examples,",
        "steps alone: scoring is left out on all sides.",
        *(beside if beside_too else []),
        "What the frozen layers say to graft's probes is computed once for all of them, and counted. That graft does",
        "not train a chosen trial again is left out.\n",
        "| | minutes | to graft |",
        "|---|---|---|",
        *(f"| {name} | {took:.0f} | {took / minutes[ours]:.2f} |" for name, took in minutes.items()),
        "",
    ]


def where() -> str:
    """The machine and the versions of libraries."""
    return f"{_machine()}; {', '.join(f'{name} {version}' for name, version in versions().items())}"


def _machine() -> str:
    """The processor and what of it may be used."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = "".join(f", {told}" for flag, told in FLAGS.items() if flag in flags)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {hardware.threads()} cores{wide}{gpu}"


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLUE's files; without them, pocket tasks of such lengths")
    parser.add_argument("--rounds", type=_at_least_one, default=5, help="segments of each contestant (default: 5)")
    parser.add_argument("--pools", type=_at_least_one, default=2, help="length of a segment, in pools (default: 2)")
    parser.add_argument("--only", nargs="+", default=[""], help="measure rows whose names hold one of these texts")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench", help="where measurements are kept")
    parser.add_argument("--page", type=Path, help="the page to write (default: performance.md in --out)")
    parser.add_argument(
        "--side-by-side", action="store_true", help="measure trainings side by side as well, for the time to verdict"
    )
    parser.add_argument("--write-only", action="store_true", help="measure nothing, write the page")
    given = parser.parse_args()
    every = list(rows(given.data))
    chosen = [row for row in every if any(part in row.name for part in given.only)]
    if not chosen:
        parser.error(f"--only: no row has such a name; there are: {', '.join(row.name for row in every)}")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    signal.signal(signal.SIGTERM, _stop)
    try:
        for row in [] if given.write_only else chosen:
            _measure(row, given)
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; rows that are done are kept in {given.out}") from None
    write_atomically(given.page or given.out / "performance.md", page(given.out, given.data))
    return 0


def _measure(row: Row, given: argparse.Namespace) -> None:
    """Measure of a row what is not measured yet."""
    sys.stderr.write(f"{row.name}\n")
    file = given.out / f"{row.name}.json"
    if not as_asked(measured(file), row, given.rounds, given.pools):
        write_json(file, take(row.settings, given.rounds, given.pools))
    found = measured(file)
    wanted = given.side_by_side and row.task in ("mrpc", POCKET["mrpc"]) and row.method in VERDICT
    if wanted and "side_by_side" not in found:
        together = {f"{name}, side by side": side_by_side(name, row.settings, found["steps"]) for name in SIDE_BY_SIDE}
        write_json(file, found | {"side_by_side": together})


if __name__ == "__main__":
    sys.exit(main())
