"""One way to write mathematics: characters and commands that mean the same become the same LaTeX. Pure, linear in time.

`words` decides the meaning of a word or a unit, `sides` that of an equation.
"""

import re
import unicodedata
from functools import lru_cache

from openrlhf_mel.text import without_invisible
from openrlhf_mel.verifier.structure import closing_brackets
from openrlhf_mel.verifier.substitutions import substitute, table

MAX_CHARS = 10_000  # the longest reference answer of the usual benchmarks has under 400
_MAX_PERIOD = 400  # digits of a repeating decimal

# Each command ends with a space, so that a following letter does not join its name.
_CHARACTERS = {
    **dict.fromkeys("−–‒﹣‐‑⁻₋", "-"),
    **dict.fromkeys("·⋅∙•‧", "\\cdot "),
    **dict.fromkeys("×✕✖", "\\times "),
    **dict.fromkeys("∕⁄", "/"),
    **dict.fromkeys("≤⩽≦", "\\le "),
    **dict.fromkeys("≥⩾≧", "\\ge "),
    **dict.fromkeys("≈≃≅", "\\approx "),
    **dict.fromkeys("∅⌀", "\\emptyset "),
    **dict.fromkeys("…⋯", "\\ldots "),
    **dict.fromkeys("∣｜", "|"),
    **dict.fromkeys("′’´", "'"),
    **dict.fromkeys("⟨〈", "\\langle "),
    **dict.fromkeys("⟩〉", "\\rangle "),
    **dict.fromkeys("→⟶", "\\to "),
    **dict.fromkeys("⇒⟹", "\\Rightarrow "),
    **dict.fromkeys("˚º", "°"),
    **{
        "÷": "/",
        "±": "\\pm ",
        "∓": "\\mp ",
        "≠": "\\ne ",
        "≡": "\\equiv ",
        "∼": "\\sim ",
        "∈": "\\in ",
        "∉": "\\notin ",
    },
    **{"∪": "\\cup ", "∩": "\\cap ", "⊂": "\\subset ", "⊆": "\\subseteq ", "∖": "\\setminus ", "∞": "\\infty "},
    **{
        "∠": "\\angle ",
        "△": "\\triangle ",
        "∆": "\\Delta ",
        "∑": "\\sum ",
        "∏": "\\prod ",
        "∫": "\\int ",
        "∂": "\\partial ",
    },
    **{"⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∥": "\\parallel ", "⊥": "\\perp "},
    **{"ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℚ": "\\mathbb{Q}", "ℕ": "\\mathbb{N}", "ℂ": "\\mathbb{C}"},
    **{
        "。": ".",
        "、": ",",
        "∘": "\\circ ",
        "∧": "\\land ",
        "∨": "\\lor ",
        "∗": "*",
        "﹪": "%",
        "ℓ": "\\ell ",
        "⋃": "\\cup ",
        "⋂": "\\cap ",
    },
}
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta"},
    **{"ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma"},
    **{"τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "ϕ": "phi", "ϵ": "epsilon"},
    **{"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma", "Φ": "Phi"},
    **{"Ψ": "Psi", "Ω": "Omega"},
}
# For str.translate: signs and Greek letters as LaTeX.
SIGNS = str.maketrans(_CHARACTERS | {letter: f"\\{name} " for letter, name in _GREEK.items()})

_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True))
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_VULGAR = re.compile("([0-9]?)([¼½¾⅐-⅞↉])")
_OVERLINED = re.compile("(?:[0-9][\u0304\u0305])+")
_ROOT_SIGNS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_ROOT_SIGN = re.compile(r"([√∛∜])\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z](?![A-Za-z])|(?=[({\\√∛∜]))")

# "7th" is 7, in whatever way the letters are raised.
_SUFFIX = r"\s*(?:st|nd|rd|th)\s*"
_UPRIGHT = rf"\\(?:text|mathrm|textrm)\s*\{{{_SUFFIX}\}}"
_ORDINAL = (
    rf"(?<=[0-9])(?:(?:st|nd|rd|th)(?![A-Za-z])|\\textsuperscript\s*\{{{_SUFFIX}\}}"
    rf"|\^\s*(?:{_UPRIGHT}|\{{\s*{_UPRIGHT}\s*\}}|\{{{_SUFFIX}\}}))"
)

_COMMANDS = table(
    (
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\(?:varnothing|empty|O)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:leq|leqslant|leqq)(?![A-Za-z])", r"\\le "),
        (r"\\(?:geq|geqslant|geqq)(?![A-Za-z])", r"\\ge "),
        (r"\\(?:neq|not\s*=)(?![A-Za-z])", r"\\ne "),
        (r"<=(?!>)", r"\\le "),
        (r">=", r"\\ge "),
        (r"(?<=\s)!=", r"\\ne "),
        (r":=|\\coloneqq(?![A-Za-z])", "="),
        (r"\{:\}|\\colon(?![A-Za-z])", ":"),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"\\big(cup|cap)(?![A-Za-z])", r"\\\1 "),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
        (r"\\mod(?![A-Za-z])", r"\\bmod "),
        (r"\\ast(?![A-Za-z])", r"\\cdot "),
        (r"\\(mathbb|mathcal|mathrm)\s+([A-Za-z])(?![A-Za-z])", r"\\\1{\2}"),
        (r"\\underline\s*\{([^{}]*)\}|`", r"\1"),
        (r"\\infin(?![A-Za-z])", r"\\infty "),
        (r"\\(?:dots|cdots|dotsc|dotsb|dotsm|hdots|ldotp)(?![A-Za-z])|(?<!\.)\.{3,6}", r"\\ldots "),
        (r"\\(?:lvert|rvert|vert)(?![A-Za-z])", "|"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:left|right|mleft|mright|middle)(?![A-Za-z])(?:\s*\.)?|\\[bB]igg?[lrm]?(?![A-Za-z])", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|rm|bf|it|strut|boldmath)(?![A-Za-z])", " "),
        (r"\\(?:boldsymbol|bm|mathbf|mathit|mathsf|mathnormal|textnormal|pmb)\s*\{([A-Za-z0-9.,+ -]*)\}", r"\1"),
        (r"\\(?:degrees?|textdegree)(?![A-Za-z])|\\text\s*\{\s*°\s*\}|\^\s*\{?\s*°\s*\}?|°", r"^{\\circ}"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|(?<=[0-9])\s*\\circ(?![A-Za-z])", r"^{\\circ}"),
        (r"\\(?:hspace|vspace|hskip|kern|mkern)\*?\s*\{[^{}]*\}|\\phantom\s*\{[^{}]*\}", " "),
        (r"(?<!\\)\\[()\[\]!]|\\allowbreak(?![A-Za-z])", ""),
        (r"(?<=[0-9])\s*\{,\}\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"\{,\}", ","),
        (
            r"(?<!\\)\\[,;:> \n]|(?<!\\)~|\\(?:quad|qquad|enspace|thinspace|medspace|thickspace|space|nobreakspace)(?![A-Za-z])",
            " ",
        ),
        (r"(?<!\\)\\\$|\$", ""),
        (_ORDINAL, ""),
        (r"\*\*", "^"),
        (r"(?<=[0-9])\s*x\s*(?=10\s*\^)", r"\\times "),
        (r"(?<![\\A-Za-z])(sqrt|log|ln|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)(?=\s*[\^_({0-9])", r"\\\1"),
        (r"\\operatorname\s*\{(arcsin|arccos|arctan|gcd|log|ln|sin|cos|tan)\}", r"\\\1 "),
    )
)
_ONE = rf"([0-9A-Za-z]|\\(?:{'|'.join(sorted(set(_GREEK.values())))})(?![A-Za-z]))"
_FRACTION = re.compile(rf"\\(frac|binom)\s*(?:{_ONE}|(\{{[^{{}}]*\}}))\s*(?:{_ONE}|(?=\{{))")
# A function of degrees; a number of degrees alone is not changed.
_OF_DEGREES = re.compile(
    r"(\\(?:sin|cos|tan|cot|sec|csc))\s*(?:\(\s*([0-9.]+)\s*\^\{\\circ\}\s*\)|([0-9.]+)\s*\^\{\\circ\})"
)
_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*([0-9A-Za-z])")
_BRACKETED_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(")
_SIGNED_POWER = re.compile(r"\^\s*([+-]\s*[0-9]+)")
_LONG_POWER = re.compile(r"\^\s*([0-9]{2,})(?![0-9])")
_SPACED_GROUPS = re.compile(r"(?<![0-9.,_^])([1-9][0-9]{0,2}(?: [0-9]{3})+)(?![0-9])")
_SPACED_DECIMALS = re.compile(r"(?<=\.)([0-9]{3}(?: [0-9]{3})+(?: [0-9]{1,2}(?![0-9 ]))?)(?![0-9])")
_DIGITS = rf"[0-9]{{1,{_MAX_PERIOD}}}"
_PERIOD = rf"(?:\{{?\\(?:overline|bar)\s*(?:\{{\s*({_DIGITS})\s*\}}|([0-9]))\}}?|\(({_DIGITS})\))"
_REPEATING = re.compile(
    rf"(?<![0-9.])([0-9]{{0,{_MAX_PERIOD}}})\.([0-9]{{0,{_MAX_PERIOD}}}){_PERIOD}(?:\s*\\ldots)?(?![0-9.({{^])"
)
# "0.1666..." repeats the digits that it shows three times
_SHOWN_REPEATING = re.compile(
    r"(?<![0-9.])([0-9]{0,20})\.([0-9]{0,20}?)([0-9]{1,6})\3{2,10}\s*\\ldots(?![A-Za-z])\s*(?![0-9])"
)
_DOTTED = re.compile(
    rf"(?<![0-9.])([0-9]{{0,{_MAX_PERIOD}}})\.([0-9]{{0,{_MAX_PERIOD}}})"
    r"\\dot\s*(?:\{([0-9])\}|([0-9]))(?:([0-9]{0,50})\\dot\s*(?:\{([0-9])\}|([0-9])))?(?![0-9.])"
)
# An integer, then a proper fraction: "1\\frac12", "1 1/2". With an improper one it is no mixed number.
_MIXED = re.compile(
    r"(?<![0-9.,^_}])([0-9]{1,15})\s*(?:\\frac\{([0-9]{1,15})\}\{([0-9]{1,15})\}|(?<=\s)([0-9]{1,15})/([0-9]{1,15})(?![0-9.]))"
)
_TOO_MANY_BACKSLASHES = re.compile(r"\\\\(?=[A-Za-z])")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def canonical(text: str) -> str:
    """Rewrite `text` in one notation. White space, thin spaces and `$` become a space or nothing; letters stay.

    A text of more than `MAX_CHARS` characters stays as it is.
    """
    if len(text) > MAX_CHARS or _PLAIN_NUMBER.fullmatch(text):
        return text
    return _canonical(text)


@lru_cache(maxsize=1024)
def _canonical(text: str) -> str:
    text = _ascii(without_invisible(text)) if not text.isascii() else without_invisible(text)
    if "\\begin" not in text:
        text = _TOO_MANY_BACKSLASHES.sub(r"\\", text)
    text = substitute(_COMMANDS, text)
    text = _bracketed_roots(text)
    text = _ROOT.sub(r"\\sqrt\1{\2}", text)
    text = _FRACTION.sub(_braced, text)
    text = _SIGNED_POWER.sub(lambda power: f"^{{{power[1].replace(' ', '')}}}", text)
    text = _LONG_POWER.sub(r"^{\1}", text)
    text = " ".join(text.split())
    text = _SPACED_GROUPS.sub(lambda group: group[1].replace(" ", ""), text)
    text = _SPACED_DECIMALS.sub(lambda group: group[1].replace(" ", ""), text)
    text = _DOTTED.sub(_dotted, text)
    text = _REPEATING.sub(_repeating, text)
    text = _SHOWN_REPEATING.sub(lambda shown: _as_fraction(*shown.groups()), text)
    text = _OF_DEGREES.sub(lambda angle: f"{angle[1]}(\\frac{{{angle[2] or angle[3]}\\pi}}{{180}})", text)
    text = _MIXED.sub(_mixed, text)
    return _without_last_period(text.strip())


def _ascii(text: str) -> str:
    text = _OVERLINED.sub(lambda run: f"\\overline{{{run.group()[::2]}}}", text)
    text = _RAISED_RUN.sub(lambda run: f"^{{{''.join(_RAISED[c] for c in run.group())}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{''.join(_LOWERED[c] for c in run.group())}}}", text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = _ROOT_SIGN.sub(_root, text)
    text = unicodedata.normalize("NFKC", text.translate(SIGNS)).translate(SIGNS)
    return "".join(str(unicodedata.decimal(c, c)) for c in text) if not text.isascii() else text


def _vulgar_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[2]).partition("⁄")
    return f"{match[1]}{' ' if match[1] else ''}\\frac{{{top}}}{{{bottom}}}"


def _root(match: re.Match[str]) -> str:
    return _ROOT_SIGNS[match[1]] + (f"{{{match[2]}}}" if match[2] else "")


def _bracketed_roots(text: str) -> str:
    """Rewrite `\\sqrt(7)`, which LaTeX would read as the root of a bracket, as `\\sqrt{7}`."""
    closed_at = closing_brackets(text) if "\\sqrt" in text else {}
    parts, position = [], 0
    for root in _BRACKETED_ROOT.finditer(text):
        end = closed_at.get(root.end() - 1)
        if end is not None and root.start() >= position:
            parts += [text[position : root.start()], f"\\sqrt{root[1] or ''}{{{text[root.end() : end]}}}"]
            position = end + 1
    return "".join(parts) + text[position:]


def _braced(match: re.Match[str]) -> str:
    first = f"{{{match[2]}}}" if match[2] else match[3]
    return f"\\{match[1]}{first}" + (f"{{{match[4]}}}" if match[4] else "")


def _repeating(match: re.Match[str]) -> str:
    whole, before, *periods = match.groups()
    return _as_fraction(whole, before, next(filter(None, periods)))


def _dotted(match: re.Match[str]) -> str:
    whole, before, first, bare_first, between, last, bare_last = match.groups()
    return _as_fraction(whole, before, (first or bare_first) + (between or "") + (last or bare_last or ""))


def _as_fraction(whole: str, before: str, period: str) -> str:
    top = int(whole + before + period) - int((whole + before) or "0")
    return f"\\frac{{{top}}}{{{(10 ** len(period) - 1) * 10 ** len(before)}}}"


def _mixed(match: re.Match[str]) -> str:
    whole, *parts = match.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if not (0 < top < bottom and int(whole)):
        return match.group()
    return f"\\frac{{{int(whole) * bottom + top}}}{{{bottom}}}"


def _without_last_period(text: str) -> str:
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text
