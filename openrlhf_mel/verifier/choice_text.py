"""Texts of options and of answers that name one: without what sets them, and in a form in which equal ones are equal. Pure."""

import re
import unicodedata
from functools import lru_cache

from openrlhf_mel.text import without_invisible

# What is taken out of a text, in this order: (pattern, what stands in its place).
_SIZES = "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
_SET = (
    # fonts and sizes with an argument; its brace is left without a partner, and goes with the stray ones
    (
        r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal|up)?|math(?:bf|rm|sf|it|tt|bb|cal|scr|frak|normal)|boldsymbol|bm|emph"
        rf"|underline|operatorname\*?|mbox|hbox|{_SIZES})\s*\{{",
        "",
    ),
    (rf"\\(?:bf|rm|it|sf|tt|em|bfseries|itshape|displaystyle|{_SIZES})(?![A-Za-z])", ""),
    (r"\\(?:left|right)(?![A-Za-z])", ""),
    (r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~", " "),
    (r"(?<!\w)\*\*|\*\*(?!\w)", ""),
    (r"\*\*|(?<!\\)\$|\\[()\[\]]", " "),
)
_SETTING = tuple((re.compile(pattern), instead) for pattern, instead in _SET)
_WHOLE = re.compile(r"\{(?P<braces>[^{}]*)\}|\\\{(?P<set>[^{}]*)\\\}|(['\"“‘])(?P<quoted>[^'\"“”‘’]*)['\"”’]")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
# Ways to write the same: (pattern, what stands in its place), for comparison.
_SAME = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),  # 1,000
        (r"\{(\w)\}", r"\1"),  # x^{2}
        (r"\\([$%])", r"\1"),
        (r"\$", ""),
        (r"[(\[]\s*([A-Z])\s*[)\]]", r" \1 "),  # "both (A) and (B)"
        (r"\s*([^\w\s])\s*", r"\1"),
        (r"\s+", " "),
    )
)


def bare(text: str) -> str:
    """A text without fonts, delimiters and invisible characters, in Unicode's NFKC; lines stay."""
    text = without_invisible(text) if text.isascii() else unicodedata.normalize("NFKC", without_invisible(text))
    for pattern, instead in _SETTING:
        text = pattern.sub(instead, text)
    return text


def plain(text: str) -> str:
    """A bare text on one line, without stray braces, its last point, and braces or quotes around the whole."""
    text = " ".join(_without_stray_braces(bare(text)).split()).strip("*_ ").removesuffix(".").rstrip()
    whole = _WHOLE.fullmatch(text)
    return (
        next(inner for inner in whole.group("braces", "set", "quoted") if inner is not None).strip() if whole else text
    )


@lru_cache(maxsize=4096)  # of an option's text for every answer
def compared(text: str) -> str:
    """The form in which two plain texts are compared: \\dfrac as \\frac, no thousands' commas, no spaces around signs."""
    for pattern, instead in _SAME:
        text = pattern.sub(instead, text)
    return text.strip()


def _without_stray_braces(text: str) -> str:
    """Drop braces without a partner: those that a font's command, or a cut between two options, has left."""
    opened: list[int] = []
    stray: set[int] = set()
    for brace in _BRACES.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}":
            if opened:
                opened.pop()
            else:
                stray.add(brace.start())
    stray.update(opened)
    return "".join(character for at, character in enumerate(text) if at not in stray)
