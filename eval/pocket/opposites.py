"""Poles: words of one meaning against words of the opposite meaning, by what they can be said of.

Each line is one cluster: "one side | the other side". A word, in whatever form, stands in one cluster only.
"""

from graft.eval.pocket.english import read_words

Poles = tuple[tuple[str, ...], tuple[str, ...]]


def _poles(text: str) -> list[Poles]:
    """Read lines of "a b | c d"."""
    clusters = []
    for line in text.strip().splitlines():
        one, other = line.split("|")
        clusters.append((tuple(one.split()), tuple(other.split())))
    return clusters


OF_PERSONS = _poles("""
happy cheerful glad | sad unhappy gloomy
rich wealthy | poor penniless
brave courageous fearless | cowardly fearful
calm relaxed | nervous anxious tense
clever intelligent smart | stupid foolish
polite courteous | rude impolite
young youthful | elderly aged
thin slim slender | fat overweight
strong muscular | weak feeble frail
lazy idle | industrious diligent
truthful honest | dishonest deceitful
healthy fit | sick ill unwell
kind gentle | cruel brutal
generous charitable | stingy greedy
talkative chatty | silent speechless
arrogant proud | humble modest
alive living | dead deceased
drunk intoxicated | sober
guilty culpable | innocent blameless
cautious careful | reckless careless
optimistic hopeful | pessimistic hopeless
friendly amicable | hostile unfriendly
graceful elegant | clumsy awkward
sane rational | crazy insane
loyal faithful | disloyal treacherous
experienced skilled | inexperienced unskilled
busy occupied | unemployed jobless
married wed | single unmarried
serious solemn | playful joking
satisfied pleased | disappointed dissatisfied
""")

OF_PLACES = _poles("""
packed crowded | empty deserted vacant
dark dim | bright sunny
wet damp moist | dry arid
warm hot | cold chilly freezing
noisy loud | quiet peaceful
tidy neat | messy untidy cluttered
nearby | distant remote faraway
wide broad | narrow cramped
public communal | private exclusive
luxurious lavish | spartan austere
level flat | hilly steep
fashionable trendy | unfashionable outdated
whole intact | ruined wrecked
accessible reachable | inaccessible unreachable
""")

OF_THINGS = _poles("""
heavy weighty | lightweight weightless
expensive costly pricey | cheap inexpensive
sharp pointed | blunt rounded
genuine authentic | fake counterfeit
rare scarce uncommon | common ordinary
smooth even | rough bumpy
rigid stiff | soft flexible
shiny gleaming | tarnished rusty
useful handy | useless worthless
straight upright | crooked bent
sturdy robust | fragile delicate flimsy
simple basic | complicated complex
complete entire | incomplete unfinished
""")

OF_PLACES_AND_THINGS = _poles("""
clean spotless | dirty filthy
big large huge | small tiny
safe secure | dangerous risky hazardous
new modern recent | ancient antique
beautiful pretty | ugly hideous
famous renowned | unknown obscure
""")

ACTIONS = _poles("""
bought purchased acquired | sold
raised lifted hoisted | lowered dropped
opened unlocked | closed shut locked
located found discovered | lost misplaced
constructed built assembled | demolished destroyed dismantled
loved adored | hated detested loathed
remembered recalled | forgot overlooked
praised applauded | criticized condemned
accepted approved | rejected refused declined
kept retained | discarded trashed
concealed hid | revealed exposed
repaired mended fixed | broke smashed damaged
pushed shoved | pulled dragged tugged
enlarged expanded | reduced shrank
filled loaded | drained
attached connected joined | detached disconnected separated
tightened fastened | loosened unfastened
collected gathered | scattered dispersed
guarded protected | endangered harmed
lengthened extended | shortened
covered wrapped | uncovered unwrapped
borrowed | lent loaned
""")

PEOPLE = read_words("""
lawyer farmer singer banker tailor hunter nurse waiter barber student reporter actress widow prince duchess librarian
gardener janitor referee driver architect captain clerk baker landlord secretary
""")

PLACES = read_words("""
kitchen museum hotel garden market station theater street valley village harbor library cellar bedroom square
beach restaurant office school castle forest island prison stadium chapel airport park lobby corridor courtyard
""")

THINGS = read_words("""
lamp carpet vase statue mirror ladder clock necklace telescope blanket wallet suitcase kettle pillow rope engine ring
fence curtain camera pipe wheel pencil bracelet umbrella
""")
