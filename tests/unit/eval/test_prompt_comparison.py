"""`--templates`: one model under several prompts, in one table."""

import json

import pytest

from benchmarks.scripted_server import ScriptedServer
from eval import prompt_comparison, regrade, run
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
        (["--templates", "boxed,none"], "--templates none: no such template"),
        (
            ["--templates", "boxed,dapo", "--seeds", "0,1"],
            "--templates: compares prompts of one model, one seed and one length, found --seeds",
        ),
    ],
)
def test_bad_templates_get_one_line(evaluate, flags, message, capsys):
    assert evaluate(*flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_other_evaluations_have_folders_of_their_own(evaluate, tmp_path, capsys):
    assert evaluate("--templates", "question,boxed") == 0
    assert evaluate() == 2 and "holds evaluations of --templates" in capsys.readouterr().err
    (tmp_path / "out").rename(tmp_path / "prompts")
    assert evaluate() == 0
    assert evaluate("--templates", "question,boxed") == 2
    assert "holds an evaluation without --templates" in capsys.readouterr().err


def test_a_comparison_is_graded_anew(evaluate, tmp_path):
    assert evaluate("--templates", "question,boxed") == 0
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    (out / "templates.json").write_text((out / "templates.json").read_text().replace("0.75", "0.5"))
    assert regrade.main([str(out)]) == 0
    assert before == {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def test_a_template_of_ones_own_is_named_by_its_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("{{question}} Think.")
    assert list(prompt_comparison.parse(f"default,{path}")) == ["default", "mine"]
    odd = tmp_path / " .txt"
    odd.write_text("{{question}}")
    with pytest.raises(UserError, match="gives no name for a folder"):
        prompt_comparison.parse(f"default,{tmp_path}/?.txt")
