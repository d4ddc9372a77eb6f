"""MEL's default reward: upstream's single-turn executor, judged by the project's verifier on the response's own tokens.

Upstream loads this file by its path (`--train.agent_func_path`), so imports are absolute. Upstream's other reward
path passes prompt and response as one decoded text. A replay's prompt contains M, which may contain the answer, so only
the action's tokens are judged here. The label is a `Reference`: it names its scorer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor

from openrlhf_mel.verifier import STATUSES, verify


class AgentExecutor(SingleTurnAgentExecutor):
    """Generates as upstream does, then sets `reward` and `scores` to 1 or 0 and logs the verdict's status.

    It never raises for a verdict: upstream would turn the exception into a missing reward and crash later. A response
    that could not be judged (timeout, error) scores 0 for the policy; `extra_logs` has its status.
    """

    def __init__(self) -> None:
        super().__init__(remote_rm_url=None)

    async def execute(self, prompt: str, label: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Upstream's response dict; see `SingleTurnAgentExecutor.execute`."""
        output = await super().execute(prompt, label, *args, **kwargs)
        tokenizer = kwargs["hf_tokenizer"]
        start, end = output["action_ranges"][0]
        try:
            text = tokenizer.decode(output["observation_tokens"][start:end], skip_special_tokens=True)
            status = (await asyncio.to_thread(verify, text, label)).status
        except Exception:
            status = "error"
        score = float(status == "correct")
        output.update(reward=score, scores=score, extra_logs={f"verifier/{s}": float(s == status) for s in STATUSES})
        return output


def unjudged(response: dict[str, Any]) -> bool:
    """Whether a response has no valid score: it has none, or the verifier could not judge it."""
    logs = response.get("extra_logs") or {}
    return response.get("scores") is None or bool(logs.get("verifier/timeout") or logs.get("verifier/error"))
