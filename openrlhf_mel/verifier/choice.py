"""An answer that is one of several options: by its letter, by its text as the question gives it, or by both. Pure.

A text is linear work: nothing here tries a text in more than one way. Where it is not plain which option a text names,
it names none: a right answer may be refused, a wrong one must not be rewarded.
"""

import re

from openrlhf_mel.verifier.choice_fit import ALONE, UNREAD, fits, letters_in
from openrlhf_mel.verifier.choice_options import LETTERS, MAX_CHARS, options
from openrlhf_mel.verifier.choice_text import compared, folded, plain
from openrlhf_mel.verifier.verdict import Status

__all__ = ["LETTERS", "MAX_CHARS", "fault", "judge", "letter", "options", "stated"]

_MAX_ANSWER = 2_000  # characters; a longer one names no option
_MAX_STATED = 200  # characters of a statement behind "the answer is"

_NAMED = re.compile(
    r"(?:(?:the|my)\s+)?(?:(?:correct|right|final|best)\s+)?(?:option|choice|answer|it(?=\s+is\b))(?:\s+is)?\s*:?\s*"
    r"(?:(?:option|choice)\s+)?|(?:正确)?(?:答案|选项)(?:是|为)?\s*:?\s*|故?选\s*",
    re.I,
)
# A letter and what confirms it, where no option speaks of letters ("B only" may be an option).
_CONFIRMED = re.compile(
    r"[(\[]?([A-Z])[)\]]?\s+(?:only|is\s+(?:the\s+)?(?:only\s+)?(?:(?:correct|right|true|best)(?:\s+(?:answer|option|choice|one))?|answer))"
)
_WITH_REASON = re.compile(r"[(\[]?(?P<letter>[A-Z])[)\]]?[,;]?\s+(?:because|since)\b(?P<reason>.*)", re.DOTALL)
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
        last = max([*there, UNREAD[-1]])
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
    if (alone := ALONE.fullmatch(said)) and _is_letter(alone[1].upper(), there):
        return _alone(alone[1], there)
    if text_of := _by_text(said, there):
        return text_of
    named = _NAMED.match(said)
    if named and named.end() < len(said):
        said = said[named.end() :]
        if (alone := ALONE.fullmatch(said)) and _is_letter(alone[1].upper(), there):
            return _alone(alone[1], there)
    if confirmed := _CONFIRMED.fullmatch(said):
        return confirmed[1] if there and not any(map(letters_in, there.values())) else None
    if reason := _WITH_REASON.fullmatch(said):
        return reason["letter"] if fits(reason["letter"], reason["reason"], {}) else None
    for pattern, exact in _WITH_TEXT:
        if found := pattern.fullmatch(said):
            own, text = found["letter"].upper(), found["text"]
            if not exact:
                return own if fits(own, plain(text), there) else None
            if _by_text(plain(text), there) == own:
                return own
    return _by_text(said, there)


def _is_letter(said: str, there: dict[str, str]) -> bool:
    """Whether a letter may name an option: those of the question, and A to J in any case."""
    return said in there or said in UNREAD


def _alone(said: str, there: dict[str, str]) -> str | None:
    """The option that one letter names."""
    texts = {key for key, own in there.items() if own.casefold() == said.casefold()}
    return said.upper() if said.isupper() or texts <= {said.upper()} else None


def _by_text(text: str, there: dict[str, str]) -> str | None:
    """The letter of the one option with this text, as it stands or, where none has, whatever the case of its words."""
    for form in (compared, folded):
        if found := [key for key, own in there.items() if own and form(own) == form(text)]:
            return found[0] if len(found) == 1 else None
    return None
