"""Why a response may be misjudged: each response is in exactly one class, the first whose rule fits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from eval.auditing.near_miss import ends_with_gold, near_miss
from eval.messages import Question
from eval.results import answer_label
from eval.store import Sample
from openrlhf_mel.verifier import answer_key

_RIGHT = "right"  # answer_label's word for a correct answer


@dataclass(frozen=True)
class Suspicion:
    """A class of responses.

    Attributes:
        accepted: whether the verifier judged its responses correct.
        rule: what they have in common, as the page and the documents say it.
    """

    name: str
    accepted: bool
    rule: str


LENIENT_REJECTS = Suspicion("lenient_rejects", True, "accepted, but not under lenient extraction")
OUTVOTED = Suspicion("outvoted", True, "accepted, but the question's most frequent answer is another one")
UNLIKE = Suspicion("unlike", True, "accepted, but neither the reference's text nor its number")
OTHER_ACCEPTED = Suspicion("other_accepted", True, "accepted, nothing suspicious")
TIMEOUT = Suspicion("timeout", False, "judging took too long")
ERROR = Suspicion("error", False, "it could not be judged")
LENIENT_ACCEPTS = Suspicion("lenient_accepts", False, "rejected, but accepted under lenient extraction")
NEAR_MISS = Suspicion("near_miss", False, "rejected, but near the reference; or no answer found, but it ends with it")
MAJORITY = Suspicion("majority", False, "rejected, but the question's most frequent answer")
OTHER_REJECTED = Suspicion("other_rejected", False, "rejected, nothing suspicious")

CLASSES = (
    *(LENIENT_REJECTS, OUTVOTED, UNLIKE),
    *(TIMEOUT, ERROR, LENIENT_ACCEPTS, NEAR_MISS, MAJORITY),
    *(OTHER_ACCEPTED, OTHER_REJECTED),
)


def classify(question: Question, samples: Sequence[Sample]) -> list[Suspicion]:
    """The class of each of a question's samples, in their order.

    The most frequent answer is one that at least two of `samples` give, and more than give any other.
    """
    labels = [answer_label(sample, False, question.reference) for sample in samples]
    leading = _leading(labels)
    against_gold = leading not in (None, _RIGHT)
    return [
        _accepted(question, sample, against_gold)
        if sample.status == "correct"
        else _rejected(question, sample, against_gold and label == leading)
        for sample, label in zip(samples, labels, strict=True)
    ]


def _leading(labels: Sequence[str | None]) -> str | None:
    ordered = Counter(label for label in labels if label is not None).most_common(2)
    if not ordered or ordered[0][1] < 2 or (len(ordered) == 2 and ordered[0][1] == ordered[1][1]):
        return None
    return ordered[0][0]


def _accepted(question: Question, sample: Sample, outvoted: bool) -> Suspicion:
    if sample.lenient_status != "correct":
        return LENIENT_REJECTS
    if outvoted:
        return OUTVOTED
    reference, answer = question.reference, sample.extracted
    same = answer is not None and answer_key(answer, reference) == answer_key(question.answer, reference)
    return OTHER_ACCEPTED if same else UNLIKE


def _rejected(question: Question, sample: Sample, majority: bool) -> Suspicion:
    if sample.status in ("timeout", "error"):
        return TIMEOUT if sample.status == "timeout" else ERROR
    if sample.lenient_status == "correct":
        return LENIENT_ACCEPTS
    near = (
        ends_with_gold(sample.response, question.answer)
        if sample.extracted is None
        else near_miss(sample.extracted, question.answer)
    )
    if near:
        return NEAR_MISS
    return MAJORITY if majority else OTHER_REJECTED
