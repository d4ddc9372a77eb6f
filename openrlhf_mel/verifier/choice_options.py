"""The options of a question: their letters from A on, and their texts. Pure, and linear in the length of the question.

A list of options that can be read in more than one way is not read: a letter alone still names an option, a text none.
"""

import itertools
import re
from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

from openrlhf_mel.verifier.choice_text import bare, plain

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_CHARS = 20_000  # of a question; of a longer one the end is read, where the options stand

# The ways to label an option: (pattern, example). A list is in one of them, in capitals or in small letters.
_AT_LINE = tuple(
    re.compile(rf"^[ \t>#*+{{-]{{0,8}}{label}", re.MULTILINE)
    for letters in ("A-Z", "a-z")
    for label, _ in (
        (rf"\(\s?([{letters}])\s?\)[.:]?", "(A) Rome"),
        (rf"\[\s?([{letters}])\s?\][.:]?", "[A] Rome"),
        (rf"([{letters}])\}}?\)", "A) Rome"),
        (rf"([{letters}])\}}?[.](?![A-Za-z][.])", "A. Rome, A.Rome, not A.M."),
        (rf"([{letters}])\}}?:", "A: Rome"),
        (rf"([{letters}])、", "A、罗马"),
        (rf"([{letters}])[ \t]+[-–—](?=[ \t])", "A - Rome"),
    )
)
_IN_LINE = tuple(
    re.compile(rf"(?<![^\s{{|?!。]){label}")
    for label, _ in (
        (r"\(([A-Z])\)", "(A) 1 (B) 2"),
        (r"\[([A-Z])\]", "[A] 1 [B] 2"),
        (r"([A-Z])\)", "A) 1 B) 2"),
        (r"([A-Z])[.](?=[\s}]|[^\x00-\x7f])", "A. 1 B. 2, A.罗马 B.巴黎"),
        (r"([A-Z]):(?=[\s}])", "A: 1 B: 2"),
        (r"([A-Z])、", "A、罗马 B、巴黎"),
    )
)
_FULL_WIDTH_POINT = re.compile(
    r"(?<=[A-ZＡ-Ｚ])．"
)  # of a label: NFKC makes it a point, behind which white space is needed
_COLUMN = re.compile(r"\S[ \t]{2,}[(\[]?[A-Z][.)\]:]\s")  # "A. 1    C. 3": a second column of options
_EMPTY = re.compile(r"[\s,;:.|/{}\\-]*")
_JOINED = re.compile(r"(?:[\s,;:.|/{}\\-]|\b(?:or|and|versus|vs|to|through)\b)*")  # "(A), (B) or (C)"
_JOINTS = " ,;:\\"  # behind a text
_INSTRUCTION = (
    r"(?:please|answer|choose|select|pick|give|reply|respond|write|put|enter|type|output|return|provide|state|think|explain|"
    r"show|solve|let['’]?s|your|only|which|note|remember|do not|you)\b"
)
# Where the last option's text ends.
_NEXT_SENTENCE = re.compile(rf"(?<=[.?!;)])\s+\(?{_INSTRUCTION}", re.IGNORECASE)
_NEXT_LINE = re.compile(rf"\n\s*(?:\n|[(*_#-]*{_INSTRUCTION})", re.IGNORECASE)


class _Label(NamedTuple):
    """A label from `start` to `end`; its letter stands at `at`."""

    letter: str
    start: int
    at: int
    end: int


_MOST_LISTS = 100  # that begin with the same kind of label; earlier ones are not looked at
_Run = tuple[_Label, ...]  # labels that follow each other from A on, two at least
_IN_DOUBT: _Run = ()


@lru_cache(maxsize=1024)
def options(question: str) -> dict[str, str]:
    """Letter -> text of the options at the end of a question; empty where they cannot be read, or not in one way alone."""
    text = bare(_FULL_WIDTH_POINT.sub("、", question[-MAX_CHARS:]))[-MAX_CHARS:]
    listed = _on_lines(text)
    run = (listed if listed == _IN_DOUBT else _within_lines(text, listed)) or ()
    texts = [text[label.end : after.start] for label, after in itertools.pairwise(run)]
    texts += [_last_text(text, run)] if run else []
    if any(_COLUMN.search(inner) for inner in texts):
        return {}
    return {label.letter: _without_joints(plain(inner)) for label, inner in zip(run, texts, strict=True)}


def _on_lines(text: str) -> _Run | None:
    """The list whose labels begin lines and that ends last; None where there is none."""
    found = (run for style in _AT_LINE for run in _runs(style, text))
    runs = [run for run in found if _with_texts(text, run, _EMPTY) == run]
    if not runs:
        return None
    last = max(runs, key=lambda run: (run[-1].at, run[0].at))
    capitals = [text[run[0].at].isupper() for run in runs]
    # Behind "A. ..., B. ...": options in small letters, or steps of the last option?
    return _IN_DOUBT if text[last[0].at].islower() and any(capitals) else last


def _within_lines(text: str, listed: _Run | None) -> _Run | None:
    """The list anywhere in the text that ends last and begins behind `listed`, a list on lines; else that list."""
    found = (_with_texts(text, run, _JOINED) for style in _IN_LINE for run in _runs(style, text))
    runs = [run for run in found if len(run) > 1]
    if listed:
        longer = [run for run in runs if run[0].at == listed[0].at and len(run) > len(listed)]
        if any("\n" not in text[listed[-1].at : run[len(listed)].at] for run in longer):
            return _IN_DOUBT  # "A. one", and on the next line "B. two  C. three"
        runs = [listed, *(run for run in runs if run[0].at > listed[-1].at)]
    if not runs:
        return None
    last = max(runs, key=lambda run: (run[-1].at, run[0].at))
    line = text.rfind("\n", 0, last[0].at) + 1
    for other in runs:
        in_its_last_option = line <= other[-1].at < last[0].at
        if in_its_last_option or (other[0] != last[0] and other[1:] == last[1:]):
            return _IN_DOUBT
    return last


def _runs(style: re.Pattern[str], text: str) -> list[_Run]:
    """For each label A the list that begins there: the next B, the next C behind it, and so on."""
    labels = [_Label(match[1].upper(), match.start(), match.start(1), match.end()) for match in style.finditer(text)]
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label.letter, []).append(place)
    found = []
    for place in places.get("A", ())[-_MOST_LISTS:]:
        run = [place]
        for letter in LETTERS[1:]:
            there = places.get(letter, [])
            at = bisect_right(there, run[-1])
            if at == len(there):
                break
            run.append(there[at])
        if len(run) > 1:
            found.append(tuple(labels[place] for place in run))
    return found


def _with_texts(text: str, run: _Run, none: re.Pattern[str]) -> _Run:
    """The labels up to the first whose text is `none`: in "(A) 3 (B) 4. Answer with (A), (B) or (C)." two, then none."""
    ends = [*(label.start for label in run[1:]), len(text)]
    given = [not none.fullmatch(text, label.end, end) for label, end in zip(run, ends, strict=True)]
    return run if all(given) else run[: given.index(False)]


def _without_joints(text: str) -> str:
    """A text without what joins it to its label and to the next one; a sign and a command keep their place.

    A hyphen in front may be a minus, and so may one behind that nothing separates from its text ("OH-").
    """
    text = re.sub(r"^(?:\|\s+)+|(?:\s+\|)+$", "", text.strip()).lstrip(" ,;:—").rstrip(_JOINTS)
    before = text.rstrip("-–—")
    return before.rstrip(_JOINTS) if before.endswith(" ") else text


def _last_text(text: str, run: _Run) -> str:
    """What stands behind the last label: its line or, where another option has several, its paragraph; no instruction."""
    rest = text[run[-1].end :].lstrip()
    several = any("\n" in text[label.end : after.start].strip() for label, after in itertools.pairwise(run))
    if several:
        end = _NEXT_LINE.search(rest)
        rest = rest[: end.start()] if end else rest
    else:
        rest = rest.partition("\n")[0]
    sentence = _NEXT_SENTENCE.search(rest)
    return rest[: sentence.start()] if sentence else rest
