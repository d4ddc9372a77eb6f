"""What `RolloutEngine` adds to upstream's actor, around a scripted vLLM and agent; the real ones: `test_breaking_off.py`."""

import asyncio
from types import SimpleNamespace

import pytest

from openrlhf_mel.cpu import standins

pytestmark = pytest.mark.timeout(60)


class LLM:
    """A token for each tick; `abort` and priorities are noted."""

    def __init__(self):
        self.aborted, self.priorities = [], []

    async def generate(self, prompt, sampling_params, request_id, priority=0):
        self.priorities.append(priority)
        for made in range(1, sampling_params.max_tokens + 1):
            await asyncio.sleep(0)
            yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=list(range(made)))])

    async def abort(self, request_id):
        self.aborted.append(request_id)


@pytest.fixture
def engine():
    """An engine whose agent requests `turns` completions, then judges for ever."""
    standins.install()
    from openrlhf_mel.upstream.engine import RolloutEngine

    made = object.__new__(RolloutEngine)
    made.judging = asyncio.Event()

    async def execute(turns, tokens):
        for turn in range(turns):
            await read(made, f"turn {turn}", tokens)
        made.judging.set()
        await asyncio.Event().wait()

    made.llm, made.executor = LLM(), SimpleNamespace(execute=execute)
    made.get_num_unfinished_requests = lambda: 0
    made._prepare_accounts()
    made.llm.generate = made._counting(made.llm.generate)
    return made


async def read(engine, name, tokens, **extra):
    params = standins.SamplingParams(max_tokens=tokens, **extra)
    async for _ in engine.llm.generate({}, params, request_id=name):
        pass


async def cancelled(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_requests_of_constructions_go_ahead_of_the_others(engine):
    from openrlhf_mel.upstream.engine import AHEAD

    async def run():
        for extra in (None, AHEAD, {"kv_transfer_params": 1}, {**AHEAD, "other": 2}):
            await read(engine, "a", 1, extra_args=extra)

    asyncio.run(run())
    assert engine.llm.priorities == [0, -1, 0, -1]


def test_tokens_of_an_aborted_request_are_counted_as_lost(engine):
    async def run():
        task = asyncio.create_task(read(engine, "a", 10**6))
        while engine.timeline().tokens < 5:
            await asyncio.sleep(0)
        await cancelled(task)
        return await engine.until_idle()

    assert asyncio.run(run()) == engine.timeline().tokens >= 5
    assert engine.llm.aborted == ["a"]


def test_tokens_of_a_response_that_is_being_judged_are_counted_as_lost(engine):
    """Its requests have ended: there is nothing to abort."""

    async def run():
        await read(engine, "alone", 3)  # a request of no response, as M's, and one that ends
        task = asyncio.create_task(engine.executor.execute(2, 7))
        await engine.judging.wait()
        await cancelled(task)
        return await engine.until_idle()

    assert asyncio.run(run()) == 14
    assert engine.timeline().tokens == 17 and not engine.llm.aborted
