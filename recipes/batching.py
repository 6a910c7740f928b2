"""Which examples make up which optimiser step: a plan that is global, and pure in (seed, epoch).

A step's examples are fixed by the recipe, so that a comparison never depends on the hardware. Only the cutting of a
step into micro-batches looks at memory and at the number of processes, and it changes no result: losses
are divided by the whole step's units, and dropout belongs to the example.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from graft.recipes.streams import stream

Rows = npt.NDArray[np.int64]

_LARGEST_POOL = 40  # steps; a pool is sorted by length: larger ones would hardly save more padding
_SHORT = 60  # steps; in epochs of fewer, pools are an eighth of one, otherwise a quarter


def steps_per_epoch(size: int, examples: int) -> int:
    """Count the optimiser steps of one pass over the data; the last one may be smaller."""
    return math.ceil(size / examples)


def pool_steps(steps: int) -> int:
    """Tell how many steps of an epoch of so many are sorted by length together; 1 sorts nothing."""
    return min(_LARGEST_POOL, max(1, steps // (8 if steps < _SHORT else 4)))


def epoch_plan(lengths: Rows, *, seed: int, epoch: int, examples: int, buckets: bool) -> list[Rows]:
    """Lay out one epoch.

    With buckets, the shuffled examples are sorted by length within pools, cut into steps, and the steps shuffled: a
    step then holds examples of like length and wastes little on padding, while lengths stay mixed from step to step.
    A pool is at most a quarter of the epoch, as in transformers' `group_by_length`, and at most 40 steps. In an epoch
    of fewer than 60 steps it is an eighth, and in one of fewer than 16 each step holds what it would without buckets: a
    short training loses score where each of its few gradients is of one length alone.

    Args:
        lengths: Tokens of each example, (N,).
        seed: The recipe's seed.
        epoch: Counted from 0.
        examples: Examples in a step.
        buckets: Whether to group by length.

    Returns:
        Row numbers of each step; every row occurs exactly once.
    """
    generator = np.random.default_rng(stream(seed, "order", epoch))
    order = generator.permutation(len(lengths))
    if not buckets:
        return [order[start : start + examples] for start in range(0, len(order), examples)]
    steps: list[Rows] = []
    size = examples * pool_steps(steps_per_epoch(len(order), examples))
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        steps.extend(pool[at : at + examples] for at in range(0, len(pool), examples))
    return [steps[number] for number in generator.permutation(len(steps))]


def stream_rows(size: int, *, seed: int, name: str, step: int, examples: int) -> Rows:
    """Pick a step's examples from a term's own data, epoch after epoch, without state.

    Args:
        size: Examples in the stream's data.
        seed: The recipe's seed.
        name: The stream's name; each stream has an order of its own.
        step: The optimiser step, counted from 0.
        examples: Examples per step; may exceed `size`.

    Returns:
        Row numbers, (examples,).
    """
    first = step * examples
    epochs = range(first // size, (first + examples - 1) // size + 1)
    orders = [np.random.default_rng(stream(seed, "stream", name, epoch)).permutation(size) for epoch in epochs]
    start = first - epochs.start * size
    return np.concatenate(orders)[start : start + examples]


def micro_batches(rows: Rows, lengths: Rows, *, tokens: int, rank: int = 0, world: int = 1) -> list[Rows]:
    """Cut a step into one process's micro-batches of bounded size.

    Args:
        rows: The step's rows.
        lengths: Tokens of every example of the data, (N,).
        tokens: Most tokens in a micro-batch, padding counted; a single longer example still makes one.
        rank: This process.
        world: Number of processes.

    Returns:
        Row numbers of each micro-batch, longest examples first; over all ranks every row occurs exactly once. A
        rank may have none.
    """
    mine = rows[np.argsort(-lengths[rows], kind="stable")][rank::world]
    batches: list[Rows] = []
    start = 0
    while start < len(mine):
        size = max(1, tokens // int(lengths[mine[start]]))
        batches.append(mine[start : start + size])
        start += size
    return batches


def rounded(lengths: Rows) -> Rows:
    """Make few lengths of many, where every length has a price of its own.

    Args:
        lengths: Tokens of every example of the data, (N,).

    Returns:
        The next multiple of 2 up to 32 tokens, of 4 up to 64, of 8 up to 128, of 16 up to 256 and of 32 beyond, but no
        more than the longest example has: what fits that one is known to fit. (N,).
    """
    multiples = np.select([lengths <= 32, lengths <= 64, lengths <= 128, lengths <= 256], [2, 4, 8, 16], default=32)
    made: Rows = np.minimum(-(-lengths // multiples) * multiples, lengths.max(initial=0))
    return made


def padded_share(plan: Sequence[Rows], lengths: Rows, padded_lengths: Rows | None = None) -> float:
    """Tell what share of the tokens of a plan is padding, when each step is one micro-batch.

    Args:
        plan: The rows of each step.
        lengths: Tokens of every example, (N,).
        padded_lengths: To how many each is padded when it is the longest of a step; none for `lengths` itself.
    """
    reach = lengths if padded_lengths is None else padded_lengths
    padded = sum(len(rows) * int(reach[rows].max()) for rows in plan)
    return 1.0 - int(sum(int(lengths[rows].sum()) for rows in plan)) / padded
