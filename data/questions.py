"""When two written questions are the same one, and what can be told about a question from its text. Pure.

A key is for comparing only: what is written keeps every character of the source.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

# One token: a LaTeX command, an escaped character, a number, a word, one character of a script written without spaces,
# or any other character.
_UNSPACED = "\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"\\[A-Za-z]+|\\.|\d+|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\S", re.DOTALL)
# LaTeX that changes how a formula looks, not what it says; and the comma-like signs.
_SILENT = {
    *("\\,", "\\;", "\\:", "\\!", "\\ ", "\\\n", "~", "$", "\\(", "\\)", "\\[", "\\]"),
    *("\\quad", "\\qquad", "\\left", "\\right", "\\displaystyle", "\\limits"),
    *(",", ";", "、", '"', "“", "”", "„", "«", "»", "\u200b", "\u2060", "\ufeff", "\u00ad"),
}
_SAME = {
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac"), "\\frac"),
    **{"\\leq": "\\le", "≤": "\\le", "\\geq": "\\ge", "≥": "\\ge", "\\neq": "\\ne", "≠": "\\ne"},
    **{"×": "\\times", "÷": "\\div", "−": "-", "–": "-", "‐": "-", "‑": "-", "’": "'", "‘": "'", "′": "'", "。": "."},
}
_RAISED = {"<super>": "^", "<sub>": "_"}
_PLAINER = ("<wide>", "<narrow>", "<compat>", "<noBreak>")

_MATH = re.compile(r"\\(?:begin|end)\{[^{}]*\}|\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|\\[A-Za-z]+", re.DOTALL)
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]{3,}")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
# a word in neither Latin, Greek, Han nor kana: Cyrillic, Hangul, Arabic, Devanagari ...
_OTHER_WORD = re.compile(
    r"[^\W\d_A-Za-z\u00aa-\u03ff\u1e00-\u1fff\u2100-\u214f\u3040-\u30ff\u3400-\u9fff\U0001d400-\U0001d7ff\U00020000-\U0003ffff]+"
)
_QUOTED = 10  # characters or words of another script that an English question may hold
LANGUAGES = ("en", "zh", "other")

_DRAWING = r"(?:figure|diagram|picture|image|sketch|drawing|illustration|graph|grid|map|chart)s?"
_FIGURE = re.compile(
    # drawn in the text, or linked from it
    r"\[/?asy\]|\\includegraphics|\\begin\{(?:tikzpicture|picture|asy|figure)\}|!\[[^\]\n]*\]\(|<img\b"
    r"|https?://\S+\.(?:png|jpe?g|gif|svg|webp)\b"
    # "the figure below", "the following diagram", "as shown", "in the figure"
    rf"|\b{_DRAWING}\s+(?:is\s+)?(?:shown\s+)?(?:below|above|at\s+(?:the\s+)?(?:left|right)|(?:to|on)\s+the\s+(?:left|right))\b"
    r"|\b(?:following|adjoining|accompanying|adjacent|attached)\s+(?:figure|diagram|picture|image|sketch|drawing|illustration)s?\b"
    r"|\b(?:in|from|see|as\s+in|of|by|on|to)\s+(?:the|this)\s+(?:figure|diagram|illustration)s?\b(?!\s+of\b)"
    r"|\b(?:the|this|a)\s+(?:figure|diagram|picture|image|illustration|drawing)\s+(?:shows|illustrates|depicts|represents)\b"
    r"|\bthe\s+diagram\b"
    r"|\b(?:as|is|are)\s+(?:shown|pictured|illustrated|depicted)(?=\s*(?:[.,;:)]|$|below\b|above\b|here\b|at\s+the\b|on\s+the\b|to\s+the\b|in\s+the\b|in\s+fig))"
    r"|\b(?:shown|pictured|illustrated|depicted)\s+(?:below|above)\b"
    r"|\b[Ff]ig(?:ure)?\.?\s*\d"
    r"|如[下右左上]?图|[下右左上附见]图|图中|图所示|示意图",
    re.IGNORECASE,
)


def key(question: str) -> str:
    """What is equal for two ways of writing one question: its tokens, a space between each two.

    Left out: white space, LaTeX's spacing and math delimiters, braces around a single character, commas, semicolons and
    double quotes. Full-width forms, ligatures, dashes and a few LaTeX synonyms become their plain form; superscripts
    and subscripts become `^` and `_`. Everything else counts: operators, letters of every script, case, `.`, `!`, `|`,
    and the borders between numbers ("1 2" and "1,2" are not "12").
    """
    tokens = [_SAME.get(token, token) for token in _TOKEN.findall(_plain(question)) if token not in _SILENT]
    return " ".join(_without_single_braces(tokens))


def compact(question: str) -> str:
    """The text under NFKC without white space. Coarser than `key` between numbers, so only used to find conflicts."""
    return "".join(unicodedata.normalize("NFKC", question).split())


def language(question: str) -> str:
    """By the script outside of mathematics: "zh" where Han prevails, "other" where a third script does, else "en".

    A Han character weighs as much as a Latin word of three letters or more, since Chinese formulas often stand without
    delimiters; ten of them are no quotation any more. Languages in Latin script are not told apart.
    """
    words = _MATH.sub(" ", question)
    latin, han, kana = (len(pattern.findall(words)) for pattern in (_LATIN_WORD, _HAN, _KANA))
    other = len(_OTHER_WORD.findall(words))
    if kana:
        han, other = 0, other + han + kana
    if max(han, other) < max(1, min(latin, _QUOTED)):
        return "en"
    return "zh" if han >= other else "other"


def figure_mention(question: str) -> str | None:
    """The words (or the code) by which a question refers to a figure that a text-only model does not see, or None."""
    found = _FIGURE.search(question)
    return found.group() if found else None


def _plain(text: str) -> str:
    """NFC with full-width forms and ligatures made plain, and raised or lowered characters as `^{...}` and `_{...}`.

    NFKC would lose superscripts (x² would be x2) and the borders of fractions and circled numbers.
    """
    if text.isascii():
        return text
    parts = []
    for mark, run in itertools.groupby(map(_decomposed, unicodedata.normalize("NFC", text)), key=lambda pair: pair[0]):
        characters = "".join(character for _, character in run)
        parts.append(f"{mark}{{{characters}}}" if mark else characters)
    return "".join(parts)


def _decomposed(character: str) -> tuple[str | None, str]:
    """(the mark of a raised or lowered character, else None; its plain form)."""
    tag = unicodedata.decomposition(character).partition(" ")[0] if not character.isascii() else ""
    if tag not in _RAISED and tag not in _PLAINER:
        return None, character
    plain = unicodedata.normalize("NFKC", character)
    if tag in _RAISED:
        return _RAISED[tag], plain
    # A numbered list's "⒈" would join the number before it.
    return None, character if tag == "<compat>" and any(map(str.isdigit, plain)) else plain


def _without_single_braces(tokens: list[str]) -> Iterator[str]:
    """Drop braces around one character, which LaTeX does not need: `x^{2}` is `x^2`. `x^{12}` keeps them."""
    i = 0
    while i < len(tokens):
        if tokens[i] == "{" and tokens[i + 2 : i + 3] == ["}"] and len(tokens[i + 1]) == 1:
            yield tokens[i + 1]
            i += 3
        else:
            yield tokens[i]
            i += 1
