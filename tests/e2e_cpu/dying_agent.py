"""An agent executor whose engine dies at the moment and in the way given by $MEL_TEST_DEATH."""

import os
import signal
from pathlib import Path

import psutil

from openrlhf_mel.upstream.agent_executor import AgentExecutor as Own

WAY = os.environ["MEL_TEST_DEATH"]


def dying() -> None:
    """Record the time of death for the test."""
    Path(os.environ["MEL_TEST_DIED"]).touch()


def kill(*names: str) -> None:
    """Send SIGKILL to vLLM's child processes with one of the names; without names, to the actor itself."""
    dying()
    if not names:
        os.kill(os.getpid(), signal.SIGKILL)
    found = [p for p in psutil.Process().children(recursive=True) if any(n in " ".join(p.cmdline()) for n in names)]
    assert found, [p.cmdline() for p in psutil.Process().children(recursive=True)]
    for process in found:
        process.kill()


KILLS = {"actor": (), "core": ("EngineCore", "spawn_main")}  # without setproctitle the core runs as "spawn_main"

if WAY.endswith("in creation"):
    dying()
if WAY == "import in creation":
    import a_package_that_is_not_there  # noqa: F401
elif WAY == "cache in creation":
    import vllm

    arguments = vllm.AsyncEngineArgs
    vllm.AsyncEngineArgs = lambda *args, **more: arguments(*args, **(more | {"kv_cache_memory_bytes": 4096}))


class AgentExecutor(Own):
    """WAY: `<process> in rollout`, `<process> in hand-over`, `shape in hand-over`, `... in M`, `... in evaluation`."""

    _calls = 0

    async def execute(self, *args, llm_engine, **kwargs):
        what, _, moment = WAY.partition(" in ")
        self._calls += 1
        if self._calls == 1 and moment == "hand-over":
            in_hand_over(llm_engine, what)
        if self._calls == 1 and moment == "M":
            in_m(llm_engine, what)
        evaluation = kwargs["sampling_params"].temperature == 0.5
        if (moment == "rollout" and self._calls == 20) or (moment == "evaluation" and evaluation):
            kill(*KILLS[what])
        return await super().execute(*args, llm_engine=llm_engine, **kwargs)


# Ray calls the methods of the actor's class; only the engine methods that these call can be replaced.
def in_hand_over(engine, what):
    """Die at the third tensor of a weight sync."""
    seen = []
    if not hasattr(engine, "llm"):
        receive = engine._weights.get

        async def dying_receive():
            seen.append(None)
            if len(seen) == 3:
                kill(*KILLS[what])
            return await receive()

        engine._weights.get = dying_receive
        return
    call = engine.llm.collective_rpc

    async def dying_call(method, *rest, args=(), **more):
        seen.extend([None] if method == "update_weight" else [])
        if len(seen) == 3:
            if what == "shape":
                dying()
                name, dtype, shape, empty_cache = args
                args = name, dtype, (*shape, 2), empty_cache
            else:
                kill(*KILLS[what])
        return await call(method, *rest, args=args, **more)

    engine.llm.collective_rpc = dying_call


def in_m(engine, what):
    """Die at the first M, recognised by its limit of tokens."""
    if not hasattr(engine, "llm"):
        put = engine._queue.put

        async def dying_put(request):
            if request.sampling.max_tokens == 96:
                kill(*KILLS[what])
            await put(request)

        engine._queue.put = dying_put
        return
    generate = engine.llm.generate

    def dying_generate(prompt, sampling_params, **more):
        if sampling_params.max_tokens == 96:
            kill(*KILLS[what])
        return generate(prompt, sampling_params, **more)

    engine.llm.generate = dying_generate
