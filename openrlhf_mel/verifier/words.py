"""The words of an answer: units and filler are removed, a few become mathematics, the others count. Pure."""

import re
from dataclasses import dataclass
from decimal import Decimal

from openrlhf_mel.verifier import sides, vocabulary
from openrlhf_mel.verifier.marking import ANY, CLOSE, KNOWN, OPEN, WORD, mark, marked
from openrlhf_mel.verifier.notation import canonical
from openrlhf_mel.verifier.substitutions import substitute, table

_MAY_HOLD_WORDS = re.compile(r"[A-Za-z\\]|[^\x00-\x7f]")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))"
_QUOTIENT = rf"\\frac\s*\{{\s*{ANY}{_POWER}?\s*\}}\s*\{{\s*{ANY}{_POWER}?\s*\}}"
_UNIT = re.compile(
    rf"(?<=[0-9A-Za-z)}}\]%!])(\s*)((?:/\s*)?{ANY}{_POWER}?(?:\s*(?:(?:/|\\cdot|\\times|\*|-)\s*(?={OPEN}))?{ANY}{_POWER}?)*|{_QUOTIENT})(\s*)"
)
_IN_BRACKETS = re.compile(rf"\(\s*({ANY}(?:\s*{ANY})*)\s*\)")
_WORDS = re.compile(rf"{ANY}(?:\s*{ANY})*")
_FIGURE = re.compile(r"(?:W|[A-Z']|\\triangle|\\angle|\s)+")
_DEGREES = re.compile(
    r"((?:^\(?|[,;=])\s*[+-]?\s*(?:[0-9.]+|\\frac\{[0-9]+\}\{[0-9]+\}))\s*\^\{\\circ\}(?![A-Za-z0-9(\\])"
)
_VALUE = re.compile(r"[0-9A-Za-z\\({|]")
_HAS_VALUE = re.compile(r"[0-9A-Za-z]|\\[A-Za-z]")
_OUTER = re.compile(r"^[\s:;,]+|^\.(?![0-9])|^\\(?:approx|sim)(?![A-Za-z])|[\s:;,]+$")
_ONLY_MARKS = re.compile(r"[\s().,:;'\"!?\[\]]*")
_JOINER = re.compile(rf"\s*,?\s*(?:{OPEN}(and|or){CLOSE}|(\\lor)(?![A-Za-z])|&)\s*,?\s*")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|notin|equiv)(?![A-Za-z])")
_NEXT_WORD = re.compile(rf"\s*{WORD.pattern}")
_OF_A_VALUE = re.compile(rf"\s*{OPEN}of{CLOSE}\s*(?:{OPEN}the{CLOSE}\s*)?[-+0-9\\(]")
_OR = re.compile(rf"{OPEN}or{CLOSE}|\\lor(?![A-Za-z])")
_CAPITALS = re.compile(r"[A-Z]{3,}")
_WRITTEN_WORDS = re.compile(r"\\(?:text|mbox|hbox|math|operatorname|[(\[])|\$")
_CALL = re.compile(rf"{WORD.pattern}\(")
_COMMAND = re.compile(r"\\[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer without its words. `words` are those that count, in order; both answers must have the same.

    For an answer in words alone, such as a name, `math` is empty, and all its words count. `alternatives`: its values
    are joined by "or", so they are no point.
    """

    math: str
    words: tuple[str, ...] = ()
    alternatives: bool = False


def read(text: str) -> Reading:
    """Read an answer in `canonical` notation."""
    if not _MAY_HOLD_WORDS.search(text):
        return Reading(_trimmed(text))
    text = _converted(_IN_BRACKETS.sub(r"\1", _without_label(marked(text))))
    alternatives = bool(_OR.search(text))
    text = _joined(text)
    if not _has_value(text) or _CAPITALS.fullmatch(text.strip()):
        return _words_alone(text)
    text = _UNIT.sub(_unit, text)
    kept: list[str] = []
    math = WORD.sub(lambda word: _drop_or_keep(word, kept), text)
    return Reading(_trimmed(_DEGREES.sub(r"\1", math)), tuple(kept), alternatives)


def strange(text: str) -> list[str]:
    """The words of a text, as it is written, that make a sentence or a program of it, not mathematics.

    A word that means nothing here may stand beside a number ("Route 66"), and between delimiters or in \\text anything
    may. Outside of these it is strange before letters alone ("def f(x): return x"), and where it calls ("print(1)").
    """
    if _WRITTEN_WORDS.search(text) or not _MAY_HOLD_WORDS.search(text):
        return []
    text = _joined(_without_label(marked(canonical(text))))
    if not _has_value(text):
        return []
    called = [word[1] for word in _CALL.finditer(text) if word[1] not in KNOWN]
    math = WORD.sub(" ", text)
    if re.search(r"[0-9]", math) or not re.search(r"[a-z]", _COMMAND.sub("", math)):
        return called
    return called or [word for word in WORD.findall(_UNIT.sub(" ", text)) if len(word) > 1 and word not in KNOWN]


def _word(*names: str) -> str:
    return f"{OPEN}(?:{'|'.join(names)}){CLOSE}"


# Mathematics written in words, in this order.
_VALUE_BEFORE, _VALUE_AFTER = r"(?<=[0-9A-Za-z)}\]])\s*", r"\s*(?=[0-9A-Za-z(\\{|.$])"
_MATHEMATICS = table(
    (
        (rf"{_word('and')}\s*{_word('so')}\s*{_word('on')}|{_word('etc')}", r"\\ldots "),
        (rf"{_word('plus')}\s*{_word('or')}\s*{_word('minus')}", r"\\pm "),
        (
            rf"{_word('square', 'squared')}\s*{_word('root')}\s*{_word('of')}\s*([0-9]+|[a-z](?![A-Za-z]))",
            r"\\sqrt{\1}",
        ),
        (rf"{_word('cube', 'cubed')}\s*{_word('root')}\s*{_word('of')}\s*([0-9]+|[a-z](?![A-Za-z]))", r"\\sqrt[3]{\1}"),
        (rf"{_word('per')}\s*{_word('cent')}|{_word(*vocabulary.PERCENT)}", r"\\%"),
        (rf"{_word('all')}\s*{_word('real', 'reals')}(?:\s*{_word('numbers')})?", r"\\mathbb{R}"),
        (rf"{_word('pi')}", r"\\pi "),
        (rf"{_word('infinity')}", r"\\infty "),
        (rf"{_VALUE_BEFORE}{_word('factorial')}", "!"),
        (rf"{_VALUE_BEFORE}{_word('squared')}", "^{2}"),
        (rf"{_VALUE_BEFORE}{_word('cubed')}", "^{3}"),
        (rf"{_word('minus', 'negative')}{_VALUE_AFTER}", "-"),
        (rf"{_VALUE_BEFORE}{_word('plus')}{_VALUE_AFTER}", "+"),
        (rf"{_VALUE_BEFORE}{_word('times')}{_VALUE_AFTER}", r"\\times "),
        (rf"{_VALUE_BEFORE}{_word('multiplied')}\s*{_word('by')}{_VALUE_AFTER}", r"\\times "),
        (rf"{_VALUE_BEFORE}(?:{_word('divided')}\s*{_word('by')}|{_word('over')}){_VALUE_AFTER}", "/"),
    )
)
_MULTIPLIER = _word(*sorted(vocabulary.MULTIPLIERS))
_SCALED_NUMBER = re.compile(rf"(?<![0-9.])([0-9]{{1,12}}(?:\.[0-9]{{1,12}})?)((?:\s*{_MULTIPLIER}){{1,3}})")
_SCALED = re.compile(rf"(?<=[}})])((?:\s*{_MULTIPLIER}){{1,3}})")


def _converted(text: str) -> str:
    text = substitute(_MATHEMATICS, text)
    text = _SCALED_NUMBER.sub(lambda m: format((Decimal(m[1]) * _factor(m[2])).normalize(), "f"), text)
    return _SCALED.sub(lambda m: f"\\cdot {_factor(m[1])}", text)


def _without_label(text: str) -> str:
    """Remove a left side with words that only names the value: "area of triangle ABC = 12", "P(at least one) = 1/2"."""
    label, *others = sides.sides(text)
    if not others:
        return text
    rest = text[text.index("=") + 1 :]
    only_words = not _has_value(rest)  # as in "K = even"
    return rest if (WORD.search(label) or only_words) and names_value(label) else text


def names_value(subject: str) -> bool:
    """Whether a marked text only names a value: "area of triangle ABC", but not "half of x"."""
    words = WORD.findall(_IN_BRACKETS.sub("", subject))
    counted = len(words) > 1 and words[0] in vocabulary.NUMBERS and _changes(words[1])  # "three times x"
    if counted or vocabulary.SCALING.intersection(words):
        return False
    name = _WORDS.sub("W", subject).strip()
    return bool(_FIGURE.fullmatch(name)) or sides.names(name)


def _factor(multipliers: str) -> int:
    factor = 1
    for name in WORD.findall(multipliers):
        factor *= vocabulary.MULTIPLIERS[name]
    return factor


def _joined(text: str) -> str:
    """Rewrite "and" and "or" between two values as the comma of a list; "or" between inequalities stays a word."""
    joiners = [joiner for joiner in _JOINER.finditer(text) if not ("&" in joiner.group() and "\\begin" in text)]
    starts = [0, *(joiner.end() for joiner in joiners)]
    ends = [*(joiner.start() for joiner in joiners), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    joined = pieces[0]
    for joiner, before, after in zip(joiners, pieces[:-1], pieces[1:], strict=True):
        if not (_has_value(before) and _has_value(after)):
            joined += joiner.group() + after
        elif (joiner[1] == "or" or joiner[2]) and _are_alternatives(before, after):
            joined += f" {OPEN}or{CLOSE}, {after}"
        else:
            joined += f", {after}"
    return joined


def _are_alternatives(before: str, after: str) -> bool:
    """Whether these are conditions, not values of one unknown: "x=0 or x>2", "x=2 or y=5", but not "x=2 or x=3"."""
    relations = [bool(_RELATION.search(text)) for text in (before, after)]
    if not all(found or "=" in text for found, text in zip(relations, (before, after), strict=True)):
        return False
    return any(relations) or before.partition("=")[0].strip(" ,") != after.partition("=")[0].strip(" ,")


def _has_value(text: str) -> bool:
    return bool(_HAS_VALUE.search(WORD.sub("", text)))


def _words_alone(text: str) -> Reading:
    """All words of an answer in words alone, without filler; one letter is a choice, capitals are letters in order."""
    rest, words = WORD.sub(" ", text).strip(), [_spelled(word) for word in WORD.findall(text)]
    if not words:
        return Reading("", (rest.lower(),))
    kept = tuple(word for word in words if word not in vocabulary.FILLER) or tuple(words)
    if len(kept) == 1 and len(kept[0]) == 1:
        return Reading(kept[0])
    return Reading("" if _ONLY_MARKS.fullmatch(rest) else _trimmed(rest), kept)


def _spelled(word: str) -> str:
    return vocabulary.SPELLINGS.get(word, word)


def _unit(match: re.Match[str]) -> str:
    """Keep those words after a value that change it."""
    words = WORD.findall(match[2])
    counted = match.string[match.start() - 1].isdigit()
    rest = match.string[match.end() : match.end() + 1]
    kept: list[str] = []
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else None
        if not kept and word in vocabulary.FILLER_AFTER and following != "than":
            continue  # "12 more apples"
        if not kept and counted and word in vocabulary.ADJECTIVES and following and not _changes(following):
            continue  # "12 even numbers"
        if position and word in vocabulary.COMPASS:
            kept.append(vocabulary.COMPASS[word])
        elif _changes(word) or (word in vocabulary.RANGES and following is None and rest):
            kept.append(word)
        elif word in vocabulary.CHANGING_BEFORE and following in (None, "of") and _VALUE.match(rest):
            kept.append(word)  # "2 \\text{ square root of } x"
    apart = ", " if _VALUE.match(rest) and not kept else " "
    return " " + " ".join(mark(word) for word in kept) + apart


def _changes(word: str) -> bool:
    return word in vocabulary.CHANGING


def _drop_or_keep(match: re.Match[str], kept: list[str]) -> str:
    """The replacement of a word that does not follow a value."""
    word = match.group(1)
    before = match.string[max(0, match.start() - 100) : match.start()]
    after = match.string[match.end() : match.end() + 100]
    if len(word) == 1:
        return word
    following = _NEXT_WORD.match(after)
    if word in vocabulary.DETERMINERS and following and not _changes(following[1]):
        return " "
    of_a_value = _OF_A_VALUE.match(after) and word not in vocabulary.FILLER and word not in vocabulary.QUANTITIES
    between = _HAS_VALUE.search(before.rpartition(CLOSE)[2]) and _VALUE.match(after.lstrip()[:1])
    if (
        _changes(word)
        or of_a_value
        or (word in vocabulary.RANGES and between)
        or (word in vocabulary.CHANGING_BEFORE and _has_value(after))
    ):
        kept.append(_spelled(word))
        return " "
    if word in vocabulary.FILLER:
        return " "
    return ", " if between and not before.rstrip().endswith((",", "=", "(", ":", "+", "-")) else " "


def _trimmed(text: str) -> str:
    text = " ".join(text.split())
    previous = None
    while previous != text:
        previous, text = text, _OUTER.sub("", text)
    text = re.sub(r"\s*,(?:\s*,)+\s*", ", ", text)
    text = text.removesuffix(".").rstrip() if text.endswith(".") and not text.endswith("..") else text
    return re.sub(r"^([+-])\s+", r"\1", text)
