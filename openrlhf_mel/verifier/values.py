"""Whether two parsed answers have the same value: by digits, exactly where they are exact, and at sample points."""

import itertools

from latex2sympy2_extended.logic import And as ChainedAnd
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
)  # fmt: skip
from sympy.core.evalf import PrecisionExhausted
from sympy.core.relational import Relational

_EXACT_TOLERANCE = 1e-10  # relative: values further apart are different, and cost no more digits
_DECIMAL_TOLERANCE = 1e-3
_MAX_DIGITS = 50_000  # to which two exact values are distinguished
_SAMPLES = (Rational(-7, 3), Rational(-2, 5), Rational(3, 7), Rational(5, 2))


def differ_in_value(gold: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """Whether two expressions that Math-Verify calls equal have numerical values that differ beyond rounding."""
    if isinstance(gold, str) or isinstance(answer, str):
        return False
    gold, answer = _right_side(gold), _right_side(answer)
    golds, answers = _elements(gold), _elements(answer)
    if golds is not None and answers is not None:
        golds, answers = ([e for e in elements if e.is_number] for elements in (golds, answers))
        return len(golds) == len(answers) and any(all(differ_in_value(g, a) for a in answers) for g in golds)
    if golds is not None or answers is not None:
        return False
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    if gold.is_number and answer.is_number:
        return _numbers_differ(gold, answer)
    difference = gold - answer  # equally written terms with symbols cancel
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
            # The values of two forms of zero are rounding noise, and their ratio has no meaning: these need a proof.
            return bool(simplify(first - second) != 0)
        return exact and _differ_exactly(first - second)
    except (TypeError, ValueError, ArithmeticError):
        return exact  # what is not proved equal counts as different


def _relative_distance(first: Basic, second: Basic) -> Basic | int:
    first_value, second_value = first.evalf(30), second.evalf(30)
    scale = max(abs(first_value), abs(second_value))
    return abs(first_value - second_value) / scale if scale else 0


def _differ_exactly(difference: Basic) -> bool:
    """Whether an exact value is not zero, computed with as many digits as its numbers can differ in."""
    if difference.is_Rational:
        return bool(difference != 0)
    bits = sum(number.p.bit_length() + number.q.bit_length() for number in difference.atoms(Rational))
    digits = 200 + 2 * bits
    if digits > _MAX_DIGITS:
        return bool(simplify(difference) != 0)
    try:
        difference.evalf(2, maxn=digits, strict=True)
        return True
    except PrecisionExhausted:
        return False


def _right_side(expression: Basic | MatrixBase) -> Basic | MatrixBase:
    """The value of an assignment ("x = 5+6 = 11"); any other expression unchanged."""
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


def equal_where_real(gold: Basic | MatrixBase | str, answer: Basic | MatrixBase | str) -> bool:
    """Whether two expressions with roots agree wherever they are real numbers, and are real at the same points.

    sqrt(1/n) and 1/sqrt(n) differ in sign for negative n, as complex numbers; an answer in real numbers means n > 0.
    sqrt(x^2) and x differ at x < 0, where both are real.
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
