"""`extended.json`, compared with counting every subset of the samples."""

from datetime import date
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import extended
from eval.drawn import Drawn
from eval.messages import Question
from eval.publication import DataEnd, Publication
from eval.question_values import question_alls, question_passes
from eval.response_lengths import token_statistics
from eval.store import Sample

pytestmark = pytest.mark.timeout(60)
END = DataEnd(date(2025, 4, 28), "a test")


def sample(question, number, right, tokens, greedy=False):
    status = "correct" if right else "wrong"
    return Sample(question, number, greedy, 0, "ab", "r", "stop", 3, tokens, status, "2", status, "2")


def drawn(name, greedy, sampled, tokens=None):
    """From 0 and 1, one list per question; tokens are 10 for each place from 1 on unless given."""
    questions = [Question(name, f"q{i}", "p", "2") for i in range(len(sampled or greedy))]
    rows = [
        [sample(f"q{i}", j, right, tokens[i][j] if tokens else 10 * (j + 1)) for j, right in enumerate(row)]
        for i, row in enumerate(sampled)
    ]
    return Drawn(questions, [sample(f"q{i}", 0, right, 5, True) for i, right in enumerate(greedy)], rows)


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1, max_size=4)
    )
)
def test_pass_hat_k_is_the_share_of_subsets_that_are_all_right(correct):
    n = len(correct[0])
    for k in range(1, n + 1):
        subsets = list(combinations(range(n), k))
        exact = [Fraction(sum(all(row[i] for i in s) for s in subsets), len(subsets)) for row in correct]
        assert np.allclose(question_alls(correct)[:, k - 1], np.array(exact, dtype=float))
    assert (question_alls(correct) <= question_passes(correct) + 1e-12).all()
    assert np.allclose(question_alls(correct), 1 - question_passes(1 - np.array(correct)))


def test_tokens_by_correctness_and_for_a_right_response():
    found = token_statistics([[10, 30], [20, 20]], [[True, False], [True, True]])
    assert found == {"mean": 20, "ci95": [20, 20], "correct": 50 / 3, "wrong": 30, "per_correct": 80 / 3}
    assert token_statistics([[10, 30]], [[False, False]]) == {
        "mean": 20, "correct": None, "wrong": 20, "per_correct": None,
    }  # fmt: skip
    assert token_statistics([[10, None]], [[True, True]]) is None and token_statistics([], []) is None


def values():
    return {
        "aime26": extended.values(drawn("aime26", [1], [[1, 1, 0, 0]]), Publication(date(2026, 2, 5)), END),
        "math500": extended.values(
            drawn("math500", [1, 0, 0], [[1, 1], [0, 0], [0, 1]]), Publication(date(2021, 3, 5)), END
        ),
        "mine": extended.values(drawn("mine", [0], [[0, 0]]), Publication(), END),
    }


def test_averages_weigh_benchmarks_or_questions_and_are_clean_only_where_that_is_known():
    content = extended.extended(values(), END)
    assert [entry["clean"] for entry in content["benchmarks"].values()] == [True, False, None]
    everything, clean = content["averages"]["all"], content["averages"]["clean"]
    assert everything["benchmarks"] == {"aime26": 4, "math500": 2, "mine": 2} and clean["benchmarks"] == {"aime26": 4}
    assert everything["by_benchmark"]["avg"]["value"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert everything["by_question"]["avg"]["value"] == pytest.approx((0.5 + 1 + 0 + 0.5 + 0) / 5)
    assert everything["by_question"]["pass@1"]["value"] == pytest.approx(2 / 5)
    assert clean["by_question"]["avg"]["value"] == clean["by_benchmark"]["avg"]["value"] == 0.5
    for found in (everything, clean):
        for kind in ("by_benchmark", "by_question"):
            assert all(e["ci95"][0] <= e["value"] <= e["ci95"][1] for e in found[kind].values())
    entry = content["benchmarks"]["aime26"]
    assert entry["pass^k"]["2"] == pytest.approx(1 / 6) and entry["pass@k"]["2"] == pytest.approx(5 / 6)
    assert entry["metrics"]["pass^"]["value"] == 0 and entry["metrics"]["pass"]["value"] == 1


def test_without_a_date_nothing_is_clean():
    content = extended.extended(
        {"aime26": extended.values(drawn("aime26", [1], [[1]]), Publication(date(2026, 2, 5)), DataEnd())}, DataEnd()
    )
    assert content["benchmarks"]["aime26"]["clean"] is None and content["averages"]["clean"] is None
    assert "No benchmark is known to be clean" in extended.markdown(content)


def test_the_tables_name_n_and_the_day():
    text = extended.markdown(extended.extended(values(), END))
    row = next(line for line in text.splitlines() if line.startswith("| aime26"))
    assert "| 2026-02-05 | yes |" in row and "50.00 [" in row and "(4)" in row
    assert "Clean: published after 2025-04-28 (a test)" in text and "aime26 (4), math500 (2), mine (2)" in text


def test_greedy_responses_alone_have_their_length_too():
    content = extended.extended({"a": extended.values(drawn("a", [1, 0], []), Publication(), END)}, END)
    assert content["benchmarks"]["a"]["tokens"]["per_correct"] == 10 and content["benchmarks"]["a"]["n"] == 0
    assert list(content["averages"]["all"]["by_question"]) == ["pass@1"]
