"""`python -m eval.run` with a scripted server gives the right numbers despite failures, stops and resumes."""

import json
import re

import pytest
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import FAULTS, Faults, ScriptedServer
from eval import regrade
from openrlhf_mel.prompts import DEFAULT_DIR

pytestmark = pytest.mark.timeout(300)
ALL = 153  # samples of the two benchmarks: 17 questions, one greedy and eight sampled responses each


@pytest.mark.parametrize("chat", [False, True])
def test_every_number_is_the_hand_computed_one(data, out, chat):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, *(["--chat"] if chat else [])) == 0
    known.check(out)
    found = known.metrics(out)
    aime, amc = (found["benchmarks"][name] for name in known.TWO)
    # counted by hand from the patterns, as a check of the oracle itself
    assert [aime[m] for m in ("pass@1", "avg@8", "pass@8")] == [4 / 10, 28 / 80, 8 / 10]
    assert [amc[m] for m in ("pass@1", "avg@8", "pass@8")] == [3 / 7, 23 / 56, 6 / 7]
    assert aime["maj@8"] == pytest.approx((3 + 1 / 2 + 1 / 2 + 1 / 3) / 10)
    assert (aime["truncated"], aime["no_answer"]) == (7 / 90, 24 / 90)
    assert found["average"]["avg@8"] == pytest.approx((28 / 80 + 23 / 56) / 2)
    assert aime["ci95_method"]["pass@1"] == "Wilson" and "effective" in aime["ci95_method"]["avg@8"]
    assert "10 questions" in aime["ci95_note"]["pass@1"]
    assert found["model"] == "scripted" and found["settings"]["template"]["chat"] is chat


def test_what_the_server_is_asked(data, out, tmp_path):
    with ScriptedServer(lambda *_: "?") as server:
        assert known.evaluate(server.url, data, out, "--top-p", 0.9, "--max-tokens", 77) == 0
        bodies = list(server.bodies)
        assert known.evaluate(server.url, data, tmp_path / "other seed", "--seed", 1) == 0
        other = {body["seed"] for body in list(server.bodies)[ALL:]}
    template = (DEFAULT_DIR / "question.txt").read_text().removesuffix("\n")
    prompts = {name: [known.problem(name, i) for i in range(len(known.PATTERNS[name]))] for name in known.TWO}
    texts = [template.replace("{{question}}", text) for of in prompts.values() for text in of]
    assert sorted(body["prompt"] for body in bodies) == sorted(texts * 9)
    assert all((body["max_tokens"], body["n"], body["model"]) == (77, 1, "scripted") for body in bodies)
    greedy = [body for body in bodies if body["temperature"] == 0]
    sampled = [body for body in bodies if body["temperature"] != 0]
    assert len(greedy) == 17 and {body["top_p"] for body in greedy} == {1}
    assert {(body["temperature"], body["top_p"]) for body in sampled} == {(0.6, 0.9)}
    seeds = {body["seed"] for body in sampled}
    assert len(seeds) == len(sampled) == 17 * 8 == len(other - {0}) and not seeds & other - {0}


def table(markdown: str) -> dict[str, list[str]]:
    """Return a table's rows by their first cell."""
    rows = [re.split(r" ?\| ?", line)[1:-1] for line in markdown.splitlines() if line.startswith("|")]
    return {row[0]: row for row in rows}


def test_summary_beside_the_paper(tmp_path, out):
    names = tuple(known.PATTERNS)
    data = known.prepare(tmp_path / "data", names)
    report = tmp_path / "report.json"
    contamination = {"aime24": {"near": 0, "questions": 30}, "amc23": {"near": 17, "questions": 40}}
    report.write_text(json.dumps({"contamination": contamination}))
    flags = ["--benchmarks", ",".join(names), "--paper", "8B:mel", "--train-report", report]
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, *flags) == 0
    wanted = known.expected(names=names)
    assert known.differing(known.metrics(out), wanted) == []
    summary = (out / "summary.md").read_text()
    assert "## Beside the paper: Qwen3-8B-Base, mel" in summary
    scores, beside, samples = map(table, re.split("^## ", summary, flags=re.MULTILINE)[:3])
    assert scores["benchmark"][2:] == ["pass@1", "avg@8", "pass@8", "maj@8", "near copies in training"]
    assert [scores[name][-1] for name in ("aime24", "amc23", "math500")] == ["0 of 30", "17 of 40", "not compared"]
    # Table 1 of the paper, Qwen3-8B-Base with MEL
    paper = {"aime24": [30.0, 25.42, 60.0], "amc23": [70.0, 70.31, 90.0], "average": [52.79, 52.27, 71.17]}
    inside = []
    for name, entry in [*wanted["benchmarks"].items(), ("average", None)]:
        ours, ends = entry or wanted["average"], entry["ci95"] if entry else wanted["average_ci95"]
        for i, metric in enumerate(("pass@1", "avg@8", "pass@8", "maj@8")):
            value, (low, high) = 100 * ours[metric], ends[metric]
            assert re.sub(r" \[\d+]$", "", scores[name][2 + i]) == f"{value:.2f} [{100 * low:.1f}, {100 * high:.1f}]"
            if name in paper and metric != "maj@8":
                theirs = paper[name][i]
                inside.append("in" if low <= theirs / 100 <= high else "out")
                assert beside[name][1 + i] == f"{value:.2f}, {theirs:.2f}, {value - theirs:+.2f}, {inside[-1]}"
    assert set(inside) == {"in", "out"}
    assert samples["aime24"][1:6] == ["90", f"{700 / 90:.2f}", f"{2400 / 90:.2f}", "0.00", "0.00"]


@pytest.mark.parametrize("share, times", [(1 / 3, 1), (1.0, 2)])
def test_failing_requests_change_nothing(data, out, impatient, share, times):
    kinds = tuple(kind for kind in FAULTS if kind != "hang")
    with ScriptedServer(known.script(), Faults(share, kinds, times, slow_s=0.3)) as server:
        assert known.evaluate(server.url, data, out) == 0
        assert set(server.faults) == set(kinds) and server.faults.total() > 30
        assert server.answered == ALL
    known.check(out)


def test_same_command_again_draws_nothing(data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out) == 0
        before, files = known.metrics(out), known.snapshot(out / "samples")
        assert server.requests == ALL
        assert known.evaluate(server.url, data, out) == 0
        assert server.requests == ALL
    assert (known.metrics(out), known.snapshot(out / "samples")) == (before, files)
    assert json.loads((out / "metrics.json").read_text())["manifest"]["drawn_now"] == 0


def test_changed_setting_is_refused_by_name(data, out, tmp_path, capsys):
    changes = {
        "sampling.temperature: 0.6 -> 0.7": ["--temperature", 0.7],
        "sampling.top_p: 1.0 -> 0.5": ["--top-p", 0.5],
        "sampling.max_tokens: 4096 -> 100": ["--max-tokens", 100],
        "seed: 0 -> 1": ["--seed", 1],
        "template.sha256: ": ["--template", "boxed"],
        "template.chat: False -> True": ["--chat"],
        "model.model: scripted -> other": ["--model", "other"],
        "data_sha256.amc23: ": ["--data-dir", known.prepare(tmp_path / "changed", more=" Now!")],
    }
    served = [{"id": name} for name in ("scripted", "other")]
    with ScriptedServer(known.script(), models=served) as server:
        # half done: settings are compared even before there are results
        assert known.evaluate(server.url, data, out, "--benchmarks", "amc23", "--limit", 3, "--n", 2) == 0
        files = known.snapshot(out)
        for changed, flags in changes.items():
            capsys.readouterr()
            assert known.evaluate(server.url, data, out, "--benchmarks", "amc23", *flags) == 2, changed
            message = capsys.readouterr().err
            assert message.startswith(f"error: --output-dir {out}: holds samples of other settings"), message
            assert changed in message and "choose another folder" in message and "Traceback" not in message
            assert known.snapshot(out) == files
        assert server.requests == 9
        assert known.evaluate(server.url, data, out) == 0
        assert server.requests == ALL
    known.check(out)


def test_a_settings_change_says_no_more_than_what_changed(data, out, capsys):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--limit", 1, "--n", 1) == 0
        capsys.readouterr()
        assert known.evaluate(server.url, data, out, "--seed", 5) == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["  seed: 0 -> 5"]


def test_more_goes_on_and_less_takes_a_part(data, out):
    with ScriptedServer(known.script()) as server:

        def draws(number: int, *flags: object) -> None:
            before = server.requests
            assert known.evaluate(server.url, data, out, *flags) == 0
            assert server.requests - before == number, flags

        draws(3 * 5, "--benchmarks", "aime24", "--n", 4, "--limit", 3)
        draws(3 * 4, "--benchmarks", "aime24", "--limit", 3)
        draws(7 * 9, "--benchmarks", "amc23")
        assert list(known.metrics(out)["benchmarks"]) == ["amc23"]
        assert set(known.metrics(out)["settings"]["data_sha256"]) == set(known.TWO)
        draws(7 * 9)
        known.check(out)
        draws(17 * 4, "--n", 12)
        known.check(out, 12)
        draws(0, "--n", 4, "--limit", 2)
        assert known.differing(known.metrics(out), known.expected(4, limit=2)) == []
        known.check_samples(out, 12)
        draws(0, "--metrics", "pass@1")
        assert known.metrics(out)["average"].keys() == {"pass@1"}
        assert known.metrics(out)["benchmarks"]["aime24"]["n_samples"] == 10
        draws(0, "--metrics", "pass@4,AVG@8")
        found = known.metrics(out)
        assert list(found["average"]) == ["pass@4", "avg@8"]
        for name, entry in known.expected()["benchmarks"].items():
            assert found["benchmarks"][name]["pass@4"] == pytest.approx(entry["pass@k"]["4"], abs=1e-12)
        draws(0)
    assert known.differing(known.metrics(out), known.expected()) == []


def test_greedy_only_then_sampled(data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--metrics", "pass@1") == 0
        assert {body["temperature"] for body in server.bodies} == {0} and server.requests == 17
        assert known.metrics(out)["benchmarks"]["amc23"]["pass@1"] == 3 / 7
        assert known.evaluate(server.url, data, out, "--metrics", "avg@8") == 0
        assert server.requests == ALL
        assert known.evaluate(server.url, data, out) == 0
        assert server.requests == ALL
    known.check(out)


def test_regrade_restores_the_verdicts(data, out, tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"contamination": {"aime24": {"near": 2, "questions": 30}}}))
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--paper", "8B:mel", "--train-report", report) == 0
    results, files, summary = known.metrics(out), known.snapshot(out / "samples"), (out / "summary.md").read_text()
    assert regrade.main([str(out)]) == 0
    assert (known.metrics(out), known.snapshot(out / "samples")) == (results, files)
    assert (out / "summary.md").read_text() == summary
    for name in known.TWO:
        spoiled = [row | {"status": "correct", "lenient_extracted": "0"} for row in known.rows(out, name)]
        (out / "samples" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoiled))
    capsys.readouterr()
    assert regrade.main([str(out)]) == 0
    assert f"{out}: {ALL} verdicts changed" in capsys.readouterr().out
    assert (known.metrics(out), known.snapshot(out / "samples")) == (results, files)


def test_regrade_of_a_part_keeps_the_rest(data, out):
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out) == 0
        assert known.evaluate(server.url, data, out, "--n", 4, "--limit", 2, "--benchmarks", "aime24") == 0
        results = known.metrics(out)
        assert regrade.main([str(out)]) == 0
        assert known.metrics(out) == results
        known.check_samples(out)
        assert known.evaluate(server.url, data, out) == 0
        assert server.requests == ALL
    known.check(out)


def test_regrade_lets_another_version_go_on(data, out, capsys):
    """Verdicts of two grading versions are not mixed; regrade brings all to one version."""
    with ScriptedServer(known.script()) as server:
        assert known.evaluate(server.url, data, out, "--n", 2) == 0
        settings = json.loads((out / "settings.json").read_text())
        settings["versions"]["math-verify"] = "0.1.0"
        (out / "settings.json").write_text(json.dumps(settings))
        assert known.evaluate(server.url, data, out) == 2
        assert "versions.math-verify: 0.1.0 -> " in capsys.readouterr().err
        assert regrade.main([str(out)]) == 0
        assert known.evaluate(server.url, data, out) == 0
    known.check(out)
