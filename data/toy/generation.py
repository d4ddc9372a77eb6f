"""Batched sampling with transformers: left padding, seeded, response texts without special tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    samples: int = 1,
    batch: int = 256,
) -> list[list[str]]:
    """`samples` responses to each prompt, in the order of the prompts.

    Args:
        temperature: 0 is greedy.
        max_new_tokens: where a response is cut (tokens).
        batch: prompts, repeated, that are generated at a time.
    """
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    rows = [prompt for prompt in prompts for _ in range(samples)]
    responses: list[str] = []
    for start in range(0, len(rows), batch):
        inputs = tokenizer(
            rows[start : start + batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        ids = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            **(sampling if temperature > 0 else {"do_sample": False}),
        )
        width = inputs["input_ids"].shape[1]
        responses += tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
    return [responses[i : i + samples] for i in range(0, len(responses), samples)]
