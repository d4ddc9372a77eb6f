"""Small prepared benchmarks, a script that answers them by a known pattern, and the expected metrics.

The metrics are computed here in plain Python (fractions, enumerated subsets), without code of eval/estimators.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing.process
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from statistics import NormalDist
from typing import Any

from foreground import default_signals

from benchmarks.scripted_server import Answer
from data.rows import question_id
from eval import grading, run
from eval.identity import seed_of
from toolkit.outputs import OutputFolder, json_lines

# For each question the greedy response and twelve samples; a run with `--n 8` draws the first eight:
#   R right   W, V two wrong answers   w W, written otherwise   N none   L none, but the right number in the text
#   E an answer too costly to compare   T cut before an answer   U cut after the right number in the text
PATTERNS = {
    "aime24": [
        "R RRRRRRRR RRRR",
        "R RRRRWWVN WWWW",
        "W WWWRRRVV RVNN",  # a tie of two among the first eight
        "W WWWWWRRV RRRR",
        "N NNNNNNNN NRNN",
        "T TTUURWNN TTTT",  # the only answers of the first eight, one right and one wrong, tie
        "L LLRWVNTT LLLL",  # a tie of three
        "R RwWRWwVN RRRR",  # W and w together outvote R
        "V VVVVVVVV VVVV",
        "R RRRRRRRW NNNN",
    ],
    "amc23": [
        "R RRRRVVVV RRVN",
        "U UUUUUUUU UUUU",
        "W RRRRRRRR RRRR",
        "R RWWWwwww VVVV",
        "T RNNNNNNN RLLL",  # one answer among the first eight, and it is right
        "R RRRRRTTT TTTT",
        "L LRLRLRLR LRLR",
    ],
    "aime25": ["R RRRRRRRR RRRR", "N NNNNNNRN NNNN", "W RREEEVVN WWWW"],
    "math500": ["R RRRRRRRR RRRR", "R RRRRRRRR RRRR"],
    "olympiadbench": ["R VWRRRRRR RRRR", "W TTTTTTTT TTTT"],
}
TWO = ("aime24", "amc23")
_TEXTS = {
    "R": "the answer is $\\boxed{%d}$.",
    "W": "the answer is \\boxed{%d}.",
    "w": "the answer is \\boxed{%d.0}.",
    "V": "Answer: \\boxed{%d}",
    "E": "the answer is \\boxed{\\binom{10^9}{5}}.",
    "N": "I do not know.",
    "L": "the sum is %d",
    "T": "let me think about it, and",
    "U": "we find $x = %d$ and",
}
_OFF = {"W": 1, "w": 1, "V": 2}
_Z = NormalDist().inv_cdf(0.975)


def problem(name: str, number: int) -> str:
    """Return a unique problem, full of characters that could break a template or a shell."""
    return f"{{{{question}}}} What is $\\frac{{{number + 1}}}{{1}} + 40$ in \\texttt{{{name}}}?\n\té \\boxed{{}} %s"


def gold(number: int) -> int:
    return number + 41


def prepare(folder: Path, names: tuple[str, ...] = TWO, more: str = "") -> Path:
    """Write benchmarks as data/prepare_benchmarks.py does; `more` is appended to each question."""
    with OutputFolder(folder) as output:
        for name in names:
            problems = [problem(name, number) + more for number in range(len(PATTERNS[name]))]
            output.write(
                f"{name}.jsonl",
                json_lines(
                    {"id": question_id(name, text), "problem": text, "answer": str(gold(number)), "datasource": name}
                    for number, text in enumerate(problems)
                ),
            )
        output.commit({"made_by": "a test"})
    return folder


def letter(name: str, number: int, sample: int, greedy: bool) -> str:
    first, *rest = PATTERNS[name][number].replace(" ", "")
    return first if greedy else rest[sample]


def response(name: str, number: int, sample: int, greedy: bool) -> Answer:
    """Return a response that names its sample, so that a mix-up shows."""
    kind = letter(name, number, sample, greedy)
    text = _TEXTS[kind] % (gold(number) + _OFF.get(kind, 0)) if "%d" in _TEXTS[kind] else _TEXTS[kind]
    which = "at once" if greedy else f"by way {'abcdefghijkl'[sample]}"
    return Answer(f"In {name}, {which}, {text}", "length" if kind in "TU" else "stop")


def script(seed: int = 0) -> Callable[[str, bool, int], Answer]:
    """Return a server's answers to a run with `--seed seed`."""
    known: dict[tuple[str, bool, int], Answer] = {}
    for name, patterns in PATTERNS.items():
        for number in range(len(patterns)):
            text = problem(name, number)
            known[text, True, 0] = response(name, number, 0, True)
            for sample in range(12):
                own = seed_of(seed, name, question_id(name, text), sample)
                known[text, False, own] = response(name, number, sample, False)
    problems = {text for text, _, _ in known}

    def answer(prompt: str, greedy: bool, seed: int) -> Answer:
        (asked,) = (text for text in problems if text in prompt)
        return known[asked, greedy, seed]

    return answer


class Gate:
    """The script, but only `left` more answers come in time."""

    def __init__(self) -> None:
        self.left, self._script = 10**9, script()

    def __call__(self, prompt: str, greedy: bool, seed: int) -> Answer:
        self.left -= 1
        answer = self._script(prompt, greedy, seed)
        return answer if self.left >= 0 else replace(answer, delay_s=100)


def start(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    """Run the command in a process forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["eval.run"])
    process = context.Process(target=_main, args=(arguments,), daemon=True)
    process.start()
    return process


def _main(arguments: list[str]) -> None:
    default_signals()
    grading._LAST_S = 60  # long enough to grade all received responses after an interrupt, even on a slow machine
    sys.exit(run.main(arguments))


def command(url: str, data: Path, out: Path, *flags: object) -> list[str]:
    """Return eval.run's arguments for two benchmarks; `flags` override them."""
    fixed = ["--backend", "openai", "--base-url", url, "--model", "scripted", "--benchmarks", ",".join(TWO)]
    return [*fixed, "--data-dir", str(data), "--output-dir", str(out), *map(str, flags)]


def evaluate(url: str, data: Path, out: Path, *flags: object) -> int:
    """Run the command in this process; return its exit code."""
    return run.main(command(url, data, out, *flags))


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    """Return a benchmark's samples; a cut last line is ignored."""
    path = out / "samples" / f"{name}.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def check_samples(out: Path, n: int = 8, names: tuple[str, ...] = TWO) -> None:
    """Check that every sample is there exactly once, with its own response, and nothing else is."""
    for name in names:
        found = rows(out, name)
        ids = [question_id(name, problem(name, number)) for number in range(len(PATTERNS[name]))]
        wanted = {(q, i, greedy) for q in ids for i, greedy in [(0, True), *((i, False) for i in range(n))]}
        assert Counter((row["question"], row["sample"], row["greedy"]) for row in found) == Counter(wanted)
        for row in found:
            meant = response(name, ids.index(row["question"]), row["sample"], row["greedy"])
            assert (row["response"], row["finish_reason"]) == (meant.text, meant.finish_reason)
            assert row["tokens"] == len(meant.text.split())


def check(out: Path, n: int = 8) -> None:
    """Check samples and metrics of the two benchmarks."""
    check_samples(out, n)
    assert differing(metrics(out), expected(n)) == []


def metrics(out: Path) -> dict[str, Any]:
    """Return metrics.json without its time-dependent part."""
    found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    del found["manifest"]
    return found


def expected(n: int = 8, names: tuple[str, ...] = TWO, limit: int | None = None) -> dict[str, Any]:
    """Return the expected metrics.json, without model, settings, manifest, notes and methods."""
    entries = {name: _benchmark(name, n, limit) for name in names}
    measured = list(next(iter(entries.values()))["se"])
    parts = {m: [(e[m], *e["ci95"][m], e["se"][m]) for e in entries.values()] for m in measured}
    means = {m: math.fsum(p[0] for p in of) / len(of) for m, of in parts.items()}
    return {
        "benchmarks": entries,
        "average": means,
        "average_se": {m: _root(p[3] for p in of) for m, of in parts.items()},
        "average_ci95": {
            m: [means[m] - _root(p[0] - p[1] for p in of), means[m] + _root(p[2] - p[0] for p in of)]
            for m, of in parts.items()
        },
    }


def differing(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Return where `found` differs from `wanted`; numbers to 1e-12. Extra keys in `found` are ignored."""
    if isinstance(wanted, dict):
        return [line for key in wanted for line in differing(found.get(key), wanted[key], f"{where}/{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for i, (f, w) in pairs for line in differing(f, w, f"{where}/{i}")]
    if isinstance(wanted, float | int) and isinstance(found, float | int):
        return [] if abs(found - wanted) < 1e-12 else [f"{where}: {found} != {wanted}"]
    return [] if found == wanted else [f"{where}: {found!r} != {wanted!r}"]


def snapshot(folder: Path) -> dict[str, str]:
    """Return the hash of every file below; empty for a missing folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _benchmark(name: str, n: int, limit: int | None) -> dict[str, Any]:
    questions = [pattern.replace(" ", "") for pattern in PATTERNS[name][:limit]]
    every = [(number, kind, i) for number, q in enumerate(questions) for i, kind in enumerate(q[: n + 1])]
    words = [len(response(name, number, max(i - 1, 0), i == 0).text.split()) for number, _, i in every]
    values = _values(questions, n, right="R")
    subsets = {str(k): _mean([_passed(q[1 : n + 1], k, "R") for q in questions]) for k in range(1, n + 1)}
    return {
        "n_questions": len(questions),
        "n_samples": len(every),
        **{metric: _mean(of) for metric, of in values.items()},
        "pass@k": subsets,
        "se": {metric: _error(of) for metric, of in values.items()},
        "ci95": {metric: _interval(of) for metric, of in values.items()},
        "truncated": sum(kind in "TU" for _, kind, _ in every) / len(every),
        "no_answer": sum(kind in "NLTU" for _, kind, _ in every) / len(every),
        "timeout": 0.0,
        "error": sum(kind == "E" for _, kind, _ in every) / len(every),
        "tokens_mean": sum(words) / len(words),
        "lenient": {metric: _mean(of) for metric, of in _values(questions, n, right="RLU").items()},
    }


def _values(questions: list[str], n: int, right: str) -> dict[str, list[Fraction]]:
    sampled = [q[1 : n + 1] for q in questions]
    return {
        "pass@1": [Fraction(q[0] in right) for q in questions],
        f"avg@{n}": [Fraction(sum(kind in right for kind in row), n) for row in sampled],
        f"pass@{n}": [_passed(row, n, right) for row in sampled],
        f"maj@{n}": [_majority(row, right) for row in sampled],
    }


def _passed(row: str, k: int, right: str) -> Fraction:
    """Return the share of the subsets of k samples with a right one, by enumeration."""
    subsets = list(combinations(row, k))
    return Fraction(sum(any(kind in right for kind in subset) for subset in subsets), len(subsets))


def _majority(row: str, right: str) -> Fraction:
    votes = Counter("R" if kind in right else kind.upper() for kind in row if kind in right or kind in "WwVE")
    winners = [kind for kind, count in votes.items() if count == max(votes.values())]
    return Fraction("R" in winners, max(len(winners), 1))


def _mean(values: list[Fraction]) -> float:
    return float(sum(values) / len(values))


def _error(values: list[Fraction]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))


def _interval(values: list[Fraction]) -> list[float]:
    """Return Wilson's interval, as the roots of its quadratic, for the effective number of questions."""
    count, mean = len(values), sum(values) / len(values)
    seen, most = sum((v - mean) ** 2 for v in values), count * mean * (1 - mean)
    total = float(count * (most + Fraction(1, 5)) / (seen + Fraction(1, 5)))
    p, z2 = float(mean), _Z**2
    reach = _Z * math.sqrt(z2 + 4 * total * p * (1 - p))
    return [(2 * total * p + z2 + sign * reach) / (2 * (total + z2)) for sign in (-1, 1)]


def _root(values: Any) -> float:
    """Return the root of the sum of squares, divided by their number."""
    values = list(values)
    return math.sqrt(sum(v * v for v in values)) / len(values)
