"""Sampling in which each row has its own generator: a response does not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from eval.messages import Sampling


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling: argmax(log p + g) is a draw from p where the g are independent Gumbel noise.

    -log E is Gumbel noise where E is exponential. A row's noise at its step t is the t-th drawn from its own generator.
    """

    def __init__(self, seeds: Sequence[int | None], sampling: Sampling, device: torch.device) -> None:
        """`seeds`: of the batch's rows; None: a greedy row, left as it is."""
        self._rows = torch.tensor(
            [i for i, seed in enumerate(seeds) if seed is not None], dtype=torch.long, device=device
        )
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds if seed is not None]
        self._warpers = [TemperatureLogitsWarper(float(sampling.temperature))] if self._generators else []
        if sampling.top_p < 1:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """`scores` (B, V), the logits of the next token; returns those whose argmax is the token drawn."""
        if not self._generators:
            return scores
        drawn = scores[self._rows]
        for warp in self._warpers:
            drawn = warp(input_ids, drawn)
        noise = torch.empty_like(drawn)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        tiny = torch.finfo(noise.dtype).tiny  # the logarithm of zero would be infinite
        scores = scores.clone()
        scores[self._rows] = drawn - noise.clamp_(min=tiny).log_()
        return scores
