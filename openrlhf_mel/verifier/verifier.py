"""The verifier: extraction runs here, comparison by the reference's scorer, everything that may hang in the pool."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import NamedTuple

from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import choice, scorers
from openrlhf_mel.verifier.extraction import extract_anchored, unwrap_box
from openrlhf_mel.verifier.pool import Outcome, Pool
from openrlhf_mel.verifier.scorers import CHOICE, MATH, SCORERS, Reference
from openrlhf_mel.verifier.verdict import EXTRACTIONS, Extraction, Verdict

logger = logging.getLogger(__name__)

_MAX_DEFAULT_WORKERS = 4


class _Begun(NamedTuple):
    """An answer that a worker judges; `extracted` is None where the worker extracts it."""

    scorer: str
    extracted: str | None
    future: Future[Outcome]


class Verifier:
    """Judges responses against reference answers, in `workers` processes that can be killed.

    `timeout_s` is the time in seconds that a worker may take for one answer; `memory_mb` bounds the
    address space of each worker (MiB). Processes start with the first answer that needs one, and end with this object or this process.
    All methods may be called from several threads at once.
    """

    def __init__(self, workers: int | None = None, timeout_s: float = 5.0, memory_mb: int = 1024) -> None:
        workers = min(_MAX_DEFAULT_WORKERS, os.cpu_count() or 1) if workers is None else workers
        if workers < 1:
            raise ValueError(f"workers: found {workers}, expected at least 1")
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s: found {timeout_s}, expected a number of seconds above 0")
        if memory_mb < 256:
            raise ValueError(f"memory_mb: found {memory_mb}, expected at least 256 (sympy alone needs about 100)")
        self._settings = (workers, timeout_s, memory_mb)
        self._lock = threading.Lock()
        self._pool: Pool | None = None
        self._closing: weakref.finalize[[Pool], Verifier] | None = None
        self._reported: set[str] = set()  # scorers of whose failures the first was logged

    def verify(self, response: str, answer: str, extraction: Extraction = "anchored") -> Verdict:
        """Judge one response; see `verify_many`."""
        return self.verify_many([(response, answer)], extraction)[0]

    def verify_many(self, pairs: Iterable[tuple[str, str]], extraction: Extraction = "anchored") -> list[Verdict]:
        """Judge (response, reference answer) pairs; the verdicts come in the same order.

        Each is judged by its reference's scorer, a plain text as `math`. An error in one pair affects its verdict alone.

        Raises:
            ValueError: an unknown `extraction`.
            UserError: an unknown scorer.
            VerifierError: no worker can be started.
        """
        if extraction not in EXTRACTIONS:
            raise ValueError(f"extraction: found {extraction!r}, expected one of {', '.join(EXTRACTIONS)}")
        begin = self._begin_anchored if extraction == "anchored" else self._begin_lenient
        begun = [begin(response, answer) for response, answer in pairs]
        return [self._finish(item) for item in begun]

    def check_golds(self, answers: Iterable[str]) -> dict[int, str]:
        """Test reference answers against themselves, by their scorers; returns row number (from 0) -> why it cannot be used.

        One that takes too long is tried again after the others: the machine may have been busy.
        """
        problems: dict[int, str] = {}
        waiting: list[tuple[int, Reference, str, Future[Outcome]]] = []
        for row, answer in enumerate(answers):
            reference = _as_reference(answer)
            gold = _as_gold(answer, reference)
            if gold is None:
                problems[row] = f"found {answer!r:.80}, expected a non-empty text with balanced braces"
                continue
            reason = scorers.find(reference.scorer).check(gold, reference.question)
            if reason is None:
                waiting.append((row, reference, gold, self._submit("gold", reference, gold)))
            elif reason:
                problems[row] = reason
        outcomes = [(row, reference, gold, future.result()) for row, reference, gold, future in waiting]
        for row, reference, gold, outcome in outcomes:
            if outcome.status == "timeout":
                outcome = self._submit("gold", reference, gold).result()
            if outcome.status != "correct":
                by = "Math-Verify" if reference.scorer == MATH else reference.scorer
                problems[row] = outcome.extracted or f"{by} does not find it equal to itself ({outcome.status})"
        return dict(sorted(problems.items()))

    def check_scorer(self, name: str) -> str:
        """Load a scorer in a worker; returns the SHA-256 of its source's file, "" of a built-in one.

        Raises:
            UserError: an unknown name, a failing import, or a function with other parameters.
        """
        scorers.find(name)
        if name in SCORERS:
            return ""
        for _ in range(2):  # a busy machine is no fault of the scorer
            outcome = self._submit("load", Reference("", name), "").result()
            if outcome.status != "timeout":
                break
        if outcome.status != "correct":
            raise UserError(
                outcome.extracted or f"scorer {name}: its import ends in a worker process ({outcome.status})"
            )
        return outcome.extracted or ""

    def worker_pids(self) -> list[int]:
        """The process ids of the running workers."""
        return self._pool.worker_pids() if self._pool else []

    def close(self) -> None:
        """End the worker processes; the next answer that needs one starts new ones."""
        with self._lock:
            self._pool = None
            closing, self._closing = self._closing, None
        if closing:
            closing()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _workers(self) -> Pool:
        with self._lock:
            # A forked child has no threads of the pool, and its sockets belong to the parent.
            if self._pool is None or self._pool.owner_pid != os.getpid():
                self._pool = Pool(*self._settings)
                self._closing = weakref.finalize(self, _close_in_owner, self._pool)
                self._closing.atexit = False  # when this process ends, the workers end without a wait
            return self._pool

    def _submit(self, kind: str, reference: Reference, gold: str, text: str = "") -> Future[Outcome]:
        if reference.scorer == MATH:
            return self._workers().submit(kind, gold, text)
        return self._workers().submit(kind, gold, text, reference.scorer, reference.question)

    def _begin_anchored(self, response: str, answer: str) -> Verdict | _Begun:
        reference = _as_reference(answer)
        scorer, gold = scorers.find(reference.scorer), _as_gold(answer, reference)
        if gold is None or not isinstance(response, str):
            return Verdict("error")
        extracted = extract_anchored(response, _is_option(reference))
        if extracted is None:
            return Verdict("no_answer")
        status = scorer.decide(extracted, gold, reference.question)
        if status:
            return Verdict(status, extracted)
        return _Begun(reference.scorer, extracted, self._submit("anchored", reference, gold, extracted))

    def _begin_lenient(self, response: str, answer: str) -> Verdict | _Begun:
        if _as_reference(answer).scorer != MATH:  # Math-Verify reads mathematics alone
            return self._begin_anchored(response, answer)
        if not (isinstance(answer, str) and answer.strip() and isinstance(response, str)):
            return Verdict("error")
        return _Begun(MATH, None, self._workers().submit("lenient", answer, response))

    def _finish(self, begun: Verdict | _Begun) -> Verdict:
        if isinstance(begun, Verdict):
            return begun
        outcome = begun.future.result()
        if outcome.status == "error" and begun.scorer not in self._reported and begun.scorer not in SCORERS:
            self._reported.add(begun.scorer)
            reason = outcome.extracted or "its worker process ended"
            logger.warning(f"scorer {begun.scorer}: {reason}. Such answers are errors; later ones are not reported")
        return Verdict(outcome.status, outcome.extracted if begun.extracted is None else begun.extracted)


def _close_in_owner(pool: Pool) -> None:
    if pool.owner_pid == os.getpid():
        pool.close()


def _is_option(reference: Reference) -> Callable[[str], bool]:
    """Whether a text is one of the reference's options, so that its box is no placeholder ("Integer", "Blank")."""
    if reference.scorer != CHOICE:
        return lambda text: False
    return lambda text: choice.letter(text, reference.question) is not None


def _as_gold(answer: object, reference: Reference) -> str | None:
    """The reference answer as text without its box, or None when there is nothing to compare with."""
    if isinstance(answer, (int, float)) and not isinstance(answer, bool) and math.isfinite(answer):
        answer = repr(answer)
    if not isinstance(answer, str) or not answer.strip():
        return None
    gold = unwrap_box(answer, _is_option(reference)).strip()
    escaped_out = gold.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    return gold if escaped_out.count("{") == escaped_out.count("}") else None


def _as_reference(answer: object) -> Reference:
    """What is no text is judged as `math`, which refuses it or reads it as a number."""
    return answer if isinstance(answer, Reference) else Reference("" if not isinstance(answer, str) else answer)
