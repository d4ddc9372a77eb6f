"""The responses of an audit with their texts: only those that are drawn or judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from eval.auditing.drawing import Member, response_key, without_text
from eval.auditing.suspicion import Suspicion
from eval.messages import Question
from eval.page.reading import Evaluation
from eval.store import Sample


@dataclass(frozen=True)
class Audited:
    """A response with its question and its class."""

    question: Question
    sample: Sample
    suspicion: Suspicion

    @property
    def key(self) -> str:
        """See `Member`."""
        return response_key(self.question.benchmark, self.sample)

    @property
    def sha256(self) -> str:
        """The fingerprint of what a person judges: question, reference answer and response, not the verifier's verdict."""
        judged = [self.question.problem, self.question.answer, self.sample.response]
        return hashlib.sha256(json.dumps(judged).encode()).hexdigest()


def texts(evaluation: Evaluation, members: Collection[Member]) -> Iterator[Audited]:
    """The responses `members` in the evaluation's order, read from its files once more.

    Raises:
        UserError: a file is missing or damaged.
    """
    wanted = {member.key: member.suspicion for member in members}
    benchmarks = {key.partition("/")[0] for key in wanted}
    for name in filter(benchmarks.__contains__, evaluation.benchmarks):

        def kept(sample: Sample, name: str = name) -> Sample:
            return sample if response_key(name, sample) in wanted else without_text(sample)

        for question, samples in evaluation.questions(name, kept):
            for sample in samples:
                if suspicion := wanted.get(response_key(name, sample)):
                    yield Audited(question, sample, suspicion)
