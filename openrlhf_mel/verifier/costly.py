"""Refuses texts before computer algebra: those whose evaluation cannot end in time or fit in memory.

These checks save the time of killing a worker; they need not be complete, because the pool's limits are.
"""

import math
import re

from openrlhf_mel.verifier.notation import MAX_CHARS

MAX_DEPTH = 60  # nested brackets; real answers stay below 10
MAX_LITERAL = 4_000  # digits in one number inside an expression; Python refuses to convert more than 4,300
MAX_EXPONENT = 20_000
MAX_FACTORIAL = 20_000
MAX_BINOMIAL = 100_000
MAX_TERMS = 100_000  # of a sum or product

_DIGITS = re.compile(r"\d+")
_CARET = re.compile(r"(?:\^|\*\*)\s*")
_FACTORIAL = re.compile(r"(\d+|[)}\]])\s*!")
_BINOMIAL = re.compile(r"\\(?:d|t)?binom\s*")
_BOUND = re.compile(r"\\(?:sum|prod)\b[^^]{0,80}\^\s*")


def too_costly(text: str) -> str | None:
    """Return why `text` is too costly for computer algebra, or None."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    if _depth(text) > MAX_DEPTH:
        return f"brackets nested deeper than {MAX_DEPTH}"
    if any(len(digits) > MAX_LITERAL for digits in _DIGITS.findall(text)):
        return f"a number of more than {MAX_LITERAL} digits inside an expression"
    for caret in _CARET.finditer(text):
        if _size(_argument(text, caret.end())) > MAX_EXPONENT:
            return f"an exponent above {MAX_EXPONENT}"
    for factorial in _FACTORIAL.finditer(text):
        operand = factorial.group(1) if factorial.group(1).isdigit() else _group_before(text, factorial.start(1))
        if _size(operand) > MAX_FACTORIAL:
            return f"a factorial above {MAX_FACTORIAL}"
    for binomial in _BINOMIAL.finditer(text):
        if _size(_argument(text, binomial.end())) > MAX_BINOMIAL:
            return f"a binomial coefficient above {MAX_BINOMIAL}"
    for bound in _BOUND.finditer(text):
        if _size(_argument(text, bound.end())) > MAX_TERMS:
            return f"a sum or product of more than {MAX_TERMS} terms"
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "{[(":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}])":
            depth = max(0, depth - 1)
    return deepest


def _argument(text: str, start: int) -> str:
    """The TeX argument at `start`: a braced or parenthesised group, or a run of digits, or one character."""
    if start >= len(text):
        return ""
    closing = {"{": "}", "(": ")"}.get(text[start])
    if closing is None:
        digits = _DIGITS.match(text, start)
        return digits.group() if digits else text[start]
    depth = 0
    for position in range(start, len(text)):
        depth += {text[start]: 1, closing: -1}.get(text[position], 0)
        if depth == 0:
            return text[start + 1 : position]
    return text[start + 1 :]


def _group_before(text: str, end: int) -> str:
    """The content of the group whose closing bracket is at `end`."""
    closing = text[end]
    opening = {")": "(", "}": "{", "]": "["}[closing]
    depth = 0
    for position in range(end, -1, -1):
        depth += {closing: 1, opening: -1}.get(text[position], 0)
        if depth == 0:
            return text[position + 1 : end]
    return text[:end]


def _size(expression: str) -> float:
    """The size of a purely numerical expression of digits and powers; 0 for anything with a letter in it."""
    expression = expression.strip().strip("()").strip()
    sign_free = expression.lstrip("+-")
    if sign_free.isdigit():
        return float(sign_free) if len(sign_free) <= 300 else math.inf
    if re.search(r"[A-Za-z]", sign_free.replace("\\cdot", "").replace("\\times", "")):
        return 0.0
    caret = _CARET.search(sign_free)
    if not caret:
        return max((float(d) if len(d) <= 300 else math.inf for d in _DIGITS.findall(sign_free)), default=0.0)
    bases = _DIGITS.findall(sign_free[: caret.start()])
    base = float(bases[-1]) if bases and len(bases[-1]) <= 300 else math.inf if bases else 0.0
    argument = _argument(sign_free, caret.end()).strip()
    exponent = 0.0 if argument.startswith("-") else _size(argument)
    if base <= 1:
        return base
    return base**exponent if exponent * math.log10(base) < 300 else math.inf
