"""Answerability: does a passage answer a question?

The passage says of the deed in question something that has the form of an answer ("in Paris", "in 1953"), but may be of
another sort than the question asks for; and it tells of another deed, with or without something of the sort. Every
phrase answers one question and fails another, so the label follows only from what the words mean and belong to.
"""

from dataclasses import dataclass

from graft.eval.pocket import facts
from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part, divide
from graft.eval.pocket.english import sentence


@dataclass(frozen=True)
class Contrast:
    """Two sorts of fact that a sentence tells in the same form.

    Attributes:
        statements: Ways to tell it; `{fact}` is the fact's word.
        questions: Ways to ask for either sort.
        sorts: Names of the two word lists in `facts`.
    """

    statements: tuple[str, ...]
    questions: tuple[tuple[str, ...], tuple[str, ...]]
    sorts: tuple[str, str]


CONTRASTS = (
    Contrast(
        (
            "the {who} {did} the {what} in {fact}",
            "in {fact}, the {who} {did} the {what}",
            "it was in {fact} that the {who} {did} the {what}",
            "the {what} was {did} by the {who} in {fact}",
        ),
        (
            ("when did the {who} {do} the {what}?", "when was the {what} {did} by the {who}?"),
            ("where did the {who} {do} the {what}?", "where was the {what} {did} by the {who}?"),
        ),
        ("TIMES", "CITIES"),
    ),
    Contrast(
        (
            "the {what} of the {who} was {did} by {fact}",
            "by {fact}, the {what} of the {who} had been {did}",
            "they said that the {what} of the {who} had been {did} by {fact}",
        ),
        (
            ("by when was the {what} of the {who} {did}?", "when had they {did} the {what} of the {who}?"),
            ("by whom was the {what} of the {who} {did}?", "who {did} the {what} of the {who}?"),
        ),
        ("DEADLINES", "NAMES"),
    ),
    Contrast(
        (
            "the {who} {did} {fact} {what}s",
            "yesterday the {who} {did} {fact} {what}s",
            "it was the {who} who {did} {fact} {what}s",
            "{fact} {what}s were {did} by the {who}",
        ),
        (
            ("how many {what}s did the {who} {do}?", "how many {what}s were {did} by the {who}?"),
            ("which {what}s did the {who} {do}?", "which {what}s were {did} by the {who}?"),
        ),
        ("NUMBERS", "SORTS"),
    ),
    Contrast(
        (
            "the {who} {did} the {what} with a {fact}",
            "with a {fact}, the {who} {did} the {what}",
            "the {what} was {did} by the {who} with a {fact}",
        ),
        (
            ("who was with the {who} when the {what} was {did}?", "with whom did the {who} {do} the {what}?"),
            ("what was used by the {who} on the {what}?", "with what did the {who} {do} the {what}?"),
        ),
        ("COMPANIONS", "TOOLS"),
    ),
)
LISTS = ("PEOPLE", "THINGS", "DEEDS", *(name for contrast in CONTRASTS for name in contrast.sorts))
NO_FACT = (
    "the {who} {did} the {what} again",
    "I was told that the {who} {did} the {what}",
    "nobody knows why the {who} {did} the {what}",
)


class Answerability:
    """Makes examples of one split."""

    def __init__(self, part: Part, seed: int) -> None:
        """Take the split's words."""
        self._words = {name: divide(getattr(facts, name), part, "answerability", name, seed) for name in LISTS}

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """Question and passage; level 1 is answered."""
        contrast = draws.pick(CONTRASTS)
        asked = draws.below(2)
        deed, another = self._deeds(draws)
        told = asked if level else 1 - asked
        fact, other = draws.sample(self._words[contrast.sorts[told]], 2)
        passage = [sentence(draws.pick(contrast.statements).format(**deed, fact=fact))]
        besides = draws.below(3)  # what the other deed is told with: a fact of either sort, or none
        if besides == 2:
            passage.append(sentence(draws.pick(NO_FACT).format(**another)))
        else:
            if besides != told:
                other = draws.pick(self._words[contrast.sorts[besides]])
            passage.append(sentence(draws.pick(contrast.statements).format(**another, fact=other)))
        question = sentence(draws.pick(contrast.questions[asked]).format(**deed))
        return (question, " ".join(draws.shuffled(passage))), level

    def _deeds(self, draws: Draws) -> tuple[dict[str, str], dict[str, str]]:
        """Two deeds that differ in person, thing and verb."""
        people, things = draws.sample(self._words["PEOPLE"], 2), draws.sample(self._words["THINGS"], 2)
        verbs = draws.sample(self._words["DEEDS"], 2)
        first, second = (
            {"who": who, "what": what, "do": verb[0], "did": verb[1]}
            for who, what, verb in zip(people, things, verbs, strict=True)
        )
        return first, second
