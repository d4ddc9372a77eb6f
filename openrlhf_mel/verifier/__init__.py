"""Is this response's final answer the reference answer? See docs/verifier.md.

Importing this package loads neither sympy nor Math-Verify: these live in the worker processes.
"""

import threading
from collections.abc import Sequence

from openrlhf_mel.verifier.extraction import unwrap_box
from openrlhf_mel.verifier.readings import as_number
from openrlhf_mel.verifier.scorers import (
    CHOICE,
    MATH,
    SCORER,
    Reference,
    answer_key,
    check_named_by_data,
    check_scorer_name,
    states_option,
)
from openrlhf_mel.verifier.thinking import ends_in_thinking, has_thinking, left_open, opening_mark
from openrlhf_mel.verifier.verdict import EXTRACTIONS, STATUSES, Extraction, Verdict, VerifierError
from openrlhf_mel.verifier.verifier import Verifier

__all__ = [
    "CHOICE",
    "EXTRACTIONS",
    "MATH",
    "SCORER",
    "STATUSES",
    "Extraction",
    "Reference",
    "Verdict",
    "Verifier",
    "VerifierError",
    "answer_key",
    "as_number",
    "check_golds",
    "check_named_by_data",
    "check_scorer",
    "check_scorer_name",
    "ends_in_thinking",
    "has_thinking",
    "left_open",
    "opening_mark",
    "shared_verifier",
    "states_option",
    "unwrap_box",
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
    """Judge one response against its reference answer, by its scorer, with the shared verifier of this process."""
    return shared_verifier().verify(response, answer, extraction)


def check_golds(answers: Sequence[str]) -> dict[int, str]:
    """Test reference answers against themselves; returns row number (from 0) -> why it cannot be used."""
    return shared_verifier().check_golds(answers)


def check_scorer(name: str) -> str:
    """Load a scorer; returns the hash of its source's file, "" of a built-in one. Raises UserError where it cannot be used."""
    return shared_verifier().check_scorer(name)
