"""Reads an OpenAI-compatible server's answers, which are not trusted, and checks its address. Pure."""

from __future__ import annotations

import email.utils
import json
import re
import time
import urllib.request
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from eval.messages import UNKNOWN
from openrlhf_mel.errors import UserError

_LONGEST_RETRY_AFTER_S = 300.0
_REASON = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_REASONING = ("reasoning_content", "reasoning")  # the second in newer servers
_SERVED = ("id", "max_model_len")  # a server's other fields change with its start


class Unusable(Exception):
    """An unusable answer; another try may succeed. The message says what is wrong with it."""


class Completion(NamedTuple):
    """A response's text (valid UTF-8), its finish reason, and what the server may report: its number of tokens, and the
    thinking that it gives apart from the text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    tokens: int | None
    reasoning: str | None = None


def parse_json(content: bytes | bytearray) -> Any:
    """Raises Unusable."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise Unusable(f"not JSON: {content[:200].decode('utf-8', 'replace')}") from None


def read_completion(data: Any, chat: bool) -> Completion:
    """The first choice of an answer. Raises Unusable."""
    try:
        choice = data["choices"][0]
        said = choice["message"] if chat else choice
        reasoning = _reasoning(said)
        name = "content" if chat else "text"
        text = said[name] if reasoning is None else said.get(name)  # some servers leave out what is empty
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unusable("an answer without choices") from None
    if not isinstance(text, str | None):
        raise Unusable("a response that is no text")
    if not (isinstance(reason, str) and _REASON.fullmatch(reason)):
        reason = UNKNOWN
    if reason in ("abort", "error"):  # vLLM's and SGLang's words for an aborted response
        raise Unusable(f"a response broken off by the server (finish reason {reason!r})")
    usage = data.get("usage")
    counts = [usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")]
    prompt_tokens, tokens = (count if type(count) is int and count >= 0 else None for count in counts)
    return Completion(_encodable(text or ""), reason, prompt_tokens, tokens, reasoning)


def read_models(data: Any) -> dict[str, dict[str, str | int]]:
    """The fields of each served model, by its name, that do not change from call to call. Raises Unusable."""
    try:
        rows = {row["id"]: {key: row[key] for key in _SERVED if key in row} for row in data["data"]}
    except (KeyError, TypeError):
        raise Unusable("no list of models") from None
    return {str(name): {k: v for k, v in row.items() if isinstance(v, str | int)} for name, row in rows.items()}


def _reasoning(said: Any) -> str | None:
    """The thinking that vLLM, SGLang or DeepSeek take out of a message; an empty one is none."""
    found = (said.get(name) for name in _REASONING)
    text = next((value for value in found if isinstance(value, str) and value), None)
    return None if text is None else _encodable(text)


def _encodable(text: str) -> str:
    """JSON may contain half of a surrogate pair, a UTF-8 file may not."""
    return text.encode("utf-8", "replace").decode()


def error_words(content: bytes | bytearray) -> str:
    """The text of an error's answer: the message of its error, if it is JSON with one."""
    with suppress(ValueError, RecursionError, KeyError, TypeError):
        return str(json.loads(content)["error"]["message"])
    return content[:2000].decode("utf-8", "replace")


def retry_after(value: str) -> float:
    """Seconds, 300 at most, from a header that holds seconds or a date; 0 if it holds neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(max(0.0, seconds), _LONGEST_RETRY_AFTER_S)


def checked_url(base_url: str, key: str) -> str:
    """The address without a slash at its end. Raises UserError; `key` names the right place of a key."""
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        shown = "" if any(mark in base_url for mark in "@?#") else f" {base_url!r}"  # else it may hold a secret
        raise UserError(f"--base-url{shown}: expected an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:  # not printed: it may hold a secret
        raise UserError(f"--base-url: expected no user, query or fragment in the address; a key goes into {key}")
    return base_url.rstrip("/")


def proxy_of(url: str) -> str | None:
    """The environment's proxy for an address; never one for this machine itself."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    with suppress(ValueError):
        if ip_address(host).is_loopback:
            return None
    if host == "localhost" or host.endswith(".localhost") or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)
