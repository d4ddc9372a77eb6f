"""What the engines of `benchmarks/rollout.py` answer: lengths, verdicts and texts, from a request's prompt alone. Pure.

So a request has the same answer whatever the way of construction, and whenever and however often it is sent.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from typing import Literal

from benchmarks.rollout_simulation import Lengths, Pair

Kind = Literal["response", "experience", "replay"]
# Headings of data/toy/templates/sections.yaml. A digit is one token of the toy's tokenizer, wherever it stands.
HEADINGS, HEADINGS_TOKENS = "point: 1\ncritique: 1\nheuristic: ", 13
RESPONSES, EXPERIENCES = Lengths(665, 0.9, 8192), Lengths(350, 0.5, 2048)
_SLACK = 16  # tokens; a question with a large number has a few more
_QUESTION = re.compile(r"Compute \d+\+\d+\.")


@dataclass(frozen=True)
class Answer:
    """A request's answer: its text, of `tokens` tokens."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Script:
    """Questions and their answers.

    Attributes:
        responses: lengths of responses and replays; `experiences` of Ms.
        scale: all lengths are divided by it.
        questions: of a rollout.
        group: responses of a question; in a mixed group every other one is right.
        mixed: share of the groups that are mixed; of the others every response is right.
        prompt: tokens of a question's prompt.
        analysis: tokens of an M's prompt besides the two responses.
    """

    responses: Lengths = RESPONSES
    experiences: Lengths = EXPERIENCES
    scale: float = 32
    questions: int = 32
    group: int = 8
    mixed: float = 0.5
    prompt: int = 15
    analysis: int = 26

    def names(self, seed: int, number: int) -> list[str]:
        """The questions of a seed's rollout `number`."""
        return [f"Compute {seed}+{number * self.questions + i}." for i in range(self.questions)]

    def answer(self, kind: Kind, question: str, index: int = 0) -> Answer:
        """The answer to a question's request of this kind; `index` of its responses."""
        tokens = self.tokens(kind, question, index)
        rng = random.Random(f"text/{kind}/{question}/{index}")
        digits = "".join(rng.choices("0123456789", k=tokens))
        if kind == "experience":
            return Answer(HEADINGS + digits[HEADINGS_TOKENS:], tokens)
        right = kind == "replay" or index % 2 == 0 or not self.is_mixed(question)
        return Answer(f"{right:d}{digits[1:]}", tokens)

    def tokens(self, kind: Kind, question: str, index: int = 0) -> int:
        """Length of the answer. An M is longer than its headings."""
        lengths = self.experiences if kind == "experience" else self.responses
        drawn = round(lengths.draw(random.Random(f"length/{kind}/{question}/{index}")) / self.scale)
        return max(HEADINGS_TOKENS + 1 if kind == "experience" else 1, drawn)

    def longest(self, kind: Kind) -> int:
        """The most tokens of an answer."""
        most = math.ceil((self.experiences if kind == "experience" else self.responses).most / self.scale)
        return max(HEADINGS_TOKENS + 1, most)

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer: of an M's, with two responses in front."""
        return self.analysis + 2 * self.longest("response") + self.longest("experience") + _SLACK

    def is_mixed(self, question: str) -> bool:
        """Whether the group constructs an M."""
        return random.Random(f"mixed/{question}").random() < self.mixed

    def groups(self, seed: int, number: int) -> list[tuple[list[int], Pair | None]]:
        """The same requests for the simulation. Its pair is of the first two responses, a run's is drawn."""
        found = []
        for name in self.names(seed, number):
            lengths = [self.tokens("response", name, i) for i in range(self.group)]
            written, replayed = self.tokens("experience", name), self.tokens("replay", name)
            pair = Pair(written, replayed, self.analysis + sum(lengths[:2]))
            found.append((lengths, pair if self.is_mixed(name) else None))
        return found


def asked(prompt: str) -> tuple[Kind, str]:
    """The kind of a request, and its question, from the prompt in the toy's templates."""
    question = _QUESTION.findall(prompt)[-1]
    kind: Kind = "experience" if "<judge>" in prompt else "replay" if "<experience>" in prompt else "response"
    return kind, question


def is_right(response: str) -> bool:
    """The verdict."""
    return response.startswith("1")
