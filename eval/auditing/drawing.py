"""The responses of an evaluation by class, and the random sample of each class that a person judges."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from eval.auditing.near_miss import ending
from eval.auditing.suspicion import CLASSES, Suspicion, classify
from eval.page.reading import Evaluation
from eval.store import ReasonedSample, Sample
from openrlhf_mel.errors import UserError


@dataclass(frozen=True, slots=True)
class Member:
    """A response by its key, and its class. An evaluation has too many responses to hold all their texts (`texts`).

    Attributes:
        key: `benchmark/question/sample`, the last part `greedy` or a number: no two responses have the same.
    """

    key: str
    suspicion: Suspicion

    def misjudged(self, right: bool) -> bool:
        """Whether the verifier erred, where the response is `right`."""
        return right != self.suspicion.accepted


Classes = Mapping[Suspicion, Sequence[Member]]


def response_key(benchmark: str, sample: Sample) -> str:
    """The key of a response; see `Member`."""
    return f"{benchmark}/{sample.question}/{'greedy' if sample.greedy else sample.sample}"


def without_text(sample: Sample) -> Sample:
    """A sample with no more of its text than its class depends on, its end."""
    end = ending(sample.response)
    if isinstance(sample, ReasonedSample):
        return replace(sample, response=end, reasoning="")
    return replace(sample, response=end)


def by_class(evaluation: Evaluation, names: Sequence[str]) -> Classes:
    """Every response behind the metrics of the benchmarks `names`, by its class; classes without one are left out.

    Raises:
        UserError: a benchmark that the evaluation lacks, a damaged or missing file, no response.
    """
    for name in names:
        if name not in evaluation.benchmarks:
            raise UserError(
                f"--benchmarks: {name!r} is not in {evaluation.folder}, which has {', '.join(evaluation.benchmarks)}"
            )
    found: dict[Suspicion, list[Member]] = {suspicion: [] for suspicion in CLASSES}
    for name in names:
        for question, samples in evaluation.questions(name, without_text):
            for sample, suspicion in zip(samples, classify(question, samples), strict=True):
                found[suspicion].append(Member(response_key(name, sample), suspicion))
    if not any(found.values()):
        raise UserError(f"{evaluation.folder}: no response in {', '.join(names)}; run python -m eval.run into it again")
    return {suspicion: members for suspicion, members in found.items() if members}


def draw(classes: Classes, per_class: int, seed: int) -> Classes:
    """A random sample of `per_class` responses of each class, or all of them, in random order.

    The order depends on the seed and the responses' keys alone: a larger sample begins with the smaller one.
    """

    def place(member: Member) -> bytes:
        return hashlib.sha256(f"{seed}/{member.key}".encode(errors="surrogatepass")).digest()

    return {suspicion: sorted(members, key=place)[:per_class] for suspicion, members in classes.items()}


def walk(drawn: Classes) -> list[Member]:
    """The order in which a person judges: the first response of each class, then the second of each, and so on.

    So whoever stops early has judged about equally many of each class.
    """
    return [member for turn in zip_longest(*drawn.values()) for member in turn if member is not None]
