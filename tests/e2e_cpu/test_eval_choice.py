"""A benchmark of 20 questions with options: prepared, evaluated, regraded, compared and reported."""

import json

import pytest
import yaml
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import ScriptedServer
from data import prepare_benchmarks, sources
from eval import compare, regrade, report
from openrlhf_mel.verifier import shared_verifier

pytestmark = pytest.mark.timeout(300)

CITIES = ["Lima", "Oslo", "Rome", "Kyiv"]
# WRITTEN[i % 10]: how the answer to question i is written; RIGHT: whether it is correct. Its gold is letter i % 4.
WRITTEN = [
    "\\boxed{{{letter}}}", "\\boxed{{{letter}. {text}}}", "\\boxed{{({letter})}}", "\\boxed{{\\text{{{letter}}}}}",
    "\\boxed{{{text}}}", "Answer: {letter}", "\\boxed{{{letter} or {other}}}", "\\boxed{{{other}}}",
    "\\boxed{{{letter}. {wrong}}}", "it may be {letter}",
]  # fmt: skip
RIGHT = [True, True, True, True, True, True, False, False, False, False]
STATUS = ["correct"] * 6 + ["wrong"] * 3 + ["no_answer"]


def question(i: int) -> dict[str, str]:
    options = "\n".join(f"{letter}. {city}" for letter, city in zip("ABCD", CITIES, strict=True))
    # Every fifth gold is the option's text.
    gold = CITIES[i % 4] if i % 5 == 4 else f"({'ABCD'[i % 4]})"
    return {"q": f"Where did number {i} live?\n{options}", "gold": gold, "scorer": "a column of the source"}


def answer(prompt: str, greedy: bool, seed: int) -> str:
    i = int(prompt.split("number ")[1].split()[0])
    at, other = i % 4, (i + 1) % 4
    return "So\n" + WRITTEN[i % 10].format(letter="ABCD"[at], text=CITIES[at], other="ABCD"[other], wrong=CITIES[other])


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Prepare the benchmark as a user would."""
    path = tmp_path / "benchmarks.yaml"
    entry = {"forms": [{"question": "q", "answer": "gold"}], "answer": "choice", "questions": [20]}
    path.write_text(yaml.safe_dump({"cities": entry}))
    monkeypatch.setattr(sources, "BENCHMARKS", path)
    (tmp_path / "in").mkdir()
    rows = "".join(json.dumps(question(i)) + "\n" for i in range(20))
    (tmp_path / "in" / "cities.jsonl").write_text(rows)
    flags = ["--input-dir", str(tmp_path / "in"), "--output-dir", str(tmp_path / "data")]
    assert prepare_benchmarks.main(flags) == 0
    return tmp_path / "data"


def test_a_choice_benchmark_from_its_rows_to_its_report(data, out, tmp_path, capsys):
    rows = [json.loads(line) for line in (data / "cities.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and {row["scorer"] for row in rows} == {"choice"}
    assert rows[0]["source_scorer"] == "a column of the source"
    everything = [json.loads(line) for line in (data / "eval_all.jsonl").read_text().splitlines()]
    assert {row["scorer"] for row in everything} == {"choice"}
    assert json.loads((data / "report.json").read_text())["benchmarks"]["cities"]["scorer"] == "choice"

    flags = ["--benchmarks", "cities", "--n", 2]
    with ScriptedServer(answer) as server:
        assert known.evaluate(server.url, data, out, *flags) == 0
        asked = server.answered
        assert known.evaluate(server.url, data, out, *flags) == 0 and server.answered == asked
    found = json.loads((out / "metrics.json").read_text())
    cities = found["benchmarks"]["cities"]
    assert (cities["pass@1"], cities["avg@2"], cities["maj@2"], cities["scorer"]) == (0.6, 0.6, 0.6, "choice")
    assert (cities["no_answer"], cities["error"], cities["lenient"]["pass@1"]) == (0.1, 0.0, 0.6)
    assert found["settings"]["scorers"] == {"cities": "choice"}
    assert "Judged: cities by choice" in (out / "summary.md").read_text()
    samples = known.rows(out, "cities")
    numbers = {row["id"]: int(row["problem"].split("number ")[1].split()[0]) for row in rows}
    assert all(sample["status"] == STATUS[numbers[sample["question"]] % 10] for sample in samples)

    # as if an older verifier had made every verdict wrong
    path, before = out / "samples" / "cities.jsonl", (out / "samples" / "cities.jsonl").read_text()
    path.write_text("".join(json.dumps(row | {"status": "timeout", "extracted": "?"}) + "\n" for row in samples))
    assert regrade.main([str(out)]) == 0 and "60 verdicts changed" in capsys.readouterr().out
    assert path.read_text() == before
    again = json.loads((out / "metrics.json").read_text())
    assert again["benchmarks"] == found["benchmarks"] and again["settings"] == found["settings"]

    assert compare.main([str(out), str(out)]) == 0
    assert report.main([str(out), "--output", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / report.PAGE).read_text()
    assert "60.0" in page and "scorers.cities" in page


def test_a_benchmark_runs_a_function_only_where_the_command_names_it(tmp_path, out, capsys, monkeypatch):
    (tmp_path / "judges_of_mine.py").write_text("def f(answer, gold, question):\n    return answer == gold\n")
    monkeypatch.syspath_prepend(tmp_path)
    shared_verifier().close()  # workers keep the import paths from their start
    (tmp_path / "data").mkdir()
    row = {"id": "m-1", "problem": "Say yes.", "answer": "yes", "scorer": "judges_of_mine:f"}
    (tmp_path / "data" / "mine.jsonl").write_text(json.dumps(row) + "\n")
    flags, allowed = ["--benchmarks", "mine", "--n", 1], ["--scorers", "judges_of_mine:f"]
    with ScriptedServer(lambda *_: r"\boxed{yes}") as server:
        assert known.evaluate(server.url, tmp_path / "data", out, *flags) == 2 and not server.answered
        assert "pass --scorers judges_of_mine:f if you trust it" in capsys.readouterr().err
        assert known.evaluate(server.url, tmp_path / "data", out, *flags, *allowed) == 0
    assert known.metrics(out)["benchmarks"]["mine"]["pass@1"] == 1.0
    assert regrade.main([str(out)]) == 2
    assert "pass --scorers judges_of_mine:f if you trust it" in capsys.readouterr().err
    assert regrade.main([str(out), *allowed]) == 0 and "0 verdicts changed" in capsys.readouterr().out


def test_an_evaluation_of_before_there_were_scorers_goes_on_and_is_regraded_as_mathematics(tmp_path, out, capsys):
    data = known.prepare(tmp_path / "old")
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out) == 0
        metrics = known.metrics(out)
        strip(out)
        asked = server.answered
        assert known.evaluate(server.url, data, out) == 0 and server.answered == asked
    strip(out)
    assert compare.main([str(out), str(out)]) == 0
    assert report.main([str(out), "--output", str(tmp_path / "page")]) == 0
    assert regrade.main([str(out)]) == 0 and "0 verdicts changed" in capsys.readouterr().out
    assert known.metrics(out) == metrics
    known.check(out)


def strip(out) -> None:
    """Bring the folder into the form of a version without scorers."""
    assert not any("scorer" in path.read_text() for path in (out / "questions").glob("*.jsonl"))
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("scorers") == dict.fromkeys(known.TWO, "math")
    (out / "settings.json").write_text(json.dumps(settings))
    metrics = json.loads((out / "metrics.json").read_text())
    del metrics["settings"]["scorers"]
    for entry in metrics["benchmarks"].values():
        del entry["scorer"]
    (out / "metrics.json").write_text(json.dumps(metrics))
