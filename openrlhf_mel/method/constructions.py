"""The constructions of a rollout: they end with it, or are broken off and go on in the next one. Pure.

Paper 3.2 constructs every M in its own step. `mel.construction: deferred` lets the rollout end without the last ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from openrlhf_mel.method.construction import Constructor
from openrlhf_mel.method.experience import MetaExperience


class Constructions:
    """Runs constructions as tasks of an event loop, in which all methods but `hold` are called.

    Every M that is started ends exactly once: constructed, or in `carried`.

    Attributes:
        carried: Ms whose construction was broken off, in the order in which they were started, then those that were held.
    """

    def __init__(self, constructor: Constructor, max_carries: int) -> None:
        """A construction may be broken off, or held, `max_carries` times."""
        self.carried: list[MetaExperience] = []
        self._constructor, self._max_carries = constructor, max_carries
        self._tasks: dict[asyncio.Task[None], MetaExperience] = {}
        self._held: list[MetaExperience] = []

    async def start(self, candidates: Iterable[MetaExperience]) -> None:
        """Start the construction of each; returns when their first requests are on the way to the engines."""
        for m in candidates:
            self._tasks[asyncio.create_task(self._constructor.construct(m))] = m
        await asyncio.sleep(0)  # lets each run up to its first wait

    def hold(self, candidates: Iterable[MetaExperience]) -> None:
        """Carry each over unbegun: `break_off` must end this rollout."""
        self._held += candidates

    async def finish(self) -> None:
        """Wait for all constructions."""
        assert not self._held
        await self._until_done(lambda m: True)

    async def finish_those_at_their_bound(self) -> None:
        """Wait for the constructions that must not be broken off once more.

        A slow one is never dropped: which pair is learned from must not depend on a length.
        """
        await self._until_done(lambda m: m.carries >= self._max_carries)

    async def break_off(self) -> int:
        """Cancel what is unfinished, and wait until the engines generate nothing for it any more.

        Returns:
            Tokens that were generated in vain.
        """
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        tasks, self._tasks = self._tasks, {}
        late = []
        for task, m in tasks.items():
            if task.cancelled():
                late.append(m)
            else:
                task.result()  # raises what it raised
        late, self._held = late + self._held, []
        for m in late:
            m.carries += 1
        self.carried += late
        return await self._constructor.engine.settle() if self.carried else 0

    async def _until_done(self, among: Callable[[MetaExperience], bool]) -> None:
        waited = [task for task, m in self._tasks.items() if among(m)]
        await asyncio.gather(*waited)
        for task in waited:
            del self._tasks[task]
