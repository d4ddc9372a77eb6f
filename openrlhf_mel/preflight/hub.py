"""Whether the Hugging Face hub can be reached: without a connection its client would try for minutes."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

from openrlhf_mel.settings.inputs import DATA
from openrlhf_mel.settings.resolve import Settings

_WAIT_S = 3.0


def is_local(settings: Settings) -> bool:
    """Whether the model and all data are on this machine, or have names that can only be local."""
    values = settings.upstream
    data = [part.strip() for flag in DATA for part in (values[flag] or "").split(",") if part.strip()]
    names = [values["actor.model_name_or_path"], *(part.split("@")[0] for part in data)]
    return all(os.path.exists(name) or name.startswith((".", "/", "~")) or Path(name).suffix for name in names)


def stay_offline_where_it_is_out_of_reach() -> None:
    """Set HF_HUB_OFFLINE (before the hub's client is imported) when nothing answers; cached files are still used.

    Behind a proxy this does nothing: the hub may be reachable although its address does not answer.
    """
    if "HF_HUB_OFFLINE" in os.environ or any(os.environ.get(n) for n in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    reached = threading.Event()

    def knock() -> None:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        try:
            socket.create_connection((endpoint.hostname or "", port), timeout=_WAIT_S).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=knock, daemon=True)  # a name lookup may hang, and has no timeout
    thread.start()
    thread.join(_WAIT_S)
    if not reached.is_set():
        os.environ["HF_HUB_OFFLINE"] = "1"
