"""The verifier as OpenRLHF's reward function, for plain OpenRLHF: `--reward.remote_url <this file>`.

OpenRLHF loads this file by its path. It passes the prompt and the response, decoded together, as one query. Only
the response is judged here, because a prompt may contain an answer.
"""

import logging
from collections.abc import Sequence
from typing import Any

from openrlhf_mel.verifier import STATUSES, Verdict, verify

logger = logging.getLogger(__name__)
_already_logged: set[str] = set()


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Reward 1.0 for a correct answer, else 0.0; never raises.

    Returns `rewards` and `scores`, tensors of shape (queries,), and in `extra_logs` one such tensor for each status,
    `verifier/correct`, `verifier/wrong` and so on, whose means are the shares of the verdicts.
    """
    import torch

    verdicts = [judge_query(*row) for row in _rows(queries, prompts, labels)]
    rewards = torch.tensor([float(verdict.correct) for verdict in verdicts])
    shares = {
        f"verifier/{status}": torch.tensor([float(verdict.status == status) for verdict in verdicts])
        for status in STATUSES
    }
    return {"rewards": rewards, "scores": rewards, "extra_logs": shares}


def judge_query(query: str, prompt: str, answer: str) -> Verdict:
    """Judge the part of `query` after `prompt` against `answer`; the status is "error" when that part cannot be determined."""
    try:
        response = _response(query, prompt)
        if response is None:
            _log_once("the decoded query does not begin with its prompt (was the prompt truncated?)")
            return Verdict("error")
        return verify(response, answer)
    except Exception as error:
        _log_once(f"{type(error).__name__}: {error}")
        return Verdict("error")


def _response(query: str, prompt: str) -> str | None:
    if not prompt:
        return None
    if query.startswith(prompt):
        return query[len(prompt) :]
    # Some tokenizers drop the white space that a text begins with.
    query, prompt = query.lstrip(), prompt.lstrip()
    return query[len(prompt) :] if prompt and query.startswith(prompt) else None


def _rows(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """(query, prompt, answer) of each query; a missing prompt or label is None, which makes that row an error."""

    def at(items: Sequence[str] | None, i: int) -> str | None:
        return items[i] if items is not None and i < len(items) else None

    return [(query, at(prompts, i), at(labels, i)) for i, query in enumerate(queries)]


def _log_once(reason: str) -> None:
    if reason not in _already_logged and len(_already_logged) < 20:
        _already_logged.add(reason)
        logger.warning("a response could not be judged, its reward is 0 and its verdict `error`: %s", reason)
