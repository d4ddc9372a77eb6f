"""A question's options: notations, surrounding text, and lists that are not read because they are ambiguous."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.verifier import Reference, check_golds, verify
from openrlhf_mel.verifier.choice import LETTERS, MAX_CHARS, judge, letter, options

pytestmark = pytest.mark.timeout(60)

CITIES = {"A": "Rome", "B": "Paris", "C": "Oslo"}


@pytest.mark.parametrize(
    "style",
    ["{}. {}", "{}.{}", "{}) {}", "({}) {}", "[{}] {}", "{}: {}", "{}、{}", "{}．{}", "（{}）{}", "{} - {}", "{} – {}", "- {}. {}",
     "**{}**. {}", "**{}.** {}", "$\\textbf{{({})}}$ {}", "\\textbf{{{}.}} {}", "* ({}) {}", "> {}) {}"],
)  # fmt: skip
@pytest.mark.parametrize("small", [False, True])
def test_each_style_on_lines(style, small):
    lines = [style.format(key.lower() if small else key, text) for key, text in CITIES.items()]
    assert options("Where?\n" + "\n".join(lines)) == CITIES


@pytest.mark.parametrize("style", ["({}) {}", "[{}] {}", "{}) {}", "{}. {}", "{}: {}", "（{}）{}", "{}、{}", "{}．{}"])
def test_each_style_within_a_line(style):
    assert options("Where? " + " ".join(style.format(*option) for option in CITIES.items())) == CITIES


def test_a_list_of_several_styles():
    assert options("Where?\nA. Rome\nB. Paris\n**C**. Oslo") == CITIES


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "(A) x is even\n(B) y is odd\n(C) Both (A) and (B)\n(D) Neither",
            {"A": "x is even", "B": "y is odd", "C": "Both (A) and (B)", "D": "Neither"},
        ),
        (
            "A. Hepatitis C\nB. Hepatitis A.\nC. Hepatitis B.\nD. None",
            {"A": "Hepatitis C", "B": "Hepatitis A", "C": "Hepatitis B", "D": "None"},
        ),
        (
            "(A) x is even (B) y is odd (C) Both (A) and (B) (D) Neither",
            {"A": "x is even", "B": "y is odd", "C": "Both (A) and (B)", "D": "Neither"},
        ),
        (
            "A. Vitamin A. It is good for eyes\nB. Vitamin B. It is not",
            {"A": "Vitamin A. It is good for eyes", "B": "Vitamin B. It is not"},
        ),
        (
            "A. red\nB. blue\nC. Both (A) red and (B) blue\nD. Neither",
            {"A": "red", "B": "blue", "C": "Both (A) red and (B) blue", "D": "Neither"},
        ),
    ],
)
def test_a_label_within_an_options_text_does_not_end_the_list(question, expected):
    assert options(question) == expected
    golds = [*expected, *expected.values()]
    assert check_golds([Reference(gold, "choice", question) for gold in golds]) == {}
    for key, text in expected.items():
        assert judge(text, key, question) == judge(f"{key}. {text}", key, question) == "correct"


NUMBERS = {"A": "3", "B": "4", "C": "5", "D": "6"}
INLINE = "2+2? (A) 3 (B) 4 (C) 5 (D) 6"
ON_LINES = "2+2?\nA. 3\nB. 4\nC. 5\nD. 6"
SEVERAL = "2+2?\nA. 3\nor less\nB. 4\nC. 5\nD. 6\nor more"
INSTRUCTIONS = ("Answer with (A), (B), (C) or (D).", "Answer with A, B, C or D.", "Choose one of A., B., C. and D.",
    "Please reason step by step, and put your answer in \\boxed{}.", "Think step by step. Then write (A) or (B).",
    "Give the letter alone.", "Only one is right: A. or B. or C. or D.", "Answer:")  # fmt: skip


@pytest.mark.parametrize("question", [INLINE, ON_LINES, SEVERAL])
@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("space", [". ", "\n", "\n\n"])
def test_an_instruction_behind_the_options_changes_nothing(question, instruction, space):
    assert options(question + space + instruction) == options(question)
    assert letter("4", question + space + instruction) == "B"


def test_an_instruction_is_not_taken_for_the_options():
    reference = Reference("B", "choice", f"{INLINE}. {INSTRUCTIONS[0]}")
    assert options(reference.question) == NUMBERS
    assert check_golds([Reference("4", "choice", reference.question)]) == {}
    assert verify(r"\boxed{4}", reference).correct and not verify(r"\boxed{(B) 5}", reference).correct


def test_of_statements_and_options_the_options_count():
    question = (
        "A. The sky is blue\nB. Grass is red\nC. Snow is white\nWhich? (A) A only (B) A and C (C) B only (D) all three"
    )
    assert options(question) == {"A": "A only", "B": "A and C", "C": "B only", "D": "all three"}
    assert [judge(answer, "B", question) for answer in ("A and C", "(B) A and C", "B", "B. A and C")] == ["correct"] * 4
    assert [judge(answer, "B", question) for answer in ("Grass is red", "B only", "A only")] == ["wrong"] * 3
    assert check_golds([Reference("D", "choice", question)]) == {}


@pytest.mark.parametrize(
    "question",
    [
        "A. The sky is blue\nB. Grass is red\nC. Snow is white. Which? (A) A only (B) A and C (C) B only",  # C, or another list?
        "Which? (A) even (B) odd (C) zero (D) Both (A) even and (B) odd",
        "A. Cut it:\n(a) wash\n(b) cut\nB. Cook it:\n(a) heat\n(b) boil",
        "A. Vitamin A. It helps B. Vitamin B. It does not",
        "A. one\nB. two  C. three\nD. four",
    ],
)
def test_a_list_in_doubt_is_not_read(question):
    assert options(question) == {}
    assert letter("(B)", question) == "B" and letter("boil", question) is letter("odd", question) is None


def test_a_word_that_joins_labels_may_be_an_option_on_a_line():
    assert options("Which word?\nA. and\nB. or") == {"A": "and", "B": "or"}


def test_an_options_sign_and_command_stay():
    assert options("x? (A) -3 (B) 3 (C) $-\\frac{1}{2}$") == {"A": "-3", "B": "3", "C": "-\\frac{1}{2}"}
    assert letter("-3", "x?\nA. -3\nB. 3") == "A" and letter("3", "x?\nA. -3\nB. 3") == "B"


def test_the_last_option_has_several_lines_where_another_has():
    question = "Which?\nA. one\n  two\nB. three\n  four\n\nThink first."
    assert options(question) == {"A": "one two", "B": "three four"}
    assert letter("three four", question) == "B"


def test_more_than_ten_options():
    question = "Which?\n" + "\n".join(f"{key}. number {key}" for key in LETTERS[:12])
    assert list(options(question)) == list(LETTERS[:12])
    assert (
        judge("K", "K", question)
        == judge("K. number K", "K", question)
        == judge("number K", "K", question)
        == "correct"
    )
    assert check_golds([Reference("K", "choice", question)]) == {}
    assert "expected a letter from A to L" in check_golds([Reference("M", "choice", question)])[0]
    assert letter("K", "") is letter("K", INLINE) is None


def test_of_a_long_question_the_end_is_read():
    assert options("x " * MAX_CHARS + INLINE) == NUMBERS
    assert options(INLINE + " x" * MAX_CHARS) == {}


words = st.text("klmnpqruwxyz", min_size=2, max_size=8)  # no word that joins labels: "or", "to", "vs"


@given(
    st.lists(words, min_size=2, max_size=8, unique=True),
    st.sampled_from(["\n{}. {}", "\n({}) {}", " ({}) {}", " {}) {}"]),
    st.sampled_from(INSTRUCTIONS),
    st.sampled_from(["\n", "\n\n"]),
)
def test_any_list_with_any_instruction(texts, style, instruction, space):
    there = dict(zip(LETTERS, texts, strict=False))
    question = "Which?" + "".join(style.format(*option) for option in there.items())
    assert options(question) == options(question + space + instruction) == there


PIECES = [
    "(A)",
    "(B)",
    "(C)",
    "A.",
    "B.",
    "(a)",
    "b)",
    "\n",
    "\n\n",
    "red",
    "blue",
    "Both",
    "and",
    "$x$",
    "**",
    ". Answer",
]


@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_any_pieces_give_letters_from_a_on(pieces):
    assert "".join(options(" ".join(pieces))) == LETTERS[: len(options(" ".join(pieces)))]


@pytest.mark.parametrize(
    "text",
    ["(" * 9_990, "\ufdfa" * 9_900, "(A) " * 150_000, "(A)(B) " * 90_000, "(A) x (B) y " * 50_000, "\n(A) x\n(B) y" * 50_000,
     "A.\nB.\n" * 90_000, " " * 600_000, "(A)" + " " * 300_000 + "(B)", "A. " + "x\n" * 300_000 + "B. y", "B. 4, " * 300, "," * 2_000],
)  # fmt: skip
def test_reading_is_bounded(text):
    started = time.monotonic()
    options.cache_clear()
    options(text)
    letter(text[:2_000], text)
    judge(text, "B", INLINE)
    assert time.monotonic() - started < 2
