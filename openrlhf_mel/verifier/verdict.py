"""What the verifier says about one response."""

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

    `correct` is true exactly when `status` is "correct". `wrong` means judged and different; `no_answer` that the
    response gives none; `timeout` that the time ran out; `error` that it could not be judged (an unusable reference
    answer, an expression too large to evaluate, a worker that died twice). `extracted` is the answer that was judged.
    """

    status: Status
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer was judged, and is equal to the reference answer."""
        return self.status == "correct"
