"""Words told from mathematics: each word of an answer is put between two marks, so that rules see it as one token. Pure."""

import itertools
import re

from openrlhf_mel.verifier import vocabulary

# Characters of Unicode's private use.
OPEN, CLOSE = "\ue000", "\ue001"
WORD = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")
ANY = f"{OPEN}[^{OPEN}{CLOSE}]*{CLOSE}"

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
_WRITTEN_INFINITY = re.compile(r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])")
_WRITTEN_PI = re.compile(r"(?<![A-Za-z\\])pi(?![A-Za-z])")


def marked(text: str) -> str:
    """Mark the words of a text in `canonical` notation: what \\text and its like hold, and letters that are no product."""
    text = _CLOCK.sub(r"\1m ", _CURRENCY.sub("", text))
    parts, position = [], 0
    for command in _TEXT.finditer(text):
        if command.start() >= position:
            end = _closing_brace(text, command.end())
            parts += [_marked_letters(text[position : command.start()]), _content(command, text[command.end() : end])]
            position = end + 1
    return "".join(parts) + _marked_letters(text[position:])


def _content(command: re.Match[str], content: str) -> str:
    """What stands in the place of \\text{content}."""
    name, before = content.strip(), command.string[: command.start()].rstrip()
    if before.rstrip("{ ").endswith("_"):  # the name of a variable, as in v_{\text{max}}
        return content.replace(" ", "")
    if command[1].startswith(("math", "operator")):
        if name in vocabulary.FUNCTIONS:
            return f"{command.group()}{content}}}"
        if len(name) == 1 and not (name in vocabulary.LETTER_UNITS and before[-1:].isdigit()):
            return content
    return _marked_words(content)


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
        lambda run: run.group() if run.group() in ("i", "e") or run.group()[0] == "\\" else mark(run.group()), content
    )


def mark(run: str) -> str:
    return f"{OPEN}{run if len(run) == 1 else run.lower()}{CLOSE}"


def _marked_letters(text: str) -> str:
    """What stands outside \\text: words are told from products of letters."""
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
    letters = run.group()
    if letters[0] == "\\" or len(letters) == 1:
        return False
    key, text = letters.lower(), run.string
    if text[: run.start()].endswith(("_", "_{")):
        return False
    before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
    apart = before in ("", " ", ",", ";", ":", "(", "}", "%", CLOSE) and after in (
        "",
        " ",
        ",",
        ";",
        ":",
        ")",
        ".",
        "=",
        OPEN,
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
