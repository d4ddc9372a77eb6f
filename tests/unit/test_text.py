"""Invisible characters are removed from a text, and nothing else."""

import sys
import unicodedata

import pytest

from openrlhf_mel.text import without_invisible


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff12", "12\u200b", "1\u200d2", "1\u200c2", "\u200e12\u200f", "\u202a12\u202c", "\u206612\u2069", "1\u00ad2",
        "1\u20602", "1\u20622", "1\ufe0f2\ufe0e", "\x001\x102\x7f", "1\u180e2", "\U000e00011\U000e01002", "1\u061c2", "\x801\x9f2",
    ],
)  # fmt: skip
def test_invisible_characters_go(text):
    assert without_invisible(text) == "12"


@pytest.mark.parametrize(
    "text",
    [
        "", "1 2", "a\tb\r\nc", "1\u00a02", "1\u20092", "1\u202f2", "1\u30002", "a\u2028b", "a\x0b\x0cb\x85", "\x08eta", "\x07lpha", "naïve e\u0301", "क्ष",
        "−5", "x²", "🙂", "\\frac{1}{2}", "\u0600\u06dd",
    ],
)  # fmt: skip
def test_the_rest_stays(text):
    assert without_invisible(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\\pi\u200br^2", "\\pi r^2"), ("2\\cdot\u2060\u200bx", "2\\cdot x"), ("\\pi\u200b2", "\\pi2"),
        ("\\{\u200bx", "\\{x"), ("pi\u200br", "pir"), ("\\frac\ufeff{1}{2}", "\\frac{1}{2}"),
    ],
)  # fmt: skip
def test_a_latex_command_keeps_its_end(text, expected):
    assert without_invisible(text) == expected


def test_no_letter_digit_or_space_goes_and_every_invisible_format_does():
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13460)}
    for number in set(range(sys.maxunicode + 1)) - drawn:
        kind = unicodedata.category(chr(number))
        if kind[0] in "LNPSZ" or kind == "Cf":
            assert without_invisible(chr(number)) == ("" if kind == "Cf" else chr(number)), hex(number)
