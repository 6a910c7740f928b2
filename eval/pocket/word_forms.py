"""Words with the forms that grammar asks for. A word stands in one list only, in whatever form."""

from graft.eval.pocket.english import read_words


def _rows(text: str) -> list[tuple[str, ...]]:
    """Read "a/b c/d" as tuples."""
    return [tuple(entry.split("/")) for entry in text.split()]


# Singular and plural.
NOUNS = _rows("""
apple/apples bridge/bridges candle/candles carpet/carpets cat/cats chair/chairs child/children clock/clocks
coat/coats cow/cows deck/decks desk/desks dog/dogs door/doors duck/ducks farmer/farmers fence/fences flag/flags
flower/flowers foot/feet fork/forks fox/foxes garden/gardens gate/gates goat/goats goose/geese guitar/guitars
hammer/hammers hat/hats hill/hills horse/horses hotel/hotels island/islands kitten/kittens knife/knives lake/lakes
lamp/lamps leaf/leaves letter/letters lion/lions lizard/lizards map/maps mirror/mirrors mouse/mice nurse/nurses
nail/nails oak/oaks orange/oranges oven/ovens owl/owls pencil/pencils piano/pianos picture/pictures pilot/pilots
plate/plates pony/ponies rabbit/rabbits river/rivers rope/ropes scarf/scarves school/schools shelf/shelves ship/ships
shirt/shirts shoe/shoes shop/shops snake/snakes soldier/soldiers spoon/spoons stone/stones store/stores street/streets
student/students table/tables teacher/teachers tiger/tigers tooth/teeth tower/towers tractor/tractors train/trains
tree/trees truck/trucks umbrella/umbrellas valley/valleys village/villages violin/violins wall/walls wheel/wheels
window/windows wolf/wolves doctor/doctors lawyer/lawyers tourist/tourists ticket/tickets bottle/bottles basket/baskets
""")

MASS_NOUNS = read_words("""
furniture luggage water rice milk butter sugar equipment information advice knowledge homework traffic jewelry money
clothing sand flour bread oil mud smoke rain snow cotton wool grass mail evidence music happiness courage patience
pollution electricity gasoline cheese cement bacon weather
""")

# Base, past and participle, all three different but for the first and last of a few.
VERBS = _rows("""
write/wrote/written eat/ate/eaten speak/spoke/spoken steal/stole/stolen choose/chose/chosen
draw/drew/drawn throw/threw/thrown fly/flew/flown grow/grew/grown tear/tore/torn wear/wore/worn shake/shook/shaken
forget/forgot/forgotten freeze/froze/frozen sing/sang/sung drink/drank/drunk begin/began/begun
ring/rang/rung bite/bit/bitten forgive/forgave/forgiven wake/woke/woken
hide/hid/hidden blow/blew/blown sink/sank/sunk shrink/shrank/shrunk swear/swore/sworn weave/wove/woven
undo/undid/undone mistake/mistook/mistaken overcome/overcame/overcome withdraw/withdrew/withdrawn
break/broke/broken ride/rode/ridden
""")

# Past forms of verbs that never take an object, and of verbs that always do.
INTRANSITIVE = read_words("""
slept arrived laughed sneezed vanished fainted smiled coughed yawned died disappeared existed shivered trembled
hesitated collapsed giggled snored departed behaved blushed limped wept stumbled emerged
""")
TRANSITIVE = read_words("""
destroyed bought found damaged repaired noticed admired avoided mentioned described carried removed ignored
received purchased protected wanted borrowed attacked praised brought caught discovered examined
""")

# Nouns for men and for women.
GENDERED = _rows("""
king/queen prince/princess uncle/aunt nephew/niece actor/actress waiter/waitress husband/wife father/mother
brother/sister son/daughter grandfather/grandmother boy/girl man/woman monk/nun wizard/witch gentleman/lady groom/bride
hero/heroine widower/widow duke/duchess host/hostess emperor/empress
lord/countess stepfather/stepmother grandson/granddaughter
""")

# Adjective and adverb.
MANNERS = _rows("""
careful/carefully quick/quickly slow/slowly angry/angrily happy/happily sad/sadly polite/politely nervous/nervously
calm/calmly proud/proudly eager/eagerly gentle/gently rude/rudely honest/honestly brave/bravely patient/patiently
cruel/cruelly secret/secretly quiet/quietly loud/loudly cheerful/cheerfully anxious/anxiously clumsy/clumsily
graceful/gracefully greedy/greedily bitter/bitterly reluctant/reluctantly silent/silently violent/violently
serious/seriously playful/playfully generous/generously foolish/foolishly furious/furiously lazy/lazily
stubborn/stubbornly efficient/efficiently desperate/desperately
""")

# Adjectives that compare by "more", and those that take an ending.
LONG_ADJECTIVES = read_words("""
beautiful comfortable dangerous expensive interesting famous modern difficult important intelligent
popular useful valuable attractive mysterious impressive fragile colorful exciting ancient
elegant fashionable remarkable complicated reliable
""")
SHORT_ADJECTIVES = read_words("""
tall deep big small wide cheap short dark bright warm cold hot thick thin young strong weak soft rich clean
dirty heavy ugly tiny smooth
""")
