"""What the words of an answer do to its value: units and filler go, a few become mathematics, the others stay and count. Pure."""

import itertools
import re
from dataclasses import dataclass
from decimal import Decimal

from openrlhf_mel.verifier import vocabulary

# A word is put between two characters of Unicode's private use, so that the rules below see it as one token.
_OPEN, _CLOSE = "\ue000", "\ue001"
_WORD = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}")
_ANY = f"{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}"

_TEXT = re.compile(r"\\(text(?:bf|rm|it|sf|tt|normal|up|md)?|mbox|hbox|mathrm|mathbf|mathsf|operatorname)\*?\s*\{")
_RUN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+")
_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])")
_CLOCK = re.compile(r"(?<![A-Za-z\\])([apAP])\.\s?[mM](?![A-Za-z])\.?")
_CURRENCY = re.compile(
    r"\\(?:pounds|euro|textdollar|texteuro|textsterling|textcent|yen|cent)(?![A-Za-z])|[€£¥₹¢₽₩₫₪]|(?<![A-Za-z\\])(?:US|CA|AU|HK)(?=\s*[0-9])"
)
# Units of one letter without \text: only together with another unit, as in "m/s", and after a number.
_LETTER_UNITS = re.compile(
    r"(?<=[0-9}])\s*(?<![A-Za-z\\])((?:k?m|[cm]m|k?g|k?N|k?J|k?W|V|A|L|C|mi|ft|mol|k?Pa)(?:\s*\^\s*\{?[23]\}?)?"
    r"(?:\s*(?:/|\\cdot|\*)\s*(?:s|h|hr|min|sec|k?g|mol|K|L|ml|k?m|cm|N)(?![A-Za-z])(?:\s*\^\s*\{?-?[0-9]\}?)?){1,3})(?![A-Za-z0-9^_({\\])"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))"
_UNIT = re.compile(
    rf"(?<=[0-9A-Za-z)}}\]%!])(\s*)({_ANY}{_POWER}?(?:\s*(?:(?:/|\\cdot|\\times|\*|-)\s*(?={_OPEN}))?{_ANY}{_POWER}?)*)(\s*)"
)
_IN_BRACKETS = re.compile(rf"\(\s*({_ANY}(?:\s*{_ANY})*)\s*\)")
_LABEL = re.compile(rf"^[\s:]*{_ANY}(?:\s*(?:{_ANY}|[A-Z']{{1,6}}|\\triangle|\\angle))*\s*=")
_DEGREES = re.compile(
    r"((?:^\(?|[,;=])\s*[+-]?\s*(?:[0-9.]+|\\frac\{[0-9]+\}\{[0-9]+\}))\s*\^\{\\circ\}(?![A-Za-z0-9(\\])"
)
_VALUE = re.compile(r"[0-9A-Za-z\\({|]")
_HAS_VALUE = re.compile(r"[0-9A-Za-z]|\\[A-Za-z]")
_OUTER = re.compile(r"^[\s:;,]+|^\.(?![0-9])|[\s:;,]+$")
_JOINER = re.compile(rf"\s*,?\s*(?:{_OPEN}(and|or){_CLOSE}|(\\l?or)(?![A-Za-z])|&)\s*,?\s*")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|in|notin|equiv)(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer without its words. `words` are those that count, in their order; both answers have to have the same."""

    math: str
    words: tuple[str, ...] = ()


def read(text: str) -> Reading:
    """Read an answer in `canonical` notation."""
    if text.isascii() and not _RUN.search(text):
        return Reading(_trimmed(text))
    marked = _marked(_CLOCK.sub(r"\1m ", _CURRENCY.sub("", text)))
    marked = _converted(_IN_BRACKETS.sub(r"\1", _LABEL.sub(_label, marked)))
    marked = _joined(marked)
    if not _HAS_VALUE.search(_WORD.sub("", marked)):
        return _words_alone(marked)
    marked = _without_units(marked)
    kept: list[str] = []
    math = _WORD.sub(lambda word: _drop_or_keep(word, kept), marked)
    return Reading(_trimmed(_DEGREES.sub(r"\1", math)), tuple(kept))


def _word(*names: str) -> str:
    return f"{_OPEN}(?:{'|'.join(names)}){_CLOSE}"


# Words that are mathematics written out, in this order.
_VALUE_BEFORE, _VALUE_AFTER = r"(?<=[0-9A-Za-z)}\]])\s*", r"\s*(?=[0-9A-Za-z(\\{|.$])"
_MATHEMATICS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"{_word('plus')}\s*{_word('or')}\s*{_word('minus')}", r"\\pm "),
        (
            rf"{_word('square', 'squared')}\s*{_word('root')}\s*{_word('of')}\s*([0-9]+|[a-z](?![A-Za-z]))",
            r"\\sqrt{\1}",
        ),
        (rf"{_word('cube', 'cubed')}\s*{_word('root')}\s*{_word('of')}\s*([0-9]+|[a-z](?![A-Za-z]))", r"\\sqrt[3]{\1}"),
        (rf"{_word('per')}\s*{_word('cent')}|{_word(*vocabulary.PERCENT)}", r"\\%"),
        (rf"{_word('pi')}", r"\\pi "),
        (rf"{_word('infinity')}", r"\\infty "),
        (rf"{_VALUE_BEFORE}{_word('factorial')}", "!"),
        (rf"{_VALUE_BEFORE}{_word('squared')}", "^{2}"),
        (rf"{_VALUE_BEFORE}{_word('cubed')}", "^{3}"),
        (rf"{_word('minus', 'negative')}{_VALUE_AFTER}", "-"),
        (rf"{_VALUE_BEFORE}{_word('plus')}{_VALUE_AFTER}", "+"),
        (rf"{_VALUE_BEFORE}{_word('times')}{_VALUE_AFTER}", r"\\times "),
        (rf"{_VALUE_BEFORE}(?:{_word('divided')}\s*{_word('by')}|{_word('over')}){_VALUE_AFTER}", "/"),
    )
)
_MULTIPLIER = _word(*sorted(vocabulary.MULTIPLIERS))
_SCALED_NUMBER = re.compile(rf"([0-9]{{1,60}}(?:\.[0-9]{{1,60}})?)((?:\s*{_MULTIPLIER})+)")
_SCALED = re.compile(rf"(?<=[}})])((?:\s*{_MULTIPLIER})+)")
_WRITTEN_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])")
_WRITTEN_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")


def _converted(text: str) -> str:
    for pattern, replacement in _MATHEMATICS:
        text = pattern.sub(replacement, text)
    text = _SCALED_NUMBER.sub(lambda m: format((Decimal(m[1]) * _factor(m[2])).normalize(), "f"), text)
    return _SCALED.sub(lambda m: f"\\cdot {_factor(m[1])}", text)


def _label(match: re.Match[str]) -> str:
    """The name of a quantity before "=" goes: "area of triangle ABC = 12"."""
    changed = any(_changes(word) and word not in vocabulary.ADJECTIVES for word in _WORD.findall(match.group()))
    return match.group() if changed else ""


def _factor(multipliers: str) -> int:
    factor = 1
    for name in _WORD.findall(multipliers):
        factor *= vocabulary.MULTIPLIERS[name]
    return factor


def _marked(text: str) -> str:
    """Put every word of the text between marks: letters of \\text and its like, and what is no product of letters."""
    parts, position = [], 0
    for command in _TEXT.finditer(text):
        if command.start() < position:
            continue
        end = _closing_brace(text, command.end())
        content = text[command.end() : end]
        if text[: command.start()].rstrip(" {").endswith("_"):  # the name of a variable, as in v_{\text{max}}
            parts += [_marked_letters(text[position : command.start()]), content.replace(" ", "")]
        elif command[1].startswith(("math", "operator")) and (
            len(content.strip()) < 2 or content.strip() in vocabulary.FUNCTIONS
        ):
            written = (
                content
                if len(content.strip()) == 1 and not _is_unit_letter(content.strip(), text, command.start())
                else None
            )
            written = (
                _marked_words(content) if written is None and content.strip() not in vocabulary.FUNCTIONS else written
            )
            parts += [
                _marked_letters(text[position : command.start()]),
                text[command.start() : end + 1] if written is None else written,
            ]
        else:
            parts += [_marked_letters(text[position : command.start()]), _marked_words(content)]
        position = end + 1
    return "".join(parts) + _marked_letters(text[position:])


def _is_unit_letter(letter: str, text: str, start: int) -> bool:
    return letter in vocabulary.LETTER_UNITS and text[:start].rstrip()[-1:].isdigit()


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _marked_words(content: str) -> str:
    """The content of \\text: every run of letters is a word, but for i and e, which are numbers."""
    content = _HYPHEN.sub(" ", content.replace("non-", "non")).replace("'s", "")
    return _RUN.sub(
        lambda run: run.group() if run.group() in ("i", "e") or run.group()[0] == "\\" else _mark(run.group()), content
    )


def _mark(run: str) -> str:
    return f"{_OPEN}{run if len(run) == 1 else run.lower()}{_CLOSE}"


def _marked_letters(text: str) -> str:
    """What stands outside \\text: words are told from products of letters."""
    text = _WRITTEN_PI.sub(r"\\pi ", _WRITTEN_INFINITY.sub(r"\\infty ", text))
    text = _LETTER_UNITS.sub(lambda unit: " " + _RUN.sub(_mark_unit, unit[1]), text)
    text = _HYPHEN.sub(lambda hyphen: " " if _is_hyphen(text, hyphen.start()) else "-", text)
    text = _RUN.sub(lambda run: _mark(run.group()) if _is_word(run) else run.group(), text)
    return re.sub(rf"(?<![A-Za-z\\^_{{])(?:a|I)\s+(?={_OPEN})", "", text)


def _mark_unit(run: re.Match[str]) -> str:
    return run.group() if run.group()[0] == "\\" else _mark(run.group())


def _is_hyphen(text: str, position: int) -> bool:
    before, after = (
        re.search(r"[A-Za-z]+\Z", text[max(0, position - 30) : position]),
        re.match(r"[A-Za-z]+", text[position + 1 : position + 30]),
    )
    return bool(before and after and (len(before.group()) > 2 or len(after.group()) > 3))


def _is_word(run: re.Match[str]) -> bool:
    letters = run.group()
    if letters[0] == "\\" or len(letters) == 1:
        return False
    key, text = letters.lower(), run.string
    if text[: run.start()].endswith(("_", "_{")):
        return False
    before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
    apart = before in ("", " ", ",", ";", ":", "(", "}", "%", _CLOSE) and after in (
        "",
        " ",
        ",",
        ";",
        ":",
        ")",
        ".",
        "=",
        _OPEN,
        "?",
        "/",
        "^",
    )
    if key in vocabulary.FUNCTIONS:
        return (
            key in vocabulary.UNITS
            and before == " "
            and text[: run.start()].rstrip()[-1:].isdigit()
            and after in ("", " ", ".", ",")
        )
    if key in vocabulary.TOUCHING and before.isdigit() and (after in ("", " ", ",", ";", ")", ".", "/", "^")):
        return True
    known = (
        key in vocabulary.UNITS
        or key in vocabulary.CHANGING
        or key in vocabulary.FILLER
        or key in vocabulary.FILLER_AFTER
    )
    if letters.isupper() and key not in ("usd", "eur", "am", "pm", "or", "and", "not", "no", "bc", "ad", "yes"):
        return False
    if len(letters) < 4:
        return apart and (
            known or (len(letters) == 3 and any(c in "aeiouy" for c in key) and not _is_alphabetical(key))
        )
    return known or not _is_alphabetical(key)


def _is_alphabetical(key: str) -> bool:
    """Whether the letters follow each other as variables do: "abcd", "xyz"."""
    return all(0 < ord(second) - ord(first) <= 2 for first, second in itertools.pairwise(key))


def _joined(text: str) -> str:
    """Rewrite "and" and "or" between two values as the comma of a list; "or" between inequalities stays a word."""
    joiners = [joiner for joiner in _JOINER.finditer(text) if not ("&" in joiner.group() and "\\begin" in text)]
    starts = [0, *(joiner.end() for joiner in joiners)]
    ends = [*(joiner.start() for joiner in joiners), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    joined = pieces[0]
    for joiner, before, after in zip(joiners, pieces, pieces[1:], strict=False):
        if not (_has_value(before) and _has_value(after)):
            joined += joiner.group() + after
        elif "&" not in joiner.group() and joiner[1] != "and" and _RELATION.search(before) and _RELATION.search(after):
            joined += f" {_OPEN}or{_CLOSE}, {after}"
        else:
            joined += f", {after}"
    return joined


def _has_value(text: str) -> bool:
    return bool(_HAS_VALUE.search(_WORD.sub("", text)))


def _words_alone(text: str) -> Reading:
    words = [_spelled(word) for word in _WORD.findall(text)]
    rest = _trimmed(_WORD.sub(" ", text))
    if len(words) == 1 and len(words[0]) == 1:
        return Reading(rest.replace("( )", "()").replace("()", "") + words[0])
    kept = tuple(word for word in words if word not in vocabulary.FILLER)
    return Reading("", kept or tuple(words))


def _spelled(word: str) -> str:
    return vocabulary.SPELLINGS.get(word, word)


def _without_units(text: str) -> str:
    return _UNIT.sub(_unit, text)


def _unit(match: re.Match[str]) -> str:
    """Keep of the words after a value those that change it."""
    words = _WORD.findall(match[2])
    counted = match.string[match.start() - 1].isdigit()
    kept = []
    for position, word in enumerate(words):
        noun_follows = position + 1 < len(words) and not _changes(words[position + 1])
        if (
            word in vocabulary.FILLER_AFTER
            and not kept
            and not (position + 1 < len(words) and words[position + 1] == "than")
        ):
            continue
        if _changes(word) and not (counted and word in vocabulary.ADJECTIVES and noun_follows and not kept):
            kept.append(word)
    rest = match.string[match.end() :]
    apart = ", " if _VALUE.match(rest) and not kept else " "
    return " " + " ".join(_mark(word) for word in kept) + apart


def _changes(word: str) -> bool:
    return word in vocabulary.CHANGING


def _drop_or_keep(match: re.Match[str], kept: list[str]) -> str:
    """What stands in the place of a word that is not behind a value."""
    word = match.group(1)
    before, after = match.string[: match.start()], match.string[match.end() :]
    if len(word) == 1:
        return word
    if _changes(word) or (word in vocabulary.CHANGING_BEFORE and _has_value(after[:100])):
        kept.append(_spelled(word))
        return " "
    if word in vocabulary.FILLER:
        return " "
    between = _HAS_VALUE.search(before[-100:].rpartition(_CLOSE)[2]) and _VALUE.match(after.lstrip()[:1])
    return ", " if between and not before.rstrip().endswith((",", "=", "(", ":", "+", "-")) else " "


def _trimmed(text: str) -> str:
    text = " ".join(text.split())
    previous = None
    while previous != text:
        previous, text = text, _OUTER.sub("", text)
    text = re.sub(r"\s*,(?:\s*,)+\s*", ", ", text)
    text = text.removesuffix(".").rstrip() if text.endswith(".") and not text.endswith("..") else text
    return re.sub(r"^([+-])\s+", r"\1", text)
