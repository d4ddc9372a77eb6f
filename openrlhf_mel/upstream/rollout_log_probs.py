"""The engine's own log-probs of a rollout, requested and carried with its samples whether or not the loss uses them.

Upstream has one switch, `algo.advantage.is_correction_level`, which three places read: the creation of engines
(log-probs after temperature and top-p, not before), the request of a response (with log-probs), and the loss. Here the
first two always read that it is on; the loss reads the user's value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

from openrlhf_mel.settings.mel_options import MELConfig


def measured(mel: MELConfig, top_p: float) -> bool:
    """Whether a run compares them with the policy's. Below top-p 1 they are over fewer tokens than the policy's."""
    return mel.measure_mismatch and top_p == 1


def asking(args: Any) -> Any:
    """Upstream's nested arguments, changed so that a samples generator requests log-probs."""
    asked = copy(args)
    asked.algo = copy(args.algo)
    asked.algo.advantage = copy(args.algo.advantage)
    asked.algo.advantage.is_correction_level = "token"
    return asked


def returning(create: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Upstream's `create_vllm_engines`, changed so that log-probs are those of the sampling distribution."""
    signature = inspect.signature(create)

    def create_returning(*args: Any, **kwargs: Any) -> list[Any]:
        given = signature.bind(*args, **kwargs)
        given.arguments["logprobs_mode"] = "processed_logprobs"
        return create(*given.args, **given.kwargs)

    return create_returning
