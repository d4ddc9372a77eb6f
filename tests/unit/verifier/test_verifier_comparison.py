"""Pairs that Math-Verify decides wrongly, and pairs that must stay as they are."""

from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from openrlhf_mel.verifier import Verifier, check_golds, verify
from openrlhf_mel.verifier.pool import Outcome, Pool

pytestmark = pytest.mark.timeout(120)

# gold, answer
DIFFERENT = [
    ("1/2004!", "1/2006!"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}"),
    ("10^{-400}", "10^{-401}"),
    ("2^{-400}", "2^{-401}"),
    ("0.0000001", "0.0000002"),
    ("\\{0.0000001, 5\\}", "\\{0.0000002, 5\\}"),
    ("(10^{-400}, 1)", "(10^{-401}, 1)"),
    ("50", "50\\%"),
    ("50\\%", "50"),
    ("50", "50 percent"),
    ("(50, 1)", "(50\\%, 1)"),
    ("52_8", "52_{10}"),
    ("52_{10}", "52_8"),
    ("7", "8=7"),
    ("7", "2+3=7"),
    ("7", "1=2=7"),
    ("x", "\\sqrt{x^2}"),
    ("x", "|x|"),
    ("2\\ln x", "\\ln(x^2)"),
    ("7", "8"),
    ("(1,2)", "1<x\\le 2"),
    ("(1,2)", "(2,1)"),
    ("7", "7 \\text{ or } 8"),
    ("7", "71"),
    ("10", "1,0"),
    ("32349", "32, 349"),
    ("\\sqrt{2}", "1.5"),
]
EQUAL = [
    ("7", "7."),
    ("\\sqrt{2}", "\\sqrt{2}."),
    ("7", "\\text{7 apples}"),
    ("7", "7 apples"),
    ("7", "7\\text{ apples}"),
    ("7", "７"),
    ("12", "１２"),
    ("x+1", "ｘ＋１"),
    ("1" * 5000, "1" * 5000),
    ("1" * 5000, "0" + "1" * 5000),
    ("\\sqrt{1/n}", "1/\\sqrt n"),
    ("1/\\sqrt n", "\\sqrt{1/n}"),
    ("\\frac{1}{\\sqrt{n}}", "\\sqrt{\\frac{1}{n}}"),
    ("8.7e8", "8.7\\times10^8"),
    ("8.7\\times10^8", "8.7e8"),
    ("8.7\\times 10^{8}", "870000000"),
    ("(1,2)", "1<x<2"),
    ("1<x<2", "(1,2)"),
    ("[-2,7]", "-2\\le x\\le 7"),
    ("-2\\le x\\le 7", "[-2,7]"),
    ("x\\in(1,2)", "(1,2)"),
    ("10^{-400}", "10^{-400}"),
    ("1/2004!", "\\frac{1}{2004!}"),
    ("50\\%", "\\frac12"),
    ("50\\%", "0.5"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    ("7", "3+4=7"),
    ("7", "x=7"),
    ("x=7", "7"),
    ("11", "x = 5+6 = 11"),
    ("1/3", "0.333333"),
    ("\\frac{1}{2}", "0.5"),
    ("\\sqrt{6}", "\\sqrt{2}\\sqrt{3}"),
    ("0", "\\sqrt{2}+\\sqrt{3}-\\sqrt{5+2\\sqrt{6}}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2,3", "3,2"),
    ("\\{2,3\\}", "\\{3,2\\}"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\text{Evelyn}", "Evelyn"),
    ("\\text{(A)}", "A"),
    ("15^\\circ", "15"),
    ("05\\!:\\!00", "05:00"),
    ("\\frac{x^2}{4}+\\frac{y^2}{3}=1", "\\frac{x^2}{16}+\\frac{y^2}{12}=\\frac14"),
]


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2, timeout_s=20) as verifier:
        yield verifier


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_are_wrong(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.verify(f"\\boxed{{{answer}}}", gold).status == "wrong"


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_correct(verifier: Verifier, gold: str, answer: str) -> None:
    assert verifier.verify(f"\\boxed{{{answer}}}", gold).status == "correct"


def test_every_answer_of_these_tables_equals_itself(verifier: Verifier) -> None:
    """No repair makes an answer unequal to itself."""
    answers = sorted({text for pair in DIFFERENT + EQUAL for text in pair} - {"8=7", "2+3=7", "1=2=7"})
    assert verifier.check_golds(answers) == {}
    assert {v.status for v in verifier.verify_many([(f"\\boxed{{{a}}}", a) for a in answers])} == {"correct"}


def test_verdict_has_what_was_judged(verifier: Verifier) -> None:
    verdict = verifier.verify("so \\boxed{ 2+5 }", "7")
    assert (verdict.correct, verdict.status, verdict.extracted) == (True, "correct", "2+5")
    nothing = verifier.verify("so 7", "7")
    assert (nothing.correct, nothing.status, nothing.extracted) == (False, "no_answer", None)


def test_lenient_takes_what_is_not_anchored(verifier: Verifier) -> None:
    assert verifier.verify("so it is $7$", "7", "lenient").correct
    assert not verifier.verify("so it is $7$", "7", "anchored").correct
    assert verifier.verify("nothing here", "7", "lenient").status == "no_answer"


@pytest.mark.parametrize("gold", ["", "  ", None, "\\frac{1}{", "{", float("nan"), [], True])
def test_an_unusable_gold_is_an_error_of_its_row_alone(verifier: Verifier, gold: object) -> None:
    verdicts = verifier.verify_many([("\\boxed{x}", "x"), ("\\boxed{x+1}", gold), ("\\boxed{2x}", "x+x")])
    assert [verdict.status for verdict in verdicts] == ["correct", "error", "correct"]


def test_check_golds_names_the_rows() -> None:
    problems = check_golds(["7", "", "x+1", "\\frac{1}{", "\\text{yes}", "9^{9^{9^9}}"])
    assert sorted(problems) == [1, 3, 5]
    assert "expected a non-empty text" in problems[1]
    assert "costly" in problems[5]


@pytest.mark.parametrize(("times", "refused"), [(1, []), (2, [1])])
def test_a_gold_that_took_too_long_is_tried_once_more(
    verifier: Verifier, monkeypatch: pytest.MonkeyPatch, times: int, refused: list[int]
) -> None:
    submit, tries = Pool.submit, []

    def slow_at_first(pool: Pool, kind: str, gold: str, text: str = "") -> Future[Outcome]:
        tries.append(gold)
        if gold != "x+2" or tries.count(gold) > times:
            return submit(pool, kind, gold, text)
        late: Future[Outcome] = Future()
        late.set_result(Outcome("timeout"))
        return late

    monkeypatch.setattr(Pool, "submit", slow_at_first)
    assert list(verifier.check_golds(["x+1", "x+2", "x+3"])) == refused
    assert tries == ["x+1", "x+2", "x+3", "x+2"]


def test_a_gold_in_a_box_or_a_number_is_taken_as_it_is_meant(verifier: Verifier) -> None:
    assert verifier.verify("\\boxed{7}", "\\boxed{7}").correct
    assert verifier.verify("\\boxed{7}", 7).correct
    assert verifier.verify("\\boxed{27}", 27.0).correct


def test_module_function_shares_one_verifier() -> None:
    assert verify("\\boxed{x+1}", "1+x").correct
    assert verify("\\boxed{x+1}", "2+x").status == "wrong"


def test_unknown_extraction_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of anchored, lenient"):
        verify("\\boxed{1}", "1", "loose")
    for wrong in ({"workers": 0}, {"timeout_s": 0}, {"timeout_s": float("inf")}, {"memory_mb": 10}):
        with pytest.raises(ValueError, match="expected"):
            Verifier(**wrong)
