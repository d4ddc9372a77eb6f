"""What a run's settings leave unwatched, and what they ask for in vain: each is told once, when the run begins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openrlhf_mel.upstream import gradients, rollout_log_probs


def unwatched(args: Any) -> Iterator[str]:
    """A sentence each, of upstream's nested arguments with `mel` beside them."""
    mel, top_p = args.mel, args.rollout.top_p
    if mel.enable and (reason := gradients.without_norms(args)):
        yield f"the two losses' gradient norms are not logged, and whether one swamps the other is not watched: {reason}"
    if mel.measure_mismatch and not rollout_log_probs.measured(mel, top_p):
        yield (
            f"the engine's log-probs are not compared with the policy's: with --rollout.top_p {top_p:g} they are over "
            "the tokens that top-p leaves, the policy's over all"
        )
    if mel.runtime == "cpu" and args.vllm.enable_sleep:
        yield "--vllm.enable_sleep frees no memory with --mel.runtime cpu: the engines sleep in name only"
