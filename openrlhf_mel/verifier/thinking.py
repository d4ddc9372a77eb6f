"""The part of a response after its thinking: only that can contain its answer."""

import re

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
_CLOSING = {closing for _, closing in MARKS}
_MARK = re.compile("|".join(re.escape(mark) for pair in MARKS for mark in pair), re.IGNORECASE)


def after_thinking(response: str) -> str | None:
    """The part of `response` after its last closing mark, or all of it when it has no mark.

    None when thinking is opened and never closed: such a response was truncated before its answer. A closing mark alone
    counts too, because chat templates put the opening one into the prompt.
    """
    start, is_open = 0, False
    for mark in _MARK.finditer(response):
        is_open = mark.group().lower() not in _CLOSING
        if not is_open:
            start = mark.end()
    return None if is_open else response[start:]
