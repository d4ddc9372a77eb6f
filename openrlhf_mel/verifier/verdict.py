"""The verdict on one response."""

from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["correct", "wrong", "no_answer", "timeout", "error"]
STATUSES: tuple[str, ...] = get_args(Status)

Extraction = Literal["anchored", "lenient"]
EXTRACTIONS: tuple[str, ...] = get_args(Extraction)


class VerifierError(RuntimeError):
    """The verifier itself cannot work (as opposed to one answer that it cannot judge)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one response.

    `correct` is true exactly when `status` is "correct". `wrong` means judged and different; `no_answer`: the response
    has none; `timeout`: the time ran out; `error`: it could not be judged (an unusable reference answer, an expression
    too large to evaluate, two workers that died). `extracted` is the answer that was judged.
    """

    status: Status
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer was judged, and is equal to the reference answer."""
        return self.status == "correct"
