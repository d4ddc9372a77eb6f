"""The responses of an evaluation by class, and the random sample of each class that a person judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from eval.auditing.suspicion import CLASSES, Suspicion, classify
from eval.messages import Question
from eval.page.reading import Evaluation
from eval.store import Sample
from openrlhf_mel.errors import UserError


@dataclass(frozen=True)
class Audited:
    """A response with its question and its class."""

    question: Question
    sample: Sample
    suspicion: Suspicion

    @property
    def key(self) -> str:
        """`benchmark/question/sample`, the last part `greedy` or a number: no two responses have the same."""
        number = "greedy" if self.sample.greedy else self.sample.sample
        return f"{self.question.benchmark}/{self.question.id}/{number}"

    @property
    def sha256(self) -> str:
        """The fingerprint of what a person judges: question, reference answer and response, not the verifier's verdict."""
        judged = [self.question.problem, self.question.answer, self.sample.response]
        return hashlib.sha256(json.dumps(judged).encode()).hexdigest()

    def misjudged(self, right: bool) -> bool:
        """Whether the verifier erred, where the response is `right`."""
        return right != self.suspicion.accepted


Classes = Mapping[Suspicion, Sequence[Audited]]


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
    found: dict[Suspicion, list[Audited]] = {suspicion: [] for suspicion in CLASSES}
    for name in names:
        for question, samples in evaluation.questions(name):
            for sample, suspicion in zip(samples, classify(question, samples), strict=True):
                found[suspicion].append(Audited(question, sample, suspicion))
    if not any(found.values()):
        raise UserError(f"{evaluation.folder}: no response in {', '.join(names)}; run python -m eval.run into it again")
    return {suspicion: members for suspicion, members in found.items() if members}


def draw(classes: Classes, per_class: int, seed: int) -> Classes:
    """A random sample of `per_class` responses of each class, or all of them, in random order.

    The order depends on the seed and the responses' keys alone: a larger sample begins with the smaller one.
    """

    def place(audited: Audited) -> bytes:
        return hashlib.sha256(f"{seed}/{audited.key}".encode(errors="surrogatepass")).digest()

    return {suspicion: sorted(members, key=place)[:per_class] for suspicion, members in classes.items()}


def walk(drawn: Classes) -> list[Audited]:
    """The order in which a person judges: the first response of each class, then the second of each, and so on.

    So whoever stops early has judged about equally many of each class.
    """
    return [audited for turn in zip_longest(*drawn.values()) for audited in turn if audited is not None]
