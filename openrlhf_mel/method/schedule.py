"""The coefficient of R_MEL against the training step. Pure.

The paper keeps it at 1 (Eq. 9). It depends on the step number alone, so there is no state to save for a resume.
"""

from __future__ import annotations

import math

from openrlhf_mel.settings.mel_options import MELConfig


def nll_coefficient(config: MELConfig, step: int, steps: int) -> float:
    """The coefficient at `step` (a rollout, from 1 as in `metrics.jsonl`) of a run of `steps` steps.

    With w = `nll_warmup_steps`, E = `nll_end_step` (none: `steps`), c = `nll_coef`, e = `nll_end_coef`:

    - `step <= w`: `c * step / (w + 1)`, whatever E is; step 1 already learns, and step w + 1 is the first at c.
    - afterwards `constant`: c.
    - `linear`, `cosine`: from c at w + 1 to e at E by a straight line or half a cosine wave; e from E on.
    """
    start = config.nll_warmup_steps + 1
    if step < start:
        return config.nll_coef * (step / start)
    if config.nll_schedule == "constant":
        return config.nll_coef
    end = steps if config.nll_end_step is None else config.nll_end_step
    if step >= end:
        return config.nll_end_coef
    gone = (step - start) / (end - start)
    left = 1 - gone if config.nll_schedule == "linear" else (1 + math.cos(math.pi * gone)) / 2
    return config.nll_coef * left + config.nll_end_coef * (1 - left)  # exact at both ends
