"""Run the training set's command in this process, on small sources."""

import json
from pathlib import Path

from data import prepare_train

# (question, answer) pairs that are kept
GOOD = [
    (f"Find the {word} of ${n}+{n * n}$.", str(n + n * n))
    for n, word in enumerate(["sum", "total", "value", "result"], 2)
]


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def runner(tmp_path, capsys):
    """Return a function that runs the command on `rows` (pairs, or a file): exit code, stderr, output folder."""

    def run(rows, *flags, source="custom", out="out"):
        path = rows
        if not isinstance(rows, Path):
            path = jsonl(tmp_path / "in.jsonl", [{"question": q, "answer": a} for q, a in rows])
        argv = ["--source", source, "--input", str(path), "--output-dir", str(tmp_path / out), *flags]
        code = prepare_train.main(argv)
        return code, capsys.readouterr().err, tmp_path / out

    return run


def reasons(out):
    return {
        reason: found["count"] for reason, found in json.loads((out / "report.json").read_text())["dropped"].items()
    }
