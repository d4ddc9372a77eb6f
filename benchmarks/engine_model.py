"""Rollout engines by their batch curve, in virtual time. Pure."""

from __future__ import annotations

import bisect
import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

Done = Callable[[float], None]


@dataclass(frozen=True)
class EngineModel:
    """What an engine does in a second.

    Attributes:
        curve: (requests in the batch, seconds of a decoding step), ascending; linear in between, and beyond the last as
            between the last two.
        slots: requests that it decodes at most together.
        prefill: prompt tokens a second.
    """

    curve: tuple[tuple[int, float], ...]
    slots: int = 128
    prefill: float = math.inf

    def step_s(self, batch: int) -> float:
        """Seconds of a decoding step."""
        if len(self.curve) == 1:
            return self.curve[0][1]
        at = min(max(bisect.bisect_left(self.curve, (batch, -math.inf)), 1), len(self.curve) - 1)
        (low, fast), (high, slow) = self.curve[at - 1], self.curve[at]
        return fast + (slow - fast) * (max(batch, low) - low) / (high - low)

    @functools.cached_property
    def steps_s(self) -> list[float]:
        """`step_s` of every batch, from 0 to `slots`."""
        return [self.step_s(batch) for batch in range(self.slots + 1)]

    def best_rate(self) -> float:
        """Most tokens a second: at a corner of the curve, or with every slot in use."""
        batches = {min(batch, self.slots) for batch, _ in self.curve} | {self.slots}
        return max(batch / self.step_s(batch) for batch in batches)


class Engine:
    """Decodes its requests together, in virtual time: the decoding steps that each of them has had."""

    def __init__(self, model: EngineModel) -> None:
        self._model = model
        self._now = self._steps = self._prefill_s = 0.0
        self._running: list[tuple[float, int, int, Done]] = []
        self._waiting: deque[tuple[int, int, Done]] = deque()
        self._ahead: deque[tuple[int, int, Done]] = deque()
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting) + len(self._ahead)

    def add(self, now: float, prompt: int, tokens: int, done: Done, ahead: bool = False) -> None:
        """A request of `tokens` new tokens; `done` is called with its end. `ahead`: before all that wait otherwise."""
        self._advance(now)
        (self._ahead if ahead else self._waiting).append((prompt, tokens, done))
        self._fill()

    def next_end(self) -> float:
        """When its next request ends, if nothing is added."""
        if not self._running:
            return math.inf
        left = self._running[0][0] - self._steps
        return self._now + self._prefill_s + left * self._model.steps_s[len(self._running)]

    def end_next(self) -> tuple[float, Done]:
        """End the next request: when, and what to call."""
        now = self.next_end()
        self._advance(now)
        *_, done = heapq.heappop(self._running)
        self._fill()
        return now, done

    def break_off(self, now: float) -> int:
        """Drop every request. Returns the tokens that they had."""
        self._advance(now)
        # what is left is a difference of sums: a whole number but for rounding
        lost = sum(tokens - min(tokens, math.ceil(end - self._steps - 1e-6)) for end, _, tokens, _ in self._running)
        self._running, self._prefill_s = [], 0.0
        self._waiting.clear()
        self._ahead.clear()
        return lost

    def _fill(self) -> None:
        while (waiting := self._ahead or self._waiting) and len(self._running) < self._model.slots:
            prompt, tokens, done = waiting.popleft()
            self._prefill_s += prompt / self._model.prefill
            heapq.heappush(self._running, (self._steps + tokens, next(self._order), tokens, done))

    def _advance(self, now: float) -> None:
        passed, self._now = now - self._now, now
        prefilled = min(passed, self._prefill_s)
        self._prefill_s -= prefilled
        if self._running:
            self._steps += (passed - prefilled) / self._model.steps_s[len(self._running)]


class Engines:
    """Engines beside each other; finds the one whose request ends next without asking all of them."""

    def __init__(self, model: EngineModel, count: int) -> None:
        self._engines = [Engine(model) for _ in range(count)]
        self._ends: list[tuple[float, int]] = []  # (end, engine); out of date where it is not the engine's own next
        self._changed: set[int] = set()

    def __len__(self) -> int:
        return len(self._engines)

    def fewest(self) -> int:
        """The engine with the fewest requests."""
        return min(range(len(self._engines)), key=lambda index: len(self._engines[index]))

    def add(self, index: int, now: float, prompt: int, tokens: int, done: Done, ahead: bool = False) -> None:
        """A request to one of them; see `Engine.add`."""
        self._engines[index].add(now, prompt, tokens, done, ahead)
        self._changed.add(index)

    def next_end(self) -> float:
        """When the next request ends, if nothing is added."""
        for index in self._changed:
            heapq.heappush(self._ends, (self._engines[index].next_end(), index))
        self._changed.clear()
        while self._ends and self._ends[0][0] != self._engines[self._ends[0][1]].next_end():
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def end_next(self) -> tuple[float, Done]:
        """End the next request, which there must be: when, and what to call."""
        self.next_end()
        _, index = heapq.heappop(self._ends)
        self._changed.add(index)
        return self._engines[index].end_next()

    def break_off(self, now: float) -> int:
        """Drop every request. Returns the tokens that they had."""
        self._changed.update(range(len(self._engines)))
        return sum(engine.break_off(now) for engine in self._engines)
