"""Is this response's final answer the reference answer? See docs/verifier.md.

Importing this package loads neither sympy nor Math-Verify: these live in the worker processes.
"""

import threading

from openrlhf_mel.verifier.verdict import EXTRACTIONS, STATUSES, Extraction, Verdict, VerifierError
from openrlhf_mel.verifier.verifier import Verifier

__all__ = [
    "EXTRACTIONS",
    "STATUSES",
    "Verdict",
    "Verifier",
    "VerifierError",
    "check_golds",
    "shared_verifier",
    "verify",
]

_shared: Verifier | None = None
_shared_lock = threading.Lock()


def shared_verifier() -> Verifier:
    """The verifier of this process, made on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Verifier()
        return _shared


def verify(response: str, answer: str, extraction: Extraction = "anchored") -> Verdict:
    """Judge one response against its reference answer, with the verifier that this process shares."""
    return shared_verifier().verify(response, answer, extraction)


def check_golds(answers: list[str]) -> dict[int, str]:
    """Test reference answers against themselves; returns row number (from 0) -> why it cannot be used."""
    return shared_verifier().check_golds(answers)
