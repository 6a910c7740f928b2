"""Entailment: does the first sentence imply the second, leave it open, or rule it out?

Three families: adjectives and actions (a synonym follows, an opposite is ruled out, anything else is open), and kinds
(a robin is a bird; a bird may be a robin; it is no trout). Every template serves all three labels.
"""

from collections.abc import Sequence

from graft.eval.pocket import opposites, taxonomy
from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part, divide
from graft.eval.pocket.english import sentence, with_article
from graft.eval.pocket.opposites import Poles
from graft.eval.pocket.taxonomy import Kind

LABELS = ("entailment", "neutral", "contradiction")
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

STATES = (
    ("the {noun} was {first}", "the {noun} was {claim}"),
    ("everyone knew that the {noun} was {first}", "the {noun} was {claim}"),
    ("I have never seen {a_first} {noun} like this one", "this {noun} is {claim}"),
    ("it was the {first} {noun} that I saw", "I saw {a_claim} {noun}"),
    ("yesterday I saw {a_first} {noun}", "the {noun} that I saw was {claim}"),
    ("the {noun} has always been {first}", "it is {a_claim} {noun}"),
)
DEEDS = (
    ("the {who} {first} the {what}", "the {what} was {claim} by the {who}"),
    ("it was the {who} who {first} the {what} near the {where}", "the {who} {claim} the {what}"),
    ("yesterday the {who} {first} the {what}", "the {who} {claim} the {what} yesterday"),
    ("near the {where}, the {who} {first} the {what}", "the {who} {claim} the {what}"),
)
THINGS = (
    ("the only thing near the {where} was {a_first}", "there was {a_claim} near the {where}"),
    ("all that the {who} had was {a_first}", "the {who} had {a_claim}"),
    ("the {who} saw nothing but {a_first} behind the {where}", "the {who} saw {a_claim}"),
    ("the thing that the {who} gave me is {a_first}", "the {who} gave me {a_claim}"),
)
PEOPLE = (
    ("the only one in the {where} was {a_first}", "there was {a_claim} in the {where}"),
    ("the one who called about the {what} is {a_first}", "{a_claim} called about the {what}"),
    ("I was told that the one who went to the {where} was {a_first}", "{a_claim} went to the {where}"),
    ("they took the {what} from {a_first}", "they took the {what} from {a_claim}"),
)


class Entailment:
    """Makes examples of one split."""

    def __init__(self, part: Part, seed: int) -> None:
        """Take the split's words."""
        self._people: list[str] = divide(opposites.PEOPLE, part, "entailment", "people", seed)
        self._places: list[str] = divide(opposites.PLACES, part, "entailment", "places", seed)
        self._things: list[str] = divide(opposites.THINGS, part, "entailment", "things", seed)
        both = divide(opposites.OF_PLACES_AND_THINGS, part, "entailment", "of places and things", seed)
        self._states: list[tuple[list[str], list[Poles]]] = [
            (self._people, divide(opposites.OF_PERSONS, part, "entailment", "of persons", seed)),
            (self._places, divide(opposites.OF_PLACES, part, "entailment", "of places", seed) + both),
            (self._things, divide(opposites.OF_THINGS, part, "entailment", "of things", seed) + both),
        ]
        self._actions = divide(opposites.ACTIONS, part, "entailment", "actions", seed)
        self._kinds = [
            (THINGS, divide(taxonomy.THINGS, part, "entailment", "kinds of things", seed)),
            (PEOPLE, divide(taxonomy.PEOPLE, part, "entailment", "kinds of people", seed)),
        ]

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """Premise and hypothesis; the level is the label."""
        # Most are about kinds: words without a relation are a contradiction there and neutral elsewhere, and with even
        # shares that takes a small model long to find out.
        family = draws.below(10)
        templates: tuple[tuple[str, str], ...]
        slots = {"who": draws.pick(self._people), "what": draws.pick(self._things), "where": draws.pick(self._places)}
        if family < 2:
            slots["noun"], clusters = self._state(draws)
            templates = STATES
            slots |= _poles(clusters, level, draws)
        elif family < 3:
            templates = DEEDS
            slots |= _poles(self._actions, level, draws)
        else:
            templates, kinds = self._kinds[draws.below(2)]
            slots |= _kinds(kinds, level, draws)
        slots |= {f"a_{name}": with_article(slots[name]) for name in ("first", "claim")}
        premise, hypothesis = draws.pick(templates)
        return (sentence(premise.format(**slots)), sentence(hypothesis.format(**slots))), level

    def _state(self, draws: Draws) -> tuple[str, list[Poles]]:
        """A noun, and the adjectives that can be said of it."""
        nouns, clusters = draws.pick(self._states)
        return draws.pick(nouns), clusters


def _poles(clusters: Sequence[Poles], label: int, draws: Draws) -> dict[str, str]:
    """What is said in the premise and claimed in the hypothesis."""
    named = [cluster for cluster in clusters if max(map(len, cluster)) > 1]
    said, another = draws.sample(named, 2)
    side = draws.below(2)
    if len(said[side]) == 1:
        side = 1 - side
    first = draws.pick(said[side])
    claims = {
        ENTAILMENT: [word for word in said[side] if word != first],
        NEUTRAL: another[draws.below(2)],
        CONTRADICTION: said[1 - side],
    }
    return {"first": first, "claim": draws.pick(claims[label])}


def _kinds(kinds: Sequence[Kind], label: int, draws: Draws) -> dict[str, str]:
    """What is said to be there, and what is claimed to be."""
    kind = draws.pick(kinds)
    if label == ENTAILMENT:
        return {"first": draws.pick(kind.members), "claim": kind.name}
    if label == NEUTRAL:
        return {"first": kind.name, "claim": draws.pick(kind.members)}
    elsewhere = draws.pick([other for other in kinds if other.group != kind.group])
    if draws.chance(0.5):
        return {"first": draws.pick(kind.members), "claim": elsewhere.name}
    return {"first": kind.name, "claim": draws.pick(elsewhere.members)}
