"""Lengths in tokens: how long responses are assumed to be, and what of it fits into `data.max_len`. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

SPREAD = 0.6  # assumed: standard deviation of the logarithm of a response's length
CELLS = 400
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Responses:
    """Lengths of responses: log-normal with a mean of `mean` tokens before the cut, cut at `cap`."""

    mean: float
    cap: int
    spread: float = SPREAD

    @property
    def _centre(self) -> float:
        return math.log(self.mean) - self.spread**2 / 2

    def longer(self, tokens: float) -> float:
        """Share of responses that are still being written after `tokens` tokens."""
        if tokens >= self.cap:
            return 0.0
        return self._uncut(tokens)

    def _uncut(self, tokens: float) -> float:
        return 1 - _NORMAL.cdf((math.log(tokens) - self._centre) / self.spread) if tokens > 0 else 1.0

    @property
    def span(self) -> float:
        """Tokens within which practically all responses end."""
        return min(self.cap, math.exp(self._centre + 4 * self.spread))

    @property
    def truncated(self) -> float:
        """Share of responses that are cut."""
        return self._uncut(self.cap)

    @property
    def average(self) -> float:
        """Mean length after the cut: E[min(Y, cap)] of a log-normal Y."""
        z = (math.log(self.cap) - self._centre) / self.spread
        return self.mean * _NORMAL.cdf(z - self.spread) + self.cap * (1 - _NORMAL.cdf(z))

    def complete(self, of: int = 1) -> list[float]:
        """The shortest of `of` responses that were not cut: the probability of each of a number of equal cells of `span`."""
        whole, step = 1 - self.truncated, self.span / CELLS

        def beyond(cell: int) -> float:
            if cell == CELLS or not whole:
                return 0.0
            return (max(0.0, self._uncut(cell * step) - self.truncated) / whole) ** of

        return [beyond(i) - beyond(i + 1) for i in range(CELLS)]


@dataclass(frozen=True)
class Budget:
    """What stands in the contexts that `data.max_len` has to hold, in tokens.

    Attributes:
        instruction: the analysis prompt without question and responses (I).
        question: what the question's template adds; `mean_question`, `longest_question` are bare questions.
        replay: what the replay's template adds.
        m: maximal tokens of M; `replay_response` of a replay's response; `response` of a rollout's.
    """

    max_len: int
    instruction: int
    question: int
    replay: int
    mean_question: int
    longest_question: int
    response: int
    m: int
    replay_response: int

    @property
    def room(self) -> int:
        """Tokens that are left for y+ and y- together, with an average question."""
        return self.max_len - self.instruction - self.mean_question - self.m

    @property
    def sequence(self) -> int:
        """The longest sequence of the policy loss: question and response."""
        return min(self.max_len, self.question + self.longest_question + self.response)

    @property
    def row(self) -> int:
        """The longest row of the NLL: C_retro and M."""
        return min(self.max_len, self.instruction + self.longest_question + 2 * self.response + self.m)

    @property
    def average_context(self) -> int:
        """Tokens of C_retro but for the two responses."""
        return self.instruction + self.mean_question


def share_too_long(budget: Budget, responses: Responses, group: int, selection: str) -> float:
    """Share of the pairs for which I + x + y+ + y- + M exceeds `data.max_len` (`context_too_long`).

    Pairs are of complete responses. `shortest` takes the shortest right and the shortest wrong one of a group, of which
    half are assumed right; the other selections are reckoned as independent draws.
    """
    cells = responses.complete(max(1, group // 2) if selection == "shortest" else 1)
    below = [0.0, *itertools.accumulate(cells)]  # below[i]: shorter than i cells
    step = responses.span / CELLS
    fits = 0.0
    for i, probability in enumerate(cells):
        others = math.floor(budget.room / step - i)  # the middles of both cells add up to i + j + 1 steps
        fits += probability * below[min(CELLS, max(0, others))]
    return min(1.0, max(0.0, 1 - fits))
