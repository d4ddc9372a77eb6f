"""The rollout engine on vLLM: upstream's actor, which also reports its death."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from openrlhf.trainer.ray import vllm_engine

_UpstreamEngine: Any = vllm_engine.RolloutRayActor.__ray_metadata__.modified_class
_POLL_S = 1.0


class RolloutEngine(_UpstreamEngine):
    """Upstream's `RolloutRayActor`."""

    _failed: Exception | None = None

    async def init_process_group(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().init_process_group(*args, **kwargs))

    async def update_weight(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().update_weight(*args, **kwargs))

    async def update_weight_cuda_ipc(self, *args: Any, **kwargs: Any) -> Any:
        """Upstream's."""
        return await self._together(super().update_weight_cuda_ipc(*args, **kwargs))

    async def _together(self, call: Any) -> Any:
        """Run a call with a collective in which the policy takes part, and would wait for an engine that has failed."""
        try:
            return await call
        except Exception as error:
            self._failed = error
            raise

    async def until_dead(self) -> None:
        """Wait until the engine dies, then raise its cause. The death of the actor ends the call as well.

        vLLM never answers a call that was running when its core died.
        """
        while not (self._failed or self._errored()):
            await asyncio.sleep(_POLL_S)
        raise self._failed or self.llm.dead_error

    def _errored(self) -> bool:
        return self.llm.errored


RemoteRolloutEngine = ray.remote(RolloutEngine)
