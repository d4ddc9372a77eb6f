"""The event loop of a backend, in a thread of its own."""

import asyncio

import pytest

from eval.backends import loop

pytestmark = pytest.mark.timeout(60)


def test_an_error_of_the_caller_reaches_the_caller():
    async def work(item, stopping):
        await asyncio.sleep(0)
        if item == 7:
            raise ZeroDivisionError
        return item

    thread = loop.LoopThread("test")
    came = []
    with pytest.raises(ZeroDivisionError):
        for item in thread.map(work, range(100), 3):
            came.append(item)
    thread.close()
    assert set(range(5)) <= set(came) and 7 not in came and len(came) < 20
