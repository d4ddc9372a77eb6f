"""The comparison inside a worker process: Math-Verify, and the repairs around it.

Math-Verify's own time limits stay off here: they use SIGALRM, and the pool's limit is the one that can kill.
"""

import itertools
from functools import lru_cache

from latex2sympy2_extended.logic import And as ChainedAnd
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Dummy, Eq, FiniteSet, Float, Interval, MatrixBase, Pow, Rational, Tuple, simplify
from sympy.core.relational import Relational

from openrlhf_mel.verifier.exact import bases_differ, plain

_BOXED = [LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)]
_EXACT_TOLERANCE = 1e-10  # relative; Math-Verify's is absolute, and calls all small numbers equal
_DECIMAL_TOLERANCE = 1e-3
_SAMPLES = (Rational(-7, 3), Rational(-2, 5), Rational(3, 7), Rational(5, 2))

Parsed = list[Basic | MatrixBase | str]


def judge_anchored(gold: str, answer: str) -> str:
    """Compare two answers, both without their box; returns "correct", "wrong", or "error" for an unusable gold."""
    parsed_gold = _parse_boxed(gold)
    if not usable_gold(gold):
        return "error"
    parsed = _parse_boxed(answer)
    if bases_differ(plain(gold), plain(answer)):
        return "wrong"
    if not parsed:
        return "wrong"
    if _is_false_equation(parsed[0]):
        return "wrong"
    if _same(parsed_gold, parsed):
        return "wrong" if _differ_in_value(parsed_gold[0], parsed[0]) else "correct"
    return "correct" if _equal_where_real(parsed_gold[0], parsed[0]) else "wrong"


@lru_cache(maxsize=256)
def usable_gold(gold: str) -> bool:
    """Whether Math-Verify can read `gold` and finds it equal to itself."""
    parsed = _parse_boxed(gold)
    return bool(parsed) and _same(parsed, parsed)


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
def _parse_boxed(answer: str) -> Parsed:
    return parse(f"\\boxed{{{answer}}}", extraction_config=_BOXED, parsing_timeout=None)


@lru_cache(maxsize=256)
def _parse_lenient_gold(gold: str) -> Parsed:
    return parse(gold, parsing_timeout=None)


def _same(gold: Parsed, answer: Parsed) -> bool:
    return verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


def _is_false_equation(expression: Basic | MatrixBase | str) -> bool:
    """Whether it is an equation between numbers that does not hold: "8=7" is not the answer 7."""
    links = expression.args if isinstance(expression, ChainedAnd) else (expression,)
    if not all(isinstance(link, Eq) and link.lhs.is_number and link.rhs.is_number for link in links):
        return False
    return not all(_same([link.lhs], [link.rhs]) for link in links)


def _differ_in_value(gold: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """Whether two expressions that Math-Verify calls equal have numerical values that differ beyond rounding."""
    if isinstance(gold, str) or isinstance(answer, str):
        return False
    gold, answer = _right_side(gold), _right_side(answer)
    golds, answers = _elements(gold), _elements(answer)
    if golds is not None and answers is not None:
        return len(golds) == len(answers) and any(all(_differ_in_value(g, a) for a in answers) for g in golds)
    if golds is not None or answers is not None:
        return False
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return False
    return _numbers_differ(gold, answer)


def _numbers_differ(gold: Basic, answer: Basic) -> bool:
    first, second = gold.doit(), answer.doit()
    if first == second:
        return False
    try:
        first_value, second_value = first.evalf(30), second.evalf(30)
        scale = max(abs(first_value), abs(second_value))
        relative = abs(first_value - second_value) / scale if scale else 0
        tolerance = _DECIMAL_TOLERANCE if first.has(Float) or second.has(Float) else _EXACT_TOLERANCE
        # Two forms of zero have rounding noise for values, whose ratio says nothing: only a proof counts for these.
        return bool(relative > tolerance) and simplify(first - second) != 0
    except (TypeError, ValueError, ArithmeticError):
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
