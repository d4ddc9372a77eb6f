"""When an engine generated its tokens, and how much of what it could have generated it did not. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

INTERVALS = 4096  # of which a timeline has at most; their width grows with what it covers
_FIRST_WIDTH_S = 1e-3


class TokenTimeline:
    """Tokens by the time at which they were generated.

    Attributes:
        width: of an interval, in seconds.
        counts: tokens of each interval, from the beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self.width, self.counts = _FIRST_WIDTH_S, [0]

    def add(self, tokens: int) -> None:
        """Count tokens that are generated now."""
        at = int((self._clock() - self._begun) / self.width)
        while at >= INTERVALS:
            self.counts += [0] * (len(self.counts) % 2)
            self.counts = [a + b for a, b in zip(self.counts[::2], self.counts[1::2], strict=True)]
            self.width, at = self.width * 2, at // 2
        self.counts += [0] * (at + 1 - len(self.counts))
        self.counts[at] += tokens

    @property
    def tokens(self) -> int:
        """All of them."""
        return sum(self.counts)

    def best_rate(self, window_s: float) -> float:
        """Most tokens a second in any window of `window_s` seconds; of an interval, where that is longer."""
        size = max(1, round(window_s / self.width))
        inside = best = sum(self.counts[:size])
        for entering, leaving in zip(self.counts[size:], self.counts, strict=False):
            inside += entering - leaving
            best = max(best, inside)
        return best / (size * self.width)


def idle(timelines: Sequence[TokenTimeline], seconds: float) -> float | None:
    """1 - tokens / (engines x seconds x best tokens a second of an engine in any window of a tenth of the seconds).

    None where nothing was generated.
    """
    best = max((timeline.best_rate(seconds / 10) for timeline in timelines), default=0.0)
    if not best or seconds <= 0:
        return None
    return 1 - sum(timeline.tokens for timeline in timelines) / (len(timelines) * seconds * best)
