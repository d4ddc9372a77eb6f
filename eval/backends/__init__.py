"""The models that answer, by name. What a backend needs is imported when it is made."""

from __future__ import annotations

import importlib
from typing import Any

from eval.messages import Backend
from openrlhf_mel.errors import UserError

BACKENDS = {
    "vllm": ("eval.backends.vllm", "VLLMBackend"),
    "hf": ("eval.backends.hf", "HFBackend"),
    "openai": ("eval.backends.openai", "OpenAIBackend"),
}


def make(name: str, **options: Any) -> Backend:
    """The backend `name`; `options` are the arguments of its class. Loads no weights and sends nothing yet.

    Raises:
        UserError: no such backend, or an option that cannot be right (a model that is not there, an address that is none).
    """
    if name not in BACKENDS:
        raise UserError(f"--backend {name}: unknown; expected one of {', '.join(BACKENDS)}")
    module, cls = BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(module), cls)(**options)
    return backend
