"""The comparison inside a worker process: Math-Verify, and the repairs around it.

Math-Verify's own time limits stay off here: they use SIGALRM, and the pool's limit is the one that can kill.
"""

import itertools
from functools import lru_cache

from latex2sympy2_extended.logic import And as ChainedAnd
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Basic,
    Dummy,
    Eq,
    Expr,
    FiniteSet,
    Float,
    Integer,
    Interval,
    MatrixBase,
    Pow,
    Rational,
    Tuple,
    Union,
    simplify,
)
from sympy.core.evalf import PrecisionExhausted
from sympy.core.relational import Relational

from openrlhf_mel.verifier import sides, structure
from openrlhf_mel.verifier.exact import bases_differ, parse_number, same_number
from openrlhf_mel.verifier.readings import readings, without_letter_unit
from openrlhf_mel.verifier.structure import packed
from openrlhf_mel.verifier.words import Reading

# Math-Verify's own table of units stays off: it drops letters too ("2m" is 2). `words` has dropped the units.
_NOTATION = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
_BOXED = [
    LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False, normalization_config=_NOTATION)
]
_EXACT_TOLERANCE = 1e-10  # relative: values further apart are different, and cost no more digits
_DECIMAL_TOLERANCE = 1e-3
_MAX_DIGITS = 50_000  # to which two exact values are told apart
_SAMPLES = (Rational(-7, 3), Rational(-2, 5), Rational(3, 7), Rational(5, 2))


Parsed = list[Basic | MatrixBase | str]


def judge_anchored(gold: str, answer: str) -> str:
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
    """Whether `gold` says something to compare with: words, or what Math-Verify can read and finds equal to itself."""
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
    """Whether one is a point and the other's elements are alternatives: "x=2 or x=5", "x=2, x=5"."""
    shape = structure.shape(_value(first.math) or first.math)
    if shape[0] != "point":
        return False
    named = [sides.sides(element)[0] for element in structure.elements(second.math) if "=" in element]
    return second.alternatives or len(set(named)) < len(named)


def _equal_values(gold: str, answer: str) -> bool:
    """Compare two answers without words. An equation is compared with an equation whole, with a value by its right side."""
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
    numbers = parse_number(gold), parse_number(answer)
    if all(numbers):
        return same_number(*numbers)
    if bases_differ(gold, answer) or ("vmatrix" in gold) != ("vmatrix" in answer):
        return False
    if not structure.shapes_agree(structure.shape(gold), structure.shape(answer)):
        return False
    parsed_gold, parsed = _parse(gold), _parse(answer)
    if not parsed_gold or not parsed:
        return False
    if _same(parsed_gold, parsed):
        return not _differ_in_value(parsed_gold[0], parsed[0])
    return _equal_where_real(parsed_gold[0], parsed[0])


def _value(text: str) -> str | None:
    """The text with the names of its elements dropped ("x=2, y=3" is "2, 3"); None where a left side says more."""
    values = [sides.value(element) for element in structure.elements(text)]
    return None if None in values else ", ".join(values)


def _first_side(text: str) -> str:
    return ",".join(sides.sides(element)[0] for element in structure.elements(text))


def _is_false(text: str) -> bool:
    """Whether it holds an equation between numbers that are not equal: "8=7" is not the answer 7."""
    chains = [pair for element in structure.elements(text) for pair in sides.chains(element)]
    return not all(_equal_expressions(left, right) for left, right in chains)


def _only_as_text(text: str) -> bool:
    return structure.has_gap(text) or structure.has_ellipsis(text)


def _without_braces(text: str) -> str:
    return text[2:-2].strip() if text.startswith("\\{") and text.endswith("\\}") else text


def _without_singleton(text: str) -> str:
    """A set of one element is compared by it."""
    inner = _without_braces(text)
    return inner if inner != text and len(structure.elements(text)) == len(structure.elements(inner)) == 1 else text


def warm_up() -> None:
    """Run the ordinary paths once: the LaTeX grammar and parts of sympy are only built when first used."""
    for gold, answer in (
        ("x+1", "1+x"),
        ("\\frac{\\sqrt{2}}{2}", "0.7"),
        ("(1,2)", "1<x<2"),
        ("\\sqrt{1/n}", "1/\\sqrt{n}"),
    ):
        judge_anchored(gold, answer)
    judge_lenient("$7$", "so 7")


def judge_lenient(gold: str, response: str) -> tuple[str, str | None]:
    """Math-Verify with its defaults on both texts; returns the status and the text that it took for the answer."""
    parsed_gold = _parse_lenient_gold(gold)
    if not parsed_gold:
        return "error", None
    parsed = parse(response, parsing_timeout=None)
    if not parsed:
        return "no_answer", None
    extracted = next((item for item in reversed(parsed) if isinstance(item, str)), None)
    return "correct" if verify(parsed_gold, parsed, timeout_seconds=None) else "wrong", extracted


# A question's reference answer comes once for each of its samples, and so do many of their answers. Nobody changes the lists.
@lru_cache(maxsize=512)
def _parse(math: str) -> Parsed:
    return parse(f"\\boxed{{{math}}}", extraction_config=_BOXED, parsing_timeout=None)


@lru_cache(maxsize=256)
def _parse_lenient_gold(gold: str) -> Parsed:
    return parse(gold, parsing_timeout=None)


def _same(gold: Parsed, answer: Parsed) -> bool:
    return verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


def _differ_in_value(gold: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """Whether two expressions that Math-Verify calls equal have numerical values that differ beyond rounding."""
    if isinstance(gold, str) or isinstance(answer, str):
        return False
    gold, answer = _right_side(gold), _right_side(answer)
    golds, answers = _elements(gold), _elements(answer)
    if golds is not None and answers is not None:
        golds, answers = ([e for e in elements if e.is_number] for elements in (golds, answers))
        return len(golds) == len(answers) and any(all(_differ_in_value(g, a) for a in answers) for g in golds)
    if golds is not None or answers is not None:
        return False
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    if gold.is_number and answer.is_number:
        return _numbers_differ(gold, answer)
    difference = gold - answer  # terms with symbols cancel where they are written alike
    return difference.is_number and not difference.has(Float) and _numbers_differ(difference, Integer(0))


def _numbers_differ(gold: Basic, answer: Basic) -> bool:
    first, second = gold.doit(), answer.doit()
    if first == second:
        return False
    exact = not (first.has(Float) or second.has(Float))
    try:
        if exact and first.is_Rational and second.is_Rational:
            return True
        if _relative_distance(first, second) > (_EXACT_TOLERANCE if exact else _DECIMAL_TOLERANCE):
            # Two forms of zero have rounding noise for values, whose ratio says nothing: only a proof counts for these.
            return simplify(first - second) != 0
        return exact and _differ_exactly(first - second)
    except (TypeError, ValueError, ArithmeticError):
        return exact  # what cannot be told equal is not called equal


def _relative_distance(first: Basic, second: Basic) -> Basic | int:
    first_value, second_value = first.evalf(30), second.evalf(30)
    scale = max(abs(first_value), abs(second_value))
    return abs(first_value - second_value) / scale if scale else 0


def _differ_exactly(difference: Basic) -> bool:
    """Whether an exact value is not zero, looked at with as many digits as its numbers can make a difference in."""
    if difference.is_Rational:
        return difference != 0
    bits = sum(number.p.bit_length() + number.q.bit_length() for number in difference.atoms(Rational))
    digits = 200 + 2 * bits
    if digits > _MAX_DIGITS:
        return simplify(difference) != 0
    try:
        difference.evalf(2, maxn=digits, strict=True)
        return True
    except PrecisionExhausted:
        return False


def _right_side(expression: Basic | MatrixBase) -> Basic | MatrixBase:
    """What an assignment ("x = 5+6 = 11") assigns; any other expression as it is."""
    first = last = expression
    if isinstance(expression, ChainedAnd) and expression._unsorted_args:
        first, last = expression._unsorted_args[0], expression._unsorted_args[-1]
    return last.rhs if isinstance(last, Eq) and (first.lhs.is_Symbol or first.lhs.is_number) else expression


def _elements(expression: Basic | MatrixBase) -> list[Basic] | None:
    if isinstance(expression, (FiniteSet, Tuple)):
        return list(expression.args)
    if isinstance(expression, Interval):
        return [expression.start, expression.end]
    if isinstance(expression, Union):
        return [part for argument in expression.args for part in _elements(argument) or [argument]]
    if isinstance(expression, Relational) and not isinstance(expression, Eq) and expression.lhs.is_Symbol:
        return [expression.rhs]
    if isinstance(expression, MatrixBase):
        return list(expression.flat())
    return None


def _equal_where_real(gold: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """Whether two expressions with roots agree wherever they are real numbers, and are real at the same points.

    sqrt(1/n) and 1/sqrt(n) differ in sign for negative n, as complex numbers; an answer in real numbers means n > 0.
    sqrt(x^2) and x are told apart at x < 0, where both are real.
    """
    if not (isinstance(gold, Basic) and isinstance(answer, Basic)) or isinstance(gold, (Relational, ChainedAnd)):
        return False
    symbols = sorted(gold.free_symbols, key=str)
    if (
        not 1 <= len(symbols) <= 3
        or gold.free_symbols != answer.free_symbols
        or not (_has_root(gold) or _has_root(answer))
    ):
        return False
    try:
        positive = {symbol: Dummy(symbol.name, positive=True) for symbol in symbols}
        if simplify(gold.subs(positive) - answer.subs(positive)) != 0:
            return False
        real_points = 0
        for point in itertools.product(_SAMPLES, repeat=len(symbols)):
            at = dict(zip(symbols, point, strict=True))
            first, second = gold.subs(at).evalf(20), answer.subs(at).evalf(20)
            if first.is_real != second.is_real:
                return False
            if first.is_real:
                real_points += 1
                if abs(first - second) > 1e-12 * max(1, abs(first)):
                    return False
        return real_points > 0
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return False


def _has_root(expression: Basic) -> bool:
    return any(power.exp.is_Rational and not power.exp.is_Integer for power in expression.atoms(Pow))
