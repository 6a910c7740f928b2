"""Synonyms: each entry is two words for one thing, each list a kind whose entries are near, but not the same.

A word stands in one entry only, so that dividing the entries between the splits divides the words. Past tense and
participle of every verb are one form, so that it serves active and passive sentences alike.
"""


def _pairs(text: str) -> list[tuple[str, str]]:
    """Read "a/b c/d" as pairs."""
    return [(first, second) for first, second in (entry.split("/") for entry in text.split())]


PEOPLE = _pairs("""
doctor/physician lawyer/attorney policeman/cop teacher/instructor child/kid boy/lad woman/lady writer/author
singer/vocalist thief/burglar soldier/trooper sailor/seaman actor/performer priest/clergyman king/monarch
boss/supervisor worker/laborer student/pupil scientist/researcher reporter/journalist photographer/cameraman
merchant/trader customer/client guest/visitor friend/buddy enemy/foe rival/competitor pilot/aviator cook/chef
detective/investigator captain/skipper beggar/tramp janitor/caretaker prisoner/inmate
champion/victor tourist/traveler wizard/sorcerer barber/hairdresser baby/infant butler/servant hunter/trapper
nobleman/aristocrat banker/financier farmer/grower bandit/outlaw cowboy/rancher athlete/sportsman
""")

PERSON_ADJECTIVES = _pairs("""
happy/cheerful unhappy/sad angry/furious smart/clever stupid/foolish brave/courageous rich/wealthy poor/penniless
tired/weary shy/timid lazy/idle calm/serene scared/frightened polite/courteous slim/slender fat/chubby
young/youthful old/elderly ill/sick kind/gentle nervous/anxious honest/truthful sly/cunning curious/inquisitive
quiet/silent stubborn/obstinate generous/charitable greedy/selfish drunk/intoxicated strong/muscular weak/feeble
jealous/envious talented/gifted famous/renowned suspicious/wary crazy/insane
""")

VERBS = _pairs("""
bought/purchased repaired/fixed concealed/hid described/portrayed demolished/destroyed
found/discovered selected/picked examined/inspected obtained/acquired carried/transported cleaned/washed
tossed/hurled pulled/dragged pushed/shoved loved/adored hated/detested wanted/desired gathered/collected
guarded/protected abandoned/deserted damaged/harmed decorated/adorned watched/observed
noticed/spotted seized/grabbed displayed/exhibited mentioned/cited lifted/raised saved/rescued
burned/torched praised/commended tested/tried replaced/substituted requested/demanded
""")

THING_ADJECTIVES = _pairs("""
big/large small/tiny ancient/antique modern/contemporary expensive/costly cheap/inexpensive beautiful/lovely
ugly/hideous dirty/filthy spotless/immaculate broken/smashed heavy/weighty shiny/gleaming strange/odd
rare/uncommon fake/counterfeit moist/damp red/crimson yellow/golden purple/violet useful/handy
simple/plain fancy/ornate precious/valuable fragile/delicate pale/colorless
thick/dense mysterious/puzzling
""")

THINGS = {
    "vehicle": _pairs("""
car/automobile bicycle/bike truck/lorry ship/vessel plane/aircraft train/locomotive motorbike/motorcycle wagon/cart
taxi/cab bus/coach sled/sleigh boat/dinghy
"""),
    "furniture": _pairs("""
sofa/couch cupboard/cabinet rug/carpet lamp/lantern curtain/drape mattress/bed cushion/pillow blanket/quilt chest/trunk
shelf/rack stool/chair desk/bureau
"""),
    "clothing": _pairs("""
coat/jacket hat/cap scarf/shawl gown/dress sweater/jumper necklace/pendant purse/handbag cloak/cape shirt/blouse
boot/shoe glove/mitten belt/strap
"""),
    "tool": _pairs("""
hammer/mallet axe/hatchet knife/dagger rope/cord spade/shovel bucket/pail gun/pistol sword/sabre engine/motor
broom/brush pan/skillet cup/mug jar/pot plate/dish bottle/flask box/crate bag/sack rock/stone
"""),
    "work": _pairs("""
letter/message book/novel picture/image map/chart song/tune poem/verse story/tale diary/journal newspaper/gazette
film/movie sketch/drawing contract/agreement essay/article invoice/bill portrait/painting manual/handbook
"""),
}

PLACES = _pairs("""
house/home shop/store hotel/inn jail/prison castle/fortress church/chapel hut/cabin barn/shed bar/pub
restaurant/diner harbor/port road/street forest/woods hill/mound lake/pond river/stream sea/ocean beach/shore
school/academy hospital/clinic theater/playhouse cemetery/graveyard museum/gallery garden/yard field/meadow
path/trail market/bazaar station/terminal airport/airfield factory/plant swamp/marsh cellar/basement attic/loft
corridor/hallway porch/veranda alley/lane cave/cavern temple/shrine palace/mansion college/university town/village
ravine/canyon
""")
