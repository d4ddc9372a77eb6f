"""Distinguishes words from mathematics: puts each word between two marks, so that rules see it as one token. Pure."""

import itertools
import re

from openrlhf_mel.verifier import vocabulary

# Characters of Unicode's private use.
OPEN, CLOSE = "\ue000", "\ue001"
WORD = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
ANY = f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}"

_NO_MARKS = {ord(OPEN): None, ord(CLOSE): None}
_TEXT = re.compile(r"\\(text(?:bf|rm|it|sf|tt|normal|up|md)?|mbox|hbox|mathrm|mathbf|mathsf|operatorname)\*?\s*\{")
_RUN = re.compile(r"\\[A-Za-z]+|[A-Za-z]+")
_ARTICLE = re.compile(r"(?<![A-Za-z])(?:a|I)\s+(?=[A-Za-z]{2})")
_UNIT_PLACE = re.compile(r"(?:[0-9/]|\\cdot|[0-9]\}|\\frac\{)\Z")
_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])")
_CLOCK = re.compile(r"(?<![A-Za-z\\])([apAP])\.\s?[mM](?![A-Za-z])\.?")
_CURRENCY = re.compile(
    r"\\(?:pounds|euro|textdollar|texteuro|textsterling|textcent|yen|cent)(?![A-Za-z])|[€£¥₹¢₽₩₫₪]|(?<![A-Za-z\\])(?:US|CA|AU|HK)(?=\s*[0-9])"
)
# Units of one letter without \text: only together with another unit, as in "m/s", and after a number.
_LETTER_UNITS = re.compile(
    r"(?<=[0-9}])\s*(?<![A-Za-z\\])((?:k?m|[cm]m|m?g|kg|k?N|k?J|k?W|V|A|L|C|mi|ft|mol|k?Pa)(?:\s*\^\s*\{?[23]\}?)?"
    r"(?:\s*(?:/|\\cdot|\*)\s*(?:s|h|hr|min|sec|k?g|mol|K|L|ml|k?m|cm|N)(?![A-Za-z])(?:\s*\^\s*\{?-?[0-9]\}?)?){1,3})(?![A-Za-z0-9^_({\\])"
)
_TEMPERATURE = re.compile(r"\^\{\\circ\}\s*(?:[CF]|\\(?:text|mathrm)\s*\{\s*[CF]\s*\})(?![A-Za-z])")
_BEARING = re.compile(rf"\^\{{\\circ\}}\s*{OPEN}?([NSEW]){CLOSE}?(?![A-Za-z])")
_ABBREVIATION = re.compile(rf"{CLOSE}\.(?=\s*(?:{OPEN}|$))")
_LEFT_OF_A_WORD = frozenset(("", " ", ",", ";", ":", "(", "}", "%", "/", CLOSE))
_RIGHT_OF_A_WORD = frozenset(("", " ", ",", ";", ":", ")", ".", "=", "?", "/", "^", OPEN))
_WRITTEN_IN_CAPITALS = frozenset(("am", "pm", "or", "and", "not", "no", "bc", "ad", "yes", "none", "true", "false"))
KNOWN = (
    vocabulary.UNITS
    | vocabulary.CHANGING
    | vocabulary.CHANGING_BEFORE
    | vocabulary.FILLER
    | vocabulary.FILLER_AFTER
    | vocabulary.RANGES
)
_WRITTEN_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])")
_WRITTEN_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")


def marked(text: str) -> str:
    """Mark the words of a text in `canonical` notation: contents of \\text or the like, letters of no product."""
    text = text.translate(_NO_MARKS)  # an answer may contain any character
    text = " ".join(_CLOCK.sub(r"\1m ", _CURRENCY.sub(" ", text)).split())
    text = _TEMPERATURE.sub(r"^{\\circ}", text)
    parts, position = [], 0
    for command in _TEXT.finditer(text):
        if command.start() >= position:
            end = _closing_brace(text, command.end())
            parts += [_marked_letters(text[position : command.start()]), _content(command, text[command.end() : end])]
            position = end + 1
    told = "".join(parts) + _marked_letters(text[position:])
    return _ABBREVIATION.sub(
        CLOSE, _BEARING.sub(lambda bearing: f"^{{\\circ}} {mark(vocabulary.COMPASS[bearing[1]])}", told)
    )


def _content(command: re.Match[str], content: str) -> str:
    """The replacement of \\text{content}."""
    name, before = content.strip(), command.string[: command.start()].rstrip()
    if before.rstrip("{ ").endswith("_"):  # the name of a variable, as in v_{\text{max}}
        return content.replace(" ", "")
    if name in vocabulary.FUNCTIONS and not before[-1:].isdigit():
        return f"\\operatorname{{{name}}}"
    if command[1].startswith(("math", "operator")) and len(name) == 1:
        return mark(name) if _is_unit(name) and _UNIT_PLACE.search(before) else content
    return _marked_words(content)


def _is_unit(letter: str) -> bool:
    return letter in vocabulary.LETTER_UNITS


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _marked_words(content: str) -> str:
    """The content of \\text: runs of letters are words, except single letters that are no units, and capitals."""
    content = _ARTICLE.sub(
        "", _HYPHEN.sub(" ", content.replace("non-", "non")).replace("o'clock", "").replace("'s", "")
    )
    return _RUN.sub(lambda run: run.group() if _is_symbol(run.group()) else mark(run.group()), content)


def _is_symbol(letters: str) -> bool:
    """Whether letters are a name or a product of names in every position."""
    if letters[0] == "\\":
        return True
    if len(letters) == 1:
        return letters not in "NSEW" and not _is_unit(letters)
    return letters.isupper() and letters.lower() not in _WRITTEN_IN_CAPITALS | vocabulary.UNITS


def mark(run: str) -> str:
    return f"{OPEN}{run if len(run) == 1 else run.lower()}{CLOSE}"


def _marked_letters(text: str) -> str:
    """The text outside \\text, where words are distinguished from products of letters."""
    text = _WRITTEN_PI.sub(r"\\pi ", _WRITTEN_INFINITY.sub(r"\\infty ", text))
    text = _LETTER_UNITS.sub(lambda unit: " " + _RUN.sub(_mark_unit, unit[1]), text)
    text = _HYPHEN.sub(lambda hyphen: " " if _is_hyphen(text, hyphen.start()) else "-", text)
    text = _RUN.sub(lambda run: mark(run.group()) if _is_word(run) else run.group(), text)
    return re.sub(rf"(?<![A-Za-z\\^_{{])(?:a|I)\s+(?={OPEN})", "", text)


def _mark_unit(run: re.Match[str]) -> str:
    return run.group() if run.group()[0] == "\\" else mark(run.group())


def _is_hyphen(text: str, position: int) -> bool:
    before, after = (
        re.search(r"[A-Za-z]+\Z", text[max(0, position - 30) : position]),
        re.match(r"[A-Za-z]+", text[position + 1 : position + 30]),
    )
    return bool(before and after and (len(before.group()) > 2 or len(after.group()) > 3))


def _is_word(run: re.Match[str]) -> bool:
    letters, key = run.group(), run.group().lower()
    earlier = run.string[max(0, run.start() - 20) : run.start()]
    before, after = earlier[-1:], run.string[run.end() : run.end() + 1]
    if len(letters) == 1 or _is_symbol(letters) or earlier.endswith(("_", "_{", "\\begin{", "\\end{")):
        return False
    apart = before in _LEFT_OF_A_WORD and after in _RIGHT_OF_A_WORD
    if key in vocabulary.FUNCTIONS:  # "5 sec" and "5 min" are no functions
        return apart and key in vocabulary.UNITS and earlier.rstrip()[-1:].isdigit() and after in ("", " ", ".", ",")
    if key in vocabulary.TOUCHING and before.isdigit():
        return after in _RIGHT_OF_A_WORD
    if len(letters) > 3:
        return key in KNOWN or not _is_alphabetical(key)
    reads_as_word = len(letters) == 3 and any(vowel in key for vowel in "aeiouy") and not _is_alphabetical(key)
    return apart and (key in KNOWN or reads_as_word)


def _is_alphabetical(key: str) -> bool:
    """Whether the letters follow each other as variables do: "abcd", "xyz"."""
    return all(0 < ord(second) - ord(first) <= 2 for first, second in itertools.pairwise(key))
