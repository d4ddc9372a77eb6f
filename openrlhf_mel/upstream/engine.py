"""The rollout engine on vLLM: upstream's actor, which also says when it is dead."""

from __future__ import annotations

import asyncio

import ray
from openrlhf.trainer.ray import vllm_engine

_UpstreamEngine = vllm_engine.RolloutRayActor.__ray_metadata__.modified_class
_POLL_S = 1.0


class RolloutEngine(_UpstreamEngine):
    """Upstream's `RolloutRayActor`."""

    async def until_dead(self) -> None:
        """Raise vLLM's error when its core has died; never return before. The death of the actor ends the call as well.

        vLLM itself answers a call that was under way for ever: a hand-over of weights would wait for its end.
        """
        while not self.llm.errored:
            await asyncio.sleep(_POLL_S)
        raise self.llm.dead_error


RemoteRolloutEngine = ray.remote(RolloutEngine)
