"""Paraphrase: do two sentences say the same?

Every content word of the second sentence differs from the first's. In a paraphrase each is a synonym; otherwise some
are words of the same kind that mean something else. The same words thus serve both classes, and none is repeated.
"""

from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part
from graft.eval.pocket.scenes import Scene, Vocabulary, roles

DIFFERENT = 2
"""Words of another meaning in a pair that is no paraphrase, at most."""


class Paraphrase:
    """Makes examples of one split."""

    def __init__(self, part: Part, seed: int) -> None:
        """Take the split's words."""
        self._vocabulary = Vocabulary.of(part, "paraphrase", seed)

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """Two sentences; level 1 is a paraphrase."""
        told = roles(draws)
        changed = draws.sample(told, 0 if level else 1 + draws.below(DIFFERENT))
        kind = draws.pick(self._vocabulary.kinds)
        first, second = {}, {}
        for role in told:
            pairs = self._vocabulary.slots[kind if role == "thing" else role]
            pair = draws.pick(pairs)
            side = draws.below(2)
            first[role] = pair[side]
            second[role] = draws.pick(draws.other(pairs, pair)) if role in changed else pair[1 - side]
        return (Scene(first).told(draws), Scene(second).told(draws)), level
