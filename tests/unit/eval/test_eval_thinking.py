"""`python -m eval.run` with models that think: their end tag, `thinking_cut`, a server's reasoning, earlier folders."""

import json
import shutil
from pathlib import Path

import pytest
from e2e_cpu import known_answers as known

from benchmarks.scripted_server import Answer, ScriptedServer
from eval import compare, regrade, report, run

pytestmark = pytest.mark.timeout(120)

TOY = Path(__file__).parents[3] / "data" / "toy"
END = "</think>"
# By the number of the question: a response, and how it is judged with and without the end tag.
RESPONSES = [
    ("So 1+1 </think> the answer is \\boxed{41}.", "stop", "correct", "correct"),
    ("The answer is \\boxed{42}. But wait,", "length", "no_answer", "correct"),  # cut while thinking
    ("The answer is \\boxed{43}.", "stop", "no_answer", "correct"),
    ("</think> The answer is", "length", "no_answer", "no_answer"),  # cut after thinking
]


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def data(tmp_path) -> Path:
    return known.prepare(tmp_path / "data", ("aime24",))


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def number(prompt: str) -> int:
    return next(i for i in range(4) if known.problem("aime24", i) in prompt)


def thinks(prompt: str, greedy: bool, seed: int) -> Answer:
    text, reason, *_ = RESPONSES[number(prompt)]
    return Answer(text, reason)


def evaluate(server: ScriptedServer, data: Path, out: Path, *flags: object) -> int:
    few = ["--benchmarks", "aime24", "--limit", 4, "--n", 1, "--chat"]
    return known.evaluate(server.url, data, out, *few, *flags)


def statuses(out: Path) -> dict[int, tuple[str, str]]:
    """Return the anchored and the lenient verdict on each question's greedy response, by the question's number."""
    ids = [json.loads(line)["id"] for line in (out / "questions" / "aime24.jsonl").read_text().splitlines()]
    rows = [row for row in known.rows(out, "aime24") if row["greedy"]]
    return {ids.index(row["question"]): (row["status"], row["lenient_status"]) for row in rows}


def entry(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())["benchmarks"]["aime24"]


def template(out: Path) -> dict:
    return json.loads((out / "settings.json").read_text())["template"]


def test_an_end_tag_that_is_told(data, out):
    with ScriptedServer(thinks) as server:
        assert evaluate(server, data, out, "--thinking-end", END) == 0
    assert template(out)["thinking_end"] == END
    assert {i: anchored for i, (anchored, _) in statuses(out).items()} == {i: r[2] for i, r in enumerate(RESPONSES)}
    assert [statuses(out)[i][1] for i in range(3)] == ["correct"] * 3  # lenient counts an answer in thinking
    found = entry(out)
    assert (found["truncated"], found["thinking_cut"], found["no_answer"], found["pass@1"]) == (0.5, 0.25, 0.75, 0.25)
    summary = (out / "summary.md").read_text()
    assert "| benchmark | samples | truncated | thinking_cut | no_answer |" in summary
    assert "| aime24 | 8 | 50.00 | 25.00 | 75.00 |" in summary and "\nthinking_cut: cut while thinking;" in summary


def test_without_the_tag_thinking_is_seen_by_its_marks(data, out):
    with ScriptedServer(thinks) as server:
        assert evaluate(server, data, out) == 0
    assert "thinking_end" not in template(out)
    assert {i: anchored for i, (anchored, _) in statuses(out).items()} == {i: r[3] for i, r in enumerate(RESPONSES)}
    assert entry(out)["thinking_cut"] == 0  # an opening mark is in none of them


def test_an_earlier_folder_goes_on(data, out, tmp_path, capsys):
    """Its samples get the verdicts of one that knew the tag from the start; then they are regraded to the same."""
    whole = tmp_path / "whole"
    with ScriptedServer(thinks) as server:
        assert evaluate(server, data, whole, "--thinking-end", END) == 0
        assert evaluate(server, data, out, "--limit", 3) == 0
        asked = server.requests
        assert evaluate(server, data, out, "--thinking-end", END) == 0
        assert server.requests == asked + 2
        said = capsys.readouterr().err
        assert f"note: {out}: its prompts open thinking that ends with </think>; 4 earlier responses" in said
        assert known.metrics(out) == known.metrics(whole)
        files = known.snapshot(out / "samples")
        assert regrade.main([str(out)]) == 0
        assert known.snapshot(out / "samples") == files and known.metrics(out) == known.metrics(whole)
        assert evaluate(server, data, out) == 2  # auto does not see the tag of a server
        assert "template.thinking_end: </think> -> None" in capsys.readouterr().err
        assert known.snapshot(out / "samples") == files


def test_regrade_with_a_tag_and_without(data, out, tmp_path, capsys):
    with ScriptedServer(thinks) as server:
        assert evaluate(server, data, out) == 0
    before = known.metrics(out)
    assert regrade.main([str(out), "--thinking-end", "</THINK>"]) == 0
    assert "4 verdicts changed" in capsys.readouterr().out
    assert template(out)["thinking_end"] == END and entry(out)["thinking_cut"] == 0.25
    assert regrade.main([str(out), "--thinking-end", "none"]) == 0
    assert template(out)["thinking_end"] is None
    assert known.metrics(out)["benchmarks"] == before["benchmarks"]
    assert regrade.main([str(out), "--thinking-end", "</thoughtful>"]) == 2
    assert "--thinking-end </thoughtful>: unknown" in capsys.readouterr().err
    assert report.main([str(out), "--output", str(tmp_path / "page")]) == 0
    assert "thinking cut" in (tmp_path / "page" / "index.html").read_text()


def reasons(name: str):
    """Return a script whose server gives the thinking apart: finished, cut while thinking, and none at all."""

    def answer(prompt: str, greedy: bool, seed: int) -> Answer:
        i = number(prompt)
        if i == 1:
            return Answer(None, "length", 9, more={name: "So \\boxed{42}. But \ud800"})
        if i == 2:
            return Answer("The answer is \\boxed{43}.", more={name: None})
        return Answer(
            f"The answer is \\boxed{{{known.gold(i)}}}.", more={name: "Perhaps \\boxed{7} </think>", "refusal": None}
        )

    return answer


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_a_servers_reasoning_is_kept_and_never_graded(data, out, name, tmp_path, capsys):
    with ScriptedServer(reasons(name)) as server:
        assert evaluate(server, data, out) == 0
    assert "thinking_end" not in template(out)
    rows = {row["prompt_sha256"]: row for row in known.rows(out, "aime24") if row["greedy"]}
    kept = [row.get("reasoning") for row in rows.values()]
    assert sorted(map(str, kept)) == [
        "None",
        "Perhaps \\boxed{7} </think>",
        "Perhaps \\boxed{7} </think>",
        "So \\boxed{42}. But ?",
    ]
    assert all(list(row)[-1] == "reasoning" for row in rows.values() if "reasoning" in row)
    assert [statuses(out)[i][0] for i in range(4)] == ["correct", "no_answer", "correct", "correct"]
    assert statuses(out)[1][1] == "no_answer"
    assert (entry(out)["thinking_cut"], entry(out)["truncated"]) == (0.25, 0.25)
    files = known.snapshot(out / "samples")
    assert regrade.main([str(out)]) == 0
    assert known.snapshot(out / "samples") == files
    # With a tag, only the response whose thinking was not given apart is judged by it.
    assert regrade.main([str(out), "--thinking-end", END]) == 0
    assert [statuses(out)[i][0] for i in range(4)] == ["correct", "no_answer", "no_answer", "correct"]
    page = tmp_path / "page"
    assert report.main([str(out), "--output", str(page)]) == 0
    assert "Perhaps \\\\boxed{7}" in (page / "index.html").read_text()
    assert compare.main([str(out), str(out)]) == 0


@pytest.fixture
def model(tmp_path) -> Path:
    """The toy model with a chat template that opens thinking."""
    folder = Path(shutil.copytree(TOY / "model", tmp_path / "model"))
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|assistant|>{% endif %}", "<|assistant|><think>\n{% endif %}"))
    assert "<think>" in path.read_text()
    return folder


def local(model: Path, out: Path, *flags: object) -> int:
    fixed = [
        "--backend",
        "hf",
        "--model",
        model,
        "--data-dir",
        TOY,
        "--benchmarks",
        "test",
        "--template",
        TOY / "templates",
    ]
    few = ["--limit", 3, "--n", 1, "--max-tokens", 12, "--output-dir", out]
    return run.main([str(flag) for flag in (*fixed, *few, *flags)])


def test_the_end_tag_of_a_chat_template(model, out, tmp_path, capsys):
    whole = tmp_path / "whole"
    assert local(model, whole, "--chat") == 0
    assert template(whole)["thinking_end"] == END
    rows = known.rows(whole, "test")
    assert len(rows) == 6 and {row["status"] for row in rows} == {"no_answer"}  # the toy model writes no end tag
    cut = sum(row["finish_reason"] == "length" for row in rows) / 6
    assert known.metrics(whole)["benchmarks"]["test"]["thinking_cut"] == cut

    # As an earlier version wrote it: without the tag in its settings, and judged without it.
    assert local(model, out, "--chat", "--thinking-end", "none") == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["template"].pop("thinking_end", "absent") is None
    assert {row["status"] for row in known.rows(out, "test")} != {"no_answer"}
    assert "thinking_cut" not in known.metrics(out)["benchmarks"]["test"]
    capsys.readouterr()
    assert local(model, out, "--chat") == 2  # the user had switched it off
    assert "template.thinking_end: None -> </think>" in capsys.readouterr().err
    (out / "settings.json").write_text(json.dumps(settings))
    assert local(model, out, "--chat") == 0
    assert known.metrics(out) == known.metrics(whole)
    assert sorted(known.rows(out, "test"), key=str) == sorted(rows, key=str)

    text = tmp_path / "text"
    assert local(model, text) == 0  # not a chat: no template, no thinking
    assert "thinking_end" not in template(text)


def test_shorten(model, out, tmp_path, capsys):
    """One length for all questions; a folder keeps it with fewer questions, and is refused where it cannot."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 80}))
    assert local(model, out, "--max-tokens", 80) == 2
    refused = capsys.readouterr().err
    assert "--max-tokens 80: the model's context holds 80 tokens, and the longest prompt (question " in refused
    assert "or less, or --shorten" in refused and not known.rows(out, "test")
    most = int(refused.split("pass --max-tokens ")[1].split()[0])
    assert local(model, out, "--max-tokens", 80, "--shorten") == 0
    said = capsys.readouterr().err
    assert f"note: --max-tokens 80 is shortened to {most}: the model's context holds 80 tokens" in said
    sampling = json.loads((out / "settings.json").read_text())["sampling"]
    assert (sampling["max_tokens"], sampling["shortened_from"]) == (most, 80)
    assert max(row["tokens"] for row in known.rows(out, "test")) <= most
    files = known.snapshot(out / "samples")

    assert local(model, out, "--max-tokens", 80, "--shorten", "--limit", 1) == 0
    assert local(model, out, "--max-tokens", most) == 0  # the same value, said by the user
    assert json.loads((out / "settings.json").read_text())["sampling"] == sampling
    assert known.snapshot(out / "samples") == files
    assert local(model, out, "--max-tokens", most - 1, "--shorten") == 2
    assert f"sampling.max_tokens: {most} -> {most - 1}" in capsys.readouterr().err
    same = tmp_path / "same"
    assert local(model, same, "--max-tokens", 12, "--shorten") == 0  # it fits
    assert "shortened_from" not in json.loads((same / "settings.json").read_text())["sampling"]


def test_a_server_whose_model_is_too_short_is_not_asked(data, out, capsys):
    models = [{"id": "scripted", "max_model_len": 4096}]
    with ScriptedServer(thinks, models=models) as server:
        assert evaluate(server, data, out, "--max-tokens", 4096) == 2
        assert "--max-tokens 4096: the server's model holds 4096 tokens (max_model_len)" in capsys.readouterr().err
        assert server.requests == 0
        assert evaluate(server, data, out, "--max-tokens", 4095) == 0
