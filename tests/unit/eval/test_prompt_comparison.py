"""`--templates`: one model under several prompts, in one table."""

import json

import pytest

from benchmarks.scripted_server import ScriptedServer
from eval import prompt_comparison, run
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def evaluate(tmp_path):
    """Return a function that evaluates with more flags; the model answers right where it is asked for a box."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"id": f"q{i}", "problem": f"What is {i}+{i}?", "answer": str(2 * i)} for i in range(8)]
    (data / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def answer(prompt, greedy, seed):
        number = int(prompt.split("+")[0].split()[-1])
        return f"\\boxed{{{2 * number if 'boxed' in prompt or number < 2 else -1}}}"

    with ScriptedServer(answer) as server:

        def made(*flags):
            common = ["--backend", "openai", "--base-url", server.url, "--model", server.model, "--data-dir", str(data)]
            return run.main(
                [*common, "--benchmarks", "sums", "--output-dir", str(tmp_path / "out"), "--n", "2", *flags]
            )

        yield made


def test_the_table_has_each_templates_difference_to_the_first(evaluate, tmp_path, capsys):
    assert evaluate("--templates", "question,boxed,dapo") == 0, capsys.readouterr().err
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "summary.md", "template-boxed", "template-dapo", "template-question", "templates.json",
    ]  # fmt: skip
    found = json.loads((out / "templates.json").read_text())
    assert found["first"] == "question" and list(found["others"]) == ["boxed", "dapo"]
    assert found["others"]["boxed"]["benchmarks"]["sums"]["avg@2"]["difference"] == 0.75
    assert found["others"]["dapo"]["average"]["pass@1"]["difference"] == 0
    assert found["others"]["boxed"]["settings_that_differ"] == [
        line for line in found["others"]["boxed"]["settings_that_differ"] if line.startswith("template.sha256")
    ]
    text = (out / "summary.md").read_text()
    assert "| benchmark | question | boxed | dapo |" in text and "| sums | 25.00 | 100.00: +75.00 [" in text
    before = {path: path.read_bytes() for path in out.glob("*/samples/*.jsonl")}
    assert evaluate("--templates", "question,boxed,dapo") == 0  # nothing is left to draw
    assert before == {path: path.read_bytes() for path in before} and len(before) == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--templates", "boxed"], "--templates boxed: expected at least two"),
        (["--templates", "boxed,boxed"], "--templates boxed,boxed: found boxed twice"),
        (["--templates", "boxed,none"], "--template none: no such template"),
        (["--templates", "boxed,dapo", "--seeds", "0,1"], "--templates: is for one model and one seed, found --seeds"),
    ],
)
def test_bad_templates_get_one_line(evaluate, flags, message, capsys):
    assert evaluate(*flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_template_of_ones_own_is_named_by_its_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{question}} Think.")
    assert list(prompt_comparison.parse(f"default,{path}")) == ["default", "mine"]
    odd = tmp_path / " .txt"
    odd.write_text("{{question}}")
    with pytest.raises(UserError, match="gives no name for a folder"):
        prompt_comparison.parse(f"default,{tmp_path}/?.txt")
