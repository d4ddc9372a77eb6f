"""`python -m eval.run` with the toy model on a CPU: its own weights, and the checkpoints of a training run."""

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known

from eval import run
from openrlhf_mel.prompts import fill_question, read_question_template

pytestmark = pytest.mark.timeout(300)
TOY = Path(__file__).parents[2] / "data" / "toy"
TEMPLATES = TOY / "templates"


def command(out: Path, *flags: object) -> list[str]:
    fixed = ["--backend", "hf", "--data-dir", TOY, "--benchmarks", "test", "--output-dir", out, "--max-tokens", 24]
    return [str(flag) for flag in (*fixed, *flags)]


def toy(out: Path, *flags: object) -> list[str]:
    return command(out, "--model", TOY / "model", "--template", TEMPLATES, "--limit", 12, *flags)


def samples(out: Path) -> dict[tuple, dict]:
    """Return the samples by key; check that none occurs twice."""
    found = known.rows(out, "test")
    by_key = {(row["question"], row["sample"], row["greedy"]): row for row in found}
    assert len(by_key) == len(found)
    return by_key


def settings(out: Path) -> dict:
    return json.loads((out / "settings.json").read_text())


@pytest.mark.slow
def test_same_samples_however_they_are_drawn(tmp_path):
    whole, again, stopped = (tmp_path / name for name in ("whole", "again", "stopped"))
    assert run.main(toy(whole)) == 0
    drawn = samples(whole)
    assert len(drawn) == 12 * 9 and len({row["response"] for row in drawn.values()}) > 20
    assert {row["status"] for row in drawn.values()} >= {"correct", "wrong"}  # the toy model solves some
    assert run.main(toy(again, "--token-budget", 600)) == 0
    assert samples(again) == drawn and known.metrics(again) == known.metrics(whole)

    for _ in range(5):  # on a busy machine the other process may finish before it is stopped
        shutil.rmtree(stopped, ignore_errors=True)
        process = known.start(toy(stopped, "--token-budget", 100))  # two or three at a time
        deadline = time.monotonic() + 60
        while len(known.rows(stopped, "test")) < 10 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.is_alive():
            os.kill(process.pid, signal.SIGINT)
        process.join(60)
        before = samples(stopped)
        if len(before) < 12 * 9:
            break
    assert process.exitcode == 130 and 10 <= len(before) < 12 * 9
    assert run.main(toy(stopped)) == 0
    assert samples(stopped) == drawn and known.metrics(stopped) == known.metrics(whole)
    assert [samples(stopped)[key] for key in before] == list(before.values())


@pytest.fixture
def changed_model(tmp_path) -> Path:
    """Make the toy model with other weights."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "changed"
    shutil.copytree(TOY / "model", folder)
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("down_proj.weight"))
    tensors[name] = tensors[name] * 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_other_weights_do_not_mix(tmp_path, changed_model, capsys):
    out = tmp_path / "out"
    assert run.main(toy(out, "--limit", 1, "--n", 1)) == 0
    files = known.snapshot(out)
    capsys.readouterr()
    assert run.main(toy(out, "--limit", 1, "--n", 1, "--model", changed_model)) == 2
    message = capsys.readouterr().err
    assert "model.weights_sha256: " in message and len(message.splitlines()) == 2
    assert known.snapshot(out) == files


def test_checkpoints_of_a_run(tmp_path, changed_model, capsys):
    """Each is evaluated as if given alone, with the run's own prompt format."""
    folder, out, alone = tmp_path / "my-run", tmp_path / "out", tmp_path / "alone"
    config = {
        "actor.model_name_or_path": "Qwen/Qwen3-4B-Base",
        "data.apply_chat_template": True,
        "mel.template_dir": str(TEMPLATES),
        "mel.enable": True,
        "mel.algorithm": "grpo",
        "mel.run_dir": str(folder),
    }
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"config": config}))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 8}\n')
    shutil.copytree(changed_model, folder / "checkpoints" / "global_step4_hf")
    shutil.copytree(TOY / "model", folder / "model")
    few = ["--limit", 4, "--n", 2]

    asked = command(out, "--run", folder, "--checkpoints", "all", *few)
    assert run.main(asked) == 0
    table = json.loads((out / "checkpoints.json").read_text())
    assert [(row["label"], row["step"]) for row in table] == [("global_step4", 4), ("model", 8)]
    for row in table:
        results = known.metrics(out / row["label"])
        assert results["model"] == f"my-run/{row['label']}"
        assert (row["average"], row["average_ci95"]) == (results["average"], results["average_ci95"])
        assert row["benchmarks"]["test"] == {m: results["benchmarks"]["test"][m] for m in results["average"]}
        assert "Qwen3-4B-Base, mel" in (out / row["label"] / "summary.md").read_text()
    used = settings(out / "model")["template"]
    assert used["name"] == "question.txt" and used["chat"] is True
    questions = [json.loads(line) for line in (TOY / "test.jsonl").read_text().splitlines()[:4]]
    texts = [fill_question(read_question_template(TEMPLATES / "question.txt"), row["input"]) for row in questions]
    hashes = {hashlib.sha256(text.encode()).hexdigest() for text in texts}
    assert {row["prompt_sha256"] for row in samples(out / "model").values()} == hashes
    summary = (out / "summary.md").read_text()
    assert "| global_step4 | 4 | " in summary and "| model | 8 | " in summary and "## avg@2" in summary

    same = command(alone, "--model", folder / "model", "--template", TEMPLATES, "--chat", *few)
    assert run.main(same) == 0
    assert samples(alone) == samples(out / "model") != samples(out / "global_step4")
    assert known.metrics(alone)["benchmarks"] == known.metrics(out / "model")["benchmarks"]

    seeds = command(tmp_path / "seeds", "--run", folder, "--checkpoints", "all", *few, "--seeds", "0,3")
    assert run.main(seeds) == 0
    assert {path.name for path in (tmp_path / "seeds").iterdir()} == {"seed-0", "seed-3", "seeds.json", "summary.md"}
    for label in ("global_step4", "model"):
        assert samples(tmp_path / "seeds" / "seed-0" / label) == samples(out / label)
    assert (tmp_path / "seeds" / "seed-0" / "checkpoints.json").read_text() == (out / "checkpoints.json").read_text()
    found = json.loads((tmp_path / "seeds" / "seeds.json").read_text())
    assert [(row["model"], row["step"], row["seeds"]) for row in found] == [
        ("my-run/global_step4", 4, [0, 3]),
        ("my-run/model", 8, [0, 3]),
    ]

    files = known.snapshot(out / "model" / "samples")
    capsys.readouterr()
    assert run.main(asked) == 0
    assert known.snapshot(out / "model" / "samples") == files
    assert json.loads((out / "model" / "metrics.json").read_text())["manifest"]["drawn_now"] == 0
    assert run.main([*asked, "--template", "default"]) == 2
    assert "template.sha256: " in capsys.readouterr().err
