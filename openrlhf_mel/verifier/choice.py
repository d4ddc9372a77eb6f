"""An answer that is one of several options: their letters A to J, and their texts as the question gives them. Pure.

A text is linear work: nothing here tries a text in more than one way.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from openrlhf_mel.text import without_invisible
from openrlhf_mel.verifier.verdict import Status

LETTERS = "ABCDEFGHIJ"
_MAX_CHARS = 10_000  # of an answer; a longer one names no option
_FONT = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|sf|it|tt|normal)|mbox|hbox)\s*\{"
_FONTS = re.compile(rf"{_FONT}|\\(?:bf|rm|it|displaystyle)(?![A-Za-z])")
_SPACES = re.compile(r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|~")
_DELIMITERS = re.compile(r"(?<!\\)\$|\\[()\[\]]|\*\*|\\(?:left|right)(?![A-Za-z])")

# The ways to label an option in a question, each with its letter in a group. A label stands behind white space or what
# sets letters in bold, and a point or a colon is followed by white space ("A.M." is no label).
_BEFORE = r"(?:(?<![^\s{$*|~])|(?<=quad)|(?<=\\[ ,;]))"
_STYLES = (
    re.compile(rf"{_BEFORE}\(([A-J])\)"),
    re.compile(rf"{_BEFORE}([A-J])\)"),
    re.compile(rf"{_BEFORE}([A-J])[.](?=[\s*$}}~\\])"),
    re.compile(rf"{_BEFORE}([A-J]):(?=[\s*$}}~\\])"),
)

_LETTER = re.compile(r"[(\[]?\s*([A-Ja-j])\s*[)\]]?\s*[.:]?")
_NAMED = re.compile(r"(?:the\s+)?(?:(?:correct|right|final|best)\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s*", re.I)
_LABELLED = re.compile(r"[(\[]\s*([A-J])\s*[)\]]\s*[.:]?\s*(?P<text>.+)|([A-J])\s*[).:]\s*(?P<rest>.+)", re.DOTALL)
_BESIDE = re.compile(r"([A-J])\s*[,-]?\s+(?P<text>.+)", re.DOTALL)
_BEHIND = re.compile(r"(?P<text>.+?)\s*[(\[]\s*([A-J])\s*[)\]]", re.DOTALL)
# Behind "B.": what names another option. A and I may be words.
_OPTION = r"[(\[]?(?:[B-HJ](?![A-Za-z])|A(?![A-Za-z]|\s+[a-z]))"
_ANOTHER = re.compile(
    rf"\b(?i:or|and|nor|not|but)\s+{_OPTION}|[,;/&+]\s*{_OPTION}|[(\[][A-J][)\]]|(?<![A-Za-z])[A-J][.):]"
    r"|\A(?:[A-J]\Z|(?i:or|and)\b)"
)
_IN_BRACES = re.compile(r"\{[^{}]*\}")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)


@lru_cache(maxsize=1024)
def options(question: str) -> dict[str, str]:
    """Letter -> text of the options at the end of a question; empty where none, or no two in a row, can be read."""
    runs = [run for style in _STYLES for run in _runs(style, question)]
    if not runs:
        return {}
    run = max(runs, key=lambda labels: _rank(labels, question))
    found = {}
    for label, after in zip(run, [*run[1:], None], strict=True):
        text = question[label.end() : after.start() if after else len(question)]
        # Behind the last option may stand an instruction, on a line of its own.
        found[label[1]] = _plain(text if after else text.strip().partition("\n")[0]).strip(" ,;:|-")
    return found


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
        return f"found {gold!r:.80}, expected a letter from A to J or the text of exactly one option ({said})"
    if there and named not in there:
        return f"found {gold!r:.80}, but the question's options are {', '.join(there)}"
    return None


def letter(answer: str, question: str) -> str | None:
    """The letter of the one option that an answer names, by letter, by text, or by both; None where it is none or several.

    A capital letter alone is that letter, also where it is the text of another option. A small one is a letter unless
    an option has it for its text.
    """
    if len(answer) > _MAX_CHARS:
        return None
    there, said = options(question), _plain(answer)
    if alone := _LETTER.fullmatch(said):
        return _alone(alone[1], there)
    if text_of := _by_text(said, there):
        return text_of
    named = _NAMED.match(said)
    if named and named.end() < len(said):
        said = said[named.end() :]
        if alone := _LETTER.fullmatch(said):
            return _alone(alone[1], there)
    if labelled := _LABELLED.fullmatch(said):
        own, text = labelled[1] or labelled[3], labelled["text"] or labelled["rest"]
        return None if _names_another(own, text, there) else own
    if (beside := _BESIDE.fullmatch(said)) and _by_text(beside["text"], there) == beside[1]:
        return beside[1]
    if (behind := _BEHIND.fullmatch(said)) and _by_text(behind["text"], there) == behind[2]:
        return behind[2]
    return _by_text(said, there)


def _runs(style: re.Pattern[str], question: str) -> Iterator[list[re.Match[str]]]:
    """Labels that follow each other from A on, two at least."""
    run: list[re.Match[str]] = []
    for label in style.finditer(question):
        if len(run) < len(LETTERS) and run and label[1] == LETTERS[len(run)]:
            run.append(label)
        elif label[1] == "A":
            if len(run) > 1:
                yield run
            run = [label]
    if len(run) > 1:
        yield run


def _rank(labels: list[re.Match[str]], question: str) -> tuple[bool, int, int]:
    """Which of several runs are the options: those that stand on lines of their own, the last of them; else the longest."""
    on_lines = all(_begins_line(question, label.start()) for label in labels)
    return on_lines, labels[-1].start() if on_lines else len(labels), labels[-1].start()


def _begins_line(text: str, at: int) -> bool:
    before = text[max(text.rfind("\n", 0, at) + 1, at - 40) : at]
    return not re.search(r"\w", _FONTS.sub("", before))


def _plain(text: str) -> str:
    """A text without fonts, delimiters, spacing and its last point."""
    text = unicodedata.normalize("NFKC", without_invisible(text))
    text = _SPACES.sub(" ", _DELIMITERS.sub(" ", _FONTS.sub(" ", text)))
    text = " ".join(_without_stray_braces(text).split()).strip("*_ ").removesuffix(".").rstrip()
    return text[1:-1].strip() if _IN_BRACES.fullmatch(text) else text


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


def _alone(said: str, there: dict[str, str]) -> str | None:
    """The option that one letter names."""
    texts = {key for key, own in there.items() if own.casefold() == said.casefold()}
    return said.upper() if said.isupper() or texts <= {said.upper()} else None


def _by_text(text: str, there: dict[str, str]) -> str | None:
    """The letter of the one option with this text, as it stands or, where none has, whatever its case."""
    for form in (_tight, lambda said: _tight(said).casefold()):
        if found := [key for key, own in there.items() if own and form(own) == form(text)]:
            return found[0] if len(found) == 1 else None
    return None


def _tight(text: str) -> str:
    return re.sub(r"\s*([^\w\s])\s*", r"\1", text)


def _names_another(own: str, text: str, there: dict[str, str]) -> bool:
    """Whether the text behind the letter `own` names another option as well."""
    folded, mine = _tight(text).casefold(), _tight(there.get(own, "")).casefold()
    if mine and folded == mine:
        return False
    others = (_tight(other).casefold() for key, other in there.items() if key != own)
    return any(other and re.search(rf"(?<!\w){re.escape(other)}(?!\w)", folded) for other in others) or bool(
        _ANOTHER.search(text)
    )
