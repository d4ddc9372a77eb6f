"""transformers, on a GPU or a CPU: left padding, batches of prompts of similar length, one generator per row."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from eval.backends.model_folder import (
    Encoder,
    context_of,
    fingerprint,
    locate,
    read_encoder,
    warn_of_endless_turns,
)
from eval.backends.number_format import AUTO, number_format
from eval.messages import LENGTH, STOP, BackendError, Request, Response, Room, Sampling
from openrlhf_mel.errors import first_line

_ROWS = 256  # of a batch, at most


class HFBackend:
    """A model of the `transformers` library. It is loaded at the first request.

    A response depends on its prompt, its seed and the sampling settings alone, up to the last bits of the arithmetic:
    it is the same in every batch. Samples come from the model's distribution under `Sampling`; other settings of the
    model's generation_config.json (`top_k`, penalties) are ignored.
    """

    def __init__(
        self,
        model: str,
        *,
        chat: bool,
        dtype: str = AUTO,
        device: str | None = None,
        token_budget: int = 131_072,
        trust_remote_code: bool = False,
    ) -> None:
        """
        Args:
            model: a folder, or a name on the hub.
            chat: the prompt is the user's turn of the tokenizer's chat template; otherwise it is taken as it is.
            dtype: see `number_format`.
            device: of torch; where none is given, a GPU if there is one.
            token_budget: rows times (longest prompt + max_tokens) of a batch, at most; a batch has one row at least.

        Raises:
            UserError: the model does not exist, or has code of its own that was not allowed.
        """
        self._model_name, self._chat, self._trust, self._budget = model, chat, trust_remote_code, token_budget
        self._folder = locate(model, trust_remote_code)
        if chat:
            warn_of_endless_turns(model, self._folder)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = number_format(dtype, cpu=self._device.type == "cpu")
        self._encoder: Encoder | None = None
        self._loaded: _Loaded | None = None

    def identity(self) -> dict[str, Any]:
        """Contents of weights, configuration and tokenizer, arithmetic and versions; not the folder's path."""
        return {
            "backend": "hf",
            "chat": self._chat,
            **fingerprint(self._folder),
            "dtype": self._dtype,
            "device": self._device.type,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        }

    def thinking_end(self) -> str | None:
        """See `messages.PromptingBackend`."""
        return self._read_encoder().thinking_end() if self._chat else None

    def room(self, requests: Sequence[Request]) -> Room | None:
        """See `messages.PromptingBackend`."""
        return self._read_encoder().room(requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Generator[Response, None, None]:
        """See `messages.Backend`. Batch by batch, the longest prompts first, so that too little memory fails at once."""
        if not requests:
            return
        prompts = self._read_encoder().encode(requests, sampling.max_tokens)
        loaded = self._loaded = self._loaded or self._load()
        for batch in _batches([len(ids) for ids in prompts], sampling.max_tokens, self._budget):
            chosen = [requests[i] for i in batch]
            try:
                rows = loaded.draw([prompts[i] for i in batch], chosen, sampling)
            except torch.OutOfMemoryError:
                raise BackendError(
                    f"--model {self._model_name}: the GPU's memory is full with {len(batch)} responses of up to {sampling.max_tokens} "
                    f"tokens at a time; expected room for a batch of {self._budget} tokens. Pass a smaller --token-budget"
                ) from None
            yield from rows

    def close(self) -> None:
        """Free the model."""
        self._loaded = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _read_encoder(self) -> Encoder:
        if self._encoder is None:
            context = context_of(self._folder)
            self._encoder = read_encoder(self._model_name, self._folder, self._chat, self._trust, context)
        return self._encoder

    def _load(self) -> _Loaded:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # the command has its own
        encoder = self._read_encoder()
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self._folder, dtype=getattr(torch, self._dtype), trust_remote_code=self._trust
            )
            model = model.to(self._device).eval()
        except Exception as error:  # a damaged file raises many kinds of errors
            raise BackendError(f"--model {self._model_name}: cannot be loaded: {first_line(error)}") from error
        return _Loaded(model, encoder)


class _Loaded:
    """A model in memory."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        from transformers import GenerationConfig

        tokenizer = encoder.tokenizer
        self.encoder, self._model, self._tokenizer = encoder, model, tokenizer
        ends = model.generation_config.eos_token_id
        self._ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self._pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self._ends, default=0)
        # Replaces the model's own, whose other settings `generate` would follow.
        model.generation_config = GenerationConfig(eos_token_id=sorted(self._ends) or None, pad_token_id=self._pad)

    @torch.inference_mode()
    def draw(self, prompts: Sequence[list[int]], requests: Sequence[Request], sampling: Sampling) -> list[Response]:
        """A batch's responses."""
        from eval.backends.sampling import SeededSampling

        device = self._model.device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        greedy = sampling.temperature == 0
        seeds = [None if greedy or request.greedy else request.seed for request in requests]
        drawn = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            logits_processor=[SeededSampling(seeds, sampling, device)],
        )
        rows = drawn[:, width:].tolist()
        return [self._response(*row) for row in zip(requests, prompts, rows, strict=True)]

    def _response(self, request: Request, prompt: list[int], row: list[int]) -> Response:
        end = next((i for i, token in enumerate(row) if token in self._ends), None)
        ids = row if end is None else row[: end + 1]  # the end token counts as one of the response
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Response(request, text, LENGTH if end is None else STOP, len(prompt), len(ids))


def _batches(lengths: Sequence[int], max_tokens: int, budget: int) -> Iterator[list[int]]:
    """Indices of the prompts of each batch, the longest first."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        width = lengths[batch[0]] if batch else lengths[i]
        if batch and (len(batch) == _ROWS or (len(batch) + 1) * (width + max_tokens) > budget):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
