"""Forms that count as anchored, and that no others do."""

import time

import pytest

from openrlhf_mel.verifier import Verifier
from openrlhf_mel.verifier.extraction import extract_anchored

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so \\boxed{42}.", "42"),
        ("first \\boxed{1}, on reflection it is \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed {7}", "7"),
        ("\\boxed 7 apples", "7"),
        ("\\fbox{7}", "7"),
        ("\\\\boxed{7}", "7"),
        ("\\boxed{\\boxed{7}}", "7"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("The sets are $\\boxed{1}$ and $\\boxed{2}$.", "1, 2"),
        ("$x=\\boxed{2}$, $y=\\boxed{3}$", "2, 3"),
        ("\\boxed{5} ... so the answer is \\boxed{5}", "5"),
        ("\\boxed{7} Put the answer in \\boxed{}.", "7"),
        ("$\\boxed{\\frac{1}{2}$.", "\\frac{1}{2}"),  # a lost brace, but the formula is closed
        ("\\boxed{7} The final answer is 8.", "7"),  # a box comes first
        ("The final answer is $12$. I hope it is correct.", "12"),
        ("Final Answer: The volume of $ABCD$ is 120.", "120"),
        ("The final answer is:\n\\[ x^2 \\]", "x^2"),
        ("work\nAnswer: 42", "42"),
        ("work\n**Answer:** $\\frac12$", "\\frac12"),
        ("work\nAnswer: 42<|im_end|>", "42"),
        ("work\nAnswer: 42 apples", "42 apples"),
        ("答案：42", "42"),
        ("Thus 3+4=7.\nSo the answer is $7$.", "7"),
    ],
)
def test_anchored_forms(response: str, answer: str) -> None:
    assert extract_anchored(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        "3+4=7",
        "x = $7$",
        "\\[ 3+4 = 7 \\]",
        "\\boxed{",
        "\\boxed{}",
        "\\boxed{1",  # cut in the middle of 12: not an answer
        "\\boxed{\\frac{1}{2}",
        "the answer is 7 if n is even.\nWe now treat the odd case, where",
        "I will find the answer: first add",
        "#### 7",
        "A: 7",
    ],
)
def test_anything_else_is_no_answer(response: str) -> None:
    assert extract_anchored(response) is None


@pytest.mark.parametrize(
    "solution",
    [
        "Add: $3+4=7$. Then $7\\cdot 2=14$, so $\\boxed{14}$.",
        "We get 14 early: 14 = 2*7.\nThe final answer is $14$.",
        "14\n14\nAnswer: 14",
        "Since 14=14,\nthe answer is 14.",
    ],
)
def test_a_cut_before_the_anchor_is_never_correct(solution: str) -> None:
    """Every prefix before the anchored form has the right value, but does not give it as the answer."""
    start = min(solution.find(s) for s in ("\\boxed", "final answer", "Answer:", "answer is") if s in solution)
    with Verifier(workers=1) as verifier:
        assert verifier.verify(solution, "14").correct
        verdicts = verifier.verify_many([(solution[:end], "14") for end in range(start + 1)])
    assert {verdict.status for verdict in verdicts} == {"no_answer"}


HOSTILE_UNITS = [
    *("final answer is ", "Answer: ", "answer is ", "$", "\\(", "\\[", " ", "\n", "{", "}", "\\boxed{", "\\boxed "),
    *("\\boxed{1} and ", "\\", "\\\\", "1,111", "the ", "<|a|>", "</s>", "<|", "\\text{", "I hope "),
]


@pytest.mark.parametrize("unit", HOSTILE_UNITS)
def test_extraction_is_linear(unit: str) -> None:
    """It runs in the caller's process and cannot be killed: 300,000 repetitions take seconds, not hours."""
    started = time.monotonic()
    extract_anchored(unit * 300_000)
    assert time.monotonic() - started < 10
