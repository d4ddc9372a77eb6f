"""The engine's own log-probs of a rollout, asked for and carried with its samples whether or not the loss uses them.

Upstream has one switch, `algo.advantage.is_correction_level`, which three places read: who makes the engines (log-probs
after temperature and top-p, not before), who asks for a response (with log-probs), and the loss. Here the first two read
that it is on; the loss reads what the user set.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

from openrlhf_mel.settings.mel_options import MELConfig


def measured(mel: MELConfig, top_p: float) -> bool:
    """Whether a run compares them with the policy's. Below top-p 1 they are over fewer tokens than the policy's are."""
    return mel.measure_mismatch and top_p == 1


def asking(args: Any) -> Any:
    """Upstream's nested arguments, such that a samples generator with them asks for log-probs."""
    asked = copy(args)
    asked.algo = copy(args.algo)
    asked.algo.advantage = copy(args.algo.advantage)
    asked.algo.advantage.is_correction_level = "token"
    return asked


def returning(create: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Upstream's `create_vllm_engines`, such that log-probs are those of the distribution that was sampled from."""
    signature = inspect.signature(create)

    def create_returning(*args: Any, **kwargs: Any) -> list[Any]:
        given = signature.bind(*args, **kwargs)
        given.arguments["logprobs_mode"] = "processed_logprobs"
        return create(*given.args, **given.kwargs)

    return create_returning
