"""Grades responses while others are still being generated, and writes each when it is graded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from eval.messages import Question, Response
from eval.store import ReasonedSample, Sample, Store
from eval.thinking_end import opening, unfinished
from openrlhf_mel import __version__
from openrlhf_mel.verifier import MATH, Verdict, Verifier, as_number

_BATCH = 32  # responses that are graded together at most: a thread waits for the slowest of them
_WAITING = 512  # responses that may wait to be graded; at more, generation waits
_FLUSH_EVERY = 200
_JUDGES = ("math-verify", "sympy", "latex2sympy2_extended", "antlr4-python3-runtime")
_LAST_S = 5  # seconds to grade earlier responses after an interrupt


class Grader:
    """Threads that judge responses under both extractions, and append them to the store.

    Use as a context manager: leaving it waits until everything is written; after an interrupt `_LAST_S` seconds at
    most, then waiting responses are dropped (the next command draws them again). An error in a thread (a full disk, no
    worker process) is raised by the next `grade`, or on leaving. `written` gets the number of samples just written.
    """

    def __init__(
        self,
        store: Store,
        questions: Mapping[tuple[str, str], Question],
        verifier: Verifier,
        threads: int = 3,
        written: Callable[[int], object] = lambda _: None,
        thinking_end: str | None = None,
    ):
        """`thinking_end`: the closing mark of the thinking that the prompts leave open, if they do."""
        self._store, self._questions, self._verifier, self._written = store, questions, verifier, written
        self._thinking_end = thinking_end
        self._waiting: queue.Queue[Response | None] = queue.Queue(_WAITING)
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def grade(self, response: Response) -> None:
        """Queue a response; blocks while many are waiting."""
        if self._failure:
            raise self._failure
        self._waiting.put(response)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is KeyboardInterrupt:
            self._end_soon()
            return
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        if self._failure and kind is None:
            raise self._failure

    def _end_soon(self) -> None:
        """Stop within `_LAST_S`: hostile answers can take seconds each, too long after an interrupt."""
        print(f"interrupted: what has come is still graded, for {_LAST_S} s at most", file=sys.stderr)
        end = time.monotonic() + _LAST_S
        while not self._waiting.empty() and time.monotonic() < end:
            time.sleep(0.05)
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        since_flush = 0
        while (batch := self._next()) is not None:
            if self._failure:
                continue  # keep taking responses, so that no caller waits for space
            try:
                self._write(batch)
                since_flush += len(batch)
                if since_flush >= _FLUSH_EVERY:
                    self._store.flush()
                    since_flush = 0
            except BaseException as error:
                self._failure = error

    def _next(self) -> list[Response] | None:
        """The waiting responses, at least one; None at the end."""
        first = self._waiting.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < _BATCH:
            try:
                response = self._waiting.get_nowait()
            except queue.Empty:
                break
            if response is None:  # for another thread, or for this one's next turn
                self._waiting.put(None)
                break
            batch.append(response)
        return batch

    def _write(self, batch: list[Response]) -> None:
        questions = [self._questions[r.request.benchmark, r.request.question] for r in batch]
        openings = [opening(self._thinking_end, response.reasoning) for response in batch]
        verdicts = judge(self._verifier, [(r.text, q) for r, q in zip(batch, questions, strict=True)], openings)
        by_benchmark: dict[str, list[Sample]] = defaultdict(list)
        for response, both in zip(batch, verdicts, strict=True):
            by_benchmark[response.request.benchmark].append(_sample(response, *both))
        for benchmark, samples in by_benchmark.items():
            self._store.append(benchmark, samples)
            self._written(len(samples))


def judge(
    verifier: Verifier, answers: Iterable[tuple[str, Question]], openings: Sequence[str] | None = None
) -> list[tuple[Verdict, Verdict]]:
    """The anchored and the lenient verdict on each (response, question), by the question's scorer.

    For other scorers than `math` the two are the same, and the scorer is asked once.

    Args:
        openings: the mark of thinking that stands open before each response, "" for none (all, where not given).
    """
    answers = list(answers)
    before = [""] * len(answers) if openings is None else openings
    whole = [(mark + text, question.reference) for mark, (text, question) in zip(before, answers, strict=True)]
    anchored = verifier.verify_many(whole, "anchored")
    # In a box: Math-Verify misreads every fifth of MATH500's answers as bare LaTeX.
    boxed = [(text, f"\\boxed{{{question.answer}}}") for text, question in answers if question.scorer == MATH]
    lenient = iter(verifier.verify_many(boxed, "lenient"))
    return [
        (_within_tolerance(first, question), _within_tolerance(next(lenient), question))
        if question.scorer == MATH
        else (first, first)
        for first, (_, question) in zip(anchored, answers, strict=True)
    ]


def judged_by() -> dict[str, str]:
    """The versions of the packages that a verdict depends on."""
    return {"openrlhf_mel": __version__} | {name: importlib.metadata.version(name) for name in _JUDGES}


def regraded(sample: Sample, anchored: Verdict, lenient: Verdict) -> Sample:
    """The sample with other verdicts."""
    return replace(sample, **_verdicts(anchored, lenient))


def judged_as_thinking(sample: Sample, scorer: str, end: str) -> Sample:
    """A sample from before its end tag was recorded, with the verdict of one that has it; see `thinking_end`.

    Only a response that ends in its thinking is judged differently: it has no answer.
    """
    if sample.status == "no_answer" or not unfinished(sample, end):
        return sample
    anchored = Verdict("no_answer")
    found = regraded(sample, anchored, anchored)
    if scorer == MATH:
        return replace(found, lenient_status=sample.lenient_status, lenient_extracted=sample.lenient_extracted)
    return found


def prompt_sha256(prompt: str) -> str:
    """The fingerprint of a prompt."""
    return hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()


def _sample(response: Response, anchored: Verdict, lenient: Verdict) -> Sample:
    request = response.request
    fields: dict[str, Any] = {
        "question": request.question,
        "sample": request.sample,
        "greedy": request.greedy,
        "seed": request.seed,
        "prompt_sha256": prompt_sha256(request.prompt),
        "response": _encodable(response.text),
        "finish_reason": response.finish_reason,
        "prompt_tokens": response.prompt_tokens,
        "tokens": response.tokens,
        **_verdicts(anchored, lenient),
    }
    if response.reasoning is None:
        return Sample(**fields)
    return ReasonedSample(**fields, reasoning=_encodable(response.reasoning))


def _verdicts(anchored: Verdict, lenient: Verdict) -> dict[str, Any]:
    return {
        "status": anchored.status,
        "extracted": None if anchored.extracted is None else _encodable(anchored.extracted),
        "lenient_status": lenient.status,
        "lenient_extracted": None if lenient.extracted is None else _encodable(lenient.extracted),
    }


def _within_tolerance(verdict: Verdict, question: Question) -> Verdict:
    """A number within the benchmark's tolerance is correct, with or without the benchmark's unit."""
    numeric = question.tolerance or question.unit == "%"
    if verdict.status != "wrong" or not verdict.extracted or not numeric:
        return verdict
    gold, answer = as_number(question.answer), as_number(verdict.extracted)
    if gold is None or answer is None or gold.value is None or answer.value is None:
        return verdict
    percent = question.unit == "%"  # then the tolerance is in percent as well
    first = gold.value * 100 if percent and gold.percent else gold.value
    second = answer.value * 100 if percent and answer.percent else answer.value
    within = abs(first - second) <= Fraction(str(question.tolerance or 0))
    return Verdict("correct", verdict.extracted) if within else verdict


def _encodable(text: str) -> str:
    """The text with half UTF-16 pairs, which a model may print and a file cannot store, replaced by question marks."""
    return text.encode(errors="replace").decode()
