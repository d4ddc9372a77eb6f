"""An agent executor whose engine takes its first three hand-overs, and drops what it receives of all others."""

from openrlhf_mel.upstream.agent_executor import AgentExecutor as Own

TAKEN = 3


def drop_what_is_loaded(worker) -> None:
    """Runs in vLLM's worker."""
    worker.model_runner.model.load_weights = lambda weights: None


class AgentExecutor(Own):
    """Watches its engine's hand-overs from the first response on."""

    _watching = False

    async def execute(self, *args, llm_engine, **kwargs):
        if not self._watching:
            self._watching = True
            self._watch(llm_engine)
        return await super().execute(*args, llm_engine=llm_engine, **kwargs)

    def _watch(self, engine):
        update, first, begun = engine.update_weight, [], []

        async def counting_update(name, dtype, shape, empty_cache=False):
            first[:] = first or [name]
            begun.extend([name] if name == first[0] else [])
            if name == first[0] and len(begun) == TAKEN + 1:
                await engine.llm.collective_rpc(drop_what_is_loaded)
            return await update(name, dtype, shape, empty_cache)

        engine.update_weight = counting_update
