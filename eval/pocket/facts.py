"""What questions are asked about: people, things and deeds, and the times, places, names and numbers of an answer.

A word stands in one list only, in whatever form.
"""

from graft.eval.pocket.english import read_words

PEOPLE = read_words("""
carpenter lawyer nurse farmer singer painter baker tailor plumber dentist librarian gardener sailor priest banker
reporter doctor engineer butcher barber waiter detective surgeon pianist poet coach pilot butler mayor clerk widow
mechanic sculptor chemist drummer captain professor judge florist grocer jeweler novelist secretary janitor
""")

# Nouns whose plural takes an "s".
THINGS = read_words("""
lamp fence clock wagon statue piano boat bicycle mirror cabinet ladder carpet guitar chair window roof bridge engine
violin table oven tractor camera kettle helmet basket blanket jacket barrel printer curtain tent desk sofa wheel pump
door chimney trumpet vase bracelet necklace bell cart gate shed
""")

# Base and past.
DEEDS = [
    tuple(entry.split("/"))
    for entry in read_words("""
repair/repaired sell/sold buy/bought clean/cleaned find/found borrow/borrowed damage/damaged move/moved
examine/examined describe/described design/designed destroy/destroyed decorate/decorated order/ordered
photograph/photographed replace/replaced restore/restored build/built lose/lost polish/polished test/tested
return/returned discover/discovered inspect/inspected measure/measured deliver/delivered purchase/purchased
varnish/varnished assemble/assembled
""")
]

# After "in".
TIMES = read_words("""
January February April June July August September October November December spring summer autumn winter
1812 1825 1837 1846 1851 1863 1874 1889 1895 1902 1908 1914 1921 1926 1933 1938 1942 1947 1953 1958 1962 1965 1969
1972 1976 1979 1983 1985 1988 1991 1994 1996 1998 2001 2003 2006 2009 2012 2015
""")
CITIES = read_words("""
London Paris Berlin Madrid Rome Vienna Boston Chicago Denver Seattle Toronto Montreal Sydney Melbourne Dublin
Glasgow Manchester Liverpool Oslo Stockholm Copenhagen Amsterdam Brussels Geneva Milan Venice Naples Athens Istanbul
Cairo Moscow Warsaw Prague Budapest Tokyo Kyoto Beijing Shanghai Bombay Delhi Lima Havana Miami Dallas Houston Atlanta
Canada Mexico Brazil Spain Portugal Norway Sweden Poland Egypt Kenya India Japan Korea Vietnam Peru Chile
""")

# After "by": when it was done, or who did it.
DEADLINES = read_words("""
Monday Tuesday Wednesday Thursday Friday Saturday Sunday noon midnight dawn dusk sunset sunrise Christmas Easter
Halloween Thanksgiving nightfall lunchtime
""")
NAMES = read_words("""
Maria Thomas Helen Robert Susan Peter Laura Daniel Emma George Alice Edward Julia Michael Sarah David Rachel Martin
Nancy Oliver Sophie Patrick Karen Simon Diana Kevin Linda Walter Monica Hugo Clara Victor Ellen Stephen Rebecca
Andrew Barbara Philip Catherine Leonard Margaret Vincent Judith Raymond Teresa Harold Brenda Eugene
""")

# Before a plural: how many, or of what kind.
NUMBERS = read_words("""
three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen eighteen twenty thirty forty
fifty sixty seventy eighty ninety
""")
SORTS = read_words("""
wooden brass iron silver golden plastic copper leather ceramic bronze marble steel bamboo red green blue yellow purple
black white Italian French German Chinese
""")

# After "with a": a companion, or a tool.
COMPANIONS = read_words("""
friend cousin neighbor sister brother uncle nephew niece colleague stranger student soldier monk nun tourist grandson
daughter husband aunt partner
""")
TOOLS = read_words("""
hammer knife rope saw brush screwdriver drill shovel needle chisel sponge wrench crane bucket broom towel ruler nail
torch stick
""")
