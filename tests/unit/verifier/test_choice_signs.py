"""Options and answers that differ by a sign, by case, by order or by a unit: which name an option, and which none."""

import time

import pytest

from openrlhf_mel.verifier.choice import LETTERS, letter, options

pytestmark = pytest.mark.timeout(60)


def asked(*texts):
    return "Which?\n" + "\n".join(f"{key}. {text}" for key, text in zip(LETTERS, texts, strict=False))


WRONG = [  # options, an answer, the letter that it must not name
    (("$x^2$", "$|x|$", "$-x$", "$\\pm x$"), "x", "B"),
    (("$x^2$", "$|x|$", "$-x$", "$\\pm x$"), "B. x", "B"),
    (("~P ∨ Q", "P ∨ ~Q", "~P ∨ ~Q", "~(P ∨ Q)"), "B. ~P ∨ Q", "B"),
    (("~p", "p → q", "p ∧ q", "q → p"), "p", "A"),
    (("~p", "p → q", "p ∧ q", "q → p"), "B. ~(p → q)", "B"),
    (("\\{0\\}", "\\{1\\}", "\\{0,1\\}", "\\emptyset"), "0", "A"),
    (("\\{0\\}", "\\{1\\}", "\\{0,1\\}", "\\emptyset"), "0,1", "C"),
    (("$\\{1,2\\}$", "$(1,2)$", "$[1,2]$", "$\\{(1,2)\\}$"), "D. (1,2)", "D"),
    (("mgh", "Mgh", "(M+m)gh", "mgh/2"), "A. Mgh", "A"),
    (("mgh", "Mgh", "(M+m)gh", "mgh/2"), "B. mgh", "B"),
    (("AABB", "AaBb", "aabb", "AAbb"), "A. aabb", "A"),
    (("AABB", "AaBb", "aabb", "AAbb"), "C. AABB", "C"),
    (("a/2", "2a", "a", "a/4"), "A/2", "A"),
    (("CO", "CO2", "NO", "NO2"), "no", "C"),
    (("*p", "&p", "p[1]", "p->x"), "p", "A"),
    (("x**2", "x 2", "2x"), "A. x 2", "A"),
    (("5 m/s", "3 m/s", "10 m/s", "15 m/s"), "B. 5m/s", "B"),
    (("5 m/s", "3 m/s", "10 m/s", "15 m/s"), "B. 10", "B"),
    (("5 m/s", "3 m/s", "10 m/s", "15 m/s"), "B. -3 m/s", "B"),
    (("25°C", "50°C", "75°C", "100°C"), "B. 25", "B"),
    (("3", "5", "7", "9"), "B. 3 m", "B"),
    (("3", "5", "7", "9"), "B. x=-5", "B"),
    (("3", "5", "7", "9"), "B. \\sqrt{9}", "B"),
    (("\\frac{\\pi}{2}", "\\frac{\\pi}{3}"), "B. π/2", "B"),
    (("1:2", "2:1", "3:1"), "B. 1/2", "B"),
    (("x > 3", "x < 3", "x ≥ 3"), "B. 3 < x", "B"),
    (("f(x)=x^2", "f(x)=-x^2"), "A. -x^2", "A"),
    (("p → q", "q → p"), "B. p \\rightarrow q", "B"),
    (("O(n)", "O(n log n)"), "B. n", "B"),
    (
        ("It increases", "It decreases", "It stays the same", "It first increases and then decreases"),
        "D. It first decreases and then increases",
        "D",
    ),
    (
        ("Supply rises", "Demand falls", "Supply rises and demand falls", "Neither changes"),
        "C. Supply falls and demand rises",
        "C",
    ),
    (("-3 m/s", "5 m/s"), "A. 3 m/s", "A"),
    (("CO2", "CO3"), "A. CO", "A"),
    (("10 cm²", "20 cm²"), "B. 20 cm", "B"),
    (("London", "Paris", "Rome"), "B. Paris as well as London", "B"),
    (("London", "Paris", "Rome"), "B. Paris, as is Rome", "B"),
    (("London", "Paris", "Rome"), "B. Paris i.e. London", "B"),
    (("London", "Paris", "Rome"), "B. Paris, not possible", "B"),
    (("London", "Paris", "Rome"), "B. Paris, which is impossible", "B"),
    (("London", "Paris", "Rome"), "B. Paris is the least likely", "B"),
    (("London", "Paris", "Rome"), "B. Paris is ruled out", "B"),
]
RIGHT = [  # options, an answer, the letter that it names
    (("London", "Paris", "Rome", "Berlin"), "The answer is option B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "the right answer is choice B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "It is B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B is the answer", "B"),
    (("London", "Paris", "Rome", "Berlin"), "(B.)", "B"),
    (("London", "Paris", "Rome", "Berlin"), "答案：B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "答案是B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "选B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "故选B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "选项B", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B。", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B, because Paris is the capital", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B because it is the capital", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B, since it is", "B"),
    (("London", "Paris", "Rome", "Berlin"), "**B**", "B"),
    (("London", "Paris", "Rome", "Berlin"), "*B*", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B. Paris", "B"),
    (("London", "Paris", "Rome", "Berlin"), "(B) Paris, because it is the capital", "B"),
    (("London", "Paris", "Rome", "Berlin"), "Paris", "B"),
    (("London", "Paris", "Rome", "Berlin"), "paris", "B"),
    (("London", "Paris", "Rome", "Berlin"), "\\text{B}", "B"),
    (("London", "Paris", "Rome", "Berlin"), "\\textbf{(B)}", "B"),
    (("London", "Paris", "Rome", "Berlin"), "\\{\\text{B}\\}", "B"),
    (("London", "Paris", "Rome", "Berlin"), "_Paris_", "B"),
    (("London", "Paris", "Rome", "Berlin"), "**Paris**", "B"),
    (("London", "Paris", "Rome", "Berlin"), "B. **Paris**", "B"),
    (("$x^2$", "$|x|$"), "|x|", "B"),
    (("~p", "p → q"), "~p", "A"),
    (("\\{0\\}", "\\{1\\}"), "\\{0\\}", "A"),
    (("mgh", "Mgh"), "A. mgh", "A"),
    (("*p", "&p"), "*p", "A"),
    (("12 m", "13 m"), "12m", "A"),
    (("5%", "6%"), "A. 5%", "A"),
    (("1/2", "1/3"), "B. \\frac{1}{3}", "B"),
    (("5 metres", "6 metres"), "A. 5", "A"),
    (("50°C", "60°C"), "B. 60", "B"),
    (("3 m/s", "4 m/s"), "3m/s", "A"),
    (("Yes", "No"), "no", "B"),
    (("\\frac{\\pi}{2}", "\\frac{\\pi}{3}"), "B. π/3", "B"),
]


@pytest.mark.parametrize(("texts", "answer", "not_named"), WRONG)
def test_a_sign_an_order_or_a_value_that_differs_names_no_option(texts, answer, not_named):
    assert letter(answer, asked(*texts)) != not_named


@pytest.mark.parametrize(("texts", "answer", "named"), RIGHT)
def test_usual_answers_name_their_option(texts, answer, named):
    assert letter(answer, asked(*texts)) == named


def test_options_in_two_columns_and_in_a_table():
    assert options("Which?\nA. 1    C. 3\nB. 2    D. 4") == {}
    assert (
        options("Which? (A) 1 | (B) 2 | (C) 3")
        == options("Which?\n| A) 1 |\n| B) 2 |\n| C) 3 |")
        == dict(A="1", B="2", C="3")
    )


@pytest.mark.parametrize(
    "text", ["A)x\n" * 2500 + "B)y\nC)" + " " * 9900 + "x", "A)x " * 2450 + "B)y C)" + " ," * 4900 + "x"]
)
def test_a_question_of_many_labels_is_read_in_bounded_time(text):
    started = time.process_time()
    options(text)
    assert time.process_time() - started < 1
