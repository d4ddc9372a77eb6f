"""Texts of options and of answers that name one: without what sets them, and in a form in which equal ones are equal. Pure."""

import re
import unicodedata
from functools import lru_cache

from openrlhf_mel.text import without_invisible
from openrlhf_mel.verifier.notation import SIGNS
from openrlhf_mel.verifier.substitutions import substitute, table


def _characters(kind: str) -> str:
    """The characters that Unicode calls `kind`: "<super>", "<sub>". Those of words ("1º", "™") stay."""
    found = (character for character in map(chr, range(0x80, 0x3000)) if character not in "ªº™℠")
    return "".join(character for character in found if unicodedata.decomposition(character).startswith(kind))


# What NFKC would join to the digits in front of it, as in "10²": (pattern, what is put before it, and behind it).
_FLATTENED = (
    (re.compile(f"[{_characters('<super>')}]+"), "^{", "}"),
    (re.compile(f"[{_characters('<sub>')}]+"), "_{", "}"),
    (re.compile("[¼-¾⅐-⅞↉]"), " ", ""),
)

# What is taken out of a text, in this order: (pattern, what stands in its place).
_SIZES = "tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
_SETTING = table(
    (
        # fonts and sizes with an argument; its brace is left without a partner, and goes with the stray ones
        (
            r"\\(?:text(?:bf|it|rm|sf|tt|sc|normal|up)?|math(?:bf|rm|sf|it|tt|bb|cal|scr|frak|normal)|boldsymbol|bm|emph"
            rf"|underline|operatorname\*?|mbox|hbox|{_SIZES})\s*\{{",
            "",
        ),
        (rf"\\(?:bf|rm|it|sf|tt|em|bfseries|itshape|displaystyle|{_SIZES})(?![A-Za-z])", ""),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (r"\\(?:[,;:! ]|q?quad(?![A-Za-z]))|(?<=\w)~(?=\w)", " "),  # "~P" is a negation
        (r"(?<![\w*])\*\*(?=\S)|(?<=\S)\*\*(?![\w*])", ""),  # "x**2" is a power
        (r"(?<!\\)\$|\\[()\[\]]", " "),
    )
)
_WHOLE = re.compile(
    r"\{(?P<braces>[^{}]*)\}|\\\{\s*(?P<set>[A-Za-z])\s*\\\}|(['\"“‘])(?P<quoted>[^'\"“”‘’]*)['\"”’]|(?P<mark>[*_])(?P<marked>\w[^*_]*)(?P=mark)"
)
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
# Ways to write the same: (pattern, what stands in its place), for comparison.
_NOT_IN_A_TERM = r"(?<![A-Za-z_^}\\)/:])"
_ARGUMENT = r"(?:\{(\d+)\}|([0-9A-Za-z]))"
_SAME = table(
    (
        (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
        (r"\\le(?:q|qq|qslant)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\ge(?:q|qq|qslant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})", "°"),
        (r"\{,\}", ","),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),  # 1,000
        (r"\^\{(st|nd|rd|th)\}", r"\1"),
        (r"\{([\w+-])\}", r"\1"),  # x^{2}
        (r"\\([$%])", r"\1"),
        (r"\$", ""),
        (r"[(\[]\s*([A-Z])\s*[)\]]", r" \1 "),  # "both (A) and (B)"
        (r"(?<![\\A-Za-z])(sin|cos|tan|log|ln|sqrt)(?![A-Za-z])", r"\\\1 "),
        (r"\s*\\", r"\\"),
        (rf"{_NOT_IN_A_TERM}\\frac\s*{_ARGUMENT}{_ARGUMENT}(?![\w^({{\\!])", r" \1\2/\3\4"),  # 5\frac{1}{2} is 5 1/2
        (r"\s*([^\w\s])\s*", r"\1"),
        (r"(\\[A-Za-z]+)\s+(?![A-Za-z])", r"\1"),  # \times 10
        (r"\^([+-]?\d\d+|[+-]\d)", r"^{\1}"),  # 10^-6
        (r"(?<=[A-Za-z)])(?<!log)_(?:\{(\d+)\}|(\d))(?!\d)", r"\1\2"),  # H_2O
        (r"(?<=\d)\s+(?=[A-Za-z°])", ""),  # 5 m/s
        (r"\s+", " "),
    )
)
_LETTERS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]+")
_SHORT_WORD = re.compile("in|of|is|it|an?|to|on|at|by|as|or|no|we|he|if|do|so|up|be|i")


def bare(text: str) -> str:
    """A text without fonts, delimiters and invisible characters, in Unicode's NFKC; lines and powers stay."""
    text = without_invisible(text)
    if not text.isascii():
        for pattern, before, behind in _FLATTENED:
            text = pattern.sub(rf"{before}\g<0>{behind}", text)
        text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    return substitute(_SETTING, text)


def plain(text: str) -> str:
    """A bare text on one line, without stray braces, its last point, and braces or quotes around the whole."""
    text = " ".join(_without_stray_braces(bare(text)).split()).removesuffix(".").rstrip()
    whole = _WHOLE.fullmatch(text)
    inner = whole.group("braces", "set", "quoted", "marked") if whole else (text,)
    return next(part for part in inner if part is not None).strip()


@lru_cache(maxsize=4096)  # of an option's text for every answer
def compared(text: str) -> str:
    """The form in which two plain texts are compared: one way to write each sign, no spaces around signs, no `$`."""
    text = " ".join(text.translate(SIGNS).split())
    return substitute(_SAME, text).strip()


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """The compared form in small letters, of the same length. Case has a meaning, and stays, in CO, MHz, \\Delta."""
    text = compared(text)
    has_words = any(_is_word(run) for run in _LETTERS.findall(text))
    return _LETTERS.sub(lambda run: _small(run.group(), has_words), text)


def _small(run: str, has_words: bool) -> str:
    """A run of letters in small ones; "NO" and "A" only beside words."""
    small = run.lower()
    is_short = _SHORT_WORD.fullmatch(small) and (has_words or not run.isupper())
    return small if len(small) == len(run) and (_is_word(run) or is_short) else run


def _is_word(run: str) -> bool:
    return len(run) > 2 and (run.islower() or run.isupper() or run.istitle())


def _without_stray_braces(text: str) -> str:
    """Drop braces without a partner: those that a font's command, or a cut between two options, has left."""
    opened: list[int] = []
    stray: set[int] = set()
    for brace in _BRACES.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}":
            if opened:
                opened.pop()
            else:
                stray.add(brace.start())
    stray.update(opened)
    return "".join(character for at, character in enumerate(text) if at not in stray)
