"""All rewrites that keep an answer's meaning stay right; all rewrites that change it become wrong."""

import collections
import json
import os
import random
import time
from pathlib import Path

import pytest
from verifier_rewrites import CHANGE, KEEP, Rewrite, generated

from openrlhf_mel.verifier import Verifier

pytestmark = pytest.mark.timeout(120)

SHARED = Path(os.environ.get("MEL_SHARED", Path(__file__).parents[3].parent / "shared")) / "data" / "benchmarks"
BENCHMARKS = ("aime24", "aime25", "amc23", "amc83", "gsm8k", "math500", "minerva", "olympiadbench")
GOLDS = 300
MANY_OR_FEW = (GOLDS // 2, pytest.param(GOLDS, marks=pytest.mark.slow))
PER_GOLD = 3  # rewrites per gold; over all golds every rewrite is drawn many times
SEED = 20261128


def drawn(rewrites: dict[str, Rewrite], golds: list[str], draw: random.Random) -> list[tuple[str, str, str]]:
    """Return (rewrite, response, gold): for each gold the applicable rewrites that were drawn least often so far."""
    counts: collections.Counter[str] = collections.Counter()
    cases = []
    for gold in golds:
        applied = [(name, response) for name, rewrite in rewrites.items() if (response := rewrite(gold, draw))]
        applied.sort(key=lambda case: (counts[case[0]], draw.random()))
        for name, response in applied[:PER_GOLD]:
            counts[name] += 1
            cases.append((name, response, gold))
    return cases


def assert_all(rewrites: dict[str, Rewrite], golds: list[str], right: bool) -> None:
    """Judge the rewrites, print each one's rate, and fail with those judged differently."""
    started = time.monotonic()
    cases = drawn(rewrites, golds, random.Random(SEED))
    with Verifier(workers=2, timeout_s=20) as verifier:
        verdicts = verifier.verify_many([(response, gold) for _, response, gold in cases])
    counts: collections.Counter[str] = collections.Counter(name for name, _, _ in cases)
    failed = [
        (name, response, gold, verdict.status)
        for (name, response, gold), verdict in zip(cases, verdicts, strict=True)
        if verdict.correct != right or verdict.status in ("error", "timeout")
    ]
    wrong = collections.Counter(name for name, *_ in failed)
    for name in rewrites:
        print(f"{name:32} {counts[name] - wrong[name]:4} of {counts[name]:4}")
    print(f"{'all':32} {len(cases) - len(failed):4} of {len(cases):4}, {time.monotonic() - started:.1f} s")
    assert not failed, failed


@pytest.fixture(scope="module")
def published() -> list[str]:
    if not SHARED.is_dir():
        pytest.skip(f"no test data at {SHARED}; set MEL_SHARED to the folder above data")
    golds = set()
    for name in BENCHMARKS:
        with (SHARED / f"{name}.jsonl").open(encoding="utf-8") as lines:
            golds |= {str(json.loads(line)["answer"]).strip() for line in lines}
    return random.Random(SEED).sample(sorted(golds), GOLDS)


@pytest.mark.parametrize("count", MANY_OR_FEW)
def test_rewrites_of_generated_answers_stay_right(count: int) -> None:
    assert_all(KEEP, generated(count, random.Random(SEED)), right=True)


@pytest.mark.parametrize("count", MANY_OR_FEW)
def test_changed_generated_answers_become_wrong(count: int) -> None:
    assert_all(CHANGE, generated(count, random.Random(SEED)), right=False)


@pytest.mark.slow
def test_rewrites_of_published_answers_stay_right(published: list[str]) -> None:
    assert_all(KEEP, published, right=True)


@pytest.mark.slow
def test_changed_published_answers_become_wrong(published: list[str]) -> None:
    assert_all(CHANGE, published, right=False)
