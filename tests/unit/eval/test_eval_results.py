"""eval/results.py, compared with counting sample by sample; the content of metrics.json."""

import json
from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import estimators
from eval.drawn import Drawn, collect
from eval.identity import Draws
from eval.messages import Question
from eval.results import answer_label, benchmark_metrics, write_results
from eval.store import Sample, Store
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

RIGHT, WRONG = ("correct", "2"), ("wrong", "3")
NO_ANSWER, TIMEOUT, ERROR = ("no_answer", None), ("timeout", "x+1"), ("error", None)
REASONS = ["stop", "length", "content_filter", "unknown"]
VERDICTS = [RIGHT, WRONG, ("wrong", "4"), NO_ANSWER, TIMEOUT, ERROR]


def sample(question: str, number: int, greedy: bool, verdict=RIGHT, lenient=None, **more) -> Sample:
    lenient = lenient or verdict
    values = {
        "seed": 7,
        "prompt_sha256": "ab",
        "response": "r",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "tokens": 9,
    }
    values |= {
        "status": verdict[0],
        "extracted": verdict[1],
        "lenient_status": lenient[0],
        "lenient_extracted": lenient[1],
    }
    return Sample(question=question, sample=number, greedy=greedy, **(values | more))


def questions(number: int) -> list[Question]:
    return [Question("b", f"q{i}", "What is it?", "2") for i in range(number)]


def drawn(greedy: list, sampled: list[list], lenient: list[list] | None = None) -> Drawn:
    """Build from the verdicts on each question's greedy response (if any) and its samples."""
    own = questions(len(greedy or sampled))
    rows = [
        [sample(f"q{i}", j, False, verdict, lenient and lenient[i][j]) for j, verdict in enumerate(row)]
        for i, row in enumerate(sampled)
    ]
    return Drawn(own, [sample(f"q{i}", 0, True, verdict) for i, verdict in enumerate(greedy)], rows)


def by_hand(draws: Draws, greedy: list[Sample], sampled: list[list[Sample]], field: str) -> dict[str, list[Fraction]]:
    """Return each metric's value per question, from the definitions."""

    def right(s: Sample) -> int:
        return getattr(s, f"{field}status") == "correct"

    def majority(row: list[Sample]) -> Fraction:
        answers = ["right" if right(s) else getattr(s, f"{field}extracted") for s in row]
        votes = Counter(answer for answer in answers if answer is not None)
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        return Fraction(winners.count("right"), len(winners)) if winners else Fraction(0)

    def passes(row: list[Sample], k: int) -> Fraction:
        subsets = list(combinations(map(right, row), k))
        return Fraction(sum(map(any, subsets)), len(subsets))

    found = {}
    for metric in draws.metrics:
        kind, k = metric.split("@")
        if metric == "pass@1":
            found[metric] = [Fraction(right(s)) for s in greedy]
        elif kind == "avg":
            found[metric] = [Fraction(sum(map(right, row)), len(row)) for row in sampled]
        elif kind == "maj":
            found[metric] = [majority(row) for row in sampled]
        else:
            found[metric] = [passes(row, int(k)) for row in sampled]
    return found


def mean(values) -> float:
    values = list(values)
    return float(sum(values) / len(values))


@st.composite
def evaluations(draw):
    """Draw (requested metrics, their samples): greedy alone, sampled alone, or both."""
    n, number = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    possible = ["pass@1", f"avg@{n}", f"maj@{n}", *(f"pass@{k}" for k in range(2, n + 1))]
    draws = Draws.parse(n, ",".join(draw(st.lists(st.sampled_from(possible), min_size=1, unique=True))))

    def one(i: int, j: int, greedy: bool) -> Sample:
        verdict, lenient = draw(st.sampled_from(VERDICTS)), draw(st.sampled_from(VERDICTS))
        reason, tokens = draw(st.sampled_from(REASONS)), draw(st.sampled_from([None, 1, 100]))
        return sample(f"q{i}", j, greedy, verdict, lenient, finish_reason=reason, tokens=tokens)

    greedy = [one(i, 0, True) for i in range(number) if draws.greedy]
    sampled = [[one(i, j, False) for j in range(draws.n)] for i in range(number) if draws.n]
    return draws, Drawn(questions(number), greedy, sampled)


@settings(max_examples=60)
@given(evaluations())
def test_every_number_is_the_counted_one(evaluation):
    draws, samples = evaluation
    entry, estimates = benchmark_metrics(samples, draws)
    values = by_hand(draws, samples.greedy, samples.sampled, "")
    assert list(estimates) == list(draws.metrics)
    for metric, own in values.items():
        assert entry[metric] == pytest.approx(mean(own), abs=1e-12), metric
        expected = estimators.estimate([float(value) for value in own])
        assert entry["ci95"][metric] == pytest.approx(list(expected.interval), abs=1e-9)
        assert entry["se"][metric] == pytest.approx(expected.se, abs=1e-9)
        assert entry["ci95_method"][metric] == expected.method
        assert entry["ci95_note"].get(metric) == expected.note
    lenient = by_hand(draws, samples.greedy, samples.sampled, "lenient_")
    assert entry["lenient"] == pytest.approx({metric: mean(own) for metric, own in lenient.items()}, abs=1e-12)
    ks = Draws(draws.n, False, tuple(f"pass@{k}" for k in range(2, draws.n + 1)))
    passes = {m.removeprefix("pass@"): mean(v) for m, v in by_hand(ks, [], samples.sampled, "").items()}
    if draws.n:
        average = Draws(draws.n, False, (f"avg@{draws.n}",))
        passes["1"] = mean(by_hand(average, [], samples.sampled, "")[f"avg@{draws.n}"])
    assert entry["pass@k"] == pytest.approx(passes, abs=1e-12)
    every = [*samples.greedy, *(s for row in samples.sampled for s in row)]
    assert (entry["n_questions"], entry["n_samples"]) == (len(samples.questions), len(every))
    assert entry["truncated"] == pytest.approx(mean(s.finish_reason == "length" for s in every))
    assert entry["ended_otherwise"] == Counter(s.finish_reason for s in every if s.finish_reason in REASONS[2:])
    for status in ("no_answer", "timeout", "error"):
        assert entry[status] == pytest.approx(mean(s.status == status for s in every))
    tokens = [s.tokens for s in every if s.tokens is not None]
    assert entry["tokens_mean"] == (pytest.approx(mean(tokens)) if tokens else None)
    json.dumps(entry, allow_nan=False)


def test_a_benchmark_by_hand():
    samples = drawn(
        greedy=[RIGHT, WRONG, NO_ANSWER, RIGHT],
        sampled=[[RIGHT, RIGHT, RIGHT, RIGHT], [RIGHT, WRONG, WRONG, ("wrong", "4")], [NO_ANSWER] * 4, [RIGHT, RIGHT, WRONG, TIMEOUT]],
        lenient=[[RIGHT] * 4, [RIGHT, RIGHT, WRONG, WRONG], [RIGHT, NO_ANSWER, NO_ANSWER, NO_ANSWER], [RIGHT] * 4],
    )  # fmt: skip
    entry, _ = benchmark_metrics(samples, Draws.parse(4, None))
    assert list(entry)[2:6] == ["pass@1", "avg@4", "pass@4", "maj@4"]
    assert (entry["pass@1"], entry["avg@4"], entry["pass@4"]) == (0.5, 7 / 16, 0.75)
    assert entry["maj@4"] == 0.5  # for the second question the wrong 3 wins, for the third no answer
    # Pairs of six with a right sample: all, three, none, all but one.
    assert entry["pass@k"] == pytest.approx({"1": 7 / 16, "2": (1 + 1 / 2 + 0 + 5 / 6) / 4, "3": 2.75 / 4, "4": 0.75})
    assert entry["lenient"] == {"pass@1": 0.5, "avg@4": 11 / 16, "pass@4": 1.0, "maj@4": 0.875}
    assert (entry["no_answer"], entry["timeout"], entry["error"], entry["truncated"]) == (5 / 20, 1 / 20, 0, 0)
    assert (entry["n_questions"], entry["n_samples"]) == (4, 20)


def test_greedy_alone_and_sampled_alone():
    greedy, _ = benchmark_metrics(drawn([RIGHT, WRONG, WRONG], []), Draws.parse(8, "pass@1"))
    assert (greedy["pass@1"], greedy["pass@k"], greedy["n_samples"]) == (1 / 3, {}, 3)
    assert not [name for name in greedy if name.startswith(("avg", "maj"))]
    sampled, _ = benchmark_metrics(drawn([], [[RIGHT, WRONG]] * 3), Draws.parse(2, "avg@2"))
    assert (sampled["avg@2"], sampled["n_samples"]) == (0.5, 6)
    assert sampled.get("pass@1") is None and sampled["pass@k"] == {"1": 0.5, "2": 1.0}


@pytest.mark.parametrize(
    "same",
    [
        ["0.5", "1/2", ".50", r"\frac12", r"\frac{1}{2}", r"\dfrac{2}{4}", "$0.5$", "0.5.", " 0.500 ", r"0.5\text{ cm}", "5e-1"],
        ["12", "12.0", "12 cm", "+12", r"\text{12}"],
        ["1,000", "1000", "10^3", r"1{,}000"],
        [r"\text{yes}", "yes", " yes. ", r"$\text{yes}$"],
        ["x + 1", "$x +  1$", r"x\ + 1"],
        ["50%", r"50\%", "50.0 %"],
    ],
)  # fmt: skip
def test_equal_wrong_answers_have_one_label(same):
    labels = {answer_label(sample("q", 0, False, ("wrong", text)), False) for text in same}
    assert len(labels) == 1 and labels.isdisjoint({None, "right"})


def test_different_answers_have_labels_of_their_own():
    texts = [
        "0.5",
        "-0.5",
        "5",
        "50%",
        "yes",
        "no",
        "x+1",
        "right",
        "=1/2",
        "'yes",
        "None",
        "1 2",
        "12",
        "0.333333",
        "1/3",
    ]
    labels = [answer_label(sample("q", 0, False, ("wrong", text)), False) for text in texts]
    assert len({*labels, "right", None}) == len(texts) + 2


def test_right_answers_are_together_and_what_is_none_has_no_label():
    for text in ("2", "4/2", r"\sqrt{4}"):
        assert answer_label(sample("q", 0, False, ("correct", text)), False) == "right"
    for verdict in (NO_ANSWER, ERROR, ("timeout", None)):
        assert answer_label(sample("q", 0, False, verdict), False) is None
    assert answer_label(sample("q", 0, False, ("timeout", "3")), False) == answer_label(
        sample("q", 0, False, WRONG), False
    )
    both = sample("q", 0, False, WRONG, RIGHT)
    assert (answer_label(both, False) != "right", answer_label(both, True)) == (True, "right")
    both = sample("q", 0, False, NO_ANSWER, WRONG)
    assert answer_label(both, False) is None and answer_label(both, True) is not None


def test_majority_counts_answers_and_not_their_spelling():
    row = [RIGHT, ("correct", "2.0"), ("wrong", "0.5"), ("wrong", "1/2"), ("wrong", ".50")]
    entry, _ = benchmark_metrics(drawn([], [row]), Draws.parse(5, "maj@5"))
    assert entry["maj@5"] == 0


SOME = [sample(q, i, greedy) for q in ("q0", "q1") for i, greedy in ((0, True), (0, False), (1, False), (2, False))]


@given(st.permutations(SOME), st.sampled_from(["pass@1", "avg@2", "pass@1,avg@2"]))
def test_samples_are_found_whatever_their_order_and_whatever_else_is_there(samples, asked):
    draws = Draws.parse(2, asked)
    others = [sample("q9", 0, False), sample("q9", 0, True)]
    found = collect([*others, *samples], questions(2), draws)
    assert [s.key for s in found.greedy] == ([("q0", 0, True), ("q1", 0, True)] if draws.greedy else [])
    keys = [[(q, i, False) for i in range(2)] for q in ("q0", "q1")]
    assert [[s.key for s in row] for row in found.sampled] == (keys if draws.n else [])
    assert found.all == [*found.greedy, *(s for row in found.sampled for s in row)]
    assert found.questions == questions(2)


@given(st.sets(st.sampled_from(range(6)), min_size=1))
def test_missing_samples_are_counted_and_one_is_named(missing):
    there = [s for s in SOME if s.greedy or s.sample < 2]
    left = [s for i, s in enumerate(there) if i not in missing]
    with pytest.raises(UserError) as caught:
        collect(left, questions(2), Draws.parse(2, "pass@1,avg@2"))
    found = str(caught.value)
    assert found.startswith(f"b: {len(missing)} of 6 samples are missing, among them sample ")
    assert any(f"sample {there[i].sample} of {there[i].question};" in found for i in missing)


def test_a_greedy_sample_does_not_stand_for_a_sampled_one():
    with pytest.raises(UserError, match=r"1 of 1 samples are missing, among them sample 0 of q0; run eval\.run again"):
        collect([sample("q0", 0, True)], questions(1), Draws.parse(1, "avg@1"))
    with pytest.raises(UserError, match="1 of 1 samples are missing"):
        collect([sample("q0", 0, False)], questions(1), Draws.parse(1, "pass@1"))


def test_the_results_of_a_folder(tmp_path):
    """Benchmarks have equal weight in the average, whatever their number of questions."""
    with Store(tmp_path) as store:
        (tmp_path / "settings.json").write_text('{"seed": 5}')
        first = [
            sample(f"q{i}", j, g, RIGHT if i < 1 else WRONG)
            for i in range(4)
            for j, g in ((0, True), (0, False), (1, False))
        ]
        store.append("a", first)
        store.append("b", [sample("q0", j, g, RIGHT) for j, g in ((0, True), (0, False), (1, False), (2, False))])
        by_name = {"b": questions(1), "a": [Question("a", f"q{i}", "p", "2") for i in range(4)]}
        draws = Draws.parse(2, "pass@1,avg@2")
        result = write_results(store, "org/model", by_name, dict.fromkeys(by_name, draws), {"commit": "abc"})
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert (result["model"], result["manifest"]) == ("org/model", {"commit": "abc"})
    assert result["settings"] == {"seed": 5, "n": 2, "metrics": ["pass@1", "avg@2"]}
    assert list(result["benchmarks"]) == ["b", "a"]
    assert [found["n_samples"] for found in result["benchmarks"].values()] == [3, 12]
    assert result["average"] == {"pass@1": 0.625, "avg@2": 0.625}
    parts = {metric: [estimators.estimate([1]), estimators.estimate([1, 0, 0, 0])] for metric in draws.metrics}
    averages = {metric: estimators.macro_average(own) for metric, own in parts.items()}
    assert result["average_ci95"] == {metric: list(average.interval) for metric, average in averages.items()}
    assert result["average_se"] == {"pass@1": None, "avg@2": None}  # a single question has no standard error
    assert result["average_ci95_note"] == {}
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("# org/model\n") and "| average |  | 62.50 [" in summary
    files = {"settings.json", "metrics.json", "summary.md", "extended.json", "extended.md", ".lock"}
    assert files | {"samples", "questions"} == {p.name for p in tmp_path.iterdir()}


def test_an_average_near_the_edge_is_noted(tmp_path):
    with Store(tmp_path) as store:
        (tmp_path / "settings.json").write_text("{}")
        store.append("b", [sample(f"q{i}", 0, True) for i in range(3)])
        result = write_results(store, "m", {"b": questions(3)}, {"b": Draws.parse(1, "pass@1")}, {})
    average = estimators.macro_average([estimators.estimate([1, 1, 1])])
    assert result["average_ci95_note"] == {"pass@1": average.note} and average.note
    assert average.note in (tmp_path / "summary.md").read_text()


def test_results_are_not_written_while_a_sample_is_missing(tmp_path):
    with Store(tmp_path) as store:
        (tmp_path / "settings.json").write_text("{}")
        store.append("b", [sample("q0", 0, True)])
        with pytest.raises(UserError, match="b: 1 of 2 samples are missing"):
            write_results(store, "m", {"b": questions(2)}, {"b": Draws.parse(1, "pass@1")}, {})
    assert not (tmp_path / "metrics.json").exists()


def test_benchmarks_of_different_n_have_their_own_metrics(tmp_path):
    with Store(tmp_path) as store:
        (tmp_path / "settings.json").write_text("{}")
        drawn = ((0, True), *((j, False) for j in range(3)))
        store.append("a", [sample("q0", j, g, RIGHT if j < 2 else WRONG) for j, g in drawn])
        store.append("b", [sample("q0", j, g) for j, g in drawn[:3]])
        by_name = {name: [Question(name, "q0", "p", "2")] for name in "ab"}
        draws = {"a": Draws.parse(3, None), "b": Draws.parse(2, None)}
        result = write_results(store, "m", by_name, draws, {})
    assert result["settings"]["n"] == {"a": 3, "b": 2}
    assert result["settings"]["metrics"]["b"] == ["pass@1", "avg@2", "pass@2", "maj@2"]
    assert result["benchmarks"]["a"]["avg@3"] == 2 / 3 and result["benchmarks"]["b"]["avg@2"] == 1
    assert list(result["average"]) == ["pass@1"]
    lines = (tmp_path / "summary.md").read_text().splitlines()
    head, _, a, b, average = [line for line in lines if line.startswith("|")][:5]
    assert [cell.strip() for cell in head.split("|")][3:7] == ["pass@1", "avg", "pass", "maj"]
    assert "66.67" in a and "(3)" in a and "(2)" in b and average.count("| - ") == 3
    assert "averages over benchmarks of different n" in "\n".join(lines)
