"""Scenes of a person who does something to a thing somewhere, told twice: the basis of paraphrase and similarity."""

from collections.abc import Mapping
from dataclasses import dataclass

from graft.eval.pocket import word_pairs
from graft.eval.pocket.draws import Draws, Part, divide
from graft.eval.pocket.english import sentence

Pair = tuple[str, str]

# `{who}` and `{what}` are noun phrases without their article; `{where}` is "near the harbor", say, or empty.
TELLINGS = (
    "the {who} {did} the {what} {where}",
    "it was the {who} who {did} the {what} {where}",
    "{where_first} the {who} {did} the {what}",
    "they say that the {who} {did} the {what} {where}",
    "the {what} was {did} by the {who} {where}",
    "{where_first} the {what} was {did} by the {who}",
    "it was the {what} that the {who} {did} {where}",
    "the one who {did} the {what} {where} was the {who}",
)
PREPOSITIONS = ("near the", "behind the", "not far from the", "right beside the")


@dataclass(frozen=True)
class Vocabulary:
    """One split's synonyms.

    Attributes:
        slots: Pairs by slot; a thing's slot is its kind, such as "vehicle".
    """

    slots: Mapping[str, list[Pair]]

    @property
    def kinds(self) -> list[str]:
        """The kinds of thing."""
        return list(word_pairs.THINGS)

    @staticmethod
    def of(part: Part, task: str, seed: int) -> "Vocabulary":
        """The words that this split of this task may use."""
        lists = {
            "person": word_pairs.PEOPLE,
            "person_adjective": word_pairs.PERSON_ADJECTIVES,
            "verb": word_pairs.VERBS,
            "thing_adjective": word_pairs.THING_ADJECTIVES,
            "place": word_pairs.PLACES,
            **word_pairs.THINGS,
        }
        return Vocabulary({name: divide(pairs, part, task, name, seed) for name, pairs in lists.items()})


@dataclass(frozen=True)
class Scene:
    """What happens, as one word per role; a role that is not told is absent."""

    words: Mapping[str, str]

    def told(self, draws: Draws) -> str:
        """Tell it in one of many ways."""
        words = self.words
        who = f"{words.get('person_adjective', '')} {words['person']}"
        what = f"{words.get('thing_adjective', '')} {words['thing']}"
        where = f"{draws.pick(PREPOSITIONS)} {words['place']}" if "place" in words else ""
        template = draws.pick(TELLINGS)
        return sentence(
            template.format(
                who=who, what=what, did=words["verb"], where=where, where_first=f"{where}," if where else ""
            )
        )


def roles(draws: Draws) -> list[str]:
    """Which roles a scene tells: always who did what, and one or two of the others."""
    more = draws.sample(["person_adjective", "thing_adjective", "place"], 1 + draws.below(2))
    return ["person", "verb", "thing", *more]
