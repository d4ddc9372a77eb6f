"""Texts of options: notations that are the same, and notations that only look alike."""

import pytest

from openrlhf_mel.verifier import Reference, check_golds
from openrlhf_mel.verifier.choice import LETTERS, judge, letter, options
from openrlhf_mel.verifier.choice_text import bare, compared, folded


def asked(*texts):
    return "Which?\n" + "\n".join(f"{key}. {text}" for key, text in zip(LETTERS, texts, strict=False))


@pytest.mark.parametrize(
    ("texts", "right", "wrong"),
    [
        (("5", "- 3", "7"), "-3", "3"),
        (("5", r"$- \frac{3}{2}$"), r"-\frac{3}{2}", r"\frac{3}{2}"),
        (("5", "$- x$"), "-x", "x"),
        (("5", "– 2"), "-2", "2"),
        (("OH", "OH-"), "OH-", "OH"),
        (("A", "O-", "AB+"), "O-", "O"),
        (("1+", "1-", "0"), "1-", "1"),
    ],
)
def test_a_minus_stays_before_a_text_and_behind_it(texts, right, wrong):
    question = asked(*texts)
    assert letter(right, question) == "B" and letter(wrong, question) != "B"
    assert check_golds([Reference(right, "choice", question)]) == {}
    assert judge(right, right, question) == "correct"


def test_a_minus_stays_in_each_style():
    assert options("x? (A) $x$ (B) $- x$") == {"A": "x", "B": "- x"}
    assert options(r"$\textbf{(A)}\ 2\qquad\textbf{(B)}\ - 2$") == {"A": "2", "B": "- 2"}
    assert options("x?\nA. 2x\nB. 3x\nC. - 2x\nD. - - 2x") == {"A": "2x", "B": "3x", "C": "- 2x", "D": "- - 2x"}
    assert options("A) 1+ B) 1- C) 0") == {"A": "1+", "B": "1-", "C": "0"}


def test_a_dash_between_options_is_a_joint():
    assert options("x?\nA - Rome\nB - Paris") == {"A": "Rome", "B": "Paris"}
    assert options("(A) Rome - (B) Paris – (C) Oslo, — (D) -3") == {"A": "Rome", "B": "Paris", "C": "Oslo", "D": "-3"}


@pytest.mark.parametrize(
    ("texts", "same", "different"),
    [
        (("10²", "10³"), ("10^2", "10^{2}", "10²", "$10^{2}$"), ("102", "10_2", "210")),
        (("10⁻⁶", "10⁶"), ("10^{-6}", "10^-6", "10⁻⁶"), ("10-6", "10^{6}")),
        (("10¹²", "10"), ("10^{12}", "10^12"), ("1012",)),
        (("3×10⁸ m/s", "3 m/s"), (r"3\times 10^8 m/s", r"3 \times 10^{8}\ \text{m/s}", "3 × 10^8 m/s"), ("3×108 m/s",)),
        (("5½", "6"), ("5 1/2", r"5\frac{1}{2}", r"5 \dfrac12"), ("51/2", "5 + 1/2")),
        (("½", "6"), ("1/2", r"\frac{1}{2}", r"\tfrac12"), ("12", "2/1")),
        (("2ˣ", "6"), ("2^x", "2^{x}"), ("2x",)),
        (("10₂", "6"), ("10_2", "10_{2}"), ("102",)),
        (("H₂O", "6"), ("H2O", "H_2O", r"\text{H}_2\text{O}"), ("H^2O",)),
        (("x ≤ 2", "x ≥ 2"), (r"x \leq 2", r"x\le2", "x <= 2", r"x \leqslant 2"), ("x < 2", "x = 2")),
        (("x ≥ y", "x ≤ y"), (r"x \geq y", r"x\ge y", "x >= y", r"x\geqslant y"), ("x > y",)),
        (("x < 2", "x > 2"), (r"x \lt 2", r"x\lt2"), (r"x \le 2",)),
        (("x ≠ 2", "x = 2"), (r"x \neq 2", r"x\ne 2"), ()),
        (("2πr", "πr"), (r"2\pi r", r"2 \pi r"), (r"\pi 2 r",)),
        (("sin x", "cos x"), (r"\sin x", r"\sin  x"), ("sinx", r"\cos x")),
        (("log₂ 8", "log 8"), (r"\log_2 8", r"\log_{2} 8"), ("log 28", r"\log_{28}")),
        ((r"\frac{a}{b}", "ab"), ("a/b", r"\frac ab"), ("b/a",)),
        (("90°", "180°"), (r"90^\circ", r"90^{\circ}"), ("90",)),
        (("5ᵗʰ", "6ᵗʰ"), ("5th", "5^{th}"), ()),
        (("x − 3", "x + 3"), ("x-3", "x - 3"), ("x3",)),
    ],
)
def test_notations_of_one_value(texts, same, different):
    question = asked(*texts)
    assert [text for text in same if letter(text, question) != "A"] == []
    assert [text for text in different if letter(text, question) == "A"] == []
    assert judge(texts[0], "A", question) == judge(f"A. {same[0]}", texts[0], question) == "correct"


@pytest.mark.parametrize(
    "term", [r"x^\frac12", r"1/\frac12", r"\frac12x", r"\frac12!", r"\frac12^2", r"x\frac12", r"\frac123"]
)
def test_a_fraction_within_a_term_stays(term):
    assert r"\frac" in compared(term)


@pytest.mark.parametrize(
    ("texts", "said", "named"),
    [
        (("CO", "CO2"), "Co", None),
        (("Co", "CO2"), "CO", None),
        (("5 mW", "6 mW"), "5 MW", None),
        (("5 MHz", "6 MHz"), "5 mHz", None),
        (("AA", "bb"), "Aa", None),
        (("Paris", "Rome"), "paris", "A"),
        (("paris", "rome"), "PARIS", "A"),
        (("It is in Paris", "No"), "it IS in paris", "A"),
        (("A city", "No"), "a City", "A"),
        (("It is in Paris", "No"), "no", "B"),
    ],
)
def test_case_counts_in_symbols_and_not_in_words(texts, said, named):
    assert letter(said, asked(*texts)) == named
    assert letter(f"A. {said}", asked(*texts)) == ("A" if named == "A" else None)


def test_case_counts_in_variables_and_commands():
    assert letter("X", asked("x", "y")) is letter(r"\delta x", asked(r"\Delta x", "y")) is None


@pytest.mark.parametrize("text", ["", "İx", "STRASSE ß", "ΑΒΓ αβγ", r"\Delta ABC", "a" * 2_000, "ǅǅǅ"])
def test_folding_keeps_the_length(text):
    assert len(folded(text)) == len(compared(text))


def test_ascii_and_words_signs_are_left_alone():
    assert bare("10^2 x_1") == "10^2 x_1" and bare("1º ™") == "1o TM"
