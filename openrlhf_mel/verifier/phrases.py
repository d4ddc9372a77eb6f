"""The answer in a phrase, such as "Answer: 2x + 3": the whole of it, without the sentence around it. Pure.

What stands beside a value may change it ("fewer than 6", "64 or 125"), so nothing is picked out of a phrase. What goes is
the sentence that leads to the answer ("the volume is 120") and the reason that follows it ("12, since ...").
"""

import re

_MAX_TAIL = 20_000  # characters at the end of a response in which the phrases are looked for
_MAX_PHRASE = 200  # a longer one is prose
_MAX_LINE = 2_000

_EMPHASIS = r"[ \t*_]"
_FINAL = re.compile(r"final answer\b(?:[^\n.:：]{0,60}?\bis\b[ \t]*[:：]?|[ \t*_]{0,4}[:：])[ \t*]*", re.IGNORECASE)
_OWN_LINE = re.compile(
    rf"^[ \t>#*_]{{0,8}}(?:(?:(?:the|final)[ \t]+){{0,2}}answer{_EMPHASIS}{{0,4}}(?:[:：]|(?=\$|\\[(\[]))"
    rf"|(?:最终|最后|正确)?(?:的)?答案{_EMPHASIS}{{0,4}}(?:[是为]?[:：]|[是为]|(?=\$|\\[(\[]))|答[:：]){_EMPHASIS}{{0,4}}",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    r"^[ \t>]{0,4}(?:#{1,6}[ \t]+[*_]{0,3}|[*_]{2,3})(?:the[ \t]+)?(?:final[ \t]+)?(?:answer|最终答案|答案)[ \t:：*_]{0,6}$",
    re.IGNORECASE | re.MULTILINE,
)
_LAST_LINE = re.compile(r"(?:\banswer is\b[ \t]*:?|答案[是为][:：]?)[ \t*]*", re.IGNORECASE)
# What a chat template or a tokenizer leaves at the end of a decoded response.
_SPECIAL_TOKEN = re.compile(r"(?:<\|[^|<>\s]{1,40}\|>(?:user|assistant)?|</?s>|<eos>|<end_of_turn>|<pad>|</answer>)\Z")

_MATH_GROUP = re.compile(
    r"\$\$([^$]+)\$\$|\$((?:\\\$|[^$\n])+)\$|\\\(((?:[^\\]|\\[^)])+)\\\)|\\\[((?:[^\\]|\\[^\]])+)\\\]"
)
_JOINERS = re.compile(r"(?:[\s,;.*]|\band\b|\bor\b)*")
_HOPE = re.compile(r"[.,]?\s*I hope\b.*$", re.IGNORECASE | re.DOTALL)
_REASON = re.compile(
    r"\s*(?:[,;]\s*|\(\s*|\s)(?:because|since|due to|given that|as (?:we|it|this|there|required|desired|shown)|which (?:is|are|means)|"
    r"by (?:the|using))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<=[^.\s])\.\s+(?=[A-Z\\$(])|。(?=.)|\.\s*(?=<)")
# A next sentence that begins so takes back or adds to what the first one says.
_TURN = re.compile(
    r"[\W_]*(?:or|and|but|however|actually|wait|no|not|nor|alternatively|correction|hmm|else|otherwise)\b",
    re.IGNORECASE,
)
_COPULA = re.compile(r"\b(?:is|are|was|were|equals?|be)\b:?\s*", re.IGNORECASE)
_NEGATION = re.compile(r"\bnot\b|n't\b|n’t\b|\bnever\b", re.IGNORECASE)
_VALUE = re.compile(r"[0-9$\\]")
_CURRENCY = re.compile(r"\$(?=\s?[0-9])")


def answer_from_phrases(text: str) -> str | None:
    """The answer of the first form, in the order of docs/verifier.md, that holds one."""
    text = text[-_MAX_TAIL:].rstrip()
    while token := _SPECIAL_TOKEN.search(text, max(0, len(text) - 60)):
        text = text[: token.start()].rstrip()
    for form in (_FINAL, _OWN_LINE, _HEADING):
        anchor = _last(form, text)
        answer = _answer_in(_line_at(text, anchor.end())) if anchor else None
        if answer:
            return answer
    last_line = text[text.rfind("\n") + 1 :]
    phrase = _last(_LAST_LINE, last_line)
    return _answer_in(last_line[phrase.end() :]) if phrase else None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 -- the last one is wanted
        pass
    return found


def _line_at(text: str, start: int) -> str:
    """The rest of the line at `start`, or the next one when that is empty; a display formula whole."""
    rest = text[start : start + _MAX_LINE].lstrip()
    if rest.startswith(("\\[", "$$")):
        formula = _MATH_GROUP.match(rest)
        return formula.group() if formula else ""
    return rest.partition("\n")[0]


def _answer_in(phrase: str) -> str | None:
    phrase = _HOPE.sub("", phrase[:_MAX_LINE])
    phrase = _stripped(_first_sentence(_REASON.sub("", phrase) or phrase))
    if _unfinished(phrase):
        return None
    phrase = _stripped(_after_copula(phrase))
    answer = _formulas(phrase) or phrase
    return answer if answer and len(answer) <= _MAX_PHRASE else None


def _stripped(phrase: str) -> str:
    phrase = phrase.strip().strip("*_ ")
    return (phrase.removesuffix(".") if not phrase.endswith("..") else phrase).strip("*_ ")


def _first_sentence(phrase: str) -> str:
    end = _SENTENCE_END.search(phrase)
    return phrase[: end.start()] if end and not _TURN.match(phrase, end.end()) else phrase


def _unfinished(phrase: str) -> bool:
    """Whether a formula is opened and not closed: the response was cut in it."""
    dollars = phrase.replace("\\$", "").count("$")
    cut = dollars % 2 == 1 and ("\\" in phrase or dollars != len(_CURRENCY.findall(phrase)))
    return cut or phrase.count("\\(") != phrase.count("\\)") or phrase.count("\\[") != phrase.count("\\]")


def _after_copula(phrase: str) -> str:
    """What a sentence says its subject is ("the volume of the 3 cubes is 120"), unless it says so of two things."""
    copulas = list(_COPULA.finditer(phrase))
    if not copulas:
        return phrase
    head, tail = phrase[: copulas[-1].start()], phrase[copulas[-1].end() :]
    if _NEGATION.search(head) or any(_VALUE.search(head, copula.end()) for copula in copulas[:-1]):
        return phrase
    return tail if _VALUE.search(tail) or (tail and not _VALUE.search(head)) else phrase


def _formulas(phrase: str) -> str | None:
    """The content of the formulas that a phrase consists of, as one list."""
    formulas = list(_MATH_GROUP.finditer(phrase))
    if not formulas or not _JOINERS.fullmatch(_MATH_GROUP.sub("", phrase)):
        return None
    return ", ".join("".join(filter(None, formula.groups())).strip() for formula in formulas)
