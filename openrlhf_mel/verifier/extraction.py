"""Which part of a response is its final answer, under `anchored` extraction.

Anchored forms, in this order; a later form is used only when no earlier one occurs:
  1. the last closed box that holds an answer, joined with boxes right before it ("\\boxed{1} and \\boxed{2}");
  2. "final answer is X", up to the end of its line, or on the next one;
  3. "Answer: X" on a line of its own, or with X on the next one;
  4. a heading "Final Answer", with X on the next line;
  5. "the answer is X" as the very last line of the response.
Thinking is removed first (`thinking`); `phrases` reads the answer in a phrase. Every scan is linear in the length of
the response, because it runs in the caller's process, on untrusted text.
"""

import re
from collections.abc import Callable

from openrlhf_mel.text import without_invisible
from openrlhf_mel.verifier.phrases import answer_from_phrases
from openrlhf_mel.verifier.thinking import after_thinking

# A doubled backslash before "boxed" comes from escaping a text twice; elsewhere it is a line break.
_TOKENS = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s*([+-]?\d[\d.,]*)")
_MATH_END = re.compile(r"\$|\\\)|\\\]")
# Texts between two boxes that form one answer: separators, \text, math delimiters, "y =" ...
_BETWEEN = re.compile(
    r"(?:[\s$,;&~]|\\[()\[\],;:! ]|\\q?quad|\\(?:text|mbox)\s*\{[^{}]*\}|\band\b|\bor\b|[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
# ... or a few words with a separator among them, unless they turn one of the two into the answer.
_FEW_WORDS = re.compile(r"(?=.*(?:,|\band\b|\bor\b))[^.:!?\n]{0,30}")
_PICKS_ONE = re.compile(
    r"\b(?:is|so|thus|hence|then|answer|but|not|rather|instead|therefore|gives?|which)\b", re.IGNORECASE
)
_MAX_BETWEEN = 70
# Contents of a box that the model repeats from the instruction.
_DECORATION = re.compile(
    r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox|underline|hspace\s*\{[^{}]*\}|quad|qquad|[,;:!_ ])|(?<!\\)[{}]|[\s$<>\[\]()*_~]"
)
_PLACEHOLDER = re.compile(
    r"[.…⋯]*|\\[lc]?dots|\\square|\\box|\\cdot|[?？]+|blank|placeholder|ans|number|integer|答案|你的答案|最终答案"
    r"|(?:insert|put|write|enter|place|type)?(?:your|the|my|a)?(?:final|numerical|numeric|correct|integer|single){0,3}(?:answer|result|solution|value|expression)"
    r"(?:goes)?(?:here|letter|value|number)?[.!]?",
    re.IGNORECASE,
)


def _none(_: str) -> bool:
    return False


def extract_anchored(response: str, is_option: Callable[[str], bool] = _none) -> str | None:
    """Return the final answer of `response` as it is written there, or None when no anchored form contains one.

    `is_option`: whether a box's text is an answer, although it looks as a placeholder does ("Integer").
    """
    said = after_thinking(response if response.isascii() else without_invisible(response))
    return None if said is None else _from_boxes(said, is_option) or answer_from_phrases(said)


def unwrap_box(answer: str, is_option: Callable[[str], bool] = _none) -> str:
    """Return the content of `answer`'s box, if it has one; some reference answers do. `is_option` as above."""
    return (_from_boxes(answer, is_option) if "\\boxed" in answer or "\\fbox" in answer else None) or answer


def _from_boxes(text: str, is_option: Callable[[str], bool]) -> str | None:
    boxes = _closed_boxes(text)
    while boxes and _is_placeholder(boxes[-1][2]) and not is_option(boxes[-1][2]):
        boxes.pop()
    if not boxes:
        return None
    last_start, _, content = boxes[-1]
    parts = [content]
    for start, end, earlier in reversed(boxes[:-1]):
        between = text[end:last_start]
        if len(between) > _MAX_BETWEEN or not _joins(between):
            break
        if earlier != parts[0]:
            parts.insert(0, earlier)
        last_start = start
    return ", ".join(parts)


def _is_placeholder(content: str) -> bool:
    """Whether a box is a placeholder: "\\boxed{...}", "\\boxed{\\text{your answer}}"."""
    return len(content) <= 80 and bool(_PLACEHOLDER.fullmatch(_DECORATION.sub("", content)))


def _joins(between: str) -> bool:
    return bool(_BETWEEN.fullmatch(between) or (_FEW_WORDS.fullmatch(between) and not _PICKS_ONE.search(between)))


def _closed_boxes(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, content) of the outermost non-empty boxes, in order.

    An unclosed box counts only when its formula is closed after it (a lost brace: `$\\boxed{\\frac{1}{2}$`), never
    where the text simply stops, because that answer is truncated.
    """
    boxes: list[tuple[int, int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start of the command, start of the content) for a box's brace
    box_at = -1  # start of a box command whose brace has not come yet
    previous_end = 0
    for token in _TOKENS.finditer(text):
        kind = token.group()
        if box_at >= 0 and (kind != "{" or not _blank(text, previous_end, token.start())):
            _add_unbraced(text, box_at, previous_end, boxes)
            box_at = -1
        if kind.endswith("box") or kind.endswith("boxed"):
            box_at = token.start()
        elif kind == "{":
            open_braces.append((box_at, token.end()) if box_at >= 0 else None)
            box_at = -1
        elif kind == "}" and open_braces:
            opened = open_braces.pop()
            if opened:
                _add_braced(text, opened, token, boxes)
        previous_end = token.end()
    if box_at >= 0:
        _add_unbraced(text, box_at, previous_end, boxes)
    unclosed = next((brace for brace in reversed(open_braces) if brace), None)
    if unclosed and (not boxes or unclosed[0] > boxes[-1][0]):
        formula_end = _MATH_END.search(text, unclosed[1])
        if formula_end and "\n" not in text[unclosed[1] : formula_end.start()]:
            content = text[unclosed[1] : formula_end.start()]
            missing = _open_braces(content)
            _add(text, unclosed[0], formula_end.start(), content + "}" * missing, boxes)
    return boxes


def _blank(text: str, start: int, end: int) -> bool:
    return end - start <= 20 and not text[start:end].strip()


def _open_braces(text: str) -> int:
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
    return max(depth, 0)


def _add_braced(text: str, opened: tuple[int, int], closing: re.Match[str], boxes: list[tuple[int, int, str]]) -> None:
    start, content = opened
    if boxes and boxes[-1][0] > start:  # nested: the innermost last content is the answer, so this one is ignored
        _add(text, start, closing.end(), boxes[-1][2], boxes)
    else:
        _add(text, start, closing.end(), text[content : closing.start()], boxes)


def _add_unbraced(text: str, start: int, end: int, boxes: list[tuple[int, int, str]]) -> None:
    number = _UNBRACED.match(text, end, end + 1000)
    if number:
        _add(text, start, number.end(), number.group(1), boxes)


def _add(text: str, start: int, end: int, content: str, boxes: list[tuple[int, int, str]]) -> None:
    if not content.strip():
        return
    inner = None
    while boxes and boxes[-1][0] > start:  # a box inside this one: the innermost last content is the answer
        inner = inner or boxes[-1][2]
        boxes.pop()
    boxes.append((start, end, inner or content.strip()))
