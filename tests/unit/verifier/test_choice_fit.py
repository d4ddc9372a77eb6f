"""The text behind an option's letter: what leaves the letter standing, what takes it back or names another."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.verifier.choice import LETTERS, judge, letter, options

pytestmark = pytest.mark.timeout(60)


def asked(*texts):
    return "Which?\n" + "\n".join(f"{key}. {text}" for key, text in zip(LETTERS, texts, strict=False))


BOTH = "Which?\nA. Rome\nB. Paris\nC. Oslo\nD. Both A and B"
IN_BRACKETS = "Which?\n(A) Rome\n(B) Paris\n(C) Oslo\n(D) Both (A) and (B)"
ALL = "Which?\nA. red\nB. blue\nC. green\nD. All of the above"
SUMS = "2+2?\nA. 3\nB. 4\nC. 5"


@pytest.mark.parametrize(
    ("question", "answer", "named"),
    [
        (BOTH, "(D) A and B", "D"),
        (BOTH, "D) Both A and B are right", "D"),
        (IN_BRACKETS, "(D) Both A and B", "D"),
        (IN_BRACKETS, "D. Both A and B", "D"),
        (IN_BRACKETS, "D. Both (A) and (B)", "D"),
        (IN_BRACKETS, "Both A and B", "D"),
        (ALL, "D. All of the above (A, B and C)", "D"),
        (SUMS, "B) 4 (not 3)", "B"),
        (SUMS, "B. 4, since 5-1=4", "B"),
        (BOTH, "D. A or B", None),
        (BOTH, "D. A and C", None),
        (BOTH, "D. A", None),
        (BOTH, "B. Paris and option D", None),
        (BOTH, "B. versus C", None),
        (BOTH, "B. Paris, also option C", None),
        (BOTH, "B. Paris (C)", None),
        (BOTH, "B. Paris (Oslo)", None),
        (ALL, "D. All of the above, C", None),
        (ALL, "D. All of the above or C", None),
        (SUMS, "B) 4 (not 3, or 5)", None),
        (SUMS, "B. 4, since it may be option C", None),
        (SUMS, "B. 4, because C", None),
    ],
)
def test_a_letter_with_what_speaks_of_other_options(question, answer, named):
    assert letter(answer, question) == named


CITIES = asked("Rome", "Paris", "Berlin", "Madrid")
UNREAD = "Which one is it?"


@pytest.mark.parametrize(
    "answer",
    ["B: the answer is C", "B) wrong; correct is C", "B. not this one", "B: False", "B. maybe A",
     "(B) any of the four", "B. Paris?",
     "B. Paris, which is wrong", "B. Paris (not correct)", "B. Paris or Rome", "B. Paris, not sure",
     "B. Paris is incorrect",
     "B. perhaps", "B. Paris, wait, C", "B. It is Paris, C", "B. ?", "B. 错", "(B) Paris 或 Rome"],
)  # fmt: skip
@pytest.mark.parametrize("question", [CITIES, UNREAD])
def test_what_takes_a_letter_back(answer, question):
    assert letter(answer, question) is None
    assert judge(answer, "A", question) == judge(answer, "C", question) == "wrong"


@pytest.mark.parametrize(
    "answer",
    ["B: never", "B. Paris, as A is too small a town", "B. a, b, c and d", "B. a, c", "B. c", "B. Lisbon",
     "B. none of these", "B. Paris and not Rome", "B. Paris, no",
     "B. Paris, Rome", "B. Paris, A sounds right", "B. I think Berlin", r"B. \not", r"B. \text{Paris isn't it}",
     "B. Rome, since Paris",
     "B. ❌", "B. it", "B. That one", "(B) Paris is the best option"],
)  # fmt: skip
def test_what_names_no_option_where_the_options_can_be_read(answer):
    assert letter(answer, CITIES) is None


@pytest.mark.parametrize(
    "answer",
    ["B. Paris", "B. PARIS", "B. The answer is Paris", "B: it's Paris", "B. Paris, France", "B. Paris in France",
     "(B) Paris is correct",
     "B. Paris (B)", "B. Paris, since Rome is no capital"],
)  # fmt: skip
def test_what_leaves_a_letter_standing(answer):
    assert letter(answer, CITIES) == "B"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("B. A city", "B"),
        ("B. I think Paris", "B"),
        ("B. $x^2$", "B"),
        ("B. 20 °C", "B"),
        ("B. x = 5, y = 6", "B"),
        ("B. Not enough information", "B"),
        ("B. A", None),
        ("B. A is right", None),
        ("B. A and C", None),
        ("B. I", None),
        ("B. Paris, J", None),
        ("B. Paris. D", None),
        ("B. Vitamin K", "B"),
    ],
)
def test_behind_a_letter_of_options_that_cannot_be_read(answer, named):
    assert letter(answer, UNREAD) == named


CAPITALS = asked("The capital of France is Paris", "The capital of France is London", "The capital is not Berlin")
COLOURS = asked("red", "red or blue", "not red", "None of the above")
SIDES = asked("x > 2", "x < 2", "x = 2, or x = 3", "no x")
VALUES = asked("1/2", "2", "- 3", r"\sqrt{2}", "5 metres")


@pytest.mark.parametrize(
    ("question", "answer", "named"),
    [
        (CAPITALS, "A. Paris", "A"),
        (CAPITALS, "B. It is London", None),
        (CAPITALS, "A. The capital", None),
        (CAPITALS, "A. London", None),
        (CAPITALS, "A. Paris or London", None),
        (CAPITALS, "C. not Berlin", "C"),
        (CAPITALS, "C. Berlin", None),
        (COLOURS, "B. red or blue", "B"),
        (COLOURS, "A. red or blue", None),
        (COLOURS, "B. red", None),
        (COLOURS, "B. blue", None),
        (COLOURS, "C. red", None),
        (COLOURS, "C. It is not red", "C"),
        (COLOURS, "A. It is not red", None),
        (COLOURS, "D. None", "D"),
        (COLOURS, "D. None, not red", None),
        (SIDES, r"A. x \lt 2", None),
        (SIDES, r"A. x \gt 2", "A"),
        (SIDES, "A. x>2 is false", None),
        (SIDES, "A. x > 2, x < 2", None),
        (SIDES, "A. 2 < x", None),
        (SIDES, "C. x = 3, or x = 2", None),
        (SIDES, "C. x = 3", None),
        (VALUES, r"A. \frac{1}{2}", "A"),
        (VALUES, "A. 0.5", "A"),
        (VALUES, "A. 2", None),
        (VALUES, "A. 2.0", None),
        (VALUES, "A. 3/4", None),
        (VALUES, "A. x = 1/2", "A"),
        (VALUES, "A. x = 2", None),
        (VALUES, "A. 1/2, 2", None),
        (VALUES, "C. -3", "C"),
        (VALUES, "C. 3", None),
        (VALUES, r"D. 2^{1/2}", None),
        (VALUES, r"D. \sqrt2 = 2", None),
        (VALUES, r"D. 2 \lor \sqrt 2", None),
        (VALUES, "D. B", None),
        (VALUES, "D. (C)", None),
        (VALUES, "E. 5", "E"),
        (asked("4.5", "5", "4"), "B. 4.5", None),
        (asked("4.5 cm", "7 cm"), "A. 4 cm", None),
        (asked("4.5 cm", "7 cm"), "A. 4.5cm", "A"),
        (asked("4.5 cm", "7 cm"), "A. 7", None),
        (asked("sin x", "cos x"), r"A. \cos x", None),
        (asked("sin x", "cos x"), r"A. \sin x", "A"),
        (asked(r"\frac{a}{b}", r"\frac{b}{a}"), "A. b/a", None),
        (asked("Statement I", "Statement II", "Both I and II"), "C. I", None),
        (asked("Vitamin C", "Vitamin A", "Vitamin K"), "B. A", None),
        (asked("Vitamin C", "Vitamin A", "Vitamin K"), "B. Vitamin A", "B"),
        (asked("巴黎", "伦敦"), "A. 巴黎", "A"),
        (asked("巴黎", "伦敦"), "A. 巴黎，但是伦敦更好", None),
        (asked("巴黎", "伦敦"), "A. 巴黎和伦敦", None),
    ],
)
def test_a_text_behind_a_letter_is_compared_with_every_option(question, answer, named):
    assert letter(answer, question) == named


words = st.text("klmnopqrstuvwxyz", min_size=3, max_size=8)


@given(st.lists(words, min_size=2, max_size=6, unique=True), st.text("klmpqrsuvwxyz ,.;", max_size=20), st.data())
def test_a_letter_with_another_options_text_names_none(texts, between, data):
    question = asked(*texts)
    there = options(question)
    own, other = data.draw(st.permutations(list(there)))[:2]
    assert letter(f"{own}. {there[other]}", question) is None
    assert letter(f"{own}. {between} {there[other]}", question) is None
    assert letter(f"({own}) {there[own]}; {between} {there[other]}", question) is None


@pytest.mark.parametrize(
    "text",
     ["a " * 900, "or " * 600, "x=" * 900, "\\a" * 900, "(C) " * 450, "1,2;" * 450, "not " * 450, "n't" * 600,
     "{" * 1_900]
)  # fmt: skip
def test_any_text_behind_a_letter_is_read_in_time(text):
    question = "Which?\n" + "\n".join(f"{key}. {text[:700]}{key}" for key in LETTERS)
    started = time.process_time()
    for own in "AZ":
        letter(f"{own}. {text}", question)
        letter(f"{own}. {text[:700]}{own} {text}"[:2_000], question)
        letter(f"{own}. {text}", UNREAD)
    assert time.process_time() - started < 2
