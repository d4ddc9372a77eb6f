"""Synthetic folders in the form that eval.run writes, for tests of their readers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Asked = tuple[dict[str, Any], list[dict[str, Any]]]  # a question with its samples


def question(name: str, problem: str = "What is $1+1$?", answer: str = "2") -> dict[str, Any]:
    """Return a line of questions/<benchmark>.jsonl."""
    return {"id": name, "problem": problem, "answer": answer}


def sample(
    name: str, number: int, greedy: bool = False, response: str = "It is \\boxed{2}.", **more: Any
) -> dict[str, Any]:
    """Return a line of samples/<benchmark>.jsonl: correct, unless `more` says otherwise."""
    row = {"question": name, "sample": number, "greedy": greedy, "seed": 0 if greedy else 7 + number}
    row |= {"prompt_sha256": "0" * 64, "response": response, "finish_reason": "stop", "prompt_tokens": 40, "tokens": 9}
    row |= {"status": "correct", "extracted": "2", "lenient_status": "correct", "lenient_extracted": "2"}
    return row | more


def write_evaluation(
    folder: Path,
    benchmarks: dict[str, Sequence[Asked]],
    n: int,
    model: str = "made/up-1B",
    settings: dict | None = None,
    manifest: dict | None = None,
) -> dict[str, Any]:
    """Write the folder; return its metrics. The intervals are two standard errors for every metric."""
    for part in ("samples", "questions"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    scores = {}
    for name, asked in benchmarks.items():
        _lines(folder / "questions" / f"{name}.jsonl", [q for q, _ in asked])
        _lines(folder / "samples" / f"{name}.jsonl", [row for _, rows in asked for row in rows])
        scores[name] = _scores(asked, n)
    row = next(iter(scores.values()))
    metrics = [name for name in row if "@" in name and name != "pass@k"]
    average = {m: None if row[m] is None else sum(s[m] for s in scores.values()) / len(scores) for m in metrics}
    values = {
        "model": model,
        "benchmarks": scores,
        "average": average,
        "average_se": dict.fromkeys(metrics, 0.02),
        "average_ci95": {m: _around(average[m], 0.04) for m in metrics},
        "settings": settings
        or {"model": {"name": model}, "sampling": {"temperature": 0.6, "max_tokens": 512}, "seed": 7},
        "manifest": manifest or {"started": "2001-02-03T04:05:06", "versions": {"python": "3.11.0"}},
    }
    (folder / "metrics.json").write_text(json.dumps(values), encoding="utf-8")
    return values


def write_random(
    folder: Path, sizes: dict[str, int], n: int, skill: float, seed: int = 0, **more: Any
) -> dict[str, Any]:
    """Write an evaluation with `sizes` questions per benchmark; more `skill` (0 to 1), more correct samples."""
    benchmarks = {}
    for name, size in sizes.items():
        dice = random.Random(f"{seed}/{name}")
        benchmarks[name] = [_random_question(f"{name}-{i:03d}", n, skill, dice) for i in range(size)]
    return write_evaluation(folder, benchmarks, n, **more)


def _random_question(name: str, n: int, skill: float, dice: random.Random) -> Asked:
    ease = dice.betavariate(4 * skill, 4 * (1 - skill))
    rows = []
    for number, greedy in [(0, True), *((number, False) for number in range(n))]:
        status = "correct" if dice.random() < ease else dice.choice(["wrong"] * 6 + ["no_answer"] * 3 + ["timeout"])
        tokens = min(512, int(dice.lognormvariate(5.2 if status == "correct" else 5.7, 0.5)))
        found = {"correct": "2", "wrong": "3"}.get(status)
        text = " ".join(["We add the numbers, one after the other."] * (tokens // 9)) + f" So it is \\boxed{{{found}}}."
        more = {"status": status, "extracted": found, "lenient_status": status, "lenient_extracted": found}
        more |= {"tokens": tokens, "finish_reason": "length" if tokens == 512 else "stop"}
        rows.append(sample(name, number, greedy, text, **more))
    return question(name), rows


def _scores(asked: Sequence[Asked], n: int) -> dict[str, Any]:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def scores(status: str) -> dict[str, Any]:
        greedy = [row[status] == "correct" for _, rows in asked for row in rows if row["greedy"]]
        right = [sum(row[status] == "correct" for row in rows if not row["greedy"]) for _, rows in asked]
        found = {"pass@1": mean(greedy) if greedy else None}
        if n:
            at = {str(k): mean([1 - math.comb(n - c, k) / math.comb(n, k) for c in right]) for k in range(1, n + 1)}
            found |= {f"avg@{n}": at["1"], "pass@k": at} | ({f"pass@{n}": at[str(n)]} if n > 1 else {})
        return found

    rows = [row for _, rows in asked for row in rows]
    anchored, lenient = scores("status"), scores("lenient_status")
    lenient.pop("pass@k", None)
    errors = {m: 1 / math.sqrt(4 * len(asked)) for m in lenient if anchored[m] is not None}
    return {
        "n_questions": len(asked),
        "n_samples": len(rows),
        **anchored,
        "se": errors,
        "ci95": {m: _around(anchored[m], 2 * error) for m, error in errors.items()},
        "ci95_method": dict.fromkeys(errors, "two standard errors"),
        "truncated": mean([row["finish_reason"] == "length" for row in rows]),
        **{kind: mean([row["status"] == kind for row in rows]) for kind in ("no_answer", "timeout", "error")},
        "lenient": lenient,
    }


def _around(value: float | None, reach: float) -> list[float] | None:
    return None if value is None else [max(0.0, value - reach), min(1.0, value + reach)]


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
