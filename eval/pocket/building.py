"""From a maker of single examples to a split: balanced, without repetitions, in random order."""

from typing import Protocol

from graft.eval.pocket.draws import Draws

Texts = tuple[str, ...]
TRIES = 200
"""Failed attempts at a new example in a row after which the words are taken to be exhausted."""


class Maker(Protocol):
    """Makes the examples of one split of one task."""

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """One example.

        Args:
            level: The class, or the step of a score's ladder, that is wanted.
            draws: The choices.

        Returns:
            Its texts, one per text column, and its label: the class number or the score.
        """


def build(maker: Maker, levels: int, count: int, draws: Draws) -> tuple[list[Texts], list[float]]:
    """Make `count` different examples, as many of each level, give or take one.

    Args:
        maker: Makes one at a time.
        levels: Classes, or steps of a score's ladder.
        count: How many.
        draws: The choices.

    Returns:
        Texts and labels, in random order.

    Raises:
        RuntimeError: The words do not allow so many different examples.
    """
    rows: dict[Texts, float] = {}
    for number in range(count):
        for _ in range(TRIES):
            texts, label = maker.example(number % levels, draws)
            if texts not in rows:
                rows[texts] = label
                break
        else:
            raise RuntimeError(f"only {number} of {count} different examples found")
    shuffled = draws.shuffled(list(rows.items()))
    return [texts for texts, _ in shuffled], [label for _, label in shuffled]
