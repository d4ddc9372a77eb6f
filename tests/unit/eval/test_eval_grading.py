"""eval/grading.py: every response is judged and written once, in any order; a failure is raised and blocks nothing."""

import hashlib
import random
import threading
import time
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import grading
from eval.grading import Grader, judge, prompt_sha256, regraded
from eval.messages import Question, Request, Response
from eval.store import Store
from openrlhf_mel.verifier import Verdict, Verifier, VerifierError

pytestmark = pytest.mark.timeout(60)

QUESTIONS = {(b, f"q{i}"): Question(b, f"q{i}", f"What is {i}?", str(i)) for b in ("a", "b") for i in range(40)}


def responses(number: int) -> list[Response]:
    """Return responses with different texts; every third has the right number."""
    found = []
    for i in range(number):
        benchmark, name = list(QUESTIONS)[i % len(QUESTIONS)]
        request = Request(benchmark, name, i // len(QUESTIONS), i % 2 == 0, i, f"prompt {name}")
        text = f"{i}: {QUESTIONS[benchmark, name].answer if i % 3 == 0 else 'nothing'}"
        found.append(Response(request, text, "length" if i % 5 == 0 else "stop", None if i % 7 == 0 else 4, i))
    return found


class Scripted:
    """Judges by the word after the colon; can wait or fail at a text, as a verifier could."""

    def __init__(self, fails_at: str | None = None, may_go_on: threading.Event | None = None):
        self._fails_at, self._may_go_on = fails_at, may_go_on

    def verify_many(self, pairs, extraction):
        if self._may_go_on:
            self._may_go_on.wait()
        if any(text == self._fails_at for text, _ in pairs):
            time.sleep(0.01)  # the others continue meanwhile
            raise VerifierError("no worker can be started")
        words = [(text.partition(": ")[2], gold.removeprefix("\\boxed{").removesuffix("}")) for text, gold in pairs]
        return [Verdict("correct" if w == gold else "wrong", f"{extraction} {w}") for w, gold in words]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=1) as started:
        yield started


def written(store: Store) -> dict:
    samples = [(benchmark, sample) for benchmark in ("a", "b") for sample in store.samples(benchmark)]
    found = {(benchmark, *sample.key): sample for benchmark, sample in samples}
    assert len(found) == len(samples)
    return found


@pytest.mark.parametrize("threads", [1, 3])
def test_every_response_is_written_once_with_its_own_verdict(store, threads):
    """There are more responses than the queue holds, in random order."""
    every = responses(800)
    random.Random(threads).shuffle(every)
    with Grader(store, QUESTIONS, Scripted(), threads) as grader:
        for response in every:
            grader.grade(response)
    found = written(store)
    assert len(found) == 800
    for r in every:
        sample = found[r.request.benchmark, r.request.question, r.request.sample, r.request.greedy]
        word = r.text.partition(": ")[2]
        assert asdict(sample) == {
            "question": r.request.question, "sample": r.request.sample, "greedy": r.request.greedy, "seed": r.request.seed,
            "prompt_sha256": hashlib.sha256(r.request.prompt.encode()).hexdigest(), "response": r.text,
            "finish_reason": r.finish_reason, "prompt_tokens": r.prompt_tokens, "tokens": r.tokens,
            "status": "wrong" if word == "nothing" else "correct", "extracted": f"anchored {word}",
            "lenient_status": "wrong" if word == "nothing" else "correct", "lenient_extracted": f"lenient {word}",
        }  # fmt: skip


def test_samples_reach_the_disk_while_others_are_graded(tmp_path):
    class Counting(Store):
        flushes = 0

        def flush(self):
            self.flushes += 1
            super().flush()

    with Counting(tmp_path) as store:
        with Grader(store, QUESTIONS, Scripted(), threads=1) as grader:
            for response in responses(450):
                grader.grade(response)
        assert 1 <= store.flushes <= 2  # one after each 200 or a few more


@pytest.mark.timeout(20)
def test_who_interrupts_does_not_wait_for_everything(store, monkeypatch):
    """With judging that never ends, the queue is dropped, and nothing is written after the folder is released."""
    monkeypatch.setattr(grading, "_LAST_S", 0.3)
    may_go_on = threading.Event()
    with pytest.raises(KeyboardInterrupt), Grader(store, QUESTIONS, Scripted(may_go_on=may_go_on), threads=2) as grader:
        for response in responses(100):
            grader.grade(response)
        raise KeyboardInterrupt
    assert written(store) == {}
    store.close()
    may_go_on.set()
    for thread in grader._threads:
        thread.join(10)
        assert not thread.is_alive()
    assert written(store) == {}


def test_who_generates_waits_while_many_wait_to_be_graded(store, monkeypatch):
    """Without this limit a slow verifier would keep all responses of a run in memory."""
    monkeypatch.setattr(grading, "_WAITING", 20)
    monkeypatch.setattr(grading, "_BATCH", 4)
    may_go_on, handed = threading.Event(), []
    every = responses(200)
    with Grader(store, QUESTIONS, Scripted(may_go_on=may_go_on), threads=2) as grader:

        def generate():
            for response in every:
                grader.grade(response)
                handed.append(response)

        generation = threading.Thread(target=generate)
        generation.start()
        try:
            while len(handed) < 22:  # the queue is full, and each thread has at least one
                time.sleep(0.001)
            generation.join(0.2)
            assert generation.is_alive() and len(handed) <= 20 + 2 * 4
        finally:
            may_go_on.set()
            generation.join()
    assert len(written(store)) == 200


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("number", [1, 2_000])
def test_what_fails_in_a_thread_is_raised_and_nobody_hangs(store, threads, number):
    """It is raised at the next response, or on leaving if there is none."""
    every = responses(number)
    with (
        pytest.raises(VerifierError, match="no worker can be started"),
        Grader(store, QUESTIONS, Scripted(fails_at=every[number // 4].text), threads) as grader,
    ):
        for response in every:
            grader.grade(response)
    assert len(written(store)) < number


def test_a_failure_stops_the_generation_where_little_waits(store, monkeypatch):
    monkeypatch.setattr(grading, "_WAITING", 4)
    monkeypatch.setattr(grading, "_BATCH", 1)
    handed, every = 0, responses(10)
    with pytest.raises(VerifierError), Grader(store, QUESTIONS, Scripted(fails_at=every[9].text), 1) as grader:
        for handed in range(50_000):
            grader.grade(every[min(handed, 9)])
    assert handed < 49_999


def test_a_full_disk_is_raised(tmp_path):
    class Full(Store):
        def append(self, benchmark, samples):
            raise OSError(28, "No space left on device")

    with (
        Full(tmp_path) as store,
        pytest.raises(OSError, match="No space left"),
        Grader(store, QUESTIONS, Scripted()) as grader,
    ):
        grader.grade(responses(1)[0])


def test_a_question_that_nobody_knows_is_raised(store):
    stranger = replace(responses(1)[0], request=Request("a", "stranger", 0, True, 0, "prompt"))
    with pytest.raises(KeyError, match="stranger"), Grader(store, QUESTIONS, Scripted()) as grader:
        grader.grade(stranger)


def test_a_generation_that_fails_keeps_its_error_and_its_responses(store):
    every = responses(100)
    with pytest.raises(ZeroDivisionError), Grader(store, QUESTIONS, Scripted()) as grader:
        for response in every:
            grader.grade(response)
        raise ZeroDivisionError
    assert len(written(store)) == 100
    with pytest.raises(ZeroDivisionError), Grader(store, QUESTIONS, Scripted(fails_at=every[0].text)) as grader:
        grader.grade(every[0])
        raise ZeroDivisionError


def ask(answer: str, unit: str | None = None, tolerance: float | None = None) -> Question:
    return Question("b", "q", "What is it?", answer, unit, tolerance)


@pytest.mark.parametrize(
    ("response", "question", "anchored", "lenient"),
    [
        (r"So \boxed{2}.", ask("2"), ("correct", "2"), ("correct", "2")),
        (r"So \boxed{3}.", ask("2"), ("wrong", "3"), ("wrong", "3")),
        ("It makes $2$", ask("2"), ("no_answer", None), ("correct", "2")),  # cut, or not marked as final
        ("It makes nothing", ask("2"), ("no_answer", None), ("no_answer", None)),
        ("", ask("2"), ("no_answer", None), ("no_answer", None)),
        (r"\boxed{0.5}", ask(r"\frac12"), ("correct", "0.5"), ("correct", None)),
        # Answers of MATH500 that Math-Verify's own reading of a bare reference answer gets wrong.
        (r"\boxed{(3,\pi/2)}", ask(r"\left( 3, \frac{\pi}{2} \right)"), ("correct", r"(3,\pi/2)"), ("correct", None)),
        (r"\boxed{east}", ask(r"\text{east}"), ("correct", "east"), ("correct", None)),
        (r"It is $\frac{\pi}{4}$", ask(r"\boxed{\frac{\pi}{4}}"), ("no_answer", None), ("correct", None)),
        (r"\boxed{5}", ask(r"So $x=4+1$ makes $\boxed{5}$."), ("correct", "5"), ("correct", None)),
        # The tolerance includes its bound; 0.3 as a binary fraction is less.
        (r"\boxed{3.6}", ask("3.5", None, 0.1), ("correct", "3.6"), ("correct", "3.6")),
        (r"\boxed{3.4}", ask("3.5", None, 0.1), ("correct", "3.4"), ("correct", "3.4")),
        (r"\boxed{3.61}", ask("3.5", None, 0.1), ("wrong", "3.61"), ("wrong", "3.61")),
        (r"\boxed{3.39}", ask("3.5", None, 0.1), ("wrong", "3.39"), ("wrong", "3.39")),
        (r"\boxed{3.8}", ask("3.5", None, 0.3), ("correct", "3.8"), ("correct", "3.8")),
        (r"\boxed{\frac{7}{2}}", ask("3.45", None, 0.05), ("correct", r"\frac{7}{2}"), ("correct", None)),
        (r"\boxed{3.6}", ask("3.5"), ("wrong", "3.6"), ("wrong", "3.6")),
        (r"\boxed{3.5001}", ask("3.5", None, 0.0), ("wrong", "3.5001"), ("wrong", "3.5001")),
        (r"\boxed{-3.5}", ask("3.5", None, 0.1), ("wrong", "-3.5"), ("wrong", "-3.5")),
        # In percent, if the question says so: with or without the sign, but not as a fraction.
        (r"\boxed{12\%}", ask("12", "%"), ("correct", r"12\%"), ("correct", None)),
        (r"\boxed{12}", ask("12", "%"), ("correct", "12"), ("correct", "12")),
        (r"\boxed{0.12}", ask("12", "%"), ("wrong", "0.12"), ("wrong", "0.12")),
        (r"\boxed{13\%}", ask("12", "%"), ("wrong", r"13\%"), ("wrong", None)),
        (r"\boxed{12.3\%}", ask("12.25", "%", 0.1), ("correct", r"12.3\%"), ("correct", None)),
        (r"\boxed{12.4\%}", ask("12.25", "%", 0.1), ("wrong", r"12.4\%"), ("wrong", None)),
        (r"\boxed{12\%}", ask(r"12\%", "%"), ("correct", r"12\%"), ("correct", None)),
        (r"\boxed{12.1\%}", ask(r"12\%", "%", 0.1), ("correct", r"12.1\%"), ("correct", None)),
        (r"\boxed{20\%}", ask(r"12\%", "%", 0.1), ("wrong", r"20\%"), ("wrong", None)),
        (r"\boxed{12\%}", ask("12"), ("wrong", r"12\%"), None),
        # A tolerance applies only to numbers.
        (r"\boxed{x}", ask("3.5", None, 9.0), ("wrong", "x"), None),
        (r"\boxed{3}", ask("x", None, 9.0), ("wrong", "3"), None),
        (r"\boxed{3,4}", ask("3.5", None, 9.0), ("wrong", "3,4"), None),
        (r"\boxed{1" + "0" * 500 + "}", ask("3.5", None, 9.0), ("wrong", "1" + "0" * 500), None),
    ],
)
def test_verdicts(verifier, response, question, anchored, lenient):
    """Check the anchored and the lenient verdict; the latter's extract is Math-Verify's (None: not checked)."""
    ((first, second),) = judge(verifier, [(response, question)])
    assert (first.status, first.extracted) == anchored
    if lenient:
        assert second.status == lenient[0]
        assert lenient[1] is None or second.extracted == lenient[1]


@pytest.mark.parametrize(
    ("response", "scorer", "status"),
    [
        (r"\boxed{B. 12}", "choice", "correct"),
        (r"\boxed{12}", "choice", "correct"),
        (r"\boxed{12.1}", "choice", "wrong"),  # a tolerance applies only to mathematics
        (r"\boxed{A or B}", "choice", "wrong"),
        ("It is B", "choice", "no_answer"),  # also under lenient extraction
        (r"\boxed{A}", "operator:contains", "error"),
    ],
)
def test_each_question_is_judged_by_its_own_scorer(verifier, response, scorer, status):
    choice = Question("b", "q", "How many?\n(A) 11 (B) 12", "B", None, 0.5, scorer)
    ((first, second), (other, _)) = judge(verifier, [(response, choice), (r"\boxed{2}", ask("2"))])
    assert (first.status, second.status, other.status) == (status, status, "correct")


def test_a_scorer_of_ones_own_is_asked_once_a_response(verifier, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    (tmp_path / "counts_calls.py").write_text(
        f"def f(answer, gold, question):\n    open({str(calls)!r}, 'a').write('x')\n    return answer == gold\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    verifier.close()  # workers keep the import paths from their start
    own = Question("b", "q", "How many?", "3", None, None, "counts_calls:f")
    found = judge(verifier, [(r"\boxed{3}", own), (r"\boxed{2}", ask("2")), (r"\boxed{4}", own)])
    assert [(first.status, second.status) for first, second in found] == [
        ("correct", "correct"),
        ("correct", "correct"),
        ("wrong", "wrong"),
    ]
    assert calls.read_text() == "xx"


def test_verdicts_come_in_the_order_of_the_answers(verifier):
    answers = [(rf"\boxed{{{i % 4}}}", ask(str(i % 3))) for i in range(24)]
    found = judge(verifier, iter(answers))
    assert [first.correct for first, _ in found] == [i % 4 == i % 3 for i in range(24)]
    assert [second.correct for _, second in found] == [i % 4 == i % 3 for i in range(24)]
    assert judge(verifier, []) == []


def test_half_a_pair_in_a_response_is_judged_and_written_as_a_question_mark(store, verifier):
    texts = ["\ud83d So \\boxed{1}.", "So \\boxed{\udc00}.", "\ud83d\ude00 \\boxed{x\ud800}", "\ud800 It makes $3$"]
    every = [
        Response(Request("a", f"q{i}", 0, True, 0, f"prompt \ud800 {i}"), text, "stop", 1, 2)
        for i, text in enumerate(texts, 1)
    ]
    with Grader(store, QUESTIONS, verifier) as grader:
        for response in every:
            grader.grade(response)
    found = {sample.question: sample for sample in store.samples("a")}
    assert [found[f"q{i}"].response for i in (1, 2, 4)] == ["? So \\boxed{1}.", "So \\boxed{?}.", "? It makes $3$"]
    assert [found[f"q{i}"].status for i in (1, 2, 3, 4)] == ["correct", "wrong", "wrong", "no_answer"]
    assert (found["q2"].extracted, found["q3"].extracted, found["q4"].extracted) == ("?", "x?", None)


def test_regraded_changes_the_verdicts_alone(store):
    with Grader(store, QUESTIONS, Scripted()) as grader:
        grader.grade(responses(1)[0])
    (before,) = store.samples("a")
    after = regraded(before, Verdict("timeout", "7"), Verdict("no_answer"))
    own = {"status": "timeout", "extracted": "7", "lenient_status": "no_answer", "lenient_extracted": None}
    assert asdict(after) == asdict(before) | own
    assert regraded(before, Verdict("wrong", "\ud800"), Verdict("error", "\ud800")).extracted == "?"
    assert regraded(after, Verdict("correct", "anchored 0"), Verdict("correct", "lenient 0")) == before


@given(st.text(), st.text())
def test_the_fingerprint_of_a_prompt_is_its_sha256(first, second):
    assert prompt_sha256(first) == hashlib.sha256(first.encode()).hexdigest()
    assert (prompt_sha256(first) == prompt_sha256(second)) == (first == second)
    assert prompt_sha256("\ud800" + first) != prompt_sha256("\ud801" + first)
