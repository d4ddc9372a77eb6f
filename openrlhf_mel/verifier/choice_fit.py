"""Whether what stands behind an option's letter leaves no doubt that this option is named: "B. Paris, because ...". Pure."""

import re

from openrlhf_mel.verifier.choice_options import LETTERS
from openrlhf_mel.verifier.choice_text import compared, folded
from openrlhf_mel.verifier.exact import Number, parse_number, same_number

UNREAD = LETTERS[:10]  # the letters that may name an option where the options cannot be read
ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[.:]?\s*[)\]]?\s*[.:、。!]?")

_LETTER_NAMED = re.compile(r"(?<![A-Za-z\\^_°])[A-Z](?![A-Za-z'’])")
_ALL = re.compile(r"\b(?:all|both|each|every|none|neither)\b", re.I)
# "A city", "I think": no letter of an option; "A is", "A and" are.
_ARTICLE = re.compile(r"\b[AI]\s+(?=[a-z])(?!(?:is|was|and|or|but|because|since|as|only|too|instead|not)\b)")
# What explains an answer that is already complete, and so may speak of other options; unless it takes the answer back.
_REASON = re.compile(
    r"[\s,;:.–—-]*\(?\s*(?:since|because|as(?!\s+(?:well|is|are))|which|not|rather\s+than)\b(?=\W*\w)", re.I
)
_BACK = (
    r"\b(?:or|either|maybe|perhaps|possibly|probably|might|may|could|actually|wait|but|also|however|instead|otherwise"
    r"|alternatively|unless|versus|vs|unsure|guess|any\s+of|another|others|option|choice"
    r"|wrong|incorrect|false|untrue|mistaken|impossible|ruled\s+out|least|hardly|cannot\s+be"
    r"|not\s+(?:correct|right|true|sure|it|this|that|possible|valid|the\s+(?:correct|right|answer)))\b"
    r"|\?|或|错|但|可能|也许|不对|不是"
)
_DENIAL = (
    r"\b(?:not|no|nor|none|neither|never|cannot|if|except|invalid|impossible|unlikely|excluded|rejected|fails)\b"
    r"|n['’]t\b|不|非|没"
)
_TAKES_BACK = re.compile(_BACK, re.I)
_DOUBT = re.compile(f"{_BACK}|{_DENIAL}", re.I)
# A part of a text does not begin or end within a word, a number or a term; Chinese and Japanese words have no spaces.
_BEGIN, _END = r"(?<![^\W\u3040-\u9fff])(?<!\d\.)(?<![-+*/^~|\\])(?<!~\()", r"(?![^\W\u3040-\u9fff]|\.\d|[+*/^|])"
_WITH_UNIT = re.compile(r"(-?\d+(?:\.\d+)?)(?=[A-Za-z°])")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2}|[^\x00-\x7f°\u2200-\u22ff]")  # what a formula has not, apart from commands
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\s,.;:]")
_SYMBOL = re.compile(r"\\[A-Za-z]+|\d+|[^\W\d_]|[^\w\s()\[\]{}.,;:*/^$\\]")
_LAYOUT = {"\\frac", "\\cdot", "\\times"}


def fits(own: str, text: str, there: dict[str, str]) -> bool:
    """Whether the text behind the letter `own` leaves no doubt that this option is named."""
    if not there:
        return not (letters_in(_ARTICLE.sub("", text)) & set(UNREAD) - {own} or _TAKES_BACK.search(text))
    full = there.get(own, "")
    if compared(text) == compared(full):
        return True
    mine, said = folded(full), folded(text)
    others = {folded(other) for key, other in there.items() if key != own}
    if said == mine or said in others:
        return said not in others
    if number := parse_number(compared(text)):
        amounts = map(_amount, (full, *others))
        equal = [amount is not None and same_number(amount, number) for amount in amounts]
        return equal == [True, *[False] * len(others)]
    at = _place(mine, said)
    if at is not None:
        return _only_adds(own, compared(text), range(at, at + len(mine)), there)
    alone = ALONE.fullmatch(text)
    if alone and alone[1].upper() in there.keys() - {own}:
        return False
    return _abbreviates(full, text, others) or _rewrites(full, text, others)


def _amount(option: str) -> Number | None:
    """The number that an option is, or that has its unit."""
    text = compared(option)
    return parse_number(text) or ((found := _WITH_UNIT.match(text)) and parse_number(found[1])) or None


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
    """Whether a text is some words in a row of the option `full`, and of no other, and denies and names the same."""
    words = _TOKEN.findall(folded(text))
    return (
        all(map(str.isalpha, words))
        and max(map(len, words), default=0) > 2
        and _in_a_row(words, full)
        and not any(_in_a_row(words, other) for other in others)
        and letters_in(text) == letters_in(full)
        and set(_DOUBT.findall(folded(text))) == set(_DOUBT.findall(folded(full)))
    )


def _in_a_row(words: list[str], option: str) -> bool:
    there = _TOKEN.findall(folded(option))
    return any(there[at : at + len(words)] == words for at in range(len(there)))


def _rewrites(full: str, text: str, others: set[str]) -> bool:
    """Whether both a text and the own option are formulas of the same symbols, which no other option has."""
    symbols = _symbols(text)
    same = _is_formula(full) and _is_formula(text) and symbols == _symbols(full)
    return same and not {"<", ">"} & set(symbols) and symbols not in map(_symbols, others)


def _symbols(formula: str) -> list[str]:
    return sorted(symbol for symbol in _SYMBOL.findall(folded(formula)) if symbol not in _LAYOUT)


def _is_formula(text: str) -> bool:
    """Whether a text has no words, and nothing that denies or hedges."""
    return not _WORD.search(_COMMAND.sub(" ", compared(text))) and not _DOUBT.search(text)


def letters_in(text: str) -> set[str]:
    """The letters that a text names as options."""
    return set(_LETTER_NAMED.findall(text))
