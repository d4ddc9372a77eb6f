"""The engine's log-probs against the actor's, in a short training: nats, absolute, over the rollout's own tokens.

`rollout/logprob_diff_mean` and `rollout/logprob_diff_max` of metrics.jsonl. A signed mean hides differences of both
signs: without any weight synchronization it was 0.0198 after the first update, and 0.02 was allowed.

In bf16, measured on CPUs: the toy 0.0006 to 0.002 on average and at most 0.41; a language model of 135 million parameters
0.040 and 0.55; the toy with dropped weight synchronizations up to 0.18 and 9.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slurm.lib.check_result import Result

MEAN, LARGEST = 0.08, 2.0  # about twice, and four times, the maximum of correct runs
# In the first step both sides have the weights of the files. Later steps' rounding error was at most 3.3 times that
# step's.
GROWTH = 5
# For a first step whose mean is small by chance. Weights that were not synchronized give 0.0198 or more after one
# update.
LEAST_MEAN = 0.005
_MEAN, _LARGEST = "rollout/logprob_diff_mean", "rollout/logprob_diff_max"


def compared(rows: list[dict[str, Any]]) -> Iterator[Result]:
    """Compare before and after weight synchronization, from the rows of a run whose first one ends its step 1."""
    measured = [row for row in rows if _MEAN in row and _LARGEST in row]
    before = [row for row in measured if row["step"] == 1]
    after = [row for row in measured if row["step"] > 1]
    yield _within("log-probs: engine against actor", before, MEAN,
                  "vLLM and the actor compute different models: dtype, flash-attn's version")  # fmt: skip
    grown = max(LEAST_MEAN, GROWTH * before[0][_MEAN]) if before else MEAN
    yield _within("log-probs after weights were handed over", after, min(MEAN, grown),
                  "the engine keeps old weights: vllm.sync_backend, NCCL, vllm.enable_sleep")  # fmt: skip


def _within(name: str, rows: list[dict[str, Any]], mean: float, advice: str) -> Result:
    seen = "; ".join(f"step {row['step']}: mean {row[_MEAN]:.2g}, largest {row[_LARGEST]:.2g}" for row in rows)
    good = all(row[_MEAN] <= mean and row[_LARGEST] <= LARGEST for row in rows)
    allowed = f"allowed {mean:.2g} and {LARGEST:.2g} nats a token"
    return Result(name, bool(rows) and good, f"{seen or 'not measured'}; {allowed}", advice)
