"""A benchmark's samples as the metrics take them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from eval.identity import Draws
from eval.messages import LENGTH, Question
from eval.store import Sample
from eval.thinking_end import seen
from openrlhf_mel.errors import UserError


@dataclass(frozen=True)
class Drawn:
    """A benchmark's samples in the order of its questions.

    Attributes:
        greedy: one per question, or none.
        sampled: n per question, in the order of their numbers.
    """

    questions: Sequence[Question]
    greedy: list[Sample]
    sampled: list[list[Sample]]

    @property
    def all(self) -> list[Sample]:
        """Every sample."""
        return [*self.greedy, *(sample for samples in self.sampled for sample in samples)]


def collect(samples: Iterable[Sample], questions: Sequence[Question], draws: Draws) -> Drawn:
    """The samples that `draws` asks for; others in the folder, from an earlier command, are ignored.

    A response's text is kept only where it tells of thinking: of all of them it is most of the memory.

    Raises:
        UserError: one is missing.
    """
    there = {s.key: s if s.finish_reason == LENGTH or seen(s) else replace(s, response="") for s in samples}
    wanted_greedy = [(question.id, 0, True) for question in questions if draws.greedy]
    wanted = [[(question.id, i, False) for i in range(draws.n)] for question in questions if draws.n]
    keys = [*wanted_greedy, *(key for row in wanted for key in row)]
    if missing := [key for key in keys if key not in there]:
        question, sample, _ = missing[0]
        raise UserError(
            f"{questions[0].benchmark}: {len(missing)} of {len(keys)} samples are missing, among them sample {sample} of "
            f"{question}; run eval.run again"
        )
    return Drawn(questions, [there[key] for key in wanted_greedy], [[there[key] for key in row] for row in wanted])
