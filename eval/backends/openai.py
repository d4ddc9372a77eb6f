"""Any OpenAI-compatible server: one prompt per request, not streamed, many requests at once, with retries.

aiohttp, not httpx: 11,500 requests cost a client 2 s of CPU time with the one and 32 s with the other.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import aiohttp

from eval.backends.loop import LoopThread
from eval.backends.openai_answers import (
    Unusable,
    checked_url,
    error_words,
    parse_json,
    proxy_of,
    read_completion,
    read_models,
    retry_after,
)
from eval.messages import BackendError, Request, Response, Sampling
from openrlhf_mel.errors import UserError

T = TypeVar("T")
KEY = "OPENAI_API_KEY"
_LONGEST_BACKOFF_S = 30.0
_LARGEST_ANSWER = 2**22  # bytes; 128 for each of 32,768 tokens
_LOOKUPS, _LOOKUP_S = 3, 30.0  # tries, and seconds each, for the list of models
_SAID_EVERY_S = 30.0
_HINTS = {
    401: f"; expected a key of this server in {KEY}",
    403: f"; expected a key of this server in {KEY}",
    404: "; expected a base URL that ends with /v1, and a model that is served there",
}


class _Refused(BackendError):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Failed(Exception):
    """A failed try that may succeed when repeated, after `wait_s` at least."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class OpenAIBackend:
    """A server at `base_url`. The key, if it needs one, is in the environment variable OPENAI_API_KEY.

    A request has `model`, `temperature`, `top_p`, `max_tokens`, `seed` and `n` only. Settings that a server adds by
    itself (vLLM: `top_k` and penalties from the model's generation_config.json) have to be switched off at the server.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        chat: bool,
        concurrency: int = 64,
        timeout_s: float = 3600.0,
        retries: int = 6,
        backoff_s: float = 0.5,
    ) -> None:
        """
        Args:
            base_url: up to and with `/v1`.
            model: the name under which the server serves it.
            chat: `/chat/completions` with the prompt as the user's message; otherwise `/completions`.
            concurrency: requests under way at most.
            timeout_s: of one try, from connecting to the last byte; nothing is streamed.
            retries: how often a request is tried again.
            backoff_s: the first wait between two tries; it doubles up to 30 s, and is cut by up to a half at random.

        Raises:
            UserError: an invalid address or key.
        """
        self._base_url = checked_url(base_url, KEY)
        self._model, self._chat, self._concurrency = model, chat, concurrency
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"{KEY}: holds characters that no key has; expected printable ASCII")
        self._loop = LoopThread("openai")
        self._session: aiohttp.ClientSession | None = None
        self._silent_until = 0.0
        self._holds: int | None = None  # tokens, prompt and response together, if the server says so

    def identity(self) -> dict[str, Any]:
        """The model's name and what the server's `/models` says of it; null there if it has no such list.

        The address is not part of it: the same model may be served elsewhere when a run resumes. Nor are the weights
        and the server's version, which such servers do not report.

        Raises:
            UserError: the server serves other models.
            BackendError: it cannot be reached.
        """
        served = None
        try:
            models: Any = self._loop.call(self._persist("GET", "models", read_models, tries=_LOOKUPS))
        except _Refused as error:
            if error.status not in (404, 405):
                raise
        else:
            if self._model not in models:
                found = self._clean(", ".join(sorted(models))) or "none"
                raise UserError(f"--model {self._model}: not served at {self._base_url}; found {found}")
            served = models[self._model]
            holds = served.get("max_model_len")
            self._holds = holds if type(holds) is int else None
        return {"backend": "openai", "model": self._model, "chat": self._chat, "served": served}

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Generator[Response, None, None]:
        """See `messages.Backend`, and `LoopThread.map` for what happens when a request fails for good.

        Raises:
            UserError: responses longer than all that the server's model holds, if `identity` has found that.
        """
        if self._holds is not None and sampling.max_tokens >= self._holds:
            raise UserError(
                f"--max-tokens {sampling.max_tokens}: the server's model holds {self._holds} tokens (max_model_len), prompt "
                f"and response together; expected {self._holds} less the longest prompt's, or fewer"
            )

        async def answer(request: Request, stopping: asyncio.Event) -> Response | None:
            return await self._answer(request, sampling, stopping)

        return self._loop.map(answer, requests, min(self._concurrency, max(len(requests), 1)))

    def close(self) -> None:
        """End the connections and the thread."""
        self._loop.close(self._session.close if self._session else None)

    async def _answer(self, request: Request, sampling: Sampling, stopping: asyncio.Event) -> Response | None:
        body = {
            "model": self._model,
            "temperature": 0.0 if request.greedy else sampling.temperature,
            "top_p": 1.0 if request.greedy else sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": request.seed,
            "n": 1,
        }
        if self._chat:
            path, body["messages"] = "chat/completions", [{"role": "user", "content": request.prompt}]
        else:
            path, body["prompt"] = "completions", request.prompt

        def read(data: Any) -> Response:
            return Response(request, *read_completion(data, self._chat))

        about = f", question {request.question} of {request.benchmark}"
        return await self._persist("POST", path, read, body, about, stopping)

    async def _persist(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        body: dict[str, Any] | None = None,
        about: str = "",
        stopping: asyncio.Event | None = None,
        tries: int | None = None,
    ) -> T | None:
        """Ask until `read` can read the answer; returns None if `stopping` is set meanwhile. Raises BackendError."""
        url = f"{self._base_url}/{path}"
        stopping = stopping or asyncio.Event()
        tries = min(tries or self._retries + 1, self._retries + 1)
        for attempt in range(tries):
            try:
                return read(await self._try(method, url, body, about))
            except (_Failed, Unusable) as error:
                reason, wait_s = self._clean(str(error)), getattr(error, "wait_s", 0.0)
            self._say(f"{url}: {reason}")
            if attempt < tries - 1:
                backoff_s = min(self._backoff_s * 2**attempt, _LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), max(backoff_s, wait_s))
                if stopping.is_set():
                    return None
        raise BackendError(
            f"{url}{about}: no usable answer after {tries} tries; the last: {reason}. "
            "See whether the server is up, then run the same command again"
        )

    def _say(self, words: str) -> None:
        """Report retries from time to time: a wait should not be silent."""
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SAID_EVERY_S
            print(f"note: {words}; trying again", file=sys.stderr)

    async def _try(self, method: str, url: str, body: dict[str, Any] | None, about: str) -> Any:
        try:
            session = self._session = self._session or self._connect()
            limit = aiohttp.ClientTimeout(total=self._timeout_s if body else min(self._timeout_s, _LOOKUP_S))
            async with session.request(method, url, json=body, allow_redirects=False, timeout=limit) as answer:
                content = bytearray()
                async for chunk in answer.content.iter_any():
                    content += chunk
                    if len(content) > _LARGEST_ANSWER:
                        raise _Failed(f"an answer over {_LARGEST_ANSWER} bytes")
        except TimeoutError:
            raise _Failed(f"no answer within {limit.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _Failed(f"{type(error).__name__}: {error}") from None
        if answer.status == 200:
            return parse_json(content)
        words = f"HTTP {answer.status}: {self._clean(error_words(content))}"
        if answer.status in (408, 409, 425, 429) or answer.status >= 500:
            raise _Failed(words, retry_after(answer.headers.get("Retry-After", "")))
        raise _Refused(answer.status, f"{url}{about}: refused with {words}{_HINTS.get(answer.status, '')}")

    def _connect(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # `concurrency` is the limit
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else None,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(30.0, self._timeout_s)),
            proxy=proxy_of(self._base_url),
        )

    def _clean(self, words: str) -> str:
        """A server's text for a message: without the key and control characters, shortened."""
        words = words.replace(self._key, f"[{KEY}]") if self._key else words
        return "".join(c if c.isprintable() else " " for c in words[:500]).strip()
