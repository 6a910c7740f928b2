"""Small English: the words that all examples share, articles, and how a sentence is written down."""

import re


def read_words(text: str) -> list[str]:
    """The words of a list that is written as lines of text."""
    return text.split()


# Closed-class words, and a few light words that say nothing by themselves. Templates are made of these alone, so that
# everything else is a content word, which one split only may use.
SHARED = frozenset(
    read_words("""
a about after again all almost already also although always am an and another any anyone anything are as at away be
because been before behind being beside both but by call called came can cannot come could did do does each either
else even ever every everyone everything far few fewer first for from gave get give given go goes going gone had has
have he her here hers herself him himself his how however i if in indeed into is it its itself just keep kept knew
know known knows last least less like little look looked made make many matter may me mean might mine more most much
must my near need neither never next no nobody none nor not nothing now of off often on once one only onto or other
others our out over own past people quite rather really right said same saw say says see seem seemed seems seen she
should since so some somebody someone something somewhere soon still such sure take taken than that the their them
themselves then there these they thing things think this those though thought through time to today told too took true
turned two under until up upon us used very was way we well went were what when where whether which while who whole
whom whose why will with within without would yesterday yet you your
""")
)

_VOWEL_SOUND = re.compile(
    r"(?!uni(?![dmn])|us[aeu]|uti|uku|eu|one\b|once\b)[aeiou]|hour|honest|heir|honou?r", re.IGNORECASE
)


def with_article(words: str) -> str:
    """Put "a" or "an" in front, by the sound of the first word."""
    return f"{'an' if _VOWEL_SOUND.match(words) else 'a'} {words}"


def sentence(text: str) -> str:
    """Collapse spaces, begin with a capital letter, and end with a full stop unless there is an end already."""
    text = " ".join(text.split()).replace(" ,", ",").replace(" .", ".")
    text = text[:1].upper() + text[1:]
    return text if text[-1] in ".?!" else f"{text}."


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())
