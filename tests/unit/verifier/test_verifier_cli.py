"""`python -m openrlhf_mel.verifier` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).parents[3]


def run(*arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; `path` is an additional folder for Python modules."""
    command = [sys.executable, "-m", "openrlhf_mel.verifier", *map(str, arguments)]
    found = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), path and str(path))))
    environment = os.environ | {"PYTHONPATH": found}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=80, check=False)


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_row_may_name_its_scorer(tmp_path: Path) -> None:
    question = "Where?\nA. Rome\nB. Paris"
    rows = [
        {"response": "\\boxed{Paris}", "answer": "B", "scorer": "choice", "question": question},
        {"response": "\\boxed{Paris}", "answer": "B", "scorer": None},
    ]
    out = tmp_path / "out.jsonl"
    assert run("--input", write(tmp_path / "in.jsonl", rows), "--output", out).returncode == 0
    assert [json.loads(line)["status"] for line in out.read_text().splitlines()] == ["correct", "wrong"]
    rows[0]["scorer"] = "chioce"
    result = run("--input", write(tmp_path / "in.jsonl", rows), "--output", out)
    assert result.returncode == 2 and "scorer 'chioce': expected math, choice" in result.stderr


def test_a_row_runs_no_function_that_the_command_does_not_name(tmp_path: Path) -> None:
    (tmp_path / "judges_of_mine.py").write_text("def f(answer, gold, question):\n    return True\n")
    rows = [{"response": "\\boxed{1}", "answer": "2", "scorer": "judges_of_mine:f"}]
    flags = "--input", write(tmp_path / "in.jsonl", rows), "--output", tmp_path / "out.jsonl"
    result = run(*flags, path=tmp_path)
    assert result.returncode == 2 and not (tmp_path / "out.jsonl").exists()
    assert "in.jsonl, line 1: `scorer`: scorer judges_of_mine:f: " in result.stderr
    assert "pass --scorers judges_of_mine:f if you trust it" in result.stderr
    assert run(*flags, "--scorers", "other:f,judges_of_mine:f", path=tmp_path).returncode == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["status"] == "correct"
    write(tmp_path / "in.jsonl", [rows[0] | {"scorer": "choice", "question": ["a", "list"]}])
    result = run(*flags)
    assert result.returncode == 2 and "line 1: `question`: found ['a', 'list'], expected a text" in result.stderr


def test_judges_a_file(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "response": "\\boxed{7}", "answer": "7"},
        {"id": "b", "response": "\\boxed{x+1}", "answer": "1+x"},
        {"id": "c", "response": "so 7", "answer": "7"},
        {"id": "d", "response": "\\boxed{8}", "answer": "7"},
        {"id": "e", "response": "\\boxed{8}", "answer": None},
    ]
    out = tmp_path / "out.jsonl"
    result = run("--input", write(tmp_path / "in.jsonl", rows), "--output", out, "--workers", "1")
    assert result.returncode == 0, result.stderr
    judged = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{key: row[key] for key in ("id", "response", "answer")} for row in judged] == rows
    assert [row["status"] for row in judged] == ["correct", "correct", "no_answer", "wrong", "error"]
    assert [row["correct"] for row in judged] == [True, True, False, False, False]
    assert judged[1]["extracted"] == "x+1"
    assert "5 rows (40.0% correct): correct 2  wrong 1  no_answer 1  timeout 0  error 1" in result.stdout
    assert "rows/s" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


MARK = "\ufeff"
FOUR, FIVE = '{"response": "\\\\boxed{4}", "answer": "4"}\n', '{"response": "\\\\boxed{5}", "answer": "5"}\n'


def test_byte_order_marks(tmp_path: Path) -> None:
    """Removed before the first row, before later ones (joined files), alone on a line; kept inside a text."""
    held = json.dumps({"response": f"{MARK}a {MARK} b", "answer": "4"}, ensure_ascii=False) + "\n"
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f"{MARK}{FOUR}{MARK}{FIVE}{MARK}\n\n{held}{MARK}{MARK}{FOUR}", encoding="utf-8")
    result = run("--input", source, "--output", out, "--workers", "1")
    assert result.returncode == 0, result.stderr
    judged = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in judged] == ["correct", "correct", "no_answer", "correct"]
    assert judged[2]["response"] == f"{MARK}a {MARK} b"


def test_lenient_and_timeout(tmp_path: Path) -> None:
    rows = [{"response": "so it is $7$", "answer": "7"}, {"response": "$9^{9^{9^{9}}}$", "answer": "7"}]
    out = tmp_path / "out.jsonl"
    source = write(tmp_path / "in.jsonl", rows)
    result = run("--input", source, "--output", out, "--extraction", "lenient", "--timeout", "1")
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["status"] for line in out.read_text().splitlines()] == ["correct", "timeout"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"response": "1", "answer": "1"}\n{"response": "1"}\n', "line 2: no `answer`; found the keys response"),
        ('{"response": "1", "answer": "1"}\nnot json\n', "line 2: expected a JSON object, found 'not json"),
        ("[1]\n", "line 1: expected a JSON object"),
    ],
)
def test_a_broken_input_is_named_and_leaves_nothing(tmp_path: Path, content: str, said: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    result = run("--input", source, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 2
    assert str(source) in result.stderr and said in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_missing_input_folder_or_number_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"response": "1", "answer": "1"}])
    for arguments, said in (
        (("--input", tmp_path / "none.jsonl", "--output", tmp_path / "o"), "--input: no file"),
        (("--input", source, "--output", tmp_path / "none" / "o"), "--output: no folder"),
        (("--input", source, "--output", tmp_path / "o", "--workers", "0"), "--workers 0: expected at least 1"),
        (
            ("--input", source, "--output", tmp_path / "o", "--timeout", "-1"),
            "--timeout -1: expected a number of seconds above 0",
        ),
    ):
        result = run(*arguments)
        assert result.returncode == 2
        assert said in result.stderr and "Traceback" not in result.stderr
