"""`--samples standard` from the command to the tables: a small and a large benchmark, regraded, compared, reported."""

import json

import pytest

from benchmarks.scripted_server import ScriptedServer
from eval import compare, regrade, report, run

pytestmark = pytest.mark.timeout(200)
SIZES = {"aime26": 3, "large": 41}


@pytest.fixture
def evaluate(tmp_path):
    """Return a function that evaluates both benchmarks with more flags, and returns its folder."""
    data = tmp_path / "data"
    data.mkdir()
    for name, size in SIZES.items():
        rows = [{"id": f"{name}-{i}", "problem": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(size)]
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(prompt, greedy, seed):
        number = int(prompt.split("+")[0].split()[-1])
        return f"\\boxed{{{2 * number if greedy or seed % 3 else 1}}}"

    with ScriptedServer(answer) as server:

        def made(name, *flags, code=0):
            out = tmp_path / name
            common = ["--backend", "openai", "--base-url", server.url, "--model", server.model, "--data-dir", str(data)]
            common += ["--template", "question", "--benchmarks", ",".join(SIZES), "--output-dir", str(out)]
            assert run.main([*common, *flags]) == code
            return out

        yield made


def read(path):
    return json.loads(path.read_text())


def test_small_benchmarks_get_more_and_everything_takes_it(evaluate, tmp_path, capsys):
    out = evaluate("standard", "--samples", "standard", "--model-date", "2026-02-04")
    metrics, extended = read(out / "metrics.json"), read(out / "extended.json")
    assert {name: entry["n_samples"] for name, entry in metrics["benchmarks"].items()} == {"aime26": 99, "large": 697}
    assert metrics["settings"]["n"] == {"aime26": 32, "large": 16} and list(metrics["average"]) == ["pass@1"]
    assert extended["data_end"] == {"day": "2026-02-04", "source": "--model-date"}
    assert extended["benchmarks"]["aime26"]["clean"] is True and extended["benchmarks"]["large"]["clean"] is None
    assert "(32)" in (out / "summary.md").read_text() and "aime26 (32), large (16)" in (out / "extended.md").read_text()

    before = {name: (out / name).read_bytes() for name in ("extended.json", "extended.md", "summary.md")}
    assert regrade.main([str(out)]) == 0
    assert before == {name: (out / name).read_bytes() for name in before}

    papers = evaluate("paper", "--samples", "paper")
    assert read(papers / "metrics.json")["settings"]["n"] == 8
    capsys.readouterr()
    assert compare.main([str(papers), str(out), "--output", str(tmp_path / "c.json")]) == 0
    assert (
        read(tmp_path / "c.json")["comparisons"][0]["n"] == 8 and "n = 8, the fewest samples" in capsys.readouterr().out
    )
    assert compare.main([str(out), str(out), "--output", str(tmp_path / "c.json")]) == 0
    found = read(tmp_path / "c.json")["comparisons"][0]
    assert found["n"] == {"aime26": 32, "large": 16} and {"avg@32", "pass@32"} <= set(found["benchmarks"]["aime26"])
    assert set(found["average"]) == {"pass@1", "avg", "pass"} and found["average"]["avg"]["difference"] == 0
    assert "n = aime26 32, large 16" in capsys.readouterr().out
    assert report.main([str(papers), str(out), "--output", str(tmp_path / "page")]) == 0


def test_more_samples_are_added_to_a_folder_with_fewer(evaluate):
    out = evaluate("grown", "--n", "8")
    before = {path: path.read_text() for path in (out / "samples").glob("*.jsonl")}
    evaluate("grown", "--samples", "standard")
    assert all(path.read_text().startswith(text) for path, text in before.items())


def test_seeds_sum_up_each_benchmarks_own_metrics(evaluate):
    out = evaluate("seeds", "--samples", "standard", "--seeds", "0,1")
    (row,) = read(out / "seeds.json")
    assert set(row["benchmarks"]["aime26"]["mean"]) == {"pass@1", "avg@32", "pass@32", "maj@32"}
    assert set(row["benchmarks"]["large"]["mean_sd"]) == {"pass@1", "avg@16", "pass@16", "maj@16"}
    assert list(row["average"]) == ["pass@1"] and "| avg@32 | " in (out / "summary.md").read_text()


def test_flags_that_exclude_each_other_get_one_line(evaluate, capsys):
    for flags in (["--samples", "standard", "--n", "4"], ["--samples", "standard", "--metrics", "avg@16"]):
        evaluate("never", *flags, code=2)
        said = capsys.readouterr().err
        assert said.startswith("error: --samples standard: ") and said.count("\n") == 1


def test_a_page_shows_no_question_that_is_withheld(evaluate, tmp_path):
    out = evaluate("withheld", "--n", "1")
    for folder in ("questions", "samples"):
        (out / folder / "large.jsonl").rename(out / folder / "gpqa_diamond.jsonl")
    path = out / "samples" / "gpqa_diamond.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    told = {"extracted": "B) seven and seven", "lenient_extracted": "C", "reasoning": "I am asked for seven and seven."}
    path.write_text("".join(json.dumps(row | told) + "\n" for row in rows))
    content = read(out / "metrics.json")
    content["benchmarks"] = {"gpqa_diamond": content["benchmarks"]["large"]}
    (out / "metrics.json").write_text(json.dumps(content))
    for flags, shown in (([], False), (["--show-withheld"], True)):
        assert report.main([str(out), "--output", str(tmp_path / "page"), *flags]) == 0
        page = (tmp_path / "page" / "index.html").read_text()
        assert ("What is 7+7?" in page) == ("seven and seven" in page) == shown
        assert ("are not published" in page) != shown and '"C"' in page
