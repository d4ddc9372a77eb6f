"""The key by which questions are compared, and properties of a question's text: language, figures. Pure.

A key serves comparison only: a written question keeps every visible character of its source.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

from openrlhf_mel.text import INVISIBLE, without_invisible

# One token: a LaTeX command, an escaped character, a number, a word, one character of a script written without spaces,
# or any other character.
_UNSPACED = "\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"\\[A-Za-z]+|\\.|\d+|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|\S", re.DOTALL)
# LaTeX that changes a formula's appearance, not its meaning; and the comma-like signs.
_SILENT = {
    *("\\,", "\\;", "\\:", "\\!", "\\ ", "\\\n", "$", "\\(", "\\)", "\\[", "\\]"),
    *("\\quad", "\\qquad", "\\left", "\\right", "\\displaystyle", "\\limits"),
    *(",", ";", "、", '"', "“", "”", "„", "«", "»"),
}
_SAME = {
    **dict.fromkeys(("\\dfrac", "\\tfrac", "\\cfrac"), "\\frac"),
    **{"\\leq": "\\le", "≤": "\\le", "\\geq": "\\ge", "≥": "\\ge", "\\neq": "\\ne", "≠": "\\ne"},
    **{"×": "\\times", "÷": "\\div", "−": "-", "–": "-", "‐": "-", "‑": "-", "’": "'", "‘": "'", "′": "'", "。": "."},
}
# Joiners and variant selectors after a character of a script that they shape (Arabic, those of India, Mongolian, Han)
# or after a picture; and control characters, which some sources have where a character was lost.
_SHAPING = "\u034f\u17b4\u17b5\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e0fff"
_SHAPED = "\u0590-\u1dff\u2190-\u21ff\u2300-\u27bf\u2900-\u2bff\u2e80-\U0010ffff"
_KEPT = re.compile(rf"([\x00-\x1f\x7f-\x9f]+|(?![{INVISIBLE}])[{_SHAPED}][{_SHAPING}]+)")
_RAISED = {"<super>": "^", "<sub>": "_"}
_PLAINER = ("<wide>", "<narrow>", "<compat>", "<noBreak>")

_DELIMITER = re.compile(r"(\$\$|\$|\\[()\[\]])")
_CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_COMMAND = re.compile(r"\\(?:begin|end)\{[^{}]{0,40}\}|\\[A-Za-z]+")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]{3,}")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
# a word in neither Latin, Greek, Han nor kana: Cyrillic, Hangul, Arabic, Devanagari ...
_OTHER_WORD = re.compile(
    r"[^\W\d_A-Za-z\u00aa-\u03ff\u1e00-\u1fff\u2100-\u214f\u3040-\u30ff\u3400-\u9fff\U0001d400-\U0001d7ff\U00020000-\U0003ffff]+"
)
_QUOTED = 10  # characters or words of another script that an English question may contain
LANGUAGES = ("en", "zh", "other")

_DRAWING = r"(?:figure|diagram|picture|image|sketch|drawing|illustration|graph|grid|map|chart)s?"
_SHOWN = r"(?:shown|pictured|illustrated|depicted)"
_DRAWN = re.compile(  # in the text itself, or linked from it
    r"\[/?asy\]|\\includegraphics|\\begin\{(?:tikzpicture|picture|asy|figure)\}|!\[[^\]\n]{0,300}\]\(|<img\b"
    r"|https?://[^\s]{1,300}\.(?:png|jpe?g|gif|svg|webp)\b",
    re.IGNORECASE,
)
_REFERRED = re.compile(
    # "the figure below", "the following diagram", "as shown", "in the figure", "the path shown"
    rf"\b{_DRAWING}\s+(?:is\s+)?(?:shown\s+)?(?:below|above|at\s+(?:the\s+)?(?:left|right)|(?:to|on)\s+the\s+(?:left|right))\b"
    r"|\b(?:following|adjoining|accompanying|adjacent|attached)\s+(?:figure|diagram|picture|image|sketch|drawing|illustration)s?\b"
    r"|\b(?:in|from|see|as\s+in)\s+(?:the|this)\s+(?:figure|diagram|illustration|picture|image)s?\b(?!\s+of\b)"
    r"|\b(?:the|this|a)\s+(?:figure|diagram|picture|image|illustration|drawing)\s+(?:shows|illustrates|depicts|represents)\b"
    r"|\bthe\s+(?:\w+\s+)?diagrams?\b"
    rf"|\b(?:as|is|are)\s+{_SHOWN}(?=\s*(?:[.,;:)]|$|below\b|above\b|here\b|at\s+the\b|on\s+the\b|to\s+the\b|in\s+the\b|in\s+fig))"
    rf"|\b(?:the|this)\s+(?:[^\s.]{{1,30}}\s+){{1,3}}shown(?=\s*(?:[.,;:?)]|$|below\b|above\b|here\b|has\b|is\b|are\b))"
    rf"|\b{_SHOWN}\s+(?:below|above)\b"
    r"|\bfig(?:ure)?\.?\s*\d"
    r"|如[下右左上]?图|[下右左上附见]图|图中阴影|图所示|示意图",
    re.IGNORECASE,
)
_TABLE = re.compile(r"\\begin\{(?:array|tabular|[bBpvV]?matrix|aligned)\}")


def key(question: str) -> str:
    """The key, equal for two forms of the same question: its tokens, separated by spaces.

    Ignored: white space, LaTeX's spacing and math delimiters, braces around a single character that a LaTeX command,
    `^` or `_` takes, commas, semicolons and double quotes. Full-width forms, ligatures, dashes and a few LaTeX synonyms
    become their plain form; superscripts and subscripts become `^` and `_`. Everything else counts: operators, letters
    of every script, case, `.`, `!`, `|`, and the boundaries between numbers ("1 2" and "1,2" are not "12").
    """
    tokens = [_SAME.get(token, token) for token in _TOKEN.findall(_plain(question)) if token not in _SILENT]
    return " ".join(_without_single_braces(tokens))


def legible(question: str) -> str:
    """The question without invisible characters, except those that change the appearance of a word or a picture."""
    if question.isascii():
        return question
    pieces = _KEPT.split(question)
    pieces[::2] = map(without_invisible, pieces[::2])
    return "".join(pieces)


def compact(question: str) -> str:
    """The text under NFKC without white space. Unlike `key` it joins adjacent numbers, so only conflicts use it."""
    return "".join(unicodedata.normalize("NFKC", question).split())


def language(question: str) -> str:
    """By the script outside of mathematics: "zh" where Han prevails, "other" where a third script does, else "en".

    A Han character counts as much as a Latin word of three letters or more, because Chinese formulas often have no
    delimiters; ten of them are more than a quotation. Languages in Latin script are not distinguished.
    """
    words = _outside_mathematics(question)
    latin, han, kana = (len(pattern.findall(words)) for pattern in (_LATIN_WORD, _HAN, _KANA))
    other = len(_OTHER_WORD.findall(words))
    if kana:
        han, other = 0, other + han + kana
    if max(han, other) < max(1, min(latin, _QUOTED)):
        return "en"
    return "zh" if han >= other else "other"


def figure_mention(question: str) -> str | None:
    """The words (or the code) by which a question refers to a figure that a text-only model does not see, or None."""
    if drawn := _DRAWN.search(question):
        return drawn.group()
    referred = _REFERRED.search(question)
    # "The grid below" may be a table in the text.
    return referred.group() if referred and not _TABLE.search(question) else None


def _outside_mathematics(text: str) -> str:
    """The text without its formulas and LaTeX commands; a formula that is never closed counts as text."""
    parts: list[str] = []
    formula: list[str] = []
    closing: str | None = None
    for piece in _DELIMITER.split(text):
        if closing is None:
            closing = _CLOSING.get(piece)
            (formula if closing else parts).append(piece)
        else:
            formula.append(piece)
            if piece == closing:
                formula, closing = [], None
    return _COMMAND.sub(" ", " ".join([*parts, *formula]))


def _plain(text: str) -> str:
    """NFC with plain full-width forms and ligatures, and with raised or lowered characters as `^{...}` and `_{...}`.

    NFKC would lose superscripts (x² would be x2) and the boundaries of fractions and circled numbers.
    """
    text = text.replace("{,}", ",")
    if text.isascii():
        return text
    text = legible(text)
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
    """Drop braces that LaTeX does not need: `x^{2}` is `x^2`, `\\frac{1}{2}` is `\\frac12`. `x^{12}` and `S={1}` keep them."""
    i, taken = 0, False
    while i < len(tokens):
        token = tokens[i]
        if taken and token == "{" and tokens[i + 2 : i + 3] == ["}"] and len(tokens[i + 1]) == 1:
            yield tokens[i + 1]
            i += 3
            continue  # another argument may follow
        taken = token in ("^", "_", "}", "]") or (token[0] == "\\" and token[1:].isalpha())
        yield token
        i += 1
