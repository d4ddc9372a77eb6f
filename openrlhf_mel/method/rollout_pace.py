"""Whether a rollout leaves time to write an M that starts now, by the pace of the rollout before. Pure.

An M that the rollout's end breaks off is written anew: its tokens are lost, and an M that ends early is more likely to be
kept as it was first written than a long one. So what will probably be broken off is not begun. The median decides, never
the length of the M itself, which nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median


class RolloutPace:
    """When the groups of the rollout before this one were finished, and how long its Ms took to write."""

    def __init__(self) -> None:
        self._finished: list[float] = []
        self._writing_s: float | None = None
        self._now: list[float] = []

    def finish_group(self, seconds: float) -> None:
        """A group is finished, so many seconds after the rollout's begin."""
        self._now.append(seconds)

    def end_rollout(self, writing_s: Sequence[float]) -> None:
        """The rollout's last group is finished. `writing_s`: the seconds of each M that was written."""
        self._finished, self._now = self._now, []
        if writing_s:
            self._writing_s = median(writing_s)

    def leaves_time(self, missing: int) -> bool:
        """Whether an M that starts while `missing` groups are unfinished will probably be written before the last of them is.

        True while nothing is known: in the first rollout, and before an M was written.
        """
        if not self._finished or self._writing_s is None:
            return True
        last = self._finished[-1]
        then = self._finished[-1 - missing] if missing < len(self._finished) else 0.0
        return last - then >= self._writing_s
