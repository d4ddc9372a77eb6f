"""The comparison inside a worker process: Math-Verify, and the corrections to it.

Math-Verify's own time limits are off here: they use SIGALRM; the pool's limit can kill.
"""

from functools import lru_cache

from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Basic,
    MatrixBase,
)

from openrlhf_mel.verifier import sides, structure
from openrlhf_mel.verifier.exact import bases_differ, parse_number, same_number
from openrlhf_mel.verifier.readings import readings, without_letter_unit
from openrlhf_mel.verifier.structure import packed
from openrlhf_mel.verifier.values import differ_in_value, equal_where_real
from openrlhf_mel.verifier.verdict import Status
from openrlhf_mel.verifier.words import Reading

# Math-Verify's own table of units is off: it also drops letters ("2m" is 2). `words` has removed the units.
_NOTATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
_BOXED = [
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=_NOTATION)
]


Parsed = list[Basic | MatrixBase | str]


def judge_anchored(gold: str, answer: str) -> Status:
    """Compare two answers, both without their box; returns "correct", "wrong", or "error" for an unusable gold."""
    if not usable_gold(gold):
        return "error"
    golds, answers = readings(gold), readings(answer)
    if len(golds) == len(answers) > 1 and _names_choice(golds) and _names_choice(answers):
        return "correct" if all(map(_equal, golds, answers)) else "wrong"
    answers += [plain for answer in answers if (plain := without_letter_unit(answer))]
    return "correct" if any(_equal(g, a) for g in golds for a in answers) else "wrong"


@lru_cache(maxsize=256)
def usable_gold(gold: str) -> bool:
    """Whether `gold` can be compared with: it has words, or Math-Verify can read it and finds it equal to itself."""
    return any(_usable(reading) for reading in readings(gold))


def _usable(reading: Reading) -> bool:
    if not reading.math or _only_as_text(reading.math):
        return bool(reading.math or reading.words)
    if parse_number(reading.math):
        return True
    parsed = _parse(reading.math)
    return bool(parsed) and _same(parsed, parsed)


def _names_choice(found: list[Reading]) -> bool:
    return found[0].math.isalpha()


def _equal(gold: Reading, answer: Reading) -> bool:
    if gold.words != answer.words:
        return False
    if packed(gold.math) == packed(answer.math):
        return not _is_false(answer.math) or _is_false(gold.math)
    if not gold.math or not answer.math:
        return False
    if _point_for_alternatives(gold, answer) or _point_for_alternatives(answer, gold):
        return False
    return _equal_values(gold.math, answer.math)


def _point_for_alternatives(first: Reading, second: Reading) -> bool:
    """Whether one is a point, and the other's elements are alternatives ("x=2 or x=5", "x=2, x=5")."""
    shape = structure.shape(_value(first.math) or first.math)
    if shape[0] != "point":
        return False
    named = [sides.sides(element)[0] for element in structure.elements(second.math) if "=" in element]
    return second.alternatives or len(set(named)) < len(named)


def _equal_values(gold: str, answer: str) -> bool:
    """Compare two answers without words. An equation is compared with another whole, with a value by its right side."""
    first, second = _value(gold), _value(answer)
    if "=" in gold and "=" in answer:
        same_names = packed(_first_side(gold)) == packed(_first_side(answer))
        if first is None or second is None or not same_names:
            return not _is_false(answer) and _equal_expressions(gold, answer)
    return first is not None and second is not None and not _is_false(answer) and _equal_expressions(first, second)


def _equal_expressions(gold: str, answer: str) -> bool:
    gold, answer = _without_singleton(gold), _without_singleton(answer)
    if packed(gold) == packed(answer):
        return True
    if structure.has_ellipsis(gold) or structure.has_ellipsis(answer):
        return packed(_without_braces(gold)) == packed(_without_braces(answer))
    if _only_as_text(gold) or _only_as_text(answer):
        return False
    number, other = parse_number(gold), parse_number(answer)
    if number and other:
        return same_number(number, other)
    if bases_differ(gold, answer) or ("vmatrix" in gold) != ("vmatrix" in answer):
        return False
    if not structure.shapes_agree(structure.shape(gold), structure.shape(answer)):
        return False
    parsed_gold, parsed = _parse(gold), _parse(answer)
    if not parsed_gold or not parsed:
        return False
    if _same(parsed_gold, parsed):
        return not differ_in_value(parsed_gold[0], parsed[0])
    return equal_where_real(parsed_gold[0], parsed[0])


def _value(text: str) -> str | None:
    """The text without the names of its elements ("x=2, y=3" is "2, 3"); None when a left side is more than a name."""
    elements = structure.elements(text)
    values = [value for element in elements if (value := sides.value(element)) is not None]
    return ", ".join(values) if len(values) == len(elements) else None


def _first_side(text: str) -> str:
    return ",".join(sides.sides(element)[0] for element in structure.elements(text))


def _is_false(text: str) -> bool:
    """Whether it contains an equation between unequal numbers: "8=7" is not the answer 7."""
    chains = [pair for element in structure.elements(text) for pair in sides.chains(element)]
    return not all(_equal_expressions(left, right) for left, right in chains)


def _only_as_text(text: str) -> bool:
    return structure.has_gap(text) or structure.has_ellipsis(text)


def _without_braces(text: str) -> str:
    return text[2:-2].strip() if text.startswith("\\{") and text.endswith("\\}") else text


def _without_singleton(text: str) -> str:
    """A set of one element as its element."""
    inner = _without_braces(text)
    return inner if inner != text and len(structure.elements(text)) == len(structure.elements(inner)) == 1 else text


def warm_up() -> None:
    """Run the usual paths once: the LaTeX grammar and parts of sympy are built at their first use."""
    for gold, answer in (
        ("x+1", "1+x"),
        ("\\frac{\\sqrt{2}}{2}", "0.7"),
        ("(1,2)", "1<x<2"),
        ("\\sqrt{1/n}", "1/\\sqrt{n}"),
    ):
        judge_anchored(gold, answer)
    judge_lenient("$7$", "so 7")


def judge_lenient(gold: str, response: str) -> tuple[Status, str | None]:
    """Math-Verify with its defaults on both texts; returns the status and the text that it took for the answer."""
    parsed_gold = _parse_lenient_gold(gold)
    if not parsed_gold:
        return "error", None
    parsed = parse(response, parsing_timeout=None)
    if not parsed:
        return "no_answer", None
    extracted = next((item for item in reversed(parsed) if isinstance(item, str)), None)
    return "correct" if verify(parsed_gold, parsed, timeout_seconds=None) else "wrong", extracted


# A question's reference answer recurs for each of its samples, as do many answers. The cached lists are never changed.
@lru_cache(maxsize=512)
def _parse(math: str) -> Parsed:
    parsed: Parsed = parse(f"\\boxed{{{math}}}", extraction_config=_BOXED, parsing_timeout=None)
    return parsed


@lru_cache(maxsize=256)
def _parse_lenient_gold(gold: str) -> Parsed:
    parsed: Parsed = parse(gold, parsing_timeout=None)
    return parsed


def _same(gold: Parsed, answer: Parsed) -> bool:
    same: bool = verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)
    return same
