"""The evaluation as a whole against known labels: 800 graded responses of a real model, and an oracle apart from eval/."""

import json
from fractions import Fraction
from math import comb

import pytest

from benchmarks.scripted_server import ScriptedServer
from eval import run
from eval.identity import seed_of

pytestmark = pytest.mark.timeout(200)
N = 8


@pytest.fixture
def graded(shared):
    path = shared / "data" / "graded" / "qwen25math_math100x8.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_question = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(row)
    assert len(rows) == 800 and {len(own) for own in by_question.values()} == {N}
    return by_question


def test_the_labels_and_the_metrics_of_a_real_models_responses(graded, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    ids = {question: f"q{i}" for i, question in enumerate(graded)}
    lines = [
        json.dumps({"id": ids[question], "problem": question, "answer": own[0]["gold"]})
        for question, own in graded.items()
    ]
    (data / "known.jsonl").write_text("\n".join(lines) + "\n")
    said = {
        (question, seed_of(0, "known", ids[question], i)): row["completion"]
        for question, own in graded.items()
        for i, row in enumerate(own)
    }

    with ScriptedServer(lambda prompt, greedy, seed: said[prompt.rstrip("\n"), seed]) as server:
        flags = ["--backend", "openai", "--base-url", server.url, "--model", server.model, "--template", "question"]
        flags += ["--data-dir", str(data), "--benchmarks", "known", "--n", str(N), "--metrics", "avg@8,pass@2,pass@8"]
        assert run.main([*flags, "--output-dir", str(out)]) == 0, capsys.readouterr().err

    samples = [json.loads(line) for line in (out / "samples" / "known.jsonl").read_text().splitlines()]
    found = {(row["question"], row["sample"]): row["status"] == "correct" for row in samples}
    labels = {(ids[q], i): bool(row["expected"]) for q, own in graded.items() for i, row in enumerate(own)}
    differ = [key for key in labels if found[key] != labels[key]]
    # The label calls the answer 10000 different from the reference answer 10{,}000.
    assert len(differ) == 1 and found[differ[0]]

    rights = [sum(found[identity, i] for i in range(N)) for identity in ids.values()]

    def mean(value):
        return float(sum(map(value, rights), Fraction()) / len(rights))

    metrics = json.loads((out / "metrics.json").read_text())["benchmarks"]["known"]
    extended = json.loads((out / "extended.json").read_text())["benchmarks"]["known"]
    assert metrics["avg@8"] == pytest.approx(mean(lambda c: Fraction(c, N)), abs=1e-12)
    assert metrics["avg@8"] == pytest.approx((sum(labels.values()) + 1) / 800, abs=1e-12)
    for k in range(1, N + 1):
        some = mean(lambda c, k=k: 1 - Fraction(comb(N - c, k), comb(N, k)))
        every = mean(lambda c, k=k: Fraction(comb(c, k), comb(N, k)))
        assert metrics["pass@k"][str(k)] == pytest.approx(some, abs=1e-12)
        assert extended["pass@k"][str(k)] == pytest.approx(some, abs=1e-12)
        assert extended["pass^k"][str(k)] == pytest.approx(every, abs=1e-12)
    for k in ("2", "8"):
        assert metrics[f"pass@{k}"] == pytest.approx(metrics["pass@k"][k], abs=1e-12)
