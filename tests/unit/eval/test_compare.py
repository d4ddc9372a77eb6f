"""`python -m eval.compare`: numbers computed by hand, and input that cannot be compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from eval import compare

pytestmark = pytest.mark.timeout(60)

# Which samples of each question are right, greedy first: "1:0110".
A = {"q1": "1:0011", "q2": "0:0000", "q3": "1:1111", "q4": "0:0001", "q5": "1:0101", "q6": "0:0000"}
B = {"q1": "1:1111", "q2": "1:0001", "q3": "1:0111", "q4": "1:0011", "q5": "0:1101", "q6": "1:0001"}


def sample(question: str, number: int, greedy: bool, right: bool) -> dict[str, Any]:
    text = {"seed": number, "prompt_sha256": "0", "response": "7", "finish_reason": "stop"}
    counts = {"prompt_tokens": None, "tokens": None}
    verdict = {"status": "correct" if right else "wrong", "extracted": "7"}
    lenient = {"lenient_status": "correct", "lenient_extracted": "7"}
    return {"question": question, "sample": number, "greedy": greedy} | text | counts | verdict | lenient


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def evaluation(folder: Path, benchmarks: Mapping[str, Mapping[str, str]], **settings: Any) -> Path:
    """Write an evaluation's folder; `benchmarks` gives each question's pattern of right samples."""
    for name in ("questions", "samples"):
        (folder / name).mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"model": folder.name} | settings))
    for name, answers in benchmarks.items():
        questions = [{"id": i, "problem": f"What is {i}?", "answer": "7"} for i in answers]
        (folder / "questions" / f"{name}.jsonl").write_text(lines(questions))
        rows = []
        for i, pattern in answers.items():
            greedy, _, sampled = pattern.partition(":")
            rows += [sample(i, 0, True, mark == "1") for mark in greedy]
            rows += [sample(i, number, False, mark == "1") for number, mark in enumerate(sampled)]
        (folder / "samples" / f"{name}.jsonl").write_text(lines(rows[::-1]))  # samples come in any order
    return folder


def compared(tmp_path: Path, before: Mapping, after: Mapping) -> dict[str, Any]:
    folders = evaluation(tmp_path / "a", before), evaluation(tmp_path / "b", after)
    return compare.compare(*map(compare.load, folders))


def test_one_benchmark_by_hand(tmp_path: Path) -> None:
    found = compared(tmp_path, {"toy": A}, {"toy": B})
    toy = found["benchmarks"]["toy"]
    assert toy.keys() == {"pass@1", "avg@4", "pass@4"}
    assert (found["n"], found["warnings"]) == (4, [])

    # Greedy: 3 of 6 against 5 of 6; q2, q4, q6 won, q5 lost: of 16 flips of these 4, 10 have 3 or more one way.
    greedy = toy["pass@1"]
    assert (greedy["baseline"], greedy["other"], greedy["difference"]) == pytest.approx((1 / 2, 5 / 6, 1 / 3))
    assert (greedy["won"], greedy["lost"]) == (["q2", "q4", "q6"], ["q5"])
    assert greedy["p_value"] == pytest.approx(10 / 16)
    assert greedy["ci95_note"].startswith("the gains of only 3 questions differ")

    # Means a: 2 0 4 1 2 0, b: 4 1 3 2 3 1 of 4. Gains in quarters 2 1 -1 1 1 1: mean 5/24, sum of squares 9 - 25/6 = 29/6,
    # SE sqrt(29/6/5/6)/4 = 0.100346; t(0.975, df 5) = 2.570582.
    average = toy["avg@4"]
    assert (average["baseline"], average["other"], average["difference"]) == pytest.approx((9 / 24, 14 / 24, 5 / 24))
    assert average["se"] == pytest.approx((29 / 180) ** 0.5 / 4)
    reach = 2.570582 * average["se"]
    assert average["ci95"] == pytest.approx([5 / 24 - reach, 5 / 24 + reach], abs=1e-6)
    assert (average["won"], average["lost"]) == (["q1", "q2", "q4", "q5", "q6"], ["q3"])
    # Of the 64 flips of 2 1 1 1 1 1 those with |sum| >= 5: none flipped (7), or one of five 1s flipped (5): 6 per side.
    assert average["p_value"] == pytest.approx(12 / 64)

    passes = toy["pass@4"]
    assert (passes["baseline"], passes["other"]) == pytest.approx((4 / 6, 1))
    assert (passes["won"], passes["lost"], passes["p_value"]) == (["q2", "q6"], [], 0.5)


def test_overall_weighs_questions_and_average_benchmarks(tmp_path: Path) -> None:
    small = {"s1": "0:", "s2": "0:"}, {"s1": "1:", "s2": "0:"}
    large = {f"l{i}": "1:" for i in range(8)}, {f"l{i}": f"{int(i > 0)}:" for i in range(8)}
    found = compared(tmp_path, {"small": small[0], "large": large[0]}, {"small": small[1], "large": large[1]})
    overall, average = found["overall"]["pass@1"], found["average"]["pass@1"]
    assert (overall["questions"], overall["baseline"], overall["other"]) == pytest.approx((10, 0.8, 0.8))
    assert (overall["difference"], overall["won"], overall["lost"], overall["p_value"]) == (0, 1, 1, 1)
    # Benchmarks: 0 to 1/2 and 1 to 7/8; gains 1 of 2 and -1 of 8, each with SE 1/n.
    assert (average["baseline"], average["other"]) == pytest.approx((0.5, 11 / 16))
    assert average["difference"] == pytest.approx((1 / 2 - 1 / 8) / 2)
    assert average["se"] == pytest.approx((1 / 4 + 1 / 64) ** 0.5 / 2)
    # The t-interval of the small benchmark's two questions exceeds the possible gains; it is cut: 1/2 to -1 and to 1.
    reach = stats.t.ppf(0.975, 7) / 8
    ends = [3 / 16 - (1.5**2 + reach**2) ** 0.5 / 2, 3 / 16 + (0.5**2 + reach**2) ** 0.5 / 2]
    assert average["ci95"] == pytest.approx(ends)
    # Weighted gains 1/2 and -1/8: all four flips, +-3/8 and +-5/8, are at least as far from 0.
    assert average["p_value"] == 1.0
    assert found["n"] is None
    assert found["overall"].keys() == {"pass@1"}


def test_fewer_samples_set_n(tmp_path: Path) -> None:
    """n = 2: Pass@2 of the 4 samples is the unbiased estimate, 1 - C(wrong, 2) / 6."""
    found = compared(tmp_path, {"toy": {"q1": ":0011", "q2": ":0001"}}, {"toy": {"q1": ":01", "q2": ":00"}})
    toy = found["benchmarks"]["toy"]
    assert toy.keys() == {"avg@2", "pass@2"}
    assert (toy["avg@2"]["baseline"], toy["avg@2"]["other"]) == pytest.approx((3 / 8, 1 / 4))
    assert (toy["pass@2"]["baseline"], toy["pass@2"]["other"]) == pytest.approx(((5 / 6 + 1 / 2) / 2, 1 / 2))
    assert found["samples"] == {"baseline": {"toy": 4}, "other": {"toy": 2}}
    assert "n = 2, the fewest samples a question of both (drawn: 2, 4)" in compare.table(found)


def test_only_common_questions_count_and_the_others_are_named(tmp_path: Path) -> None:
    found = compared(
        tmp_path,
        {"toy": {"x": "0:", "q1": "0:", "q2": "1:", "q3": "1:"}, "old": {"o": "1:"}},
        {"toy": {"q2": "1:", "q1": "1:", "y": "1:", "z": "1:", "q3": ""}, "new": {"n": "1:"}},
    )
    a, b = tmp_path / "a", tmp_path / "b"
    assert found["warnings"] == [
        f"left out, only in {a}: the benchmarks old",
        f"left out, only in {b}: the benchmarks new",
        f"toy: left out 1 of 4 questions, which only {a} has",
        f"toy: left out 2 of 5 questions, which only {b} has",
        "toy, pass@1: left out 1 questions that lack samples; finish the evaluation",
    ]
    row = found["benchmarks"]["toy"]["pass@1"]
    assert (row["questions"], row["baseline"], row["other"], row["won"]) == (2, 0.5, 1.0, ["q1"])


def test_questions_of_unfinished_evaluations_are_left_out(tmp_path: Path) -> None:
    found = compared(tmp_path, {"toy": A}, {"toy": B | {"q1": "1:11", "q6": "1:"}})
    row = found["benchmarks"]["toy"]["avg@4"]
    assert row["questions"] == 4
    assert "toy, avg@4: left out 2 questions that lack samples; finish the evaluation" in found["warnings"]
    assert found["benchmarks"]["toy"]["pass@1"]["questions"] == 6


def test_a_last_line_cut_short_is_no_sample(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"toy": {"q1": "0:", "q2": "1:"}})
    path = folder / "samples" / "toy.jsonl"
    path.write_text(path.read_text() + lines([sample("q1", 0, True, True)])[:-1])
    assert compare.load(folder).questions["toy"]["q1"].greedy is False


def test_samples_of_other_questions_are_passed_over(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", {"toy": {"q1": "0:"}})
    path = folder / "samples" / "toy.jsonl"
    path.write_text(path.read_text() + lines([sample("elsewhere", 0, False, True)]))
    assert compare.load(folder).n == {"toy": 0}


def test_the_command_prints_tables_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [
        evaluation(tmp_path / name, {"toy": answers}, sampling={"temperature": temperature})
        for name, answers, temperature in (("a", A, 0.6), ("b", B, 0.6), ("c", A, 1.0))
    ]
    output = tmp_path / "found.json"
    assert compare.main([*map(str, folders), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert "| toy | avg@4 | 6 | 37.50 | 58.33 | +20.83 [-4.96, +46.63] (2) | 0.1875 | 5 | 1 |" in printed
    # Gains 1 1 1 -1 0 0: mean 1/3, SE sqrt((4 - 6/9) / 30) = 1/3, times t(0.975, df 5); cut at 1.
    assert "| toy | pass@1 | 6 | 50.00 | 83.33 | +33.33 [-52.35, +100.00] (1) | 0.6250 | 3 | 1 |" in printed
    assert "(1) the gains of only 3 questions differ" in printed
    assert f"{folders[1]} against the baseline {folders[0]}" in printed
    assert "sampling.temperature: 0.6 -> 1.0" in printed
    found = json.loads(output.read_text())["comparisons"]
    assert [(one["baseline"], one["other"]) for one in found] == [(str(folders[0]), str(f)) for f in folders[1:]]
    assert found[0]["benchmarks"]["toy"]["avg@4"]["lost"] == ["q3"]
    assert found[1]["overall"]["avg@4"]["difference"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "found.json"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda a, b: (b / "questions/toy.jsonl").unlink(), "no evaluation in this folder"),
        (lambda a, b: (b / "settings.json").unlink(), "settings.json: cannot be read"),
        (lambda a, b: (b / "questions/toy.jsonl").rename(b / "questions/other.jsonl"), "no benchmark is in both"),
        (lambda a, b: (b / "samples/toy.jsonl").unlink(), "no question has all its samples in both"),
        (
            lambda a, b: (b / "questions/toy.jsonl").write_text(lines([{"id": "z", "problem": "?", "answer": "7"}])),
            "no question is in both, of toy",
        ),
        (
            lambda a, b: (b / "questions/toy.jsonl").write_text(lines([{"id": "q2", "problem": "?", "answer": "7"}])),
            "toy: the text of 1 questions differs between",
        ),
        (lambda a, b: (b / "samples/toy.jsonl").write_text("not json\n"), "toy.jsonl, line 1: not JSON"),
        (lambda a, b: (b / "samples/toy.jsonl").write_text('{"question": "q1"}\n'), "toy.jsonl, line 1: not a sample"),
    ],
)
def test_what_cannot_be_compared_is_refused(spoil, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = evaluation(tmp_path / "a", {"toy": A}), evaluation(tmp_path / "b", {"toy": B})
    spoil(*folders)
    assert compare.main([*map(str, folders), "--output", str(tmp_path / "found.json")]) == 2
    error = capsys.readouterr().err
    assert said in error and str(folders[1]) in error
    assert not (tmp_path / "found.json").exists()


def test_the_command_line_is_checked_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(evaluation(tmp_path / name, {"toy": A})) for name in "ab"]
    assert compare.main([folders[0]]) == 2
    assert "expected a baseline and at least one other" in capsys.readouterr().err
    assert compare.main([*folders, "--output", str(tmp_path / "none" / "found.json")]) == 2
    assert "expected a file in a folder that is there" in capsys.readouterr().err
    assert compare.main([folders[0], str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
