"""eval/summary.py: a run's table with the paper's row; no external name breaks a table."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import sources
from eval import summary
from eval.arguments import PAPER_BENCHMARKS
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

METRICS = ("pass@1", "avg@8")
PAPERS = PAPER_BENCHMARKS.split(",")


def entry(values: dict[str, float], notes: dict[str, str] | None = None, **more) -> dict:
    """Return a benchmark's entry in metrics.json with intervals of +-0.1."""
    return {
        "n_questions": 30, "n_samples": 270, **values, "ci95": {m: [v - 0.1, v + 0.1] for m, v in values.items()},
        "ci95_method": dict.fromkeys(values, "Wilson"), "ci95_note": notes or {}, "truncated": 0.25, "no_answer": 0.125,
        "timeout": 0.0, "error": 1 / 3, "lenient": {m: v / 2 for m, v in values.items()},
    } | more  # fmt: skip


def result(benchmarks: dict[str, dict], model: str = "org/model", metrics=METRICS, notes=None, **manifest) -> dict:
    average = {m: sum(found[m] for found in benchmarks.values()) / len(benchmarks) for m in metrics}
    return {
        "model": model, "benchmarks": benchmarks, "average": average, "average_se": dict.fromkeys(average),
        "average_ci95": {m: [v - 0.05, v + 0.05] for m, v in average.items()}, "average_ci95_note": notes or {},
        "settings": {"seed": 0, "model": {"name": model}, "n": 8}, "manifest": manifest,
    }  # fmt: skip


def tables(markdown: str) -> list[list[list[str]]]:
    """Return the tables' cells, split as in Markdown: at each `|` without a backslash."""
    found: list[list[list[str]]] = [[]]
    for line in re.split(r"\r\n?|\n", markdown):
        if not line.startswith("|"):
            found.append([])
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
        assert cells[0] == cells[-1] == ""
        found[-1].append(cells[1:-1])
    found = [table for table in found if table]
    for table in found:
        assert table[1] == ["---"] * len(table[0])
        assert {len(row) for row in table} == {len(table[0])}
        del table[1]
    return found


def test_the_table_in_percent():
    text = summary.markdown(
        result({"b": entry({"pass@1": 0.5, "avg@8": 0.25}), "a": entry({"pass@1": 1 / 3, "avg@8": 0.2})}), None
    )
    scores, shares = tables(text)
    assert text.startswith("# org/model\n\n|")
    assert scores == [
        ["benchmark", "questions", "pass@1", "avg@8"],
        ["b", "30", "50.00 [40.0, 60.0]", "25.00 [15.0, 35.0]"],
        ["a", "30", "33.33 [23.3, 43.3]", "20.00 [10.0, 30.0]"],
        ["average", "", "41.67 [36.7, 46.7]", "22.50 [17.5, 27.5]"],
    ]
    assert shares == [
        ["benchmark", "samples", "truncated", "no_answer", "timeout", "error", "lenient pass@1", "lenient avg@8"],
        ["b", "270", "25.00", "12.50", "0.00", "33.33", "25.00", "12.50"],
        ["a", "270", "25.00", "12.50", "0.00", "33.33", "16.67", "10.00"],
    ]
    assert "\nPercent, with 95% intervals over questions. pass@1: Wilson; avg@8: Wilson.\n" in text
    settings = json.loads(re.search(r"^```json\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)[1])
    assert settings == {"seed": 0, "model": {"name": "org/model"}, "n": 8}


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([{"content_filter": 3}, {}], "a: content_filter 3"), ([{}, {"unknown": 2, "content_filter": 1}], "b: content_filter 1; b: unknown 2"),
        ([{"x": 1}, {"x": 2}], "a: x 1; b: x 2"), ([{}, {}], None), ([None, None], None),
    ],
)  # fmt: skip
def test_other_ends_of_responses_are_told(ends, told):
    values = {"pass@1": 0.5, "avg@8": 0.25}
    more = [{} if own is None else {"ended_otherwise": own} for own in ends]  # None: from an earlier version
    text = summary.markdown(result({name: entry(values, **own) for name, own in zip("ab", more, strict=True)}), None)
    line = f"\nEnded neither by `stop` nor by `length`, in the server's words: {told}.\n"
    assert (line in text) if told else "Ended neither" not in text


def test_each_way_in_which_intervals_were_made_is_named():
    other = entry({"pass@1": 0.5, "avg@8": 0.25}, ci95_method={"pass@1": "Wilson", "avg@8": "another"})
    text = summary.markdown(result({"a": entry({"pass@1": 0.5, "avg@8": 0.25}), "b": other, "c": other}), None)
    assert "pass@1: Wilson; avg@8: Wilson or another." in text


def test_notes_are_numbered_once_and_stand_beside_their_numbers():
    values = {"pass@1": 0.5, "avg@8": 0.25}
    benchmarks = {
        "a": entry(values, {"pass@1": "few questions"}),
        "b": entry(values, {"pass@1": "few questions", "avg@8": "few answers"}),
        "c": entry(values),
    }
    text = summary.markdown(result(benchmarks, notes={"avg@8": "near the edge"}), None)
    scores = tables(text)[0]
    marks = [[re.findall(r"\] \[(\d)\]$", cell) for cell in row[2:]] for row in scores[1:]]
    assert marks == [[["1"], []], [["1"], ["2"]], [[], []], [[], ["3"]]]
    assert re.findall(r"^\[(\d)\] (.*)$", text, re.MULTILINE) == [
        ("1", "few questions"), ("2", "few answers"), ("3", "near the edge")
    ]  # fmt: skip


def test_contamination_stands_beside_the_scores(tmp_path):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"contamination": {
        "a": {"questions": 40, "near": 3, "token_equal": 1}, "other": {"questions": 9, "near": 1}, "c": {"questions": 30, "near": 0},
    }}))  # fmt: skip
    near = summary.read_contamination(report)
    values = {"pass@1": 0.5, "avg@8": 0.25}
    found = {name: entry(values) for name in "abc"}
    scores = tables(summary.markdown(result(found, near_in_training=near), None))[0]
    assert [row[-1] for row in scores] == ["near copies in training", "3 of 40", "not compared", "0 of 30", ""]
    assert len(tables(summary.markdown(result(found, near_in_training=None), None))[0][0]) == 4
    assert tables(summary.markdown(result(found, near_in_training={}), None))[0][1][-1] == "not compared"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\xff", b"[]", b"{}", b'{"contamination": []}', b'{"contamination": {"a": 3}}', b'{"contamination": {"a": {}}}',
     b'{"contamination": {"a": {"near": "many", "questions": 3}}}', b'{"contamination": {"a": {"near": null, "questions": 3}}}'],
)  # fmt: skip
def test_what_is_no_training_report_is_refused(tmp_path, content):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"--train-report .*report\.json: not a report of data/prepare_train\.py"):
        summary.read_contamination(path)


def test_the_papers_table():
    """Check its shape, cells of each model and method as printed in Table 1, and its averages against its rows."""
    table = json.loads(summary.PAPER.read_text(encoding="utf-8"))
    assert table["models"] == {size: f"Qwen3-{size}-Base" for size in ("4B", "8B", "14B")}
    assert table["metrics"] == ["pass@1", "avg@8", "pass@8"]
    assert list(table["rows"]) == ["4B", "8B", "14B"]
    for methods in table["rows"].values():
        assert tuple(methods) == summary.METHODS == ("base", "grpo", "mel")
        for row in methods.values():
            assert list(row) == [*PAPERS, "average"]
            assert all(len(cells) == 3 and all(0 < cell < 100 for cell in cells) for cells in row.values())
    assert set(PAPERS) <= sources.load(sources.BENCHMARKS).keys()
    printed = {
        ("4B", "base", "aime25"): [10.00, 6.56, 23.33], ("4B", "grpo", "math500"): [81.80, 82.20, 93.00],
        ("4B", "mel", "average"): [45.48, 46.25, 63.41], ("8B", "base", "olympiadbench"): [44.51, 39.41, 64.09],
        ("8B", "grpo", "average"): [48.43, 51.07, 67.33], ("8B", "mel", "aime24"): [30.00, 25.42, 60.00],
        ("14B", "base", "aime25"): [6.66, 9.58, 33.33], ("14B", "grpo", "amc23"): [75.00, 75.94, 95.00],
        ("14B", "mel", "olympiadbench"): [61.87, 60.90, 75.82], ("14B", "mel", "average"): [61.03, 60.07, 74.94],
    }  # fmt: skip
    for (size, method, name), cells in printed.items():
        assert table["rows"][size][method][name] == cells, (size, method, name)
    for size, methods in table["rows"].items():
        for method, row in methods.items():
            means = [sum(row[name][i] for name in PAPERS) / 5 for i in range(3)]
            assert row["average"] == pytest.approx(means, abs=0.02), (size, method)


@pytest.mark.parametrize(
    ("model", "method", "key"),
    [
        ("Qwen/Qwen3-8B-Base", None, "8B:base"),
        ("qwen3-4b-base", None, "4B:base"),
        ("/models/Qwen3-14B-Base/", None, "14B:base"),
        ("Qwen/Qwen3-8B-Base", "mel", "8B:mel"),
        ("Qwen/Qwen3-8B-Base", "grpo", "8B:grpo"),
        ("8B:mel", None, "8B:mel"),
        ("14B:GRPO", None, "14B:grpo"),
    ],
)
def test_a_model_of_the_paper_has_its_row(model, method, key):
    row = summary.paper_row(model, method)
    size, named = key.split(":")
    cells = json.loads(summary.PAPER.read_text(encoding="utf-8"))["rows"][size][named]
    assert (row.key, row.name) == (key, f"Qwen3-{size}-Base, {named}")
    assert {name: list(values.values()) for name, values in row.values.items()} == cells
    assert all(list(values) == ["pass@1", "avg@8", "pass@8"] for values in row.values.values())
    assert summary.paper_row(row.key) == row


@pytest.mark.parametrize(
    "model",
    ["Qwen/Qwen3-8B", "Qwen3-8B-Base-mel", "my/Qwen2.5-7B", "", "/", "8B", "8B:", "8B:dpo", "32B:mel", ":mel", "mel", "a:b:c"],
)  # fmt: skip
def test_another_model_has_none(model):
    assert summary.paper_row(model) is None
    with pytest.raises(
        UserError, match=rf"--paper {re.escape(model)}: expected SIZE:METHOD with 4B, 8B, 14B and base, grpo, mel"
    ):
        summary.check_paper_row(model)


def test_the_row_that_is_named():
    assert summary.check_paper_row("4B:mel").values["aime24"] == {"pass@1": 20.0, "avg@8": 20.83, "pass@8": 33.0}
    with pytest.raises(UserError, match="expected SIZE:METHOD"):
        summary.check_paper_row("Qwen/Qwen3-8B-Base")


PAPER = summary.PaperRow(
    "8B:mel", "Qwen3-8B-Base, mel",
    {"a": {"pass@1": 30.0, "avg@8": 50.0}, "b": {"pass@1": 40.0, "avg@8": 60.0}, "average": {"pass@1": 35.0, "avg@8": 55.0}},
)  # fmt: skip


def beside(benchmarks: dict[str, dict], metrics=METRICS) -> tuple[str, list[list[str]]]:
    text = summary.markdown(result(benchmarks, metrics=metrics), PAPER)
    return text, tables(text)[1]


def test_the_papers_row_stands_beside_ours():
    values = {"pass@1": 0.25, "avg@8": 0.75}
    text, table = beside({"a": entry(values), "b": entry({"pass@1": 0.4, "avg@8": 0.61})})
    assert "## Beside the paper: Qwen3-8B-Base, mel\n" in text
    assert table == [
        ["benchmark", "pass@1: here, paper, difference", "avg@8: here, paper, difference"],
        ["a", "25.00, 30.00, -5.00, in", "75.00, 50.00, +25.00, out"],
        ["b", "40.00, 40.00, +0.00, in", "61.00, 60.00, +1.00, in"],
        ["average", "32.50, 35.00, -2.50, in", "68.00, 55.00, +13.00, out"],
    ]


@pytest.mark.parametrize(
    ("interval", "where"),
    [([0.3, 0.4], "in"), ([0.2, 0.3], "in"), ([0.3, 0.3], "in"), ([0.3001, 0.4], "out"), ([0.2, 0.2999], "out")],
)
def test_the_intervals_ends_are_within_it(interval, where):
    found = entry({"pass@1": 0.3}, ci95={"pass@1": interval})
    _, table = beside({"a": found}, metrics=["pass@1"])
    assert table[1] == ["a", f"30.00, 30.00, +0.00, {where}"]


def test_averages_are_compared_over_the_same_benchmarks_alone():
    values = {"pass@1": 0.25, "avg@8": 0.75}
    for names in ("a", "abc", "ac"):
        assert [row[0] for row in beside({name: entry(values) for name in names})[1][1:]] == [
            n for n in names if n != "c"
        ]
    assert [row[0] for row in beside({name: entry(values) for name in "ba"})[1][1:]] == ["b", "a", "average"]


def test_what_the_paper_does_not_have_is_not_compared():
    values = {"pass@1": 0.25, "maj@8": 0.75, "pass@2": 0.5}
    _, table = beside({"a": entry(values)}, metrics=list(values))
    assert table[0] == ["benchmark", "pass@1: here, paper, difference"]
    nothing = "The paper's row (Qwen3-8B-Base, mel) has none of these benchmarks and metrics.\n"
    assert nothing in summary.markdown(result({"c": entry(values)}, metrics=list(values)), PAPER)
    assert nothing in summary.markdown(result({"a": entry({"maj@8": 0.5})}, metrics=["maj@8"]), PAPER)
    assert "paper" not in summary.markdown(result({"a": entry(values)}, metrics=list(values)), None)


def checkpoint(label: str, step: int | None, value: float) -> dict:
    return {
        "label": label, "step": step, "average": {"pass@1": value, "avg@8": value / 2},
        "average_ci95": {"pass@1": [value - 0.1, value + 0.1], "avg@8": [0, 1]},
        "benchmarks": {"b": {"pass@1": value, "avg@8": 0.125}, "a": {"pass@1": 0.5, "avg@8": None}},
    }  # fmt: skip


def test_checkpoints_have_a_row_each():
    text = summary.checkpoints_markdown([checkpoint("step-10", 10, 0.2), checkpoint("model", None, 0.4)])
    assert text.startswith("# Checkpoints\n") and re.findall(r"^## (.*)$", text, re.MULTILINE) == list(METRICS)
    first, second = tables(text)
    assert first == [
        ["checkpoint", "step", "average", "b", "a"],
        ["step-10", "10", "20.00 [10.0, 30.0]", "20.00", "50.00"],
        ["model", "-", "40.00 [30.0, 50.0]", "40.00", "50.00"],
    ]
    assert second[1] == ["step-10", "10", "10.00 [0.0, 100.0]", "12.50", "-"]


HOSTILE = st.text(alphabet="ab|\\`# \n\r\u2028\x85\t<>", min_size=1, max_size=12)


@given(HOSTILE)
def test_no_name_breaks_a_table(name):
    values = {"pass@1": 0.5, "avg@8": 0.25}
    text = summary.markdown(result({name: entry(values), "last": entry(values)}, model=name, near_in_training={}), None)
    scores, shares = tables(text)  # also checks that each row has as many cells as the header
    assert [row[0] for row in scores[2:]] == [row[0] for row in shares[2:]] + ["average"] == ["last", "average"]
    assert len(scores) == 4 and len(shares) == 3
    assert text.startswith("# ") and text.split("\n")[1] == ""
    row = checkpoint(name, 1, 0.5)
    (table, _) = tables(summary.checkpoints_markdown([row | {"benchmarks": {name: row["benchmarks"]["b"]}}]))
    assert len(table) == 2


def test_a_pipe_in_a_name_is_still_a_pipe():
    values = {"pass@1": 0.5, "avg@8": 0.25}
    text = summary.markdown(result({"a|b": entry(values)}, model="one\n| two |"), None)
    assert text.startswith("# one | two |\n") and tables(text)[0][1][0] == "a|b"
