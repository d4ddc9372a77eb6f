"""Which part of an equation is the answer: a left side is removed when it only names the quantity. Pure.

"x = 5", "f(2) = 5", "AB = 5" and "m+n = 5" say that the answer is 5; "x^2 = 5", "2x = 5", "-x = 5" and "|x| = 5" do not.
"""

import itertools
import re

from openrlhf_mel.verifier.structure import closing_brackets, elements, has_ellipsis

_LETTER = (
    r"(?:\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon"
    r"|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|ell)(?![A-Za-z])|[A-Za-z])"
)
_INDEX = r"(?:\s*_\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\[A-Za-z]+|[0-9]+|[A-Za-z]))"
_PRIMES = r"(?:'{1,3}|\^\s*\{\s*(?:\\prime\s*){1,3}\}|\^\\prime|\^\s*(?:\*|\{\*\}|\\star(?![A-Za-z])))"
_ACCENT = (
    r"\\(?:vec|hat|bar|tilde|overline|underline|mathbf|mathbb|mathcal|mathrm|mathit|mathfrak|operatorname|dot|ddot)"
)
_NAME = re.compile(
    rf"(?:\\Delta\s*)?(?:{_ACCENT}\s*\{{\s*[A-Za-z]+\s*\}}|{_ACCENT}\s+[A-Za-z]|{_LETTER}){_INDEX}?{_PRIMES}?{_INDEX}?"
)
_POINT = r"[A-Z](?:_\{?[0-9A-Za-z]\}?|'{1,2})?"
_SEGMENT = re.compile(
    rf"\|?\s*(?:{_POINT}\s*{_POINT}|\\(?:overline|overrightarrow|overleftrightarrow|vec|widehat|overset\\frown|stackrel\\frown|arc|overarc)"
    rf"\s*\{{\s*{_POINT}\s*{_POINT}\s*\}})\s*\|?"
)
_ANGLE = re.compile(rf"(?:m\s*)?\\(?:angle|measuredangle)\s*\{{?\s*(?:(?:{_POINT}\s*){{1,3}}|[a-z0-9]|\\[a-z]+)\s*\}}?")
_AREA = re.compile(
    rf"(?:[A-Z]_\{{(?:\\triangle|\\square)?\s*[A-Z]{{3,6}}\}}|\\?\[\s*(?:{_POINT}\s*){{3,8}}\]|\|\s*(?:{_POINT}\s*){{3,8}}\||\\triangle\s*[A-Z]{{3}})"
)
# The number of a set's elements; a lone unknown between bars is an absolute value.
_SET_NAME = r"(?:[A-W]|\\mathcal\s*\{[A-Z]\})(?:_\{?\w\}?)?"
_CARDINALITY = re.compile(rf"\|\s*{_SET_NAME}(?:\s*\\(?:cup|cap|setminus)\s*{_SET_NAME})*\s*\||\\#\s*[A-Z]")
_DERIVATIVE = re.compile(r"\\frac\s*\{\s*d(?:\^\{?[0-9]\}?)?\s*[A-Za-z]?\s*\}\s*\{\s*d\s*[a-z](?:\^\{?[0-9]\}?)?\s*\}")
_TUPLE = re.compile(r"\(([^()]*)\)")
_FUNCTION = re.compile(
    rf"(?:({_LETTER})|{_ACCENT}\s*\{{\s*[A-Za-z]+\s*\}}|\\(?:Pr|deg|dim)(?![A-Za-z]))"
    rf"{_INDEX}?(?:{_PRIMES}|\^\s*\{{\s*(?:-1|\([a-z0-9]\))\s*\}})?{_INDEX}?\s*(?=[(\[])"
)
# Letters that usually name an unknown: "n(n+1)" is a product, but "a(2)" and "n(A\cup B)" are values. The first five
# are unknowns even before a number.
_NO_FUNCTIONS = set("xyznm")
_UNKNOWNS = _NO_FUNCTIONS | set("ktabcduvwijsrpqNMK")
_PLAIN_ARGUMENT = re.compile(r"[0-9]+|[a-z]|[A-Z](?:\s*(?:\\(?:cap|cup|mid|times)(?![A-Za-z])|[|,])\s*[A-Z])*")
# Limits, sums and extremes name a value unless an operation is applied to it.
_BOUND = re.compile(r"\\(?:lim|limsup|liminf|sum|prod|int|iint|oint|max|min|sup|inf|det|deg|dim)(?![A-Za-z])")
_BOUND_SCRIPTS = re.compile(r"(?:\s*[_^]\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\?[A-Za-z0-9]+))*\s*")
_DIFFERENTIAL = re.compile(r"\s*(?:\\,)?d\s*[a-z]\s*$")
_NUMERICAL = re.compile(
    r"(?:[0-9.,+\-*/^_!(){}\[\]\s%]|\\(?:frac|sqrt|cdot|times|div|pi|binom|gcd|lcm|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos"
    r"|arctan|lfloor|rfloor|lceil|rceil|circ|ldots)(?![A-Za-z])|\\operatorname\{(?:gcd|lcm)\}|\\%)+"
)
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def sides(element: str) -> list[str]:
    """The sides of an equation or chain of equations; the element alone when it is none."""
    element, begin, matrix = element.replace("==", "=").partition("\\begin")
    parts = [side.strip() for side in elements(element, "=")]
    return [*parts[:-1], (parts[-1] + begin + matrix).strip()]


def value(element: str) -> str | None:
    """The element without a side that only names it; None when the left side is more than a name.

    An element that is no equation is its own value. Sides of numbers alone are removed too: computer algebra decides
    whether they are equal.
    """
    parts = sides(element)
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return element
    if not last:
        return None
    if len(parts) == 2 and _NUMERICAL.fullmatch(first) and _NAME.fullmatch(last):
        return first
    return last if not first or _NUMERICAL.fullmatch(first) or names(first) else None


def chains(element: str) -> list[tuple[str, str]]:
    """Pairs of numerical sides that have to be equal for the element to be true: of "x=16+5=21" (16+5, 21)."""
    parts = [side for side in sides(element) if side and _NUMERICAL.fullmatch(side) and not has_ellipsis(side)]
    return list(itertools.pairwise(parts))


def names(side: str) -> bool:
    """Whether a left side only names: a quantity, a tuple of them, or a sum or quotient of two or more different ones."""
    side = side.strip()
    if _is_name(side):
        return True
    if tuple_ := _TUPLE.fullmatch(side):
        return _are_different_names(elements(tuple_[1]))
    side = _FRACTION.sub(r"(\1)/(\2)", side)
    terms = [term for part in elements(side, "/:") for term in elements(_without_brackets(part), "+")]
    return _are_different_names(terms)


def _are_different_names(terms: list[str]) -> bool:
    return len(set(terms)) == len(terms) > 1 and all(_is_name(term.strip()) for term in terms)


def _without_brackets(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text.startswith("(") and closing_brackets(text).get(0) == len(text) - 1 else text


def _is_name(text: str) -> bool:
    if text in ("e", "i", "\\pi"):
        return False
    simple = (_NAME, _SEGMENT, _ANGLE, _AREA, _CARDINALITY, _DERIVATIVE)
    return any(pattern.fullmatch(text) for pattern in simple) or _is_bound(text) or _is_function_value(text)


def _is_bound(text: str) -> bool:
    """Whether it is a limit, sum, integral or extreme, and nothing else."""
    bound = _BOUND.match(text)
    if not bound:
        return False
    scripts = _BOUND_SCRIPTS.match(text, bound.end())
    rest = text[scripts.end() if scripts else bound.end() :]
    if rest.startswith("("):
        return closing_brackets(rest).get(0) == len(rest) - 1 or bool(_DIFFERENTIAL.search(rest))
    outside = elements(rest, "+-/=")
    return bool(rest) and (
        bool(_DIFFERENTIAL.search(rest)) or (len(outside) == 1 and "\\cdot" not in rest and "\\times" not in rest)
    )


def _is_function_value(text: str) -> bool:
    function = _FUNCTION.match(text)
    if not function:
        return False
    arguments = text[function.end() :].strip().replace("[", "(").replace("]", ")")
    if closing_brackets(arguments).get(0) != len(arguments) - 1:
        return False
    letter, inner = function[1], arguments[1:-1].strip()
    if letter in _UNKNOWNS:
        number = inner.isdigit() and letter in _NO_FUNCTIONS
        return bool(_PLAIN_ARGUMENT.fullmatch(inner)) and not number and inner != letter
    return not (letter and re.search(rf"(?<![A-Za-z\\]){re.escape(letter)}(?![A-Za-z(])", inner))
