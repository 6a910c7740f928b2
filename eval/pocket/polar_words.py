"""Words of praise and of blame, general and by domain, and the things that each domain's sentences are about.

A word stands in one list of its kind only, and the other forms of a word ("boring", "bored") in none.
"""

from dataclasses import dataclass

from graft.eval.pocket.english import read_words


@dataclass(frozen=True)
class Polar:
    """Words of both polarities.

    Attributes:
        negative: Words of blame.
        positive: Words of praise.
    """

    negative: tuple[str, ...]
    positive: tuple[str, ...]

    def of(self, polarity: int) -> tuple[str, ...]:
        """The words of blame (0) or praise (1)."""
        return self.positive if polarity else self.negative


def _polar(negative: str, positive: str) -> Polar:
    return Polar(tuple(negative.split()), tuple(positive.split()))


ADJECTIVES = _polar(
    """
terrible awful horrible dreadful disappointing dull bad lousy dismal mediocre miserable pathetic tedious unpleasant
worthless useless nasty ridiculous absurd clumsy frustrating depressing lame hideous inferior disastrous wretched dreary
pointless awkward inadequate unbearable hopeless grim shabby rotten vile painful sad crude hollow ghastly appalling
unfortunate silly tiresome monotonous irritating insipid shoddy abysmal atrocious laughable lamentable vapid tawdry
stilted execrable ramshackle dire
""",
    """
wonderful excellent superb brilliant fantastic delightful impressive splendid outstanding magnificent amazing terrific
magical fabulous great remarkable exceptional enjoyable pleasant satisfying admirable beautiful perfect glorious elegant
refreshing stunning inspiring memorable gorgeous fascinating rewarding thoughtful sublime phenomenal awesome incredible
spectacular breathtaking superior majestic exquisite graceful good charming marvelous flawless fine sumptuous
resplendent stellar masterful peerless exemplary sterling commendable beguiling dreamy consummate impeccable
""",
)

FEELINGS = _polar(
    """
bored annoyed disgusted angered upset offended insulted exhausted infuriated disturbed embarrassed confused saddened
worried repelled shocked irked dismayed vexed unnerved
""",
    """
pleased thrilled moved enchanted captivated dazzled excited comforted cheered amused charmed soothed uplifted
energized gladdened heartened tickled elated riveted buoyed
""",
)

ATTITUDES = _polar(
    """
hated loathed despised regretted disliked detested resented cursed condemned criticized rejected avoided scorned
panned mocked deplored shunned
""",
    """
loved adored praised appreciated admired cherished treasured recommended applauded celebrated favored welcomed relished
extolled revered hailed prized
""",
)

VERDICTS = _polar(
    "disaster failure mess nightmare disgrace waste flop catastrophe joke shame farce fiasco blunder burden mistake "
    "debacle letdown travesty dud nuisance",
    "triumph treat masterpiece gem pleasure success joy blessing marvel winner delight wonder gift jewel victory "
    "boon revelation hit knockout godsend",
)

DOMAIN_ADJECTIVES = {
    "films": _polar(
        "predictable wooden trashy incoherent amateurish pretentious sloppy corny lifeless forgettable muddled",
        "gripping touching witty suspenseful hilarious poignant imaginative powerful clever original lively profound",
    ),
    "food": _polar(
        "greasy burnt tasteless stale rubbery moldy bland watery undercooked sour rancid dry",
        "tasty delicious juicy crisp tender appetizing savory fresh nutritious creamy fragrant wholesome",
    ),
    "gadgets": _polar(
        "flimsy sluggish unreliable fragile defective faulty slow broken outdated inefficient cheap obsolete",
        "reliable sturdy responsive handy durable efficient fast versatile innovative robust sleek practical",
    ),
    "travel": _polar(
        "filthy noisy cramped crowded overpriced dirty unsafe smelly chaotic dangerous drab polluted",
        "cozy scenic hospitable spacious clean peaceful picturesque tranquil luxurious comfortable relaxing idyllic",
    ),
}

NOUNS = {
    "films": read_words("""
plot acting script soundtrack cast ending dialogue director story hero villain finale comedy mystery sequel drama
documentary western musical screenplay romance cartoon remake cinematography trailer
"""),
    "food": read_words("""
soup bread cheese steak salad sauce dessert cake fish chicken coffee tea pie curry rice pasta sandwich dinner stew pizza
omelette pudding burger gravy lunch
"""),
    "gadgets": read_words("""
phone camera laptop keyboard screen battery speaker charger printer tablet headset drone router remote monitor toaster
watch radio projector scanner microphone vacuum blender console kettle
"""),
    "travel": read_words("""
hotel room pool beach tour guide hostel flight airport museum cruise bed lobby resort island city train ferry campsite
trip harbor village hike bus landlord
"""),
}
