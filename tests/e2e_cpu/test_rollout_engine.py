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
    """An engine whose agent requests two completions of `max_length` tokens for each response, then judges.

    "quick": that is done at once; else it takes for ever.
    """
    standins.install()
    from openrlhf_mel.upstream.engine import RolloutEngine

    made = object.__new__(RolloutEngine)
    made.judging = asyncio.Event()

    made.made = 0

    async def execute(prompt, max_length, **_):
        made.made += 1
        number = made.made
        for turn in range(2):
            await read(made, f"{number}, turn {turn}", max_length)
        if prompt == "slow" or number > 1:
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


@pytest.mark.parametrize(("prompt", "responses"), [("slow", 1), ("quick", 2)])
def test_tokens_of_responses_that_are_judged_or_being_judged_are_counted_as_lost(engine, prompt, responses):
    """Their requests have ended: there is nothing to abort. Nobody gets the one that is done."""

    async def run():
        await read(engine, "alone", 3)  # a request of no response, as M's, and one that ends
        given = {"label": "1", "sampling_params": None, "hf_tokenizer": None, "max_length": 7}
        task = asyncio.create_task(engine.generate_responses(prompt, num_samples=responses, **given))
        await engine.judging.wait()
        await cancelled(task)
        return await engine.until_idle()

    assert asyncio.run(run()) == 14 * responses
    assert engine.timeline().tokens == 3 + 14 * responses and not engine.llm.aborted
