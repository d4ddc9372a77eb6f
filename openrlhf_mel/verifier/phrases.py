"""The answer in a phrase, such as "Answer: 2x + 3": the whole phrase without the sentence around it. Pure.

Words next to a value may change it ("fewer than 6", "64 or 125"), so no part is picked out of a phrase. Two parts are
removed: the sentence that introduces the answer ("the volume is 120") and the reason after it ("12, since ...").
"""

import re

from openrlhf_mel.verifier.marking import OPEN, WORD, marked
from openrlhf_mel.verifier.notation import canonical
from openrlhf_mel.verifier.vocabulary import CHANGING, NUMBERS, SCALING
from openrlhf_mel.verifier.words import names_value

_SCALED_AFTER = frozenset(("squared", "cubed", "plus", "minus", "times"))
_DOUBTED = frozenset(("wrong", "incorrect", "doubt", "thought", "guess", "guessed", "previous", "false", "initial"))
_MAX_TAIL = 20_000  # characters at the end of a response in which the phrases are looked for
_MAX_PHRASE = 200  # a longer one is prose
_MAX_LINE = 1_000

_EMPHASIS = r"[ \t*_]"
_FINAL = re.compile(r"final answer\b(?:[^\n.:：]{0,60}?\bis\b[ \t]*[:：]?|[ \t*_]{0,4}[:：])[ \t*}]*", re.IGNORECASE)
_OWN_LINE = re.compile(
    rf"^[ \t>#*_-]{{0,8}}(?:(?:(?:the|final)[ \t]+){{0,2}}answer{_EMPHASIS}{{0,4}}(?:[:：]|(?=\$|\\[(\[]))"
    rf"|(?:最终|最后|正确)?(?:的)?答案{_EMPHASIS}{{0,4}}(?:[是为]?[:：]|[是为]|(?=\$|\\[(\[]))|答[:：]){_EMPHASIS}{{0,4}}",
    re.IGNORECASE | re.MULTILINE,
)
_HEADING = re.compile(
    r"^[ \t>]{0,4}(?:(?:#{1,6}[ \t]+[*_]{0,3}(?:[^\n:：]{0,20}[:：][ \t]*)?|[*_]{2,3})(?:the[ \t]+)?(?:final[ \t]+)?(?:answer|最终答案|答案)"
    r"|the[ \t]+(?:final[ \t]+)?answer[ \t]+is[ \t]*[:：])[ \t:：*_]{0,6}$",
    re.IGNORECASE | re.MULTILINE,
)
_LAST_LINE = re.compile(r"(?:\banswer is\b[ \t]*:?|答案[是为][:：]?)[ \t*]*", re.IGNORECASE)
# Tokens that a chat template or a tokenizer leaves at the end of a decoded response.
_SPECIAL_TOKEN = re.compile(r"(?:<\|[^|<>\s]{1,40}\|>(?:user|assistant)?|</?s>|<eos>|<end_of_turn>|<pad>|</answer>)\Z")

_MATH_GROUP = re.compile(
    r"\$\$([^$]+)\$\$|\$((?:\\\$|[^$\n])+)\$|\\\(((?:[^\\]|\\[^)])+)\\\)|\\\[((?:[^\\]|\\[^\]])+)\\\]"
)
_JOINERS = re.compile(r"(?:[\s,;.*]|\band\b|\bor\b)*")
_HOPE = re.compile(r"[.,]?\s*I hope\b.*$", re.IGNORECASE | re.DOTALL)
_REASON = re.compile(
    r"\s*(?:[,;]\s*|\(\s*|\s)(?:because|since|due to|given that|as (?:we|it|this|there|required|desired|shown)|which (?:is|are|means)|"
    r"(?:which is )?(?:attained|achieved|reached|obtained)|"
    r"by (?:the|using))\b(?P<reason>.*)$",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<=[^.\s])\.\s+(?=[A-Z\\$(])|。(?=.)|\.\s*(?=<)")
# A sentence or reason with one of these revokes the answer, or adds to it.
_TAKES_BACK = re.compile(
    r"[\W_]*(?:or|and|but|however|actually|wait|no|not|nor|alternatively|correction|hmm|else|otherwise|sorry|oops|rather|maybe|perhaps|"
    r"instead|on second thought|i mean|let me|scratch)\b",
    re.IGNORECASE,
)
_DOUBTS = re.compile(
    r"\b(?:but|not|wrong|incorrect|false|except|unless|or|if|else|otherwise|could|might|may|also|maybe|perhaps)\b|;",
    re.IGNORECASE,
)
_RULE = re.compile(r"(?:[ \t]*[-=*_]{3,}[ \t]*\n\s*)+")
_COPULA = re.compile(r"\b(?:is|are|was|were|be|equals)\b(?:\s+equal\s+to\b)?:?\s*", re.IGNORECASE)
_AND = re.compile(r"\band\b|[,;]", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_VERDICT = re.compile(r"(?:the\s+)?(?:only\s+)?(?:correct|right|final)?\s*(?:answer|one|choice|option)?", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:not|never|cannot)\b|n['’]t\b", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|a|an|its|his|her|their|our|this|that)\s+", re.IGNORECASE)
_AT_FIRST = re.compile(r"at\s", re.IGNORECASE)
_TIME = (
    r"(?:the\s+)?(?:(?:first|last|next|same|whole|[0-9]+|one|two|three|four|five|six|seven|eight|nine|ten)\s+)?(?:january|february|march|april|may|june|july|august|"
    r"september|october|november|december|(?:mon|tues|wednes|thurs|fri|satur|sun)days?|morning|afternoon|evening|night|minutes?|hours?|days?|"
    r"weeks?|months?|years?)"
)
# Times and circumstances within a sentence: no part of the value.
_CIRCUMSTANCE = re.compile(
    rf"(?<=[A-Za-z0-9])\s+(?:(?:altogether|in total)\s+)?(?:(?:in|on|during|after|before|over|per|for)\s+{_TIME}(?:\s+and\s+{_TIME})*"
    r"|(?:(?:older|younger|taller|shorter|longer|heavier|lighter|faster|slower|earlier|later)\s+)?than\s+(?-i:[A-Z])[a-z]+)\b[^0-9$]{0,60}$",
    re.IGNORECASE,
)
_WHEN_FIRST = re.compile(rf"^(?:in|on|during|after|before|over)\s+{_TIME}\s*,?\s+(?=[A-Za-z])", re.IGNORECASE)
_SUBJECT_FIRST = re.compile(r"[A-Za-z]{2,}\b[^0-9$]*[\s$][0-9$]")
_CHOICE_AFTER = re.compile(r"\s*\((?:choice|option)\s+[A-J]\)\s*$", re.IGNORECASE)
_LABELLED = re.compile(r"[^0-9$\\]*:\s*(?=\$|\\[(\[])")
_VALUE = re.compile(r"[0-9$\\]")
_ORDER = re.compile(r"[<>≤≥]|\\(?:le|ge|lt|gt)")
_CURRENCY = re.compile(r"\$(?=\s?[0-9])")


def answer_from_phrases(text: str) -> str | None:
    """The answer of the first form, in the order of docs/verifier.md, that contains one."""
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
    if rule := _RULE.match(rest):
        rest = rest[rule.end() :]
    if rest.startswith(("\\[", "$$")):
        formula = _MATH_GROUP.match(rest)
        return formula.group() if formula else ""
    return rest.partition("\n")[0]


def _answer_in(phrase: str) -> str | None:
    phrase = _HOPE.sub("", " ".join(phrase[:_MAX_LINE].split()))
    phrase = _stripped(_without_circumstances(_stripped(_first_sentence(_without_reason(phrase)))))
    if _unfinished(phrase) or "\\boxed" in phrase or "\\fbox" in phrase:  # a box that counts was handled before
        return None
    if label := _LABELLED.match(phrase):
        phrase = phrase[label.end() :]
    phrase = _stripped(_after_copula(phrase))
    answer = _formulas(phrase) or phrase
    return answer if answer and len(answer) <= _MAX_PHRASE else None


def _without_reason(phrase: str) -> str:
    reason = _REASON.search(phrase)
    return phrase[: reason.start()] if reason and reason.start() and not _DOUBTS.search(reason["reason"]) else phrase


def _stripped(phrase: str) -> str:
    phrase = phrase.strip().strip("*_ ")
    return (phrase.removesuffix(".") if not phrase.endswith("..") else phrase).strip("*_ ")


def _first_sentence(phrase: str) -> str:
    """The first sentence alone, unless what follows may name another value."""
    end = _SENTENCE_END.search(phrase)
    if not end or _TAKES_BACK.match(phrase, end.end()):
        return phrase
    following = phrase[end.end() :]
    another = _VALUE.search(following) and ("=" not in following or _DOUBTS.search(following))
    return phrase if another else phrase[: end.start()]


def _unfinished(phrase: str) -> bool:
    """Whether a formula is opened and not closed: the response was truncated inside it."""
    dollars = phrase.replace("\\$", "").count("$")
    cut = dollars % 2 == 1 and ("\\" in phrase or dollars != len(_CURRENCY.findall(phrase)))
    return cut or phrase.count("\\(") != phrase.count("\\)") or phrase.count("\\[") != phrase.count("\\]")


def _without_circumstances(phrase: str) -> str:
    """The phrase without times ("In June she sold 72 clips altogether on Monday"); "3 in the morning" keeps its."""
    phrase = _CHOICE_AFTER.sub("", _WHEN_FIRST.sub("", phrase, count=1))
    return _CIRCUMSTANCE.sub("", phrase) if _SUBJECT_FIRST.match(phrase) else phrase


def _after_copula(phrase: str) -> str:
    """The value that a sentence gives its subject: 120 in "the volume of the 3 cubes is 120".

    The whole phrase when the subject does not name the value ("2x is 6", "half the total is 6"), or two values are
    given.
    """
    copulas = list(_COPULA.finditer(phrase))
    if not copulas:
        return phrase
    head, tail = phrase[: copulas[-1].start()].strip(), phrase[copulas[-1].end() :]
    if _NEGATION.search(head) or _says_another_thing(head, copulas):
        return phrase
    if tail and _VERDICT.fullmatch(tail):  # "B is the correct answer"
        return head
    if not _VALUE.search(tail):
        return tail if tail and not _VALUE.search(head) else phrase
    return tail if _names_value(head) else phrase


def _says_another_thing(head: str, copulas: list[re.Match[str]]) -> bool:
    """Whether an earlier copula has a value, followed by "and" or a comma: "x is 3 and y is 4"."""
    value = _DIGIT.search(head, copulas[0].end()) if len(copulas) > 1 else None
    return bool(value and _AND.search(head, value.end()))


def _names_value(head: str) -> bool:
    """Whether the subject of a sentence names the value: a name, or a description that begins with a noun."""
    if _AT_FIRST.match(head):
        return False
    article = _ARTICLE.match(head)
    subject = marked(canonical(head[article.end() :] if article else head)).strip()
    if not subject.startswith(OPEN):
        return names_value(subject)
    words = WORD.findall(subject)
    scaled = words[0] in SCALING or (words[0] in NUMBERS and len(words) > 1 and words[1] in CHANGING)
    return not scaled and not (_SCALED_AFTER | _DOUBTED).intersection(words)


def _formulas(phrase: str) -> str | None:
    """The contents of the formulas of a phrase that has nothing else, as one list."""
    formulas = list(_MATH_GROUP.finditer(phrase))
    between = _MATH_GROUP.sub("", phrase)
    if not formulas or not _JOINERS.fullmatch(between):
        return None
    if "or" in between and _ORDER.search(phrase):  # alternatives, not a list
        return None
    return ", ".join("".join(filter(None, formula.groups())).strip() for formula in formulas)
