"""Random choices that are the same on every platform and Python version, and the division of words between splits."""

import hashlib
import random
from collections.abc import Sequence
from typing import Literal, TypeVar

Part = Literal["train", "validation"]
PARTS: tuple[Part, ...] = ("train", "validation")

HELD_OUT = 0.35
"""Fraction of every word list that only the validation split uses."""

Item = TypeVar("Item")


class Draws:
    """A named stream of random choices.

    Everything is made of `random.random()`, the only method whose sequence Python promises to keep for a seed.
    """

    def __init__(self, *names: str | int) -> None:
        """Start the stream that these names stand for, such as a task, a seed and a purpose."""
        digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
        self._random = random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - examples, not secrets

    def below(self, count: int) -> int:
        """A whole number from 0 to `count` - 1."""
        return int(self._random.random() * count)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """`count` different items, in random order."""
        order = list(items)
        for first in range(count):
            swap = first + self.below(len(order) - first)
            order[first], order[swap] = order[swap], order[first]
        return order[:count]

    def other(self, items: Sequence[Item], than: Item) -> Item:
        """One of the items that differs from `than`."""
        return self.pick([item for item in items if item != than])

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in random order (Fisher and Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            swap = self.below(last + 1)
            order[last], order[swap] = order[swap], order[last]
        return order


def divide(items: Sequence[Item], part: Part, *names: str | int) -> list[Item]:
    """Take one split's share of a word list; the shares of the two splits are disjoint and together all of it.

    Args:
        items: Words, or clusters of words that belong on one side.
        part: Whose share.
        names: Name the division, such as the list, the task and the seed.

    Returns:
        The share, at least two items.
    """
    order = Draws("divide", *names).shuffled(items)
    held_out = max(2, round(HELD_OUT * len(order)))
    return order[:held_out] if part == "validation" else order[held_out:]
