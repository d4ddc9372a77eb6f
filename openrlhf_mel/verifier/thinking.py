"""The part of a response after its thinking: only that can contain its answer."""

import re

from openrlhf_mel.text import without_invisible

# Marks around thinking, as (opening, closing) in lower case: these names in brackets of these kinds ...
_NAMES = [
    "think",
    "thinking",
    "thought",
    "thoughts",
    "thought_process",
    "thinking_process",
    "inner_thought",
    "inner_thoughts",
    "internal",
    "reason",
    "reasoning",
    "reflect",
    "reflection",
    "analysis",
    "scratchpad",
    "cot",
]
_BRACKETS = (
    ("<{}>", "</{}>"),
    ("<|{}|>", "<|/{}|>"),
    ("[{}]", "[/{}]"),
    ("◁{}▷", "◁/{}▷"),
    ("<seed:{}>", "</seed:{}>"),
)
# ... and marks of single models.
_OTHERS = (
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<unused94>", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
MARKS = tuple((left.format(name), right.format(name)) for left, right in _BRACKETS for name in _NAMES) + _OTHERS
_CLOSED_BY = dict(MARKS)
_OPENED_BY = {closing: opening for opening, closing in MARKS}
_MARK = re.compile("|".join(re.escape(mark) for pair in MARKS for mark in pair), re.IGNORECASE)


def after_thinking(response: str) -> str | None:
    """The part of `response` after its last closing mark, or all of it when it has no mark.

    None when thinking is opened and never closed: such a response was truncated before its answer. A closing mark alone
    counts too, because chat templates put the opening one into the prompt.
    """
    start, is_open = 0, False
    for mark in _MARK.finditer(response):
        is_open = mark.group().lower() in _CLOSED_BY
        if not is_open:
            start = mark.end()
    return None if is_open else response[start:]


def has_thinking(response: str) -> bool:
    """Whether a mark of thinking stands in `response`."""
    return _MARK.search(_visible(response)) is not None


def ends_in_thinking(response: str) -> bool:
    """Whether `response` was truncated in its thinking: no answer is read in it."""
    return after_thinking(_visible(response)) is None


def left_open(prompt: str) -> str | None:
    """The closing mark of the thinking that `prompt` opens and does not close; None where it leaves none open."""
    marks = _MARK.findall(prompt)
    return _CLOSED_BY.get(marks[-1].lower()) if marks else None


def opening_mark(closing: str) -> str | None:
    """The opening mark of a closing one, in lower case; None where it is no closing mark."""
    return _OPENED_BY.get(closing.lower())


def _visible(response: str) -> str:
    return response if response.isascii() else without_invisible(response)
