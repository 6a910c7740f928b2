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
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bench_page import SIDE_BY_SIDE, VERDICT, page, speed
from bench_rows import POCKET, PROTOCOL, Row, as_asked, measured, rows, where
from contestants import CONTESTANTS, EXAMPLES, Segment
from turns import Turns, by_turns

from graft.errors import GraftError
from graft.files import write_atomically, write_json
from graft.recipes import hardware

ROOT = Path(__file__).resolve().parent.parent
ONCE = "bare loop"
"""The contestant that has one round alone: it is as fast as Trainer, and takes as long."""


@contextmanager
def scratch() -> Iterator[None]:
    """Give all contestants of a row one folder for what they keep, which is gone in the end, however they end."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {"GRAFT_CACHE": folder, "TMPDIR": folder}),
    ):
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
            told = ", ".join(f"{name} {speed(segments[name][-1]):,.0f}" for name in taking)
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


def side_by_side(settings: Mapping[str, str], steps: int, rounds: int) -> dict[str, list[float]]:
    """Let as many processes as there are cores train at the same time, with one thread and a seed each.

    Returns:
        Contestant to tokens a second of all of its processes, up to when the last one has ended, round by round.

    Raises:
        SystemExit: A contestant ended.
    """
    rates: dict[str, list[float]] = {name: [] for name in SIDE_BY_SIDE}
    with ExitStack() as stack:
        stack.enter_context(scratch())
        seeds = range(1, hardware.threads() + 1)
        each = [dict(settings) | {"threads": "1", "seed": str(seed)} for seed in seeds]
        teams = {name: [stack.enter_context(Turns(name, one)) for one in each] for name in SIDE_BY_SIDE}
        for number in range(rounds + 1):
            for name, workers in teams.items():
                for worker in workers:
                    worker.prepare(steps)
                for worker in workers:
                    worker.go()
                found = [worker.answer() for worker in workers]
                if number:  # the first time, most lengths are met: in a comparison, a process trains many runs
                    rates[name].append(sum(one["tokens"] for one in found) / max(one["seconds"] for one in found))
    return rates


def whole_number(text: str) -> int:
    """Read a number that is at least 1; argparse tells this function's name of what is none."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


@contextmanager
def interruptible() -> Iterator[None]:
    """Let signals that end a process end it as Ctrl-C does, so that contestants end, too."""
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Measure what is not measured yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="GLUE's files; without them, pocket tasks of such lengths")
    parser.add_argument("--rounds", type=whole_number, default=5, help="segments of each contestant (default: 5)")
    parser.add_argument(
        "--pools", type=int, choices=range(1, 5), default=2, help="length of a segment, in pools (default: 2)"
    )
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
        parser.error(f"--only: no row has such a name; there are: {'; '.join(row.name for row in every)}")
    target = given.page or given.out / "performance.md"
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with interruptible():
            for row in [] if given.write_only else chosen:
                _measure(row, given)
        write_atomically(target, page(given.out, given.data))
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted; rows that are done are kept in {given.out}") from None
    except (OSError, GraftError) as error:
        raise SystemExit(f"error: {error}") from None
    return 0


def _measure(row: Row, given: argparse.Namespace) -> None:
    """Measure of a row what is not measured yet."""
    sys.stderr.write(f"{row.name}\n")
    file = given.out / f"{row.name}.json"
    if not as_asked(measured(file), row, given.rounds, given.pools):
        write_json(file, take(row.settings, given.rounds, given.pools))
    found = measured(file)
    wanted = given.side_by_side and row.task in ("mrpc", POCKET["mrpc"]) and row.method in VERDICT
    if wanted and len(found.get("side_by_side", {}).get("graft", ())) < given.rounds:
        write_json(file, found | {"side_by_side": side_by_side(row.settings, found["steps"], given.rounds)})


if __name__ == "__main__":
    sys.exit(main())
