"""An agent executor whose engine applies its first three weight syncs and drops all later ones."""

from openrlhf_mel.upstream.agent_executor import AgentExecutor as Own

TAKEN = 3


def drop_what_is_loaded(worker) -> None:
    """Runs in vLLM's worker."""
    worker.model_runner.model.load_weights = lambda weights: None


class AgentExecutor(Own):
    """Watches its engine's weight syncs from the first response on."""

    _watching = False

    async def execute(self, *args, llm_engine, **kwargs):
        if not self._watching:
            self._watching = True
            self._watch(llm_engine)
        return await super().execute(*args, llm_engine=llm_engine, **kwargs)

    def _watch(self, engine):
        """Ray calls the methods of the actor's class; only the engine methods that these call can be replaced."""
        call, first, begun = engine.llm.collective_rpc, [], []

        async def counting_call(method, *rest, args=(), **more):
            if method == "update_weight":
                name = args[0]
                first[:] = first or [name]
                begun.extend([name] if name == first[0] else [])
                if name == first[0] and len(begun) == TAKEN + 1:
                    await call(drop_what_is_loaded)
            return await call(method, *rest, args=args, **more)

        engine.llm.collective_rpc = counting_call
