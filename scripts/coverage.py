"""Simulate how often intervals contain the truth, and write the tables of docs/statistics.md.

    python scripts/coverage.py [--only components,metrics] [--share 0.1]

Every section draws its own stream of random numbers, so that a table does not depend on which others are made. All of
them take some ten minutes on an idle core; --share makes fewer replicates, for a look.
"""

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from designs import Shape, Spread, components, family, looks, looks_at_runs, shaped, suite

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "statistics.md"
SEEDS = (3, 5, 10)
EXAMPLES = (300, 1000, 5000)
GRID = tuple(itertools.starmap(Spread, itertools.product((0.0, 0.5, 1.5, 4.0), (0.0, 15.0, 40.0), (3.0, 20.0, 40.0))))
DIFFERENCES = (1.0, 3.0)

Table = tuple[Sequence[str], list[Sequence[str]]]


def of_components(share: float) -> Table:
    """Coverage over the grid of Gaussian components."""
    generator, rows = np.random.default_rng(1), []
    for seeds, examples in itertools.product(SEEDS, EXAMPLES):
        count = _count(10_000, share)
        found = [(one, components(generator, one, seeds, examples, count, DIFFERENCES)) for one in GRID]
        least, most = (choose(found, key=lambda pair: pair[1][0].coverage) for choose in (min, max))
        wrong = [max(rate.equivalent for rate in column) for column in zip(*(rates for _, rates in found), strict=True)]
        mean = float(np.mean([rates[0].coverage for _, rates in found]))
        rows.append(
            (
                *(str(seeds), f"{examples:,}", _percent(least[1][0].coverage), _spread(least[0]), _percent(mean)),
                *(_percent(most[1][0].coverage), _spread(most[0]), *map(_percent, wrong)),
            )
        )
    head = ("seeds", "examples", "least", "where", "mean", "most", "where", "equivalent at ±1", "equivalent at ±3")
    return head, rows


def of_metrics(share: float) -> Table:
    """Coverage of metrics of simulated predictions, for no difference and one of about three points."""
    generator, rows = np.random.default_rng(2), []
    shapes = {
        "accuracy": (0.5, (1.0, 1.13)),
        "f1": (2 / 3, (1.0, 1.2)),
        "matthews": (0.3, (1.0, 1.07)),
        "matthews, 10 % positives": (0.1, (1.3, 1.37)),
        "pearson": (0.0, (1.0, 1.1)),
        "spearman": (0.0, (1.0, 1.1)),
    }
    for name, (positives, strengths) in shapes.items():
        metric = name.partition(",")[0]
        for seeds, examples in itertools.product(SEEDS, (300, 1500)):
            count = _count(500, share)
            none = shaped(generator, Shape(metric, positives, (strengths[0],) * 2), seeds, examples, count)
            shape = Shape(metric, positives, strengths)
            some = shaped(generator, shape, seeds, examples, count)
            rows.append(
                (
                    *(name, str(seeds), f"{examples:,}", _percent(none.coverage), f"{none.width:.1f}"),
                    *(f"{shape.truth():.1f}", _percent(some.coverage), _percent(some.equivalent)),
                )
            )
    head = ("metric", "seeds", "examples", "no difference", "half-width", "difference", "coverage")
    return (*head, "equivalent at the difference"), rows


def of_families(share: float) -> Table:
    """Wrong directions among several methods that do not differ from their reference."""
    generator, rows = np.random.default_rng(3), []
    shapes = {
        "seeds make most of it": [Spread(1.0, 5.0, 5.0)] * 7,
        "seeds make four fifths": [Spread(1.0, 10.0, 5.0)] * 7,
        "examples make most of it": [Spread(0.1, 30.0, 15.0)] * 7,
        "seeds and examples": [Spread(1.0, 15.0, 20.0)] * 7,
        "noise alone": [Spread(0.0, 0.0, 20.0)] * 7,
        "an unstable reference": [Spread(3.0, 10.0, 10.0)] + [Spread(0.5, 10.0, 10.0)] * 6,
        "an unstable method": [Spread(0.5, 10.0, 10.0)] * 6 + [Spread(3.0, 10.0, 10.0)],
    }
    for name, spreads in shapes.items():
        for seeds in SEEDS:
            count = _count(800, share)
            two = family(generator, [*spreads[:2], spreads[-1]], seeds, 400, count)
            six = family(generator, spreads, seeds, 400, count)
            rows.append((name, str(seeds), _percent(two), _percent(six)))
    return ("what varies", "seeds", "2 methods", "6 methods"), rows


def of_suites(share: float) -> Table:
    """Coverage of the mean over tasks."""
    generator, rows = np.random.default_rng(4), []
    shapes = {
        "3 tasks alike": [Spread(1.0, 15.0, 20.0)] * 3,
        "6 tasks alike": [Spread(1.0, 15.0, 20.0)] * 6,
        "6 tasks alike, seeds alone": [Spread(1.0, 1.0, 1.0)] * 6,
        "2 tasks, seeds alone": [Spread(1.0, 1.0, 1.0)] * 2,
        "one unstable task of 3": [Spread(4.0, 10.0, 10.0)] + [Spread(1.0, 10.0, 10.0)] * 2,
        "one unstable task of 6, seeds alone": [Spread(4.0, 1.0, 1.0)] + [Spread(0.6, 1.0, 1.0)] * 5,
    }
    for name, spreads in shapes.items():
        for seeds in SEEDS:
            rates = suite(generator, spreads, seeds, 408, _count(10_000, share))
            rows.append((name, str(seeds), _percent(rates.coverage), f"{rates.width:.2f}", _percent(rates.equivalent)))
    return ("tasks", "seeds", "coverage", "half-width", "equivalent at ±1"), rows


def of_looks(share: float) -> Table:
    """Wrong claims when seeds are added until all is decided."""
    generator, rows = np.random.default_rng(5), []
    for at in ((3, 5, 10, 20), tuple(range(3, 11)), (3, 5)):
        found = looks_at_runs(generator, at, _count(200_000, share))
        rows.append(("seeds alone", "1", _listed(at), _percent(found.single), _percent(found.wrong), "not simulated"))
    shapes = {"seeds and examples": Spread(1.0, 10.0, 15.0), "examples make most of it": Spread(0.1, 30.0, 15.0)}
    for name, spread in shapes.items():
        for methods, at in ((1, (3, 5, 10, 20)), (3, (3, 5, 10))):
            found = looks(generator, [spread] * (methods + 1), at, 400, _count(300, share), 2.0)
            told = map(_percent, (found.single, found.wrong, found.equivalent))
            rows.append((name, str(methods), _listed(at), *told))
    head = (
        "what varies",
        "methods",
        "seeds at the looks",
        "each look at 5 %",
        "spending",
        "equivalent at ±2, spending",
    )
    return head, rows


SECTIONS: dict[str, Callable[[float], Table]] = {
    "components": of_components,
    "metrics": of_metrics,
    "families": of_families,
    "suites": of_suites,
    "looks": of_looks,
}


def _count(full: int, share: float) -> int:
    """Replicates to make."""
    return max(round(full * share), 10)


def _percent(rate: float) -> str:
    """A rate, to the tenth of a percent."""
    return f"{100.0 * rate:.1f} %"


def _listed(numbers: Sequence[int]) -> str:
    """Numbers, one after the other."""
    return ", ".join(map(str, numbers))


def _spread(spread: Spread) -> str:
    """Standard deviations of seeds, examples and both together."""
    return f"{spread.seed:g} / {spread.example:g} / {spread.residual:g}"


def markdown(table: Table) -> str:
    """Lay out a table."""
    head, rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(text: str, name: str, table: str) -> str:
    """Put a table between its marks.

    Raises:
        SystemExit: The marks are not there.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in text or end not in text:
        raise SystemExit(f"{DOCUMENT}: no place for the table: put in the lines {start} and {end}")
    before, rest = text.split(start, 1)
    return f"{before}{start}\n{table}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    """Simulate, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--share", type=float, default=1.0, help="of the replicates; less than 1 writes nothing")
    chosen = parser.parse_args()
    for name in chosen.only.split(","):
        table = markdown(SECTIONS[name](chosen.share))
        sys.stdout.write(f"{name}\n\n{table}\n\n")
        sys.stdout.flush()
        if math.isclose(chosen.share, 1.0):
            DOCUMENT.write_text(put(DOCUMENT.read_text(encoding="utf-8"), name, table), encoding="utf-8")


if __name__ == "__main__":
    main()
