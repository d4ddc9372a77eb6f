"""What of an equation is the answer: a left side goes when it only names the quantity. Pure.

"x = 5", "f(2) = 5", "AB = 5" and "m+n = 5" say that the answer is 5; "x^2 = 5", "2x = 5", "-x = 5" and "|x| = 5" do not.
"""

import itertools
import re

from openrlhf_mel.verifier.structure import elements

_LETTER = (
    r"(?:\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|upsilon"
    r"|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Upsilon|Phi|Psi|Omega|ell)(?![A-Za-z])|[A-Za-z])"
)
_INDEX = r"(?:\s*_\s*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\\?[A-Za-z0-9]+))"
_PRIMES = r"(?:'{1,3}|\^\s*\{\s*(?:\\prime\s*){1,3}\}|\^\\prime)"
_ACCENT = (
    r"\\(?:vec|hat|bar|tilde|overline|underline|mathbf|mathbb|mathcal|mathrm|mathit|mathfrak|operatorname|dot|ddot)"
)
_NAME = re.compile(rf"(?:{_ACCENT}\s*\{{\s*[A-Za-z]+\s*\}}|{_ACCENT}\s+[A-Za-z]|{_LETTER}){_INDEX}?{_PRIMES}?{_INDEX}?")
_POINT = r"[A-Z](?:_\{?[0-9A-Za-z]\}?|'{1,2})?"
_SEGMENT = re.compile(
    rf"\|?\s*(?:{_POINT}\s*{_POINT}|\\(?:overline|overrightarrow|overleftrightarrow|vec|widehat|overset\\frown|stackrel\\frown|arc)"
    rf"\s*\{{\s*{_POINT}\s*{_POINT}\s*\}})\s*\|?"
)
_ANGLE = re.compile(rf"(?:m\s*)?\\(?:angle|measuredangle)\s*\{{?\s*(?:(?:{_POINT}\s*){{1,3}}|[a-z0-9]|\\[a-z]+)\s*\}}?")
_AREA = re.compile(
    rf"(?:[A-Z]_\{{(?:\\triangle|\\square)?\s*[A-Z]{{3,6}}\}}|\\?\[\s*(?:{_POINT}\s*){{3,8}}\]|\|\s*(?:{_POINT}\s*){{3,8}}\||\\triangle\s*[A-Z]{{3}})"
)
# The number of a set's elements; a lone unknown between bars is an absolute value.
_CARDINALITY = re.compile(r"(?:\|\s*(?:[A-W]|\\mathcal\s*\{[A-Z]\})(?:_\{?\w\}?)?\s*\||\\#\s*[A-Z])")
_FUNCTION = re.compile(
    rf"(?:({_LETTER})|{_ACCENT}\s*\{{\s*[A-Za-z]+\s*\}}|\\(?:Pr|deg|dim)(?![A-Za-z]))"
    rf"{_INDEX}?(?:{_PRIMES}|\^\s*\{{\s*(?:-1|\([a-z0-9]\))\s*\}})?{_INDEX}?\s*(?=[(\[])"
)
# These name unknowns: "x(x+1)" is a product, where "x(2)" is a value.
_UNKNOWNS = set("xyznmktabcduvwijsr")
# A value of these does not depend on what stands in them: limits, sums, extremes.
_BOUND = re.compile(r"\\(?:lim|limsup|liminf|sum|prod|int|iint|oint|max|min|sup|inf|det)(?![A-Za-z])")
_NUMERICAL = re.compile(
    r"(?:[0-9.,+\-*/^!(){}\[\]\s%]|\\(?:frac|sqrt|cdot|times|div|pi|binom|left|right|%)(?![A-Za-z])|\\%)+"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")


def sides(element: str) -> list[str]:
    """The sides of an equation or chain of equations; the element alone when it is none."""
    if "=" not in element or "\\begin" in element:
        return [element]
    return [side.strip() for side in elements(element.replace("==", "="), "=")]


def value(element: str) -> str | None:
    """What is left of an element when a side that only names it is dropped; None when the left side says more.

    An element that is no equation is its own value. Sides of numbers alone go too: whether they are equal is for
    computer algebra to say.
    """
    parts = sides(element)
    if len(parts) == 1:
        return element
    first, last = parts[0], parts[-1]
    if not last:
        return None
    if not first or names(first) or _NUMERICAL.fullmatch(first):
        return last
    return None


def chains(element: str) -> list[tuple[str, str]]:
    """Pairs of numerical sides that have to be equal for the element to be true: of "x=16+5=21" (16+5, 21)."""
    parts = [side for side in sides(element) if side and _NUMERICAL.fullmatch(side)]
    return list(itertools.pairwise(parts))


def names(side: str) -> bool:
    """Whether a left side is only the name of a quantity, or a sum or quotient of two or more different names."""
    side = side.strip()
    if _is_name(side):
        return True
    side = _FRACTION.sub(r"(\1)/(\2)", side)
    if not re.search(r"[+/]", side):
        return False
    terms = [term.strip() for part in elements(side, "/") for term in elements(_unbracketed(part), "+")]
    return len(set(terms)) == len(terms) > 1 and all(map(_is_name, terms))


def _unbracketed(text: str) -> str:
    text = text.strip()
    return text[1:-1] if text.startswith("(") and text.endswith(")") and len(elements(text[1:-1], ")")) == 1 else text


def _is_name(text: str) -> bool:
    if any(pattern.fullmatch(text) for pattern in (_NAME, _SEGMENT, _ANGLE, _AREA, _CARDINALITY)) and text not in (
        "e",
        "i",
        "\\pi",
    ):
        return True
    if _BOUND.match(text):
        return True
    function = _FUNCTION.match(text)
    if not function or elements(text[function.end() :], "+-*/^=") != [text[function.end() :].strip()]:
        return False
    arguments = text[function.end() :].strip()
    if not (arguments.endswith((")", "]")) and _closes_at_end(arguments)):
        return False
    letter, inner = function[1], arguments[1:-1]
    if letter in _UNKNOWNS:
        return (
            bool(re.fullmatch(r"[0-9]+|[A-Z](?:\s*(?:\\(?:cap|cup|mid|times)|\|)\s*[A-Z])*", inner.strip()))
            and function.end() > 0
        )
    return not (letter and re.search(rf"(?<![A-Za-z\\]){re.escape(letter)}(?![A-Za-z(])", inner))


def _closes_at_end(text: str) -> bool:
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return position == len(text) - 1
    return False
