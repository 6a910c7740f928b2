"""Sentiment: does a sentence about a film, a meal, a gadget or a journey praise or blame?

Every template serves both classes. Some negate the word of praise or blame that they hold, some hold one of each, so
that the label follows from the words and from what is done to them.
"""

from graft.eval.pocket import polar_words
from graft.eval.pocket.building import Texts
from graft.eval.pocket.draws import Draws, Part, divide
from graft.eval.pocket.english import sentence, with_article
from graft.eval.pocket.polar_words import Polar

DOMAINS = tuple(polar_words.NOUNS)

# `+` marks a slot of the sentence's own polarity, `-` one of the opposite.
PLAIN = (
    "the {noun} was {very} {adjective+}",
    "the {noun} was {adjective+} and the {other} was {adjective2+}",
    "the {noun} {feeling+} me",
    "to be sure, the {noun} {feeling+} us all",
    "what {a_adjective+} {noun}",
    "I {attitude+} the {noun} from the first to the last",
    "we all {attitude+} the {noun}, and we were {feeling+} by the {other}",
    "the {noun} was {a_verdict+}",
    "it was {a_verdict+}, and the {noun} was {very} {adjective+}",
    "they gave us {a_adjective+} {noun} and {a_adjective2+} {other}",
    "some of us {attitude+} the {adjective+} {noun}",
    "everyone I know said that the {noun} was {adjective+}",
    "I think that the {noun} was {a_verdict+} and the {other} was {adjective+}",
)
NEGATED = (
    "the {noun} was not {adjective-} at all",
    "nobody could say that the {noun} was {adjective-}",
    "the {noun} was anything but {adjective-}",
    "I never {attitude-} the {noun}, and nobody was {feeling-} by it",
    "the {noun} was in no way {a_verdict-}",
)
MIXED = (
    "they told me that the {noun} would be {adjective-}, but it was {adjective+}",
    "I thought that the {noun} would be {a_verdict-}, yet it {feeling+} me",
    "the {noun} was {adjective+} rather than {adjective-}",
    "although many {attitude-} it, I say that the {noun} was {adjective+}",
    "others may have {attitude-} the {noun}, but I {attitude+} it",
)
SHARES = ((PLAIN, 0.3), (NEGATED, 0.3), (MIXED, 0.4))
DEGREES = ("", "", "very", "quite", "really", "so", "just", "rather")


class Sentiment:
    """Makes examples of one split, in all domains or some."""

    def __init__(self, part: Part, seed: int, domains: tuple[str, ...] = DOMAINS) -> None:
        """Take the split's words."""

        def share(words: Polar, name: str) -> Polar:
            sides = [divide(words.of(side), part, "sentiment", name, side, seed) for side in (0, 1)]
            return Polar(tuple(sides[0]), tuple(sides[1]))

        general = share(polar_words.ADJECTIVES, "adjectives")
        self._domains = domains
        self._nouns = {domain: divide(polar_words.NOUNS[domain], part, "sentiment", domain, seed) for domain in domains}
        own = {domain: share(polar_words.DOMAIN_ADJECTIVES[domain], f"{domain} adjectives") for domain in domains}
        self._adjectives = {
            domain: Polar(general.negative + words.negative, general.positive + words.positive)
            for domain, words in own.items()
        }
        self._words = {
            "feeling": share(polar_words.FEELINGS, "feelings"),
            "attitude": share(polar_words.ATTITUDES, "attitudes"),
            "verdict": share(polar_words.VERDICTS, "verdicts"),
        }

    def example(self, level: int, draws: Draws) -> tuple[Texts, float]:
        """A sentence; level 1 is praise."""
        domain = draws.pick(self._domains)
        noun, other = draws.sample(self._nouns[domain], 2)
        slots = {"noun": noun, "other": other, "very": draws.pick(DEGREES)}
        for sign, polarity in (("+", level), ("-", 1 - level)):
            first, second = draws.sample(self._adjectives[domain].of(polarity), 2)
            slots |= {f"adjective{sign}": first, f"adjective2{sign}": second}
            slots |= {f"{name}{sign}": draws.pick(words.of(polarity)) for name, words in self._words.items()}
            for name in (f"adjective{sign}", f"adjective2{sign}", f"verdict{sign}"):
                slots[f"a_{name}"] = with_article(slots[name])
        return (sentence(self._template(draws).format(**slots)),), level

    @staticmethod
    def _template(draws: Draws) -> str:
        """A template of a family drawn by its share."""
        threshold = draws.below(1000) / 1000
        for templates, share in SHARES:
            if threshold < share:
                return draws.pick(templates)
            threshold -= share
        return draws.pick(MIXED)
