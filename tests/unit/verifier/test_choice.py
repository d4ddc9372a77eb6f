"""Answers that are one of several options: texts that name an option, texts that name none, a question's options."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_mel.verifier import Reference, Verifier, answer_key, check_golds, verify
from openrlhf_mel.verifier.choice import LETTERS, fault, judge, letter, options

pytestmark = pytest.mark.timeout(60)

CAPITAL = "What is the capital of France?\nA. London\nB. Paris\nC. Rome\nD. Both A and B"
SWAPPED = "Which letter?\n(A) B\n(B) C\n(C) A"
SMALL = "Which variable is free?\nA) b\nB) a\nC) x"
GENES = "Which genotype?\nA: BB\nB: Bb\nC: bb"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (CAPITAL, {"A": "London", "B": "Paris", "C": "Rome", "D": "Both A and B"}),
        ("(A) 1 (B) 2 (C) 3", {"A": "1", "B": "2", "C": "3"}),
        ("Which?\n\nA) one\nB) two\n\nAnswer with a letter.", {"A": "one", "B": "two"}),
        ("Which?\nA: one\nB: two", {"A": "one", "B": "two"}),
        ("Which?\n- **A.** one\n- **B.** two", {"A": "one", "B": "two"}),
        (
            r"$\textbf{(A)}\ 11\qquad\textbf{(B)}\ \frac{1}{2}\qquad\textbf{(C)}\ 13$",
            {"A": "11", "B": r"\frac{1}{2}", "C": "13"},
        ),
        # an example with its own options comes first
        ("Which?\nA. x\nB. y\nAnswer: A\n\nWhich?\nA. one\nB. two", {"A": "one", "B": "two"}),
        ("Which?\nA. x\nB. y\nC. z\n\nWhich?\nA. one\nB. two", {"A": "one", "B": "two"}),
        # an option that refers to others
        ("Which?\nA. one\nB. two\nC. (A) and (B)", {"A": "one", "B": "two", "C": "(A) and (B)"}),
        ("Of (A) and (B), which? (A) 1 (B) 2 (C) 3", {"A": "1", "B": "2", "C": "3"}),
        ("A. one", {}),
        ("B. one\nC. two", {}),
        ("What is 1 + 1?", {}),
        ("At 9 A.M. he left, at 9 B.C. not", {}),
        ("", {}),
    ],
)
def test_options_of_a_question(question, expected):
    assert options(question) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "B", "b", "B.", "(B)", "[B]", "B)", "{B}", r"\text{B}", r"\textbf{(B)}", r"\mathrm{B}", "$B$", r"\(B\)", "**B**", "Ｂ",
        "Ⓑ", "B. Paris", "(B) Paris", "B) Paris", "B: Paris", r"\textbf{(B)}\ Paris", r"\text{B. Paris}", "option B",
        "Choice (B)", "The correct answer is B", "B. Paris (France)",
    ],
)  # fmt: skip
@pytest.mark.parametrize("question", [CAPITAL, ""])
def test_what_names_an_option_whether_the_options_can_be_read_or_not(answer, question):
    assert letter(answer, question) == "B"
    assert judge(answer, "B", question) == "correct"
    assert judge(answer, "C", question) == "wrong"


@pytest.mark.parametrize("answer", ["Paris", "paris", "Paris.", r"\text{Paris}", "B, Paris", "B Paris", "Paris (B)"])
def test_an_options_text_names_it_where_the_question_has_it(answer):
    assert letter(answer, CAPITAL) == "B"
    assert letter(answer, "") is None


@pytest.mark.parametrize(
    "answer",
    ["A or B", "A and B", "A, B", "A/B", "AB", "A B", "not B", "B or C", "B. or C", "B. C", "B: (C)", "B, C", "B; C", "(B)(C)",
     "B. Not C", "B?", "-B", "BB", "", " ", ".", "Madrid", "all of them", "B or Paris", "Paris or London", "B" * 20_000, "В"],
)  # fmt: skip
@pytest.mark.parametrize("question", [CAPITAL, ""])
def test_what_names_none_or_several(answer, question):
    assert letter(answer, question) is None
    assert judge(answer, "B", question) == "wrong"


@pytest.mark.parametrize(
    "answer",
    ["B (Paris)", r"\text{B} \text{ (Paris)}", "b) Paris", "(b) Paris", r"\mathbf{(b)}\ \text{Paris}", "B — Paris",
     "B – Paris", "B - Paris", "Paris (option B)", "B is correct", "B is the right answer", "B only", r"\boldsymbol{B}",
     r"\underline{\text{B}}", r"\emph{Paris}", r"\mathbb{B}", r"\Large B", r"\large{B}", r"\tt B", r"\{\text{B}\}", "'B'", "“B”",
     '"Paris"', "B!", r"\bm{B}", r"\operatorname{B}", r"\textsc{Paris}"],
)  # fmt: skip
def test_more_ways_to_name_an_option(answer):
    question = "Capital of France?\nA. Rome\nB. Paris"
    assert letter(answer, question) == "B"
    assert judge(answer, "A", question) == "wrong"


STATEMENTS = "Which hold?\n(A) A only\n(B) Statement B only\n(C) B is correct\n(D) none"


def test_b_only_is_no_letter_where_options_speak_of_letters():
    assert [letter(said, STATEMENTS) for said in ("B only", "B is correct", "B", "A only")] == [None, "C", "B", "A"]
    assert letter("B only", "") is letter("B is correct", "") is None


KINDS = "What is it?\nA. Integer\nB. Number\nC. Blank"


@pytest.mark.parametrize(
    ("answer", "named"), [("Integer", "A"), (r"\text{Integer}", "A"), ("Blank", "C"), ("number", "B")]
)
def test_an_options_text_is_no_placeholder(answer, named):
    assert verify(rf"So \boxed{{{answer}}}.", Reference(named, "choice", KINDS)).status == "correct"
    assert verify(rf"\boxed{{B}} or \boxed{{{answer}}}", Reference(named, "choice", KINDS)).status != "no_answer"
    assert check_golds([Reference(rf"\boxed{{{answer}}}", "choice", KINDS)]) == {}
    for other in (Reference(named, "choice", CAPITAL), Reference("5")):
        assert verify(rf"So \boxed{{{answer}}}.", other).status == "no_answer"


FORMULAS = r"Which? (A) $\dfrac{1}{2}$ (B) 1,000 (C) $x^2+1$ (D) \$5 (E) $1{,}234$"


@pytest.mark.parametrize(
    ("answer", "named"),
    [(r"\frac{1}{2}", "A"), (r"\tfrac{1}{2}", "A"), (r"\frac12", "A"), ("1000", "B"), ("1{,}000", "B"), ("x^{2}+1", "C"), ("x^2 + 1", "C"),
     ("$5", "D"), (r"\$5", "D"), ("5", "D"), ("1234", "E"), ("1,234", "E"), (r"\frac{2}{1}", None), ("100", None), ("x^{21}", None)],
)  # fmt: skip
def test_texts_that_differ_in_notation_alone(answer, named):
    assert letter(answer, FORMULAS) == named


def test_a_letter_beside_another_options_text_is_no_answer():
    assert letter("B. London", CAPITAL) is None
    assert letter("B. Paris or London", CAPITAL) is None
    assert letter("D. Both A and B", CAPITAL) == letter("Both A and B", CAPITAL) == "D"


def test_a_capital_letter_is_the_letter_and_a_small_one_only_where_no_option_is_so_called():
    assert [letter(key, SWAPPED) for key in "ABC"] == ["A", "B", "C"]
    assert [letter(key, SWAPPED) for key in "abc"] == [None, None, None]
    assert [letter(key, SMALL) for key in ("A", "B", "a", "b", "c", "x")] == ["A", "B", None, None, "C", "C"]


def test_case_counts_where_it_tells_options_apart():
    assert [letter(text, GENES) for text in ("BB", "Bb", "bb", "bB")] == ["A", "B", "C", None]


def test_two_options_of_one_text_have_only_their_letters():
    twice = "Which?\nA. one\nB. one"
    assert letter("one", twice) is None and letter("B", twice) == letter("B. one", twice) == "B"


@pytest.mark.parametrize("gold", ["B", "(B)", "b", "Paris", "paris", "B. Paris", r"\boxed{B}"])
def test_golds_that_name_one_option(gold):
    assert check_golds([Reference(gold, "choice", CAPITAL)]) == {}
    for answer in ("B", "B. Paris", "Paris"):
        assert verify(rf"So \boxed{{{answer}}}.", Reference(gold, "choice", CAPITAL)).correct


@pytest.mark.parametrize(
    ("gold", "question", "reason"),
    [
        ("Madrid", CAPITAL, "expected a letter from A to J or the text of exactly one option"),
        ("E", CAPITAL, "the question's options are A, B, C, D"),
        ("Paris", "Where?", "no options can be read"),
        ("a", SMALL, "expected a letter"),
        ("A, B", CAPITAL, "expected a letter"),
        ("", CAPITAL, "non-empty text"),
        ("2", CAPITAL, "expected a letter"),
    ],
)
def test_golds_that_name_none(gold, question, reason):
    assert reason in check_golds([Reference(gold, "choice", question)])[0]


def test_without_a_reference_that_names_an_option_nothing_is_judged():
    assert verify(r"\boxed{B}", Reference("Madrid", "choice", CAPITAL)).status == "error"
    assert verify("It is B", Reference("B", "choice", CAPITAL)).status == "no_answer"
    assert verify("Answer: B", Reference("B", "choice", CAPITAL)).correct
    assert verify(r"\boxed{A} or \boxed{B}", Reference("B", "choice", CAPITAL)).status == "wrong"
    assert verify(r"\boxed{B}", Reference("B", "choice", CAPITAL), "lenient").correct


def test_no_process_is_started_for_a_choice():
    with Verifier(workers=1) as verifier:
        assert verifier.verify(r"\boxed{Paris}", Reference("B", "choice", CAPITAL)).correct
        assert not verifier.worker_pids()


def test_answers_that_name_one_option_are_counted_together():
    reference = Reference("A", "choice", CAPITAL)
    assert len({answer_key(answer, reference) for answer in ("B", "Paris", "B. Paris", "(b)")}) == 1
    assert answer_key("B", reference) != answer_key("C", reference)
    assert answer_key("2.0") == answer_key("2") != answer_key("3")


words = st.text("klmnopqrstuvwxyz", min_size=2, max_size=8)
asked = st.lists(words, min_size=2, max_size=len(LETTERS), unique=True)
STYLES = ("{}. {}", "({}) {}", "{}) {}", "{}: {}", "**{}.** {}", "\\textbf{{({})}} {}")


@given(asked, st.sampled_from(STYLES), st.data())
def test_every_option_is_named_by_letter_text_and_both_and_by_no_other(texts, style, data):
    there = dict(zip(LETTERS, texts, strict=False))
    question = "Which is it?\n" + "\n".join(style.format(*option) for option in there.items())
    assert options(question) == there
    gold = data.draw(st.sampled_from(list(there)))
    keys = list(there)
    step = data.draw(st.integers(1, len(keys) - 1))
    for at, (key, text) in enumerate(there.items()):
        other = keys[(at + step) % len(keys)]
        for answer in (
            key,
            f"({key})",
            f"{key}. {text}",
            f"({key}) {text}",
            f"\\text{{{key}}}",
            text,
            text.upper() if len(text) > 2 else text,  # "mW" is not "MW"
            f"{key}, {text}",
        ):
            assert judge(answer, gold, question) == ("correct" if key == gold else "wrong"), answer
        assert judge(gold, text, question) == ("correct" if key == gold else "wrong")
        assert fault(key, question) is None and fault(text, question) is None
        for answer in (f"{key} or {other}", f"{key}, {other}", f"{key}. {there[other]}", f"{text} or {there[other]}"):
            assert judge(answer, gold, question) == "wrong", answer


RENDERINGS = (
    "{key}", "({key})", "[{key}]", "{key}.", "{key})", "{key}!", "option {key}", "the answer is {key}", "\\text{{{key}}}", "\\textbf{{({key})}}",
    "\\mathbf{{{key}}}", "**{key}**", "'{key}'", "“{key}”", "{key}. {text}", "({key}) {text}", "{key}) {text}", "{key}: {text}",
    "[{key}] {text}", "{key}、{text}", "{key} ({text})", "{key} — {text}", "{key} - {text}", "{key}, {text}", "{key} {text}", "{text}",
    "\\text{{{text}}}", "\\emph{{{text}}}", "{text} ({key})", "{text} (option {key})", "{key}. {text}.", "{key}. {text}, because it is",
    "{key} is correct", "{key} only",
)  # fmt: skip


@given(
    asked, st.sampled_from([*STYLES, "[{}] {}", "{}.{}", "{}、{}", "{} - {}"]), st.sampled_from(RENDERINGS), st.data()
)
def test_any_rendering_of_the_right_option_is_correct_and_of_another_wrong(texts, style, rendering, data):
    there = dict(zip(LETTERS, texts, strict=False))
    question = "Which is it?\n" + "\n".join(style.format(*option) for option in there.items())
    gold, said = data.draw(st.sampled_from(list(there))), data.draw(st.sampled_from(list(there)))
    answer = rendering.format(key=said, text=there[said])
    for instruction in ("", "\n\nAnswer with the letter alone, (A) or (B)."):
        assert judge(answer, gold, question + instruction) == ("correct" if said == gold else "wrong"), answer
        assert judge(answer, there[gold], question + instruction) == ("correct" if said == gold else "wrong"), answer


@given(st.text(max_size=60), st.text(max_size=80))
def test_any_text_names_one_option_or_none(answer, question):
    named = letter(answer, question)
    assert named is None or named in LETTERS
    assert (judge(answer, answer, question) == "error") == (named is None)
    assert verify(f"\\boxed{{{answer}}}", Reference("B", "choice", question)).status in (
        "correct",
        "wrong",
        "no_answer",
    )


@pytest.mark.parametrize(
    "text", ["(A) " * 50_000, "A. B. " * 30_000, "\\text{" * 30_000, "{" * 100_000, " B" * 50_000, "(A) x (B) y " + "z" * 100_000]
)  # fmt: skip
def test_no_text_takes_long(text):
    started = time.monotonic()
    options.cache_clear()
    letter(text, text)
    letter(text[:9_000], text)
    assert time.monotonic() - started < 20
