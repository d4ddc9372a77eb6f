"""The words in answers, by their effect on the value. All in lower case."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Units that are recognised without \text, where letters could also be a product.
UNITS = _words(
    """mm cm dm km nm pm inch inches ft foot feet yd yds yard yards mi mile miles meter meters metre metres
    centimeter centimeters centimetre centimetres millimeter millimeters kilometer kilometers kilometre kilometres
    mg kg gram grams kilogram kilograms lb lbs oz ounce ounces pound pounds ton tons tonne tonnes
    ml cl dl liter liters litre litres gallon gallons gal quart quarts pint pints cup cups
    sec secs second seconds min mins minute minutes hr hrs hour hours day days week weeks month months year years yr yrs
    mph kph kmh rpm kw kwh hz khz mhz pa kpa mol joule joules newton newtons watt watts volt volts ohm ohms amp amps
    deg degree degrees radian radians rad rads unit units sq cu square cubic per acre acres hectare hectares
    usd eur gbp cny rmb inr rs dollar dollars cent cents euro euros yen yuan rupee rupees pence penny pennies
    people person persons men women man woman boys girls boy girl children child student students
    kj kn mw gw ev ha fahrenheit celsius kelvin bit bits byte bytes kb mb gb"""
)
# Units that may touch their number ("12cm"), and are no product of letters there.
TOUCHING = _words("mm cm dm km mg kg ml ft lb lbs oz mph kph kmh hr hrs mins secs min sec inches feet usd eur rpm hz")
# One letter is a unit in \text, or with another unit ("m/s"); elsewhere it is a variable.
LETTER_UNITS = frozenset("mgshdtlLJNWVAKCFHT")

# Words that name the same value without them.
FILLER = _words(
    """a an the this that these those it its is are was were be been being equals equal equaling answer answers final result
    results solution solutions value values total totals so thus hence therefore then we get have has had there here
    exactly precisely about approximately approx around roughly circa simply just only namely i.e of for in as at on with
    number altogether respectively each both also please i my our ours by so me he she they you your his her their per
    either"""
)
# Words that are removed after a value, and change a value before which they stand ("12 more", "more than 12").
FILLER_AFTER = _words("more less all left times over pairs pair")

# Words that turn a number into another number.
MULTIPLIERS = {
    **{"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12},
    **{"hundreds": 10**2, "thousands": 10**3, "millions": 10**6, "billions": 10**9, "trillions": 10**12},
    **{"quadrillion": 10**15, "quadrillions": 10**15, "quintillion": 10**18, "quintillions": 10**18, "mln": 10**6},
    **{"lakhs": 10**5, "crores": 10**7},
    **{"dozen": 12, "dozens": 12, "lakh": 10**5, "crore": 10**7},
}
PERCENT = _words("percent percents percentage pct")

# Words that change the value, or name another one. Two answers agree only when both have the same, in the same order.
_DENIALS = _words(
    """not no none never neither nor cannot and or but except excluding excluded without unless if iff when whenever where
    while provided otherwise maybe perhaps possibly probably versus vs instead rather any every some all wrong incorrect
    invalid rejected ruled extraneous too guess"""
)
_COMPARISONS = _words(
    """more less fewer greater larger smaller bigger higher lower least most over under above below between beyond beneath
    past near lacking exceeding exceeds exceed than within up down almost nearly times"""
)
# These turn the value after them into another one, also in the name of a quantity: "the square of x".
SCALING = _words(
    """minus negative half twice double thrice triple quadruple square squared cube cubed third quarter root log logarithm
    reciprocal inverse opposite power not no sine cosine tangent"""
)
_ARITHMETIC = _words(
    """plus minus divided multiplied squared cubed factorial power powers log logarithm mod modulo half halves third thirds
    quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths
    eleventh elevenths twelfth twelfths twentieth twentieths fiftieths hundredth hundredths thousandth thousandths
    millionth millionths double twice thrice triple quadruple reciprocal inverse negative opposite base binary octal
    decimal hexadecimal hex complement score gross first last exponent permille mille ppm ppb bn basis grand mil mn mio billionths trillionths tens ones myriad percentile percentiles fold"""
)
NUMBERS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
)
_PROPERTIES = _words(
    """odd even prime primes composite positive nonnegative nonpositive rational irrational real reals complex imaginary
    multiple multiples divisible increasing decreasing convergent divergent infinite infinitely undefined impossible true
    false yes"""
)
_CALENDAR = _words(
    """am pm noon midnight morning afternoon evening night bc ad bce ce january february march april may june july august
    september october november december jan feb mar apr jun jul aug sep sept oct nov dec monday tuesday wednesday
    thursday friday saturday sunday"""
)
_DIRECTIONS = _words(
    """north south east west northeast northwest southeast southwest northern southern eastern western left right inside
    outside upward upwards downward downwards clockwise counterclockwise anticlockwise inward outward forward backward
    decrease decreased loss debt ahead behind before after ago later earlier late early
    faster slower older younger taller shorter longer heavier lighter"""
)
CHANGING = (
    _DENIALS | _COMPARISONS | _ARITHMETIC | NUMBERS | _PROPERTIES | _CALENDAR | _DIRECTIONS | frozenset(MULTIPLIERS)
)
# Before a noun these only specify it: "one ticket costs 12".
DETERMINERS = NUMBERS | _words("all any some every")
# Between two values these change their meaning: "3 to 5", "5 choose 2".
RANGES = _words("to from through till until choose")
COMPASS = {"N": "north", "S": "south", "E": "east", "W": "west"}
# Different spellings of one word.
SPELLINGS = {
    **{"jan": "january", "feb": "february", "mar": "march", "apr": "april", "jun": "june", "jul": "july"},
    **{"aug": "august", "sep": "september", "sept": "september", "oct": "october", "nov": "november"},
    **{"dec": "december", "non-negative": "nonnegative", "primes": "prime", "reals": "real", "multiples": "multiple"},
    **{"anticlockwise": "counterclockwise", "bce": "bc", "ce": "ad", "iff": "if"},
}
# Adjectives of a counted noun: "12 even numbers" is 12.
ADJECTIVES = _words(
    "odd even prime composite positive negative nonnegative rational irrational real complex possible more fewer less "
    "different distinct whole right equal ordered square cubic first last increasing decreasing true false all one two"
)
# Words that only before a value change it: "square of 5", "12 cubes".
CHANGING_BEFORE = SCALING | _words(
    "squares cubes roots product quotient sum difference remainder ratio gcd lcm factor factors divisor divisors absolute"
)
# Words that do not change a value after "of": "a total of 5".
QUANTITIES = _words(
    """total value number amount answer volume area length perimeter circumference probability cost price distance age
    speed rate height width radius diameter mass weight time measure size count result average mean median mode range
    sum profit chance degree set list order pair point"""
)
# Names of functions and operators, which are no words.
FUNCTIONS = _words(
    """sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln lg exp lim max min sup inf gcd lcm det
    mod bmod sqrt arg dim ker deg floor ceil abs sgn erf var cov pi cis tr rank"""
)
