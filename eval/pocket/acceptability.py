"""Acceptability: is a sentence grammatical?

Eight phenomena, each a frame of shared words with one place that the grammar of a held-out word decides: the number of
a noun, the form of a verb, whether it takes an object, and the like. The shared words of a frame are those of both
labels, so that nobody can tell who does not know the word.
"""

from collections.abc import Callable, Sequence

from graft.eval.pocket import word_forms
from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part, divide
from graft.eval.pocket.english import sentence

AGREEING = ("is/are", "was/were", "has been/have been", "does not look/do not look", "seems/seem")
DETERMINERS = ("this/these", "that/those", "every/all", "each of the/both", "one/two", "another/few")
ONES_AND_MANY = (
    "I saw {determiner} {noun} near the {other}",
    "they looked at {determiner} {noun} for a while",
    "{determiner} {noun} will be mine",
    "we know what {determiner} {noun} can do to the {other}",
)
AGREEMENT = (
    "the {noun} {verb} {state}",
    "the {noun} near the {other} {verb} {state}",
    "I think that the {noun} {verb} very {state}",
    "the {noun} that we saw behind the {other} {verb} {state}",
)
AMOUNTS = (
    "there was so {amount} {noun} near the {other}",
    "they have as {amount} {noun} as we have",
    "how {amount} {noun} do you need?",
    "so {amount} {noun} cannot be right",
    "I have not seen that {amount} {noun} since then",
)
TENSES = (
    ("the {who} will {verb} it again", 0),
    ("the {who} did not {verb} it", 0),
    ("I may {verb} it near the {other}", 0),
    ("yesterday the {who} {verb} it again", 1),
    ("we know that the {who} {verb} it", 1),
    ("the {who} has {verb} it again", 2),
    ("they have never {verb} it near the {other}", 2),
    ("it had been {verb} by the {who}", 2),
)
OBJECTS = ("the {who} {verb} the {other}", "I think that the {who} {verb} the {other}", "who {verb} the {other} today?")
NO_OBJECTS = ("the {who} {verb}", "I think that the {who} {verb} near the {other}", "who {verb} today?")
REFLEXIVES = (
    "the {person} looked at {self}",
    "the {person} saw {self} near the {other}",
    "the {person} told {self} that all was well",
    "the {person} never thought about {self}",
    "for once the {person} was {self} again",
)
ADJECTIVAL = (
    "the {who} is {manner}",
    "a very {manner} {who} came in",
    "I thought that the {who} was {manner}",
    "the {who} seemed {manner} to us",
)
ADVERBIAL = ("the {who} looked at it {manner}", "the {who} did it {manner}", "the {who} told us about it {manner}")
COMPARISONS = (
    "this {noun} is more {state} than that one",
    "I have never seen a more {state} {noun}",
    "the {noun} is much more {state} than the {other}",
    "it was the most {state} {noun} of all",
)


class Acceptability:
    """Makes examples of one split."""

    def __init__(self, part: Part, seed: int) -> None:
        """Take the split's words."""

        def share(items: Sequence[str], name: str) -> list[str]:
            return divide(items, part, "acceptability", name, seed)

        def forms(items: Sequence[tuple[str, ...]], name: str) -> list[tuple[str, ...]]:
            return divide(items, part, "acceptability", name, seed)

        self._nouns = forms(word_forms.NOUNS, "nouns")
        self._verbs = forms(word_forms.VERBS, "verbs")
        self._gendered = forms(word_forms.GENDERED, "gendered")
        self._manners = forms(word_forms.MANNERS, "manners")
        self._mass = share(word_forms.MASS_NOUNS, "mass nouns")
        self._intransitive = share(word_forms.INTRANSITIVE, "intransitive")
        self._transitive = share(word_forms.TRANSITIVE, "transitive")
        self._long = share(word_forms.LONG_ADJECTIVES, "long adjectives")
        self._short = share(word_forms.SHORT_ADJECTIVES, "short adjectives")
        self._phenomena: tuple[Callable[[bool, Draws], str], ...] = (
            self._agreement,
            self._number,
            self._amount,
            self._tense,
            self._valency,
            self._reflexive,
            self._manner,
            self._comparison,
        )

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """A sentence; level 1 is acceptable."""
        phenomenon = draws.pick(self._phenomena)
        return (sentence(phenomenon(bool(level), draws)),), level

    def _other(self, draws: Draws) -> str:
        return draws.pick(draws.pick(self._nouns))

    def _who(self, draws: Draws) -> str:
        return draws.pick(draws.pick(self._gendered))

    def _agreement(self, good: bool, draws: Draws) -> str:
        """The {dog} is; the {dogs} are."""
        number = draws.below(2)
        verb = draws.pick(AGREEING).split("/")[number if good else 1 - number]
        return draws.pick(AGREEMENT).format(
            noun=draws.pick(self._nouns)[number],
            verb=verb,
            state=draws.pick(self._long + self._short),
            other=self._other(draws),
        )

    def _number(self, good: bool, draws: Draws) -> str:
        """This {dog}; these {dogs}."""
        number = draws.below(2)
        determiner = draws.pick(DETERMINERS).split("/")[number if good else 1 - number]
        noun = draws.pick(self._nouns)[number]
        return draws.pick(ONES_AND_MANY).format(determiner=determiner, noun=noun, other=self._other(draws))

    def _amount(self, good: bool, draws: Draws) -> str:
        """Much {water}; many {dogs}."""
        count = draws.below(2)
        noun = draws.pick(self._nouns)[1] if count else draws.pick(self._mass)
        amount = ("much", "many")[count if good else 1 - count]
        return draws.pick(AMOUNTS).format(amount=amount, noun=noun, other=self._other(draws))

    def _tense(self, good: bool, draws: Draws) -> str:
        """Will {write}; yesterday {wrote}; has {written}."""
        template, form = draws.pick(TENSES)
        forms = draws.pick(self._verbs)
        wrong = [word for word in forms if word != forms[form]]
        return template.format(
            verb=forms[form] if good else draws.pick(wrong), who=self._who(draws), other=self._other(draws)
        )

    def _valency(self, good: bool, draws: Draws) -> str:
        """The king {slept}; the king {destroyed} the gate."""
        transitive = draws.below(2)
        templates = OBJECTS if transitive == good else NO_OBJECTS
        verb = draws.pick(self._transitive if transitive else self._intransitive)
        return draws.pick(templates).format(verb=verb, who=self._who(draws), other=self._other(draws))

    def _reflexive(self, good: bool, draws: Draws) -> str:
        """The {king} himself; the {queen} herself."""
        gender = draws.below(2)
        pronoun = ("himself", "herself")[gender if good else 1 - gender]
        person = draws.pick(self._gendered)[gender]
        return draws.pick(REFLEXIVES).format(person=person, self=pronoun, other=self._other(draws))

    def _manner(self, good: bool, draws: Draws) -> str:
        """Is {careful}; did it {carefully}."""
        adverb = draws.below(2)
        templates = ADVERBIAL if adverb == good else ADJECTIVAL
        return draws.pick(templates).format(manner=draws.pick(self._manners)[adverb], who=self._who(draws))

    def _comparison(self, good: bool, draws: Draws) -> str:
        """More {beautiful}; not more {tall}."""
        state = draws.pick(self._long if good else self._short)
        noun, other = (forms[0] for forms in draws.sample(self._nouns, 2))
        return draws.pick(COMPARISONS).format(state=state, noun=noun, other=other)
