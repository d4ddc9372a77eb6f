"""Rewrites of an answer for the fuzz test: those that keep its meaning, and those that change it.

A rewrite takes a reference answer and a source of random numbers, and returns a response; None where it does not apply.
"""

import random
import re
from collections.abc import Callable

Rewrite = Callable[[str, random.Random], str | None]

_INTEGER = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_POINT = re.compile(r"\(([^()\[\]{}]+(?:,[^()\[\]{}]+)+)\)")
_SET = re.compile(r"\\\{([^()\[\]{}]+(?:,[^()\[\]{}]+)+)\\\}")
# A match means that the answer is not a single value, which could be negated, doubled or given a unit.
_MANY = re.compile(r"[,;=<>$%]|\\(?:text|mbox|begin|in|cup|infty|pm|circ|l[et]|g[et]|\{)|\.\.|[A-Za-z]{4,}|&")
_UNICODE = {
    "-": "−",
    "\\cdot": "·",
    "\\times": "×",
    "\\pi": "π",
    "\\infty": "∞",
    "\\le ": "≤",
    "\\cup": "∪",
    "\\alpha": "α",
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_one_value(gold: str) -> bool:
    return not _MANY.search(gold) and gold.count("(") == gold.count(")") and not gold.startswith("(")


def _boxed(answer: str | None) -> str | None:
    return None if answer is None else f"So it is $\\boxed{{{answer}}}$."


def _sub(pattern: str, replacement: str, gold: str) -> str | None:
    changed = re.sub(pattern, replacement, gold)
    return changed if changed != gold else None


def _grouped(separator: str) -> Rewrite:
    def rewrite(gold: str, _: random.Random) -> str | None:
        if not _INTEGER.fullmatch(gold) or len(gold.lstrip("-")) < 4 or gold.lstrip("-").startswith("0"):
            return None
        return _boxed(f"{int(gold):,}".replace(",", separator))

    return rewrite


def _in_unicode(gold: str, _: random.Random) -> str | None:
    text = gold
    for command, character in _UNICODE.items():
        text = re.sub(re.escape(command) + ("(?![A-Za-z])" if command[0] == "\\" else ""), character, text)
    text = re.sub(r"\^(?:\{([0-9]+)\}|([0-9])(?![0-9]))", lambda m: (m[1] or m[2]).translate(_SUPERSCRIPTS), text)
    text = re.sub(r"\\sqrt\{([0-9]+)\}", r"√\1", text)
    return _boxed(text) if text != gold else None


def _full_width(gold: str, _: random.Random) -> str | None:
    return (
        _boxed("".join(chr(0xFF10 + int(c)) if c.isdigit() else c for c in gold)) if _NUMBER.fullmatch(gold) else None
    )


def _invisible(gold: str, draw: random.Random) -> str | None:
    places = [place for place in range(len(gold) + 1) if "\\" not in gold[max(0, place - 12) : place + 1]]
    if not places:
        return None
    place = draw.choice(places)
    return _boxed(gold[:place] + draw.choice("\u200b\ufeff\u2060\u200e") + gold[place:])


def _with(suffix: str, only_numbers: bool = True) -> Rewrite:
    return lambda gold, _: _boxed(gold + suffix) if _NUMBER.fullmatch(gold) or not only_numbers else None


def _one(template: str) -> Rewrite:
    """Return a rewrite that boxes a single value, GOLD in the template."""
    return lambda gold, _: _boxed(template.replace("GOLD", gold)) if is_one_value(gold) else None


def _phrase(template: str, only_numbers: bool = False) -> Rewrite:
    def rewrite(gold: str, _: random.Random) -> str | None:
        applies = _NUMBER.fullmatch(gold) if only_numbers else "$" not in gold and len(gold) < 150
        return template.replace("GOLD", gold) if applies else None

    return rewrite


KEEP: dict[str, Rewrite] = {
    "box": lambda gold, _: _boxed(gold),
    "spaces around": lambda gold, _: _boxed(f"\\, {gold} \\;"),
    "spaces at operators": lambda gold, _: _boxed(_sub(r"(?<=[0-9A-Za-z)}])([+=<>])(?=[0-9A-Za-z(\\])", r" \1\\, ", gold)),
    "dfrac": lambda gold, _: _boxed(_sub(r"\\frac(?![A-Za-z])", r"\\dfrac", gold)),
    "left and right": lambda gold, _: _boxed(f"\\left{gold[0]}{gold[1:-1]}\\right{gold[-1]}" if _POINT.fullmatch(gold) else None),
    "braces": lambda gold, _: _boxed(_sub(r"\^([0-9])(?![0-9])", r"^{\1}", gold)),
    "dollars": lambda gold, _: _boxed(f"${gold}$") if "$" not in gold else None,
    "last period": lambda gold, _: _boxed(gold + ".") if "$" not in gold else None,
    "group of digits: comma": _grouped(","),
    "group of digits: \\,": _grouped("\\,"),
    "group of digits: {,}": _grouped("{,}"),
    "group of digits: \\ ": _grouped("\\ "),
    "group of digits: thin space": _grouped("\u2009"),
    "group of digits: space": _grouped(" "),
    "Unicode": _in_unicode,
    "full width": _full_width,
    "invisible": _invisible,
    "unit in text": _with("\\text{ cm}"),
    "unit of two words": _with("\\text{ square units}"),
    "unit written plainly": _with(" cm^2"),
    "compound unit": _with(" km/h"),
    "counted noun": _with(" apples"),
    "currency": lambda gold, _: _boxed(f"\\${gold}") if _NUMBER.fullmatch(gold) else None,
    "euro": lambda gold, _: _boxed(f"€{gold}") if _NUMBER.fullmatch(gold) else None,
    "name": _one("x = GOLD"),
    "sum of names": _one("m+n = GOLD"),
    "value of a function": _one("f(2) = GOLD"),
    "set order": lambda gold, _: _boxed("\\{" + ",".join(reversed(m[1].split(","))) + "\\}") if (m := _SET.fullmatch(gold)) else None,
    "a choice's letter": _one("\\textbf{(C)}\\ GOLD"),
    "phrase": _phrase("We add.\nAnswer: GOLD"),
    "phrase in formula": _phrase("We add.\nAnswer: $GOLD$"),
    "phrase in bold": _phrase("We add.\n\n**Answer:** GOLD"),
    "phrase on the next line": _phrase("We add.\n\n## Final Answer\n\n$GOLD$"),
    "sentence": _phrase("Add.\nThe final answer is $GOLD$. I hope it is correct."),
    "sentence with a noun": _phrase("Answer: There are GOLD apples altogether.", only_numbers=True),
    "thinking before": lambda gold, _: f"<think>Perhaps \\boxed{{1{gold}}}?</think> So \\boxed{{{gold}}}.",
    "placeholder after": lambda gold, _: f"So \\boxed{{{gold}}}. (The form was \\boxed{{\\text{{your answer}}}}.)",
}  # fmt: skip


def _other_digit(gold: str, draw: random.Random) -> str | None:
    places = [m.start() for m in re.finditer(r"(?<![0-9.])[1-9]", gold)]
    if not places:
        return None
    place = draw.choice(places)
    digit = int(gold[place])
    return gold[:place] + str(digit + 1 if digit < 9 else 8) + gold[place + 1 :]


def _negated(gold: str, _: random.Random) -> str | None:
    if not is_one_value(gold) or not re.search("[1-9a-zA-Z]", gold):
        return None
    return _boxed(
        gold[1:]
        if _NUMBER.fullmatch(gold) and gold[0] == "-"
        else f"-({gold})"
        if not _NUMBER.fullmatch(gold)
        else f"-{gold}"
    )


CHANGE: dict[str, Rewrite] = {
    "sign": _negated,
    "sign in Unicode": lambda gold, _: _boxed(f"−{gold}") if re.fullmatch("[1-9][0-9]*", gold) else None,
    "sign in words": lambda gold, _: f"Answer: minus {gold}" if re.fullmatch("[1-9][0-9]*", gold) else None,
    "digit": lambda gold, draw: _boxed(_other_digit(gold, draw)),
    "one more digit": lambda gold, _: _boxed(gold + "7") if _INTEGER.fullmatch(gold) else None,
    "second candidate: or": lambda gold, _: _boxed(gold + "\\text{ or }1717"),
    "second candidate: comma": lambda gold, _: _boxed(gold + ", 1717"),
    "second candidate in a phrase": _phrase("Answer: GOLD or 1717"),
    "second candidate in formulas": _phrase("Answer: $GOLD$ or maybe $1717$"),
    "word before: fewer than": _phrase("Answer: fewer than GOLD", only_numbers=True),
    "word before: at most": lambda gold, _: _boxed(f"\\text{{at most }}{gold}") if _NUMBER.fullmatch(gold) else None,
    "word before: not": _phrase("The final answer is not GOLD", only_numbers=True),
    "word after: million": lambda gold, _: _boxed(gold + "\\text{ million}") if re.fullmatch("-?[1-9][0-9]*", gold) else None,
    "word after: percent": lambda gold, _: _boxed(gold + "\\text{ percent}") if re.fullmatch("-?[1-9][0-9]*", gold) else None,
    "word after: dozen": lambda gold, _: _boxed(gold + "\\text{ dozen}") if re.fullmatch("-?[1-9][0-9]*", gold) else None,
    "word after: p.m.": lambda gold, _: _boxed(gold + "\\text{ p.m.}") if _INTEGER.fullmatch(gold) else None,
    "word after: or more": _phrase("Answer: GOLD or more", only_numbers=True),
    "word after: and a half": _phrase("Answer: GOLD and a half", only_numbers=True),
    "set for point": lambda gold, _: _boxed(f"\\{{{m[1]}\\}}" if (m := _POINT.fullmatch(gold)) else None),
    "point for set": lambda gold, _: _boxed(f"({m[1]})" if (m := _SET.fullmatch(gold)) else None),
    "ellipsis": lambda gold, _: _boxed(gold + ",\\ldots"),
    "plus one": _one("(GOLD)+1"),
    "a factor": lambda gold, _: _boxed(f"3 \\cdot ({gold})") if is_one_value(gold) and re.search("[1-9a-zA-Z]", gold) else None,
    "a variable beside": _one("(GOLD) + x_7"),
    "a root beside": lambda gold, _: f"Answer: {gold} \\sqrt{{5}}" if re.fullmatch("-?[1-9][0-9]*", gold) else None,
    "side: square": _one("x^2 = GOLD"),
    "side: multiple": _one("2x = GOLD"),
    "side: sign": lambda gold, _: _boxed(f"-x = {gold}") if is_one_value(gold) and re.search("[1-9]", gold) else None,
    "side: bars": _one("|x| = GOLD"),
    "side: logarithm": _one("\\log_2 x = GOLD"),
    "inequality": _one("x > GOLD"),
    "only thought": lambda gold, _: f"<think>It is \\boxed{{{gold}}}</think> I do not know.",
    "thought to no end": lambda gold, _: f"<think>It is \\boxed{{{gold}}}, or",
    "percent sign": lambda gold, _: _boxed(f"{gold}\\%") if re.fullmatch("-?[1-9][0-9]*", gold) else None,
    "a number beside": lambda gold, _: _boxed(f"{gold} 17") if re.fullmatch("[1-9][0-9]*", gold) else None,
}  # fmt: skip


def generated(count: int, draw: random.Random) -> list[str]:
    """Return reference answers of the usual forms."""

    def number() -> int:
        return draw.choice((-1, 1, 1)) * draw.randint(2, 10 ** draw.randint(1, 7))

    def small() -> int:
        return draw.randint(2, 30)

    forms: tuple[Callable[[], str], ...] = (
        lambda: str(number()),
        lambda: str(draw.randint(1, 999)),
        lambda: f"{draw.randint(1, 999)}.{draw.randint(1, 9)}",
        lambda: f"\\frac{{{small()}}}{{{small() + 31}}}",
        lambda: f"{small()}\\sqrt{{{draw.choice((2, 3, 5, 7))}}}",
        lambda: f"{small()}\\pi",
        lambda: f"x^2+{small()}x-{small()}",
        lambda: f"({small()},{-small()})",
        lambda: f"\\{{{small()},{small() + 31}\\}}",
        lambda: f"({-small()},{small()}]",
        lambda: f"{small()}-{small()}i",
        lambda: f"2^{{{small()}}}-1",
        lambda: f"{small()},{small() + 31}",
        lambda: f"\\frac{{{small()}+\\sqrt{{{draw.choice((2, 3, 5))}}}}}{{{small() + 1}}}",
        lambda: f"{small()}n+{small()}",
        lambda: f"\\begin{{pmatrix}} {small()} \\\\ {-small()}/{small() + 31} \\end{{pmatrix}}",
        lambda: f"{small()}\\log_2 {draw.choice((3, 5, 7))}",
        lambda: f"(-\\infty,{small()})\\cup({small() + 31},\\infty)",
        lambda: f"{small()}^\\circ",
        lambda: f"x>{small()}",
        lambda: draw.choice(("\\text{Evelyn}", "\\text{even}", "\\text{(C)}", "\\text{no solution}")),
        lambda: f"\\frac{{{small()}x}}{{y^2+{small()}}}",
    )
    return [forms[number % len(forms)]() for number in range(count)]
