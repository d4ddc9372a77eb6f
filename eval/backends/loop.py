"""An event loop in a thread, which works on many requests at once for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import Any, Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
GRACE_S = 30.0  # for running requests when another one has failed for good


class LoopThread:
    """Runs coroutines for other threads. The thread does not keep the interpreter alive."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether the loop is closed, so that calls are refused."""
        return self._loop.is_closed()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run to the end and return the result; raises what the coroutine raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def map(
        self, work: Callable[[A, asyncio.Event], Awaitable[B | None]], items: Iterable[A], concurrency: int
    ) -> Generator[B, None, None]:
        """The results of `work` for each item, except None, in the order of completion; at most `concurrency` at once.

        Items are taken as needed; at most twice `concurrency` results wait to be fetched. When one `work` raises, the
        event that each gets is set (it then starts nothing new) and no other item is taken. Running calls have
        `GRACE_S` to end, and their results are yielded before the error is raised. Closing the iterator cancels running
        calls.
        """
        run = self.call(_start(work, items, concurrency))
        try:
            while results := self.call(run.take()):
                yield from results
            self.call(run.end())
        finally:
            if not self.closed:
                self.call(cancel(run.task))

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what runs, then run `last`, and end the thread. May be called twice."""
        if self.closed:
            return
        self.call(_cancel_all())
        if last:
            self.call(last())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Run(Generic[A, B]):
    """Workers that share an iterator of items and a queue of results."""

    def __init__(
        self, work: Callable[[A, asyncio.Event], Awaitable[B | None]], items: Iterable[A], concurrency: int
    ) -> None:
        self._work, self._items, self._concurrency = work, iter(items), concurrency
        self._results: asyncio.Queue[B | None] = asyncio.Queue()  # None: there will be no more
        self._room, self._stopping = asyncio.Event(), asyncio.Event()
        self._room.set()
        self.task = asyncio.create_task(self._drive())

    async def take(self) -> list[B]:
        """The available results, at least one; none when there will be no more."""
        results = [await self._results.get()]
        while results[-1] is not None and not self._results.empty():
            results.append(self._results.get_nowait())
        if results[-1] is None and len(results) > 1:
            self._results.put_nowait(results.pop())
        self._room.set()
        return [result for result in results if result is not None]

    async def end(self) -> None:
        """Raises what ended the run early, if anything did."""
        await self.task

    async def _drive(self) -> None:
        workers = [asyncio.create_task(self._take_turns()) for _ in range(self._concurrency)]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            self._stopping.set()
            self._room.set()
            _, late = await asyncio.wait(workers, timeout=GRACE_S)
            await cancel(*late)
            for worker in workers:
                if not worker.cancelled():
                    worker.result()
        finally:
            await cancel(*workers)
            self._results.put_nowait(None)

    async def _take_turns(self) -> None:
        while not self._stopping.is_set():
            item = next(self._items, None)
            if item is None:
                return
            result = await self._work(item, self._stopping)
            if result is not None:
                self._results.put_nowait(result)
            if self._results.qsize() >= self._concurrency and not self._stopping.is_set():
                self._room.clear()
            await self._room.wait()


async def cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _start(*arguments: Any) -> _Run[Any, Any]:
    return _Run(*arguments)


async def _cancel_all() -> None:
    await cancel(*(asyncio.all_tasks() - {asyncio.current_task()}))
