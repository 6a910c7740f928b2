"""Kinds and what is of that kind. Kinds of one group may overlap, so nothing is concluded between them.

A word stands in one line only: "kind: its members". Blank lines separate groups.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: The kind's word.
        members: Words for things of that kind.
        group: Number of the group of kinds that may overlap.
    """

    name: str
    members: tuple[str, ...]
    group: int


def _kinds(text: str) -> list[Kind]:
    """Read groups of lines."""
    kinds = []
    for group, block in enumerate(text.strip().split("\n\n")):
        for line in block.splitlines():
            name, members = line.split(":")
            kinds.append(Kind(name.strip(), tuple(members.split()), group))
    return kinds


THINGS = _kinds("""
bird: robin eagle sparrow owl crow pigeon hawk swan goose

fish: trout salmon shark tuna cod herring eel

insect: bee ant wasp beetle mosquito moth butterfly

dog: poodle terrier spaniel collie hound bulldog

reptile: snake lizard crocodile turtle alligator

rodent: mouse rat squirrel hamster beaver

flower: rose tulip daisy lily orchid sunflower

tree: oak pine maple willow elm birch palm

fruit: apple banana peach pear mango cherry strawberry

vegetable: carrot potato onion cabbage turnip cucumber

gem: ruby emerald diamond sapphire pearl

vehicle: truck bus taxi tractor van
boat: canoe ferry yacht kayak raft
aircraft: helicopter glider jet airplane balloon

weapon: sword spear rifle pistol dagger bomb
tool: hammer saw drill wrench chisel shovel

instrument: flute trumpet harp clarinet trombone

garment: shirt coat skirt sweater jacket dress
hat: helmet beret bonnet fedora
shoe: sandal boot slipper sneaker

toy: doll puppet rattle

container: bucket jar barrel crate bottle basket

dwelling: cottage mansion apartment bungalow villa

publication: novel dictionary magazine newspaper encyclopedia

coin: penny dime nickel shilling

pastry: croissant muffin doughnut bagel

nut: walnut almond hazelnut peanut

ape: gorilla chimpanzee orangutan

feline: lion tiger leopard cheetah

shellfish: lobster crab shrimp oyster

bag: backpack purse handbag satchel

seat: bench stool throne chair sofa

song: ballad hymn anthem lullaby
poem: sonnet ode haiku limerick

light: lantern torch candle

shape: triangle circle rectangle hexagon
""")

PEOPLE = _kinds("""
musician: violinist pianist drummer guitarist cellist saxophonist

athlete: swimmer runner boxer wrestler gymnast sprinter

scientist: chemist physicist biologist astronomer geologist

artist: painter sculptor illustrator

relative: uncle aunt cousin nephew niece grandmother

criminal: thief burglar murderer robber smuggler

soldier: sergeant corporal infantryman rifleman

clergyman: priest bishop vicar pastor

monarch: king queen emperor sultan

craftsman: carpenter potter blacksmith weaver

child: boy girl toddler

writer: novelist poet playwright journalist

doctor: surgeon dentist pediatrician cardiologist

politician: senator mayor congressman governor

shopkeeper: grocer florist butcher

policeman: constable sheriff detective

entertainer: clown magician comedian juggler acrobat

educator: professor tutor lecturer

workman: miner plumber electrician mechanic

servant: butler maid footman
""")
