"""The records that the parts of an evaluation exchange. Pure."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from openrlhf_mel.verifier import MATH, Reference

STOP, LENGTH, UNKNOWN = "stop", "length", "unknown"
THINKING_CUT = "thinking_cut"  # a share in metrics.json


@dataclass(frozen=True)
class Question:
    """A row of a prepared benchmark.

    Attributes:
        unit: the unit that may follow an answer's number, if the benchmark has one.
        tolerance: the allowed distance of a number from `answer`.
        scorer: what judges answers; `math` in evaluations from before there were others.
    """

    benchmark: str
    id: str
    problem: str
    answer: str
    unit: str | None = None
    tolerance: float | None = None
    scorer: str = MATH

    @property
    def reference(self) -> Reference:
        """The reference answer, as the verifier takes it."""
        return Reference(self.answer, self.scorer, self.problem)


@dataclass(frozen=True)
class Request:
    """One sample to draw.

    Attributes:
        sample: 0 for the greedy one; sampled ones count from 0 as well.
        seed: of a sampled one; it depends on the run's seed, the question and `sample` alone.
        prompt: the question's prompt as text, not yet in a chat template.
    """

    benchmark: str
    question: str
    sample: int
    greedy: bool
    seed: int
    prompt: str


@dataclass(frozen=True)
class Response:
    """The response to a request.

    Attributes:
        finish_reason: `stop`; `length` when the response was cut at the maximal length; else a server's own word
            (`content_filter`), or `unknown` when it gives none.
        prompt_tokens, tokens: their numbers, if the backend reports them.
        reasoning: the thinking that a server gave apart from `text`, if any.
    """

    request: Request
    text: str
    finish_reason: str
    prompt_tokens: int | None
    tokens: int | None
    reasoning: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How sampled responses are drawn; greedy ones are drawn at temperature 0, and cut at the same length (tokens).

    Attributes:
        shortened_from: the length that was asked for, where `--shorten` made it fit into the model.
    """

    temperature: float
    top_p: float
    max_tokens: int
    shortened_from: int | None = None


@dataclass(frozen=True)
class Room:
    """The room for a response.

    Attributes:
        positions: the most tokens of prompt and response together that the model holds.
        prompt_tokens: of the longest prompt.
        question: the question of that prompt, as messages name it.
    """

    positions: int
    prompt_tokens: int
    question: str

    @property
    def tokens(self) -> int:
        """The most tokens of a response, whatever its prompt; 0 or less where the prompt fills the model."""
        return self.positions - self.prompt_tokens


class BackendError(Exception):
    """The model cannot be reached or run. The message says what was tried and what to do; `details` come below."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Backend(Protocol):
    """A model that generates responses."""

    def identity(self) -> dict[str, Any]:
        """Properties of model, weights and software that could change a response: small JSON without secrets."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Generator[Response, None, None]:
        """Responses as they are finished, in any order, one for each request. Raises BackendError.

        A caller that stops early closes the iterator; nothing then keeps running.
        """

    def close(self) -> None:
        """Free the model. May be called twice."""


@runtime_checkable
class PromptingBackend(Backend, Protocol):
    """A backend that makes the model's prompts itself, by its tokenizer; a server does not show them."""

    def thinking_end(self) -> str | None:
        """The closing mark of the thinking that the model's chat template opens before a response.

        None where it opens none, or prompts are no chat.
        """

    def room(self, requests: Sequence[Request]) -> Room | None:
        """The room beside the longest prompt of `requests`; None where the model's length is not known."""
