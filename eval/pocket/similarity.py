"""Similarity: how alike two sentences are, from 0 to 5.

Every content word of the second sentence differs from the first's: it is a synonym (1), a thing of the same kind (1/2)
or something else (0). The score is five times the mean, so it depends on no count of words that are repeated.
"""

from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part
from graft.eval.pocket.scenes import Scene, Vocabulary, roles

HIGHEST = 5.0


class Similarity:
    """Makes examples of one split."""

    def __init__(self, part: Part, seed: int) -> None:
        """Take the split's words."""
        self._vocabulary = Vocabulary.of(part, "similarity", seed)

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """Two sentences and their score.

        Args:
            level: From 0 to 4; how many of the roles keep their meaning, in quarters.
            draws: The choices.
        """
        told = roles(draws)
        kept = draws.sample(told, round(level * len(told) / 4))
        kind = draws.pick(self._vocabulary.kinds)
        first, second = {}, {}
        total = 0.0
        for role in told:
            pairs = self._vocabulary.slots[kind if role == "thing" else role]
            pair = draws.pick(pairs)
            side = draws.below(2)
            first[role] = pair[side]
            if role in kept:
                second[role], closeness = pair[1 - side], 1.0
            elif role == "thing" and draws.chance(0.5):
                second[role], closeness = draws.pick(draws.other(pairs, pair)), 0.5
            else:
                pairs = self._vocabulary.slots[draws.other(self._vocabulary.kinds, kind)] if role == "thing" else pairs
                second[role], closeness = draws.pick(draws.other(pairs, pair)), 0.0
            total += closeness
        score = round(HIGHEST * total / len(told), 2)
        return (Scene(first).told(draws), Scene(second).told(draws)), score
