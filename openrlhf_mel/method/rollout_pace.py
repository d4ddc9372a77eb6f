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

    def end_rollout(self, writing_s: Sequence[float], full: bool = True) -> None:
        """The rollout's last group is finished; one that is not full says nothing of the pace of others.

        Args:
            writing_s: the seconds of each M that was written; those that were broken off took longer.
            full: whether it had as many groups as the next one.
        """
        if full:
            self._finished = self._now
        self._now = []
        if writing_s:
            self._writing_s = median(writing_s)

    def leaves_time(self, missing: int) -> bool:
        """Whether an M that starts while `missing` groups are unfinished will probably be written before the last of them is.

        True while nothing is known: in the first rollout, before an M was written, and with more groups unfinished than
        that rollout had.
        """
        if missing >= len(self._finished) or self._writing_s is None:
            return True
        return self._finished[-1] - self._finished[-1 - missing] >= self._writing_s
