"""The backends by name. A backend's dependencies are imported when it is created."""

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
        UserError: no such backend, or an invalid option (a model that does not exist, a malformed address).
    """
    if name not in BACKENDS:
        raise UserError(f"--backend {name}: unknown; expected one of {', '.join(BACKENDS)}")
    module, cls = BACKENDS[name]
    backend: Backend = getattr(importlib.import_module(module), cls)(**options)
    return backend
