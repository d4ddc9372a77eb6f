"""An agent executor whose engine dies, at the moment and in the way that $MEL_TEST_DEATH names."""

import os
import signal

import psutil

from openrlhf_mel.upstream.agent_executor import AgentExecutor as Own

WAY = os.environ["MEL_TEST_DEATH"]


def kill(*names: str) -> None:
    """Kill -9 the processes of vLLM below the actor's that have one of the names, or the actor itself."""
    if not names:
        os.kill(os.getpid(), signal.SIGKILL)
    found = [p for p in psutil.Process().children(recursive=True) if any(n in " ".join(p.cmdline()) for n in names)]
    assert found, [p.cmdline() for p in psutil.Process().children(recursive=True)]
    for process in found:
        process.kill()


KILLS = {"actor": (), "core": ("EngineCore",), "worker": ("Worker",)}

if WAY == "import in creation":
    import a_package_that_is_not_there  # noqa: F401
elif WAY == "cache in creation":
    from openrlhf_mel import vllm_cpu

    told = vllm_cpu.engine_arguments
    vllm_cpu.engine_arguments = lambda *args: told(*args) | {"kv_cache_memory_bytes": 4096}


class AgentExecutor(Own):
    """`<process> in rollout`, `<process> in hand-over`, `shape in hand-over`, `<process> in M`."""

    _calls = 0

    async def execute(self, *args, llm_engine, **kwargs):
        what, _, moment = WAY.partition(" in ")
        self._calls += 1
        if self._calls == 1 and moment in ("hand-over", "M"):
            self._prepare(llm_engine, what, moment)
        if moment == "rollout" and self._calls == 20:
            kill(*KILLS[what])
        return await super().execute(*args, llm_engine=llm_engine, **kwargs)

    def _prepare(self, engine, what, moment):
        if moment == "hand-over":
            update, seen = engine.update_weight, []

            async def dying_update(name, dtype, shape, empty_cache=False):
                seen.append(name)
                if len(seen) == 3:
                    if what == "shape":
                        shape = (*shape, 2)
                    else:
                        kill(*KILLS[what])
                return await update(name, dtype, shape, empty_cache)

            engine.update_weight = dying_update
        else:
            generate = engine.generate

            async def dying_generate(prompt_token_ids, sampling_params, **more):
                if sampling_params.max_tokens == 96:  # an M's, and no other's here
                    kill(*KILLS[what])
                return await generate(prompt_token_ids, sampling_params, **more)

            engine.generate = dying_generate
