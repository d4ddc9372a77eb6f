"""`python forgetful.py TENSOR ...`: the training command with an engine that loses one tensor in every weight sync.

The class is pickled by value for Ray's workers, because it is defined in the main module.
"""

from __future__ import annotations

import sys
from typing import Any

from openrlhf_mel import launch, train
from openrlhf_mel.settings.mel_options import MELConfig

launch.prepare_process(
    MELConfig(runtime="cpu", cpu_engine="transformers")
)  # must precede the engine's module, which imports upstream's
from openrlhf_mel.cpu import engines  # noqa: E402
from openrlhf_mel.cpu.transformers_engine import TransformersEngine  # noqa: E402

LOST = sys.argv.pop(1)


class Forgetful(TransformersEngine):
    """The transformers engine, which receives one tensor from the group but drops it."""

    async def update_weight(self, name: str, *args: Any, **kwargs: Any) -> None:
        if name == LOST:
            await self._weights.get()
        else:
            await super().update_weight(name, *args, **kwargs)


engines.ENGINES["transformers"] = Forgetful
sys.exit(train.main(sys.argv[1:]))
