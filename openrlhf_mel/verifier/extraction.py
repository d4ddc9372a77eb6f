"""Which part of a response is its final answer, under `anchored` extraction.

Anchored forms, in this order; a later form is looked at only when no earlier one is there:
  1. the last closed, non-empty box, joined with boxes right before it ("\\boxed{1} and \\boxed{2}");
  2. "final answer is X", up to the end of its line;
  3. "Answer: X" on a line of its own;
  4. "the answer is X" as the very last line of the response.
Every scan is linear in the length of the response: it runs in the caller's process, on text nobody vouches for.
"""

import re

# A doubled backslash before "boxed" is a text that was escaped once too often; elsewhere it is a line break.
_TOKENS = re.compile(r"\\{1,2}(?:boxed|fbox)(?![A-Za-z])|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(r"\s*([+-]?\d[\d.,]*)")
_MATH_END = re.compile(r"\$|\\\)|\\\]")
# What may stand between two boxes that give one answer together: separators, \text, math delimiters, "y =" ...
_BETWEEN = re.compile(
    r"(?:[\s$,;&~]|\\[()\[\],;:! ]|\\q?quad|\\(?:text|mbox)\s*\{[^{}]*\}|\band\b|\bor\b|[A-Za-z](?:_\{?\w\}?)?\s*=)*"
)
# ... or a few words with a separator among them, unless they turn one of the two into the answer.
_FEW_WORDS = re.compile(r"(?=.*(?:,|\band\b|\bor\b))[^.:!?\n]{0,30}")
_TURN = re.compile(r"\b(?:is|so|thus|hence|then|answer|but|not|rather|instead|therefore|gives?|which)\b", re.IGNORECASE)
_MAX_BETWEEN = 70

_FINAL = re.compile(r"final answer\b(?:[^\n.:]{0,60}?\bis\b[ \t]*:?|[ \t*_]{0,4}:)[ \t*]*", re.IGNORECASE)
_OWN_LINE = re.compile(
    r"^[ \t>#*_]{0,8}(?:(?:the|final)[ \t]+){0,2}(?:answer|答案)[ \t*_]{0,4}(?:[:：]|(?=\$|\\[(\[]))[ \t*_]{0,4}",
    re.IGNORECASE | re.MULTILINE,
)
_LAST_LINE = re.compile(r"\banswer is\b[ \t]*:?[ \t*]*", re.IGNORECASE)
_HOPE = re.compile(r"[.,]?\s*I hope\b.*$", re.IGNORECASE | re.DOTALL)
# What a chat template or a tokenizer leaves at the end of a decoded response.
_SPECIAL_TOKEN = re.compile(r"(?:<\|[^|<>\s]{1,40}\|>(?:user|assistant)?|</?s>|<eos>|<end_of_turn>|<pad>)\Z")
_MATH_GROUP = re.compile(
    r"\$\$([^$]+)\$\$|\$((?:\\\$|[^$\n])+)\$|\\\(((?:[^\\]|\\[^)])+)\\\)|\\\[((?:[^\\]|\\[^\]])+)\\\]"
)
_PLAIN_NUMBER = re.compile(r"[$€£¥]?\s?([+-]?(?:\d[\d,]*)?(?:\.\d+)?(?:\s?/\s?\d+)?\s?%?)(?=$|[\s.,;*])")
_NUMBER_IN_WORDS = re.compile(r"(?<![\w.,/^])[$€£¥]?(-?\d[\d,]*(?:\.\d+)?%?)(?![\w/^])")
_IS = re.compile(r"\bis\b:?\s*")
_JOINERS = re.compile(r"(?:[\s,;.*]|\band\b|\bor\b)*")
_MAX_PLAIN = 100
_MAX_TAIL = 20_000  # characters at the end of a response in which the phrases are looked for


def extract_anchored(response: str) -> str | None:
    """Return the final answer of `response` as it is written there, or None when no anchored form holds one."""
    return _from_boxes(response) or _from_phrases(response)


def unwrap_box(answer: str) -> str:
    """Return the content of `answer`'s box, when it comes in one; reference answers sometimes do."""
    return (_from_boxes(answer) if "\\boxed" in answer or "\\fbox" in answer else None) or answer


def _from_boxes(text: str) -> str | None:
    boxes = _closed_boxes(text)
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
    return ",".join(parts)


def _joins(between: str) -> bool:
    return bool(_BETWEEN.fullmatch(between) or (_FEW_WORDS.fullmatch(between) and not _TURN.search(between)))


def _closed_boxes(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, content) of the outermost non-empty boxes, in order.

    An unclosed box counts only when its formula is closed after it (a lost brace: `$\\boxed{\\frac{1}{2}$`), never
    where the text simply stops, since that is a truncated answer.
    """
    boxes: list[tuple[int, int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start of the command, start of the content) for a box's brace
    box_at = -1  # where a box command starts whose brace has not come yet
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
                _add(text, opened[0], token.end(), text[opened[1] : token.start()], boxes)
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


def _from_phrases(text: str) -> str | None:
    text = text[-_MAX_TAIL:].rstrip()
    while token := _SPECIAL_TOKEN.search(text, max(0, len(text) - 60)):
        text = text[: token.start()].rstrip()
    final = _last(_FINAL, text)
    if final:
        answer = _tidy(_line_at(text, final.end()))
        if answer:
            return answer
    own_line = _last(_OWN_LINE, text)
    if own_line:
        answer = _tidy(_line_at(text, own_line.end()))
        if answer:
            return answer
    last_line = text[text.rfind("\n") + 1 :]
    phrase = _last(_LAST_LINE, last_line)
    return _tidy(last_line[phrase.end() :]) if phrase else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None


def _line_at(text: str, start: int) -> str:
    """The rest of the line at `start`, or the whole display formula that begins there or on the next line."""
    end = text.find("\n", start)
    rest = text[start:] if end < 0 else text[start:end]
    if rest.strip() and not rest.lstrip().startswith(("\\[", "$$")):
        return rest
    following = text[start : start + 2000].lstrip()
    formula = _MATH_GROUP.match(following)
    return formula.group() if formula else rest


def _tidy(phrase: str) -> str | None:
    """The answer in the rest of a line: what it begins with, or what comes after "is", or the only thing it has."""
    phrase = _HOPE.sub("", phrase[:2000]).strip().strip("*_ ").removesuffix(".").strip("*_ ")
    answer = _leading(phrase)
    if answer is None and (words := list(_IS.finditer(phrase))):
        answer = _leading(phrase[words[-1].end() :])
    if answer:
        return answer
    formulas = _MATH_GROUP.findall(phrase)
    if len(formulas) == 1:
        return "".join(formulas[0]).strip() or None
    numbers = _NUMBER_IN_WORDS.findall(phrase)
    if len(numbers) == 1 and not formulas:
        return numbers[0]
    unfinished = "$" in phrase or "\\(" in phrase or "\\[" in phrase
    return phrase if phrase and len(phrase) <= _MAX_PLAIN and not unfinished else None


def _leading(phrase: str) -> str | None:
    """The formulas or the number that `phrase` begins with."""
    formulas = list(_MATH_GROUP.finditer(phrase))
    if formulas and phrase[: formulas[0].start()].strip(" *_:=") == "":
        contents = ["".join(filter(None, match.groups())).strip() for match in formulas]
        joined = len(contents) > 1 and _JOINERS.fullmatch(_MATH_GROUP.sub("", phrase))
        return (",".join(contents) if joined else contents[0]) or None
    number = _PLAIN_NUMBER.match(phrase)
    return number.group(1).strip().rstrip(",") if number and any(map(str.isdigit, number.group(1))) else None
