"""The page that `bench.py` writes from what it measured."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_rows import POCKET, TASKS, Row, measured, rows
from contestants import EXAMPLES, LONGEST, Segment

VERDICT = ("full", "LoRA, all linear layers", "bitfit", "ia3", "probe")
"""The methods of a comparison whose trainings are added up, for MRPC."""
TRAININGS, EPOCHS, HELD_OUT = 6, 3, 0.1
"""Of each method: three trials and three seeds, of so many epochs, without the share that trials are chosen by."""

SIDE_BY_SIDE = ("graft", "Trainer, best")
"""Contestants that are also run with a process for each core."""

FLOPS = {"full": 6, "probe": 2}
"""Floating-point operations per weight and token; 4 where the backbone is frozen and passed through backward."""


def speed(segment: Segment) -> float:
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
        ratios = [speed(a) / speed(b) for a, b in zip(segments[ours], taken, strict=False)]
        useful = statistics.median(map(speed, taken))
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
        "whole encoder), which is what lets a probe's pooled vectors be kept. Epochs are of all training examples",
        "(SST-2: 10,000 of them). A segment is some steps that stand for an epoch: whole pools of Trainer's sampler,",
        "in a new order each time, and steps of all lengths of graft's first epoch. The first one of each process is",
        "made in one go and told apart; in ratios and rates it does not count. Rates are of tokens without padding,",
        "and medians over the rounds; examples a second are tokens a second over an example's mean length; a ratio's",
        "two segments are of one round. *of GEMM rate* is model FLOP utilisation: 4 N D operations (full 6, probe 2)",
        "a second, N the weights outside the embeddings and D the tokens without padding, against bf16 matrix",
        "products measured while the turns went round. It counts the operations of a whole model; graft leaves out",
        "those of the last layer that nothing reads, a seventh of MiniLM's. Peaks are the processes', all of which",
        "read the data with graft. Only graft's process has what graft sets: how long threads wait busily for one",
        "another, and how many compiled matrix products oneDNN keeps ([why](recipes.md)); the others have torch's",
        "defaults.\n",
    ]
    places = list(dict.fromkeys(found["where"] for _, found in there))
    for row, found in there:
        rates = [rate / 1e9 for rate in found["gemm_flops"]]
        count = "1 round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
        machine = f" on machine {places.index(found['where']) + 1}" if len(places) > 1 else ""
        parts += [
            f"## {row.task}, {row.method}\n",
            f"{count} of {found['steps']} steps, {found['threads']} threads{machine},",
            f"{statistics.median(rates):.0f} GFLOP/s in bf16 matrix products ({min(rates):.0f} to {max(rates):.0f}).\n",
            *table(HEADINGS, summary(found, row.method)),
        ]
        if row.method == "probe":
            parts += whole_probes(found)
    if len(places) == 1:
        parts += verdict(there)
    numbers = [f"{number}. " for number in range(1, len(places) + 1)] if len(places) > 1 else [""]
    parts += ["## Where\n", *(f"{number}{told}." for number, told in zip(numbers, places, strict=True)), ""]
    return "\n".join(parts)


def table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown, and an empty one."""
    drawn = ["| " + " | ".join(line) + " |" for line in (headings, *lines)]
    return [drawn[0], "|" + "---|" * len(headings), *drawn[1:], ""]


def whole_probes(found: Mapping[str, Any]) -> list[str]:
    """Tell what whole trainings of a probe take: later epochs are graft's fast ones."""
    took = {name: training(found, name, "probe", found["examples"]) for name in found["segments"]}
    told = "; ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    return [f"A training of {EPOCHS} epochs, graft's first segment and pass over the encoder counted: {told}.\n"]


def training(found: Mapping[str, Any], name: str, method: str, examples: int, *, beside: bool = False) -> float:
    """Extrapolate how long the steps of a training take.

    Args:
        found: What its row measured.
        name: Of the contestant.
        method: Of the row.
        examples: That it learns from in an epoch.
        beside: One of those that run side by side, and so its share of the time of all.

    Returns:
        Seconds, with what graft computes once for all probes.
    """
    rates = found["side_by_side"][name] if beside else [speed(Segment(**one)) for one in found["segments"][name]]
    tokens = EPOCHS * examples * found["tokens_per_example"]
    return float(tokens / statistics.median(rates) + _once(found, name, method))


def _once(found: Mapping[str, Any], name: str, method: str) -> float:
    """Seconds of what graft computes once for all probes."""
    return float(found["first_seconds"][name]) if method == "probe" and name == "graft" else 0.0


def verdict(there: Iterable[tuple[Row, Mapping[str, Any]]]) -> list[str]:
    """Add up the trainings of a comparison, from the rates of its methods on the first task."""
    first = next(iter(TASKS))
    every = {row.method: found for row, found in there if row.task in (first, POCKET[first])}
    if not all(method in every for method in VERDICT):
        return []
    beside_too = all("side_by_side" in every[method] for method in VERDICT)
    one = every[VERDICT[0]]
    examples = round((1 - HELD_OUT) * one["examples"])
    asked = [(name, False) for name in one["segments"]] + [(name, True) for name in SIDE_BY_SIDE if beside_too]
    minutes: dict[str, float] = {}
    for name, beside in asked:
        seconds = 0.0
        for method in VERDICT:
            took = training(every[method], name, method, examples, beside=beside)
            seconds += TRAININGS * took - (TRAININGS - 1) * _once(every[method], name, method)
        minutes[f"{name}, side by side" if beside else name] = seconds / 60
    ours = next(iter(minutes.values()))
    lines = [(name, f"{took:.0f}", f"{took / ours:.2f}") for name, took in minutes.items()]
    parts = [
        "## Time to verdict\n",
        f"The trainings of a comparison on {one['settings']['task']}, extrapolated from the rates above:",
        f"{'; '.join(VERDICT)}. Three trials and three seeds each, {EPOCHS} epochs of {examples:,} examples, steps",
        "alone: scoring is left out on all sides. What the frozen layers say to graft's probes is computed once for",
        "all of them, with all threads, and counted. That graft does not train a chosen trial again is left out.\n",
        *table(("", "minutes", "to graft"), lines),
    ]
    return parts + (_beside(every) if beside_too else [])


def _beside(every: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tell the rates side by side."""
    ours, peer = SIDE_BY_SIDE
    lines = []
    for method in VERDICT:
        rates = every[method]["side_by_side"]
        ratios = [a / b for a, b in zip(rates[ours], rates[peer], strict=True)]
        low, high = min(ratios), max(ratios)
        told = [f"{statistics.median(rates[name]):,.0f}" for name in SIDE_BY_SIDE]
        lines.append([method, *told, f"{statistics.median(ratios):.2f}", f"{low:.2f} to {high:.2f}"])
    return [
        "One training after the other takes all cores; *side by side*, each core has a process of one thread, as",
        "`graft compare` runs and as one could start Trainer, too. Tokens a second of all processes, up to when the",
        "last one has ended its segment; the contestants in turns, segment by segment:\n",
        *table(("", *SIDE_BY_SIDE, HEADINGS[2], HEADINGS[3]), lines),
    ]
