"""An answer that is one of several options: by its letter, by its text as the question gives it, or by both. Pure.

A text is linear work: nothing here tries a text in more than one way. Where it is not plain which option a text names,
it names none: a right answer may be refused, a wrong one must not be rewarded.
"""

import re

from openrlhf_mel.verifier.choice_options import LETTERS, MAX_CHARS, options
from openrlhf_mel.verifier.choice_text import compared, plain
from openrlhf_mel.verifier.verdict import Status

__all__ = ["LETTERS", "MAX_CHARS", "fault", "judge", "letter", "options", "stated"]

_UNREAD = LETTERS[:10]  # the letters that may name an option where the options cannot be read
_MAX_ANSWER = 2_000  # characters; a longer one names no option
_MAX_STATED = 200  # characters of a statement behind "the answer is"

_ALONE = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:、!]?")
_NAMED = re.compile(r"(?:the\s+)?(?:(?:correct|right|final|best)\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s*", re.I)
# A letter and what confirms it, where no option speaks of letters ("B only" may be an option).
_CONFIRMED = re.compile(
    r"[(\[]?([A-Z])[)\]]?\s+(?:only|is\s+(?:the\s+)?(?:only\s+)?(?:correct|right|true|best)(?:\s+(?:answer|option|choice|one))?)"
)
# A letter and a text: (pattern, whether the text has to be the option's own).
_WITH_TEXT = tuple(
    (re.compile(pattern, re.DOTALL), exact)
    for pattern, exact in (
        (r"[(\[]\s*(?P<letter>[A-Z])\s*[)\]]\s*[.:]?\s*(?P<text>.+)", False),  # (B) Paris
        (r"(?P<letter>[A-Z])\s*[).:、]\s*(?P<text>.+)", False),  # B. Paris
        (r"(?P<letter>[A-Z])\s*[-–—,]?\s*\((?P<text>.+)\)", True),  # B (Paris)
        (r"(?P<letter>[A-Z])\s*(?:[-–—,]\s*|\s)(?P<text>.+)", True),  # B, Paris
        (r"[(\[]?\s*(?P<letter>[a-z])\s*[)\].:]\s*(?P<text>.+)", True),  # b) Paris
        (r"(?P<text>.+?)[\s,]*[(\[]\s*(?:option\s+|choice\s+)?(?P<letter>[A-Z])\s*[)\]]", True),  # Paris (B)
    )
)

# Behind "B.": what names another option. A and I may be words.
_OPTION = r"(?:(?i:option|choice|answer)\s+)?[(\[]?(?:[B-HJ-Z](?![A-Za-z])|A(?![A-Za-z]|\s+[a-z]))"
_ANOTHER = re.compile(
    rf"\b(?i:or|and|nor|not|but|also|versus|vs\.?|plus|than|then)\s+{_OPTION}|[,;/&+]\s*{_OPTION}"
    r"|\b(?i:option|choice)\s+[(\[]?[A-Z](?![A-Za-z])|[(\[][A-Z][)\]]|(?<![A-Za-z])[A-J][.):]"
    r"|\A(?:[A-J]\Z|(?i:or|and|versus|vs)\b)"
)
_LETTER_NAMED = re.compile(r"(?<![A-Za-z\\^_])[A-Z](?![A-Za-z'’])")
_ALL = re.compile(r"\b(?:all|both|each|every|none|neither)\b", re.I)
# What explains an answer that is already complete, and so may speak of other options; unless it takes the answer back.
_REASON = re.compile(r"[\s,;:.–—-]*\(?\s*(?:since|because|as|which|not|rather\s+than|i\.?e\.?)\b", re.I)
_TAKES_BACK = re.compile(
    r"\b(?:or|either|maybe|perhaps|actually|wait|but|also|possibly|alternatively|option|choice)\b", re.I
)

# A sentence that gives the answer away: what stands behind "the answer is", or a letter in front of "is correct".
_STATEMENT = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|was|should\s+be|must\s+be|:|=)\s*:?\s*"
    rf"(?P<said>[^\n]{{1,{_MAX_STATED}}})|(?<![A-Za-z])[(\[]?(?P<letter>[A-Z])[)\]]?\*{{0,2}}\s+is\s+(?:the\s+)?(?:correct|right)\b",
    re.I,
)
_FIRST_LETTER = re.compile(
    r"(?:(?:option|choice)\s+)?[(\[]?\s*(?!(?:A|I)\s+(?!because|since|as\b)[a-z])(?P<letter>[A-Z])(?![A-Za-z'’])"
)
_CLAUSE_END = re.compile(r"[.,;:](?:\s|$)")


def judge(answer: str, gold: str, question: str) -> Status:
    """Compare the option that an answer names with the reference; returns "correct", "wrong", or "error" for an unusable gold."""
    expected = letter(gold, question)
    if expected is None:
        return "error"
    return "correct" if letter(answer, question) == expected else "wrong"


def fault(gold: str, question: str) -> str | None:
    """Why a reference answer cannot be used, or None."""
    there = options(question)
    named = letter(gold, question)
    if named is None:
        said = (
            " | ".join(f"{key}: {text:.40}" for key, text in there.items()) or "no options can be read in the question"
        )
        last = max([*there, _UNREAD[-1]])
        return f"found {gold!r:.80}, expected a letter from A to {last} or the text of exactly one option ({said})"
    if there and named not in there:
        return f"found {gold!r:.80}, but the question's options are {', '.join(there)}"
    return None


def letter(answer: str, question: str) -> str | None:
    """The letter of the one option that an answer names, by letter, by text, or by both; None where it is none or several.

    A capital letter alone is that letter, also where it is the text of another option. A small one is a letter unless
    an option has it for its text.
    """
    if len(answer) > _MAX_ANSWER:
        return None
    there = options(question)
    named = _named(plain(answer), there)
    return named if named and _is_letter(named, there) else None


def stated(text: str, gold: str, question: str) -> bool | None:
    """Whether a text says which option is right: "the answer is B", "(B) is correct". None for an unusable gold."""
    expected = letter(gold, question)
    if expected is None:
        return None
    for statement in _STATEMENT.finditer(text):
        if statement["letter"]:
            if statement["letter"] == expected:
                return True
            continue
        said = plain(statement["said"])
        first = _FIRST_LETTER.match(said)
        if (first and first["letter"] == expected) or letter(_CLAUSE_END.split(said)[0], question) == expected:
            return True
    return False


def _named(said: str, there: dict[str, str]) -> str | None:
    """As `letter`, of a plain text."""
    if (alone := _ALONE.fullmatch(said)) and _is_letter(alone[1].upper(), there):
        return _alone(alone[1], there)
    if text_of := _by_text(said, there):
        return text_of
    named = _NAMED.match(said)
    if named and named.end() < len(said):
        said = said[named.end() :]
        if (alone := _ALONE.fullmatch(said)) and _is_letter(alone[1].upper(), there):
            return _alone(alone[1], there)
    if confirmed := _CONFIRMED.fullmatch(said):
        return confirmed[1] if there and not any(map(_letters, there.values())) else None
    for pattern, exact in _WITH_TEXT:
        if found := pattern.fullmatch(said):
            own, text = found["letter"].upper(), found["text"]
            if not exact:
                return None if _names_another(own, text, there) else own
            if _by_text(plain(text), there) == own:
                return own
    return _by_text(said, there)


def _is_letter(said: str, there: dict[str, str]) -> bool:
    """Whether a letter may name an option: those of the question, and A to J in any case."""
    return said in there or said in _UNREAD


def _alone(said: str, there: dict[str, str]) -> str | None:
    """The option that one letter names."""
    texts = {key for key, own in there.items() if own.casefold() == said.casefold()}
    return said.upper() if said.isupper() or texts <= {said.upper()} else None


def _by_text(text: str, there: dict[str, str]) -> str | None:
    """The letter of the one option with this text, as it stands or, where none has, whatever its case."""
    said = compared(text)
    for form in (str, str.casefold):
        if found := [key for key, own in there.items() if own and form(compared(own)) == form(said)]:
            return found[0] if len(found) == 1 else None
    return None


def _names_another(own: str, text: str, there: dict[str, str]) -> bool:
    """Whether the text behind the letter `own` names another option as well."""
    mine, said = compared(there.get(own, "")).casefold(), compared(text).casefold()
    if mine and said == mine:
        return False
    begins = bool(mine) and re.match(rf"{re.escape(mine)}(?!\w)", said) is not None
    if begins and _REASON.match(said, len(mine)):
        reason = compared(text)[len(mine) :]
        return bool(_TAKES_BACK.search(reason)) or not _letters(reason) & there.keys() <= {own}
    others = (compared(other).casefold() for key, other in there.items() if key != own)
    if any(other and other != mine and re.search(rf"(?<!\w){re.escape(other)}(?!\w)", said) for other in others):
        return True
    if mine and _speaks_alike(text, there[own], begins):
        return False
    return bool(_ANOTHER.search(text))


def _speaks_alike(text: str, own: str, begins: bool) -> bool:
    """Whether a text speaks of the same other options as an option's own text does: "Both A and B", "All of the above"."""
    if re.search(r"\b(?:or|not|option|choice)\b", text, re.I) and not re.search(r"\b(?:or|not)\b", own, re.I):
        return False
    alike = _letters(text) == _letters(own) != set()
    return alike or (begins and bool(_ALL.search(own)) and len(_letters(text)) != 1)


def _letters(text: str) -> set[str]:
    """The letters that a text names as options."""
    return set(_LETTER_NAMED.findall(text))
