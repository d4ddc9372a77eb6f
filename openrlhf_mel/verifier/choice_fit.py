"""Whether what stands behind an option's letter leaves no doubt that this option is named: "B. Paris, because ...". Pure."""

import re

from openrlhf_mel.verifier.choice_options import LETTERS
from openrlhf_mel.verifier.choice_text import compared, folded
from openrlhf_mel.verifier.exact import parse_number, same_number

UNREAD = LETTERS[:10]  # the letters that may name an option where the options cannot be read
ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:、!]?")

_LETTER_NAMED = re.compile(r"(?<![A-Za-z\\^_°])[A-Z](?![A-Za-z'’])")
_ALL = re.compile(r"\b(?:all|both|each|every|none|neither)\b", re.I)
# "A city", "I think": no letter of an option; "A is", "A and" are.
_ARTICLE = re.compile(r"\b[AI]\s+(?=[a-z])(?!(?:is|was|and|or|but|because|since|as|only|too|instead|not)\b)")
# What explains an answer that is already complete, and so may speak of other options; unless it takes the answer back.
_REASON = re.compile(r"[\s,;:.–—-]*\(?\s*(?:since|because|as|which|not|rather\s+than|i\.?e\.?)\b", re.I)
_BACK = (
    r"\b(?:or|either|maybe|perhaps|possibly|probably|might|may|could|actually|wait|but|also|however|instead|otherwise"
    r"|alternatively|unless|versus|vs|unsure|guess|any\s+of|another|others|option|choice"
    r"|wrong|incorrect|false|untrue|mistaken"
    r"|not\s+(?:correct|right|true|sure|it|this|that|the\s+(?:correct|right|answer)))\b"
    r"|\?|或|错|但|可能|也许|不对|不是"
)
_DENIAL = (
    r"\b(?:not|no|nor|none|neither|never|cannot|if|except|invalid|impossible|unlikely|excluded|rejected|fails)\b"
    r"|n['’]t\b|不|非|没"
)
_TAKES_BACK = re.compile(_BACK, re.I)
_DOUBT = re.compile(f"{_BACK}|{_DENIAL}", re.I)
# A part of a text does not begin or end within a word or a number; Chinese and Japanese words have no spaces.
_BEGIN, _END = r"(?<![^\W\u3040-\u9fff])(?<!\d\.)", r"(?![^\W\u3040-\u9fff]|\.\d)"
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2}|[^\x00-\x7f°\u2200-\u22ff]")  # what a formula has not, apart from commands
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\s,.;:]")
_BETWEEN = re.compile(r"[,;&=|]|\\(?:lor|vee)(?![A-Za-z])")  # two values


def fits(own: str, text: str, there: dict[str, str]) -> bool:
    """Whether the text behind the letter `own` leaves no doubt that this option is named."""
    if not there:
        return not (letters_in(_ARTICLE.sub("", text)) & set(UNREAD) - {own} or _TAKES_BACK.search(text))
    full = there.get(own, "")
    mine, said = folded(full), folded(text)
    others = {folded(other) for key, other in there.items() if key != own} - {mine}
    if said == mine or said in others:
        return said == mine
    expected, number = parse_number(compared(full)), parse_number(compared(text))
    if expected and number:
        return same_number(expected, number)
    at = _place(mine, said)
    if at is not None:
        return _only_adds(own, compared(text), range(at, at + len(mine)), there)
    alone = ALONE.fullmatch(text)
    if alone and alone[1].upper() in there.keys() - {own}:
        return False
    return _abbreviates(full, text, others) or _rewrites(own, text, there)


def _place(part: str, text: str) -> int | None:
    """Where a part of a text begins; None where it is none."""
    found = re.search(f"{_BEGIN}{re.escape(part)}{_END}", text) if part and part in text else None
    return found.start() if found else None


def _only_adds(own: str, text: str, inner: range, there: dict[str, str]) -> bool:
    """Whether a text adds to the own option's, which it has at `inner`, only a reason or what names no other."""
    rest = f"{text[: inner.start]}|{text[inner.stop :]}"
    named = letters_in(rest) & there.keys() - {own}
    if inner.start == 0 and _REASON.match(text, inner.stop):
        return not (named or _TAKES_BACK.search(rest))
    refers = named == {key for key in there if key < own} and _ALL.search(there[own])  # "All of the above (A, B and C)"
    if _DOUBT.search(rest) or (named and not refers):
        return False
    mine, said, left = folded(there[own]), folded(text), folded(rest)
    others = {folded(other) for key, other in there.items() if key != own} - {mine}
    return not any(_place(other, left if other in mine else said) is not None for other in others)


def _abbreviates(full: str, text: str, others: set[str]) -> bool:
    """Whether a text has only words of the option `full`, not all in another, and denies and names the same."""
    words = set(_TOKEN.findall(folded(text)))
    return (
        words <= set(_TOKEN.findall(folded(full)))
        and not any(words <= set(_TOKEN.findall(other)) for other in others)
        and letters_in(text) == letters_in(full)
        and set(_DOUBT.findall(folded(text))) == set(_DOUBT.findall(folded(full)))
    )


def _rewrites(own: str, text: str, there: dict[str, str]) -> bool:
    """Whether both a text and the own option are formulas, and the text has no other option in it."""
    full = there.get(own, "")
    if not (_is_formula(full) and _is_formula(text)):
        return False
    others = {form for key, other in there.items() if key != own for form in (folded(other), key.lower())}
    parts = {part.strip(" ()[]{}") for part in _BETWEEN.split(folded(text))}
    return not parts & others and letters_in(text) & there.keys() <= {own} | letters_in(full)


def _is_formula(text: str) -> bool:
    """Whether a text has no words, and nothing that denies or hedges."""
    return not _WORD.search(_COMMAND.sub(" ", compared(text))) and not _DOUBT.search(text)


def letters_in(text: str) -> set[str]:
    """The letters that a text names as options."""
    return set(_LETTER_NAMED.findall(text))
