"""Model output is hostile: for any response or gold the pool answers in time and survives."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openrlhf_mel.verifier import STATUSES, Verdict, Verifier

TIMEOUT_S = 1.0
MEMORY_MB = 1024
CONTROLS = [("\\boxed{x+1}", "1+x"), ("\\boxed{x+2}", "1+x"), ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"), ("so 7", "7")]
CONTROL_STATUSES = ["correct", "wrong", "correct", "no_answer"]

HOSTILE = {
    "tower of 9": "9^{9^{9^{9}}}",
    "tower of 10": "10^{10^{10}}",
    "power": "3^{1000000000}+1",
    "factorial": "10000000!",
    "factorial of power": "(10^{9})!",
    "binomial": "\\binom{10^9}{5}",
    "wide binomial": "\\binom{1000000000}{500000000}",
    "sum": "\\sum_{k=1}^{10^6} 1/k",
    "product": "\\prod_{k=1}^{10^7} k",
    "gcd": "\\gcd(3^{10^8},2^{10^8})",
    "floor": "\\lfloor 3^{10^8}/7\\rfloor",
    "braces": "{" * 1000 + "1" + "}" * 1000,
    "open braces": "{" * 1000,
    "brackets": "[" * 1000 + "1" + "]" * 1000,
    "parentheses": "(" * 1000 + "1" + ")" * 1000,
    "garbage": "x+@#% \\frac^_" * 8000,
    "boxes": "\\boxed{" * 20000,
    "fractions": "\\frac{1}{" * 300 + "2" + "}" * 300,
    "intervals": " \\cup ".join(f"({i},{i + 1})" for i in range(0, 100, 2)),
    "polynomial": "+".join(f"{i}x^{{{i}}}" for i in range(500)),
    "set": "\\{" + ",".join(map(str, range(1000))) + "\\}",
    "memory by root": "(2+\\sqrt3)^{1000000}",
    "memory by shift": "2^{16^{32^{64}}}",
    "expansion": "((x+1)^{300}+y)^{300}",
    "integral": "\\int_0^1 x^{x^{x}} dx",
    "long integer in sum": "1" * 5000 + "+1",
    "long integer": "9" * 100_000,
    "long decimal": "0." + "1" * 50_000,
    "large exponent": "1e999999999",
    "lone surrogate": "\ud800",
    "nul": "\x00",
    "template injection": "__import__('os').system('true')",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(workers=2, timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB) as verifier:
        verifier.verify("\\boxed{x+1}", "x")
        yield verifier


@pytest.fixture(autouse=True)
def memory_stays_below_the_limit(verifier: Verifier) -> Iterator[None]:
    largest = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            for pid in verifier.worker_pids():
                try:
                    largest.append(psutil.Process(pid).memory_info().vms)
                except psutil.NoSuchProcess:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    done.set()
    watcher.join()
    assert max(largest) <= MEMORY_MB * 2**20


def timed(verifier: Verifier, response: str, answer: str, extraction: str = "anchored") -> Verdict:
    started = time.monotonic()
    verdict = verifier.verify(response, answer, extraction)
    assert time.monotonic() - started < TIMEOUT_S + 5
    assert verdict.status in STATUSES
    assert verdict.correct == (verdict.status == "correct")
    return verdict


def check_alive(verifier: Verifier) -> None:
    assert [verdict.status for verdict in verifier.verify_many(CONTROLS)] == CONTROL_STATUSES


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_response_and_gold(verifier: Verifier, name: str) -> None:
    text = HOSTILE[name]
    assert not timed(verifier, f"\\boxed{{{text}}}", "7").correct
    assert not timed(verifier, f"The final answer is ${text}$", "7").correct
    assert not timed(verifier, text, "7").correct
    assert not timed(verifier, "\\boxed{7}", text).correct
    assert not timed(verifier, "\\boxed{y+7}", text).correct
    check_alive(verifier)


@pytest.mark.release
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lenient(verifier: Verifier, name: str) -> None:
    text = HOSTILE[name]
    for response, gold in ((text, "7"), (f"${text}$", "7"), (f"${text}$", f"${text}$"), ("$y+7$", text)):
        timed(verifier, response, gold, "lenient")
    check_alive(verifier)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hostile_from_eight_threads(verifier: Verifier) -> None:
    """Each thread's control answers are judged as usual between hostile ones."""
    pairs = []
    for text in ("9^{9^{9^{9}}}", HOSTILE["intervals"], HOSTILE["expansion"], HOSTILE["memory by root"]):
        pairs += [(f"\\boxed{{{text}}}", "7"), *CONTROLS]
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(verifier.verify_many, [pairs] * 8))
    for verdicts in results:
        statuses = [verdict.status for verdict in verdicts]
        assert statuses[0] == "error" and not verdicts[5].correct
        for start in range(0, len(pairs), 5):
            assert statuses[start + 1 : start + 5] == CONTROL_STATUSES
    check_alive(verifier)


FRAGMENTS = (
    r"1 0 7 x n e i é １ \pi 10^9 2.5 - = < \le , ; ! % \% ^ _ & \\ \frac \sqrt \sum \int \binom \log \cup \infty "
    r"\text \boxed \begin{pmatrix} { } ( ) [ ] $ \[ \] | \lfloor \rfloor and"
)
ATOMS = st.sampled_from([*FRAGMENTS.split(), " ", "\ud800"])
GROUPS = st.recursive(
    st.lists(ATOMS, min_size=1, max_size=6).map("".join),
    lambda inner: st.one_of(
        st.builds("\\frac{{{}}}{{{}}}".format, inner, inner),
        st.builds("{{{}}}^{{{}}}".format, inner, inner),
        st.builds("\\sqrt{{{}}}".format, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["!", "", "^2", "_8"])),
        st.builds("\\sum_{{k=1}}^{{{}}} {}".format, inner, inner),
    ),
    max_leaves=8,
)


def fuzz(verifier: Verifier, text: str, other: str) -> None:
    timed(verifier, f"\\boxed{{{text}}}", other)
    timed(verifier, text, "7")
    timed(verifier, "\\boxed{7}", text)
    assert timed(verifier, "\\boxed{x+1}", "1+x").correct


@pytest.mark.timeout(120)
@given(text=GROUPS, other=GROUPS)
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_fuzz(verifier: Verifier, text: str, other: str) -> None:
    fuzz(verifier, text, other)


@pytest.mark.release
@pytest.mark.timeout(400)
@given(text=GROUPS, other=GROUPS)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
def test_fuzz_more(verifier: Verifier, text: str, other: str) -> None:
    fuzz(verifier, text, other)
