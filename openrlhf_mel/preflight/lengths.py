"""Lengths in tokens: how long responses are assumed to be, and what fits into `data.max_len`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from openrlhf_mel.preflight.problems import Problem, warning

MANY_TOO_LONG, ALL_TOO_LONG = 0.25, 0.995
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
        """Share of responses that are longer than `tokens` tokens."""
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
        """Share of responses that are truncated."""
        return self._uncut(self.cap)

    @property
    def average(self) -> float:
        """Mean length after the cut: E[min(Y, cap)] of a log-normal Y."""
        z = (math.log(self.cap) - self._centre) / self.spread
        return self.mean * _NORMAL.cdf(z - self.spread) + self.cap * (1 - _NORMAL.cdf(z))

    def complete(self, of: int = 1) -> list[float]:
        """The shortest of `of` complete responses: the probabilities of equal cells of `span`."""
        whole, step = 1 - self.truncated, self.span / CELLS

        def beyond(cell: int) -> float:
            if cell == CELLS or not whole:
                return 0.0
            return (max(0.0, self._uncut(cell * step) - self.truncated) / whole) ** of

        return [beyond(i) - beyond(i + 1) for i in range(CELLS)]


@dataclass(frozen=True)
class Budget:
    """The parts of the contexts that `data.max_len` has to hold, in tokens.

    Attributes:
        instruction: the analysis prompt without question and responses (I).
        question: tokens that the question's template adds; `mean_question`, `longest_question` are bare questions.
        replay: tokens that the replay's template adds.
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
        """Tokens of C_retro without the two responses."""
        return self.instruction + self.mean_question


def share_too_long(budget: Budget, responses: Responses, group: int, selection: str) -> float:
    """Share of the pairs for which I + x + y+ + y- + M exceeds `data.max_len` (`context_too_long`).

    Pairs are of complete responses. `shortest` takes the shortest correct and the shortest incorrect one of a group, of
    which half are assumed correct; the other selections are treated as independent draws.
    """
    cells = responses.complete(max(1, group // 2) if selection == "shortest" else 1)
    below = [0.0, *itertools.accumulate(cells)]  # below[i]: shorter than i cells
    step = responses.span / CELLS
    fits = 0.0
    for i, probability in enumerate(cells):
        others = math.floor(budget.room / step - i)  # the centres of both cells add up to i + j + 1 steps
        fits += probability * below[min(CELLS, max(0, others))]
    return min(1.0, max(0.0, 1 - fits))


def figures(budget: Budget, responses: Responses, exact: bool) -> dict[str, Any]:
    """What the report says of lengths. `exact`: counted by the model's own tokenizer."""
    return {
        "max_len": budget.max_len,
        "instruction": budget.instruction,
        "question_template": budget.question,
        "replay_template": budget.replay,
        "mean_question": budget.mean_question,
        "longest_question": budget.longest_question,
        "mean_response": responses.mean,
        "mean_response_cut": responses.average,
        "truncated_share": responses.truncated,
        "exact": exact,
    }


def check_rollout(budget: Budget, counted: bool) -> Iterator[Problem]:
    """Question and response against `data.max_len`. `counted`: the data were read, and the longest question is known."""
    most = budget.max_len
    if budget.question + budget.response >= most:
        yield Problem(
            f"--data.max_len {most}: --rollout.max_new_tokens {budget.response} and the question's template "
            f"({budget.question} tokens) leave no room for a question; raise it, or lower --rollout.max_new_tokens"
        )
    elif budget.question + budget.longest_question + budget.response > most and counted:
        yield warning(
            f"--data.max_len {most}: the longest question ({budget.longest_question} tokens) and others that leave no room "
            f"for --rollout.max_new_tokens {budget.response} are left out of the data"
        )


def check_pairs(budget: Budget, responses: Responses, share: float) -> Iterator[Problem]:
    """I + x + y+ + y- + M against `data.max_len`; `share` of the pairs are too long."""
    most = budget.max_len
    parts = (
        f"I {budget.instruction} + x {budget.mean_question} + M {budget.m} leave {budget.room} tokens for two responses "
        f"of {responses.mean:.0f} on average (at most {responses.cap})"
    )
    needed = budget.average_context + budget.m + 2 * responses.cap
    remedy = (
        f"raise it ({needed} holds every pair), lower --mel.max_new_tokens or --rollout.max_new_tokens, or "
        "--mel.pair_selection shortest"
    )
    if share >= ALL_TOO_LONG:
        yield Problem(f"--data.max_len {most}: {parts}, so that practically no pair fits; {remedy}")
    elif share >= MANY_TOO_LONG:
        yield warning(f"--data.max_len {most}: {parts}; {share:.0%} of the pairs are too long (estimate); {remedy}")


def check_replay(budget: Budget) -> Iterator[Problem]:
    """The replay's prompt, M in it, and its response against `data.max_len`."""
    most, prompt = budget.max_len, budget.replay + budget.question + budget.mean_question
    if prompt + budget.replay_response >= most:
        yield Problem(
            f"--mel.replay_max_new_tokens {budget.replay_response}: with the replay's prompt ({prompt} tokens without "
            f"M) it leaves no room for M in --data.max_len {most}; lower it, or raise --data.max_len"
        )
    elif prompt + budget.m + budget.replay_response > most:
        yield warning(
            f"--mel.replay_max_new_tokens {budget.replay_response}: an M of more than "
            f"{most - prompt - budget.replay_response} tokens (of at most {budget.m}) is dropped as replay_too_long"
        )
