"""An OpenAI-compatible server that answers by a script and fails by a seeded pattern. For tests and benchmarks.

    def answer(prompt: str, greedy: bool, seed: int) -> str | Answer: ...

    with ScriptedServer(answer, Faults(share=1 / 3)) as server:
        OpenAIBackend(server.url, server.model, chat=True)   # server.url: http://127.0.0.1:PORT/v1
        server.requests, server.answered                      # HTTP requests so far, and those answered without fault

It runs in a thread of this process, on a free port of 127.0.0.1, until the `with` block ends (or `close()`). It serves
`/v1/models`, `/v1/chat/completions` (one user message) and `/v1/completions` (a text); anything else is 404, a body
without a field is 400.

A request is the triple (prompt, greedy, seed). `Faults` says which ones fail, how and how often. Faults are drawn from
its seed and the triple, so they are the same in every run and in any order. `dead` may be set at any time: a dead
server fails every request until it is set to False.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

# How a request can fail; the last two are answered late and never.
FAULTS = ("500", "503", "429", "drop", "half", "malformed", "no_choices", "slow", "hang")
_FIELDS = ("model", "temperature", "top_p", "max_tokens", "seed", "n")


@dataclass(frozen=True)
class Answer:
    """A response; a plain text stands for one with the finish reason `stop`.

    Attributes:
        tokens: their number; by default words are counted.
        delay_s: seconds before it is sent.
        status: other than 200: an HTTP error whose message is `text`.
        more: further fields of the message or choice, such as `reasoning_content`.
    """

    text: str | None
    finish_reason: str = "stop"
    tokens: int | None = None
    delay_s: float = 0.0
    status: int = 200
    more: dict[str, Any] | None = None


@dataclass(frozen=True)
class Faults:
    """Which requests fail.

    Attributes:
        share: share of the requests that fail at first, 0 to 1.
        kinds: a subset of `FAULTS`, all equally likely.
        times: how often such a request fails before it is answered.
        slow_s: delay of `slow`, which then answers correctly.
        retry_after: sent with 429 and 503.
        dead_after: after this many answers the server is dead, until `dead` is set to False.
        dead_kind: how it fails when it is dead.
        seed: seed of the draws.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = ("500", "drop", "malformed", "slow")
    times: int = 1
    slow_s: float = 0.2
    retry_after: str | None = None
    dead_after: int | None = None
    dead_kind: str = "500"
    seed: int = 0


class ScriptedServer:
    """The server; see the module's docstring.

    Attributes:
        url: what `--base-url` takes.
        requests: completion requests that came in; `answered`: those answered with the script's response.
        faults: number of failures of each kind.
        peak: the most requests in flight at once.
        bodies, headers: of the last 1,000 completion requests.
        dead: set it to kill and revive the server.
    """

    def __init__(
        self,
        answer: Callable[[str, bool, int], str | Answer],
        faults: Faults | None = None,
        *,
        model: str = "scripted",
        models: Any = None,
        usage: bool = True,
        latency_s: float = 0.0,
    ) -> None:
        """`models`: entries of `/v1/models` (default: one of `model`; False: 404). `latency_s`: of every answer."""
        self.model, self.dead = model, False
        self.requests = self.answered = self.peak = 0
        self.faults: Counter[str] = Counter()
        self.bodies: deque[dict[str, Any]] = deque(maxlen=1000)
        self.headers: deque[dict[str, str]] = deque(maxlen=1000)
        self._answer, self._plan, self._usage, self._latency_s = answer, faults or Faults(), usage, latency_s
        self._models = [{"id": model, "object": "model", "owned_by": "tests"}] if models is None else models
        self._tries: Counter[bytes] = Counter()
        self._under_way = 0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._started: threading.Event = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        if not self._started.wait(30):
            raise RuntimeError("the scripted server did not start within 30 s")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening; later connections are refused."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(30)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._started.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _list_models(self, request: web.Request) -> web.StreamResponse:
        if self.dead:
            return await self._fail(request, self._plan.dead_kind)
        if self._models is False:
            return _error(404, "no such page")
        return web.json_response({"object": "list", "data": self._models})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            body = json.loads(await request.read())
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
            chat = request.path.endswith("/chat/completions")
            if missing := [field for field in (*_FIELDS, "messages" if chat else "prompt") if field not in body]:
                return _error(400, f"missing: {', '.join(missing)}")
            prompt = body["messages"][0]["content"] if chat else body["prompt"]
            return await self._reply(request, prompt, body["temperature"] == 0, body["seed"], chat)
        finally:
            self._under_way -= 1

    async def _reply(
        self, request: web.Request, prompt: str, greedy: bool, seed: int, chat: bool
    ) -> web.StreamResponse:
        plan = self._plan
        if plan.dead_after is not None and self.answered == plan.dead_after:
            self.dead = True
            plan = self._plan = replace(plan, dead_after=None)
        if self.dead:
            return await self._fail(request, plan.dead_kind)
        if plan.share:
            digest = hashlib.sha256(json.dumps([plan.seed, prompt, greedy, seed]).encode()).digest()
            attempt = self._tries[digest]
            self._tries[digest] += 1
            if attempt < plan.times and int.from_bytes(digest[:8], "big") < plan.share * 2**64:
                kind = plan.kinds[(int.from_bytes(digest[8:16], "big") + attempt) % len(plan.kinds)]
                if kind != "slow":
                    return await self._fail(request, kind)
                self.faults[kind] += 1
                await self._sleep(plan.slow_s)
        answer = self._answer(prompt, greedy, seed)
        if isinstance(answer, str):
            answer = Answer(answer)
        if delay_s := self._latency_s + answer.delay_s:
            await self._sleep(delay_s)
        if answer.status != 200:
            return _error(answer.status, answer.text or "")
        self.answered += 1
        more = answer.more or {}
        said = (
            {"message": {"role": "assistant", "content": answer.text} | more} if chat else {"text": answer.text} | more
        )
        reply: dict[str, Any] = {"choices": [{"index": 0, "finish_reason": answer.finish_reason} | said]}
        if self._usage:
            tokens = len((answer.text or "").split()) if answer.tokens is None else answer.tokens
            reply["usage"] = {"prompt_tokens": len(prompt.split()), "completion_tokens": tokens}
        return web.json_response(reply)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _fail(self, request: web.Request, kind: str) -> web.StreamResponse:
        self.faults[kind] += 1
        if kind.isdigit():
            after = self._plan.retry_after
            return _error(int(kind), "scripted failure", {"Retry-After": after} if after else {})
        if kind == "malformed":
            return web.Response(body=b'{"choices": [{"message": {"content": "half a', content_type="application/json")
        if kind == "no_choices":
            return web.json_response({"choices": []})
        if kind == "hang":
            await self._stopping.wait()
        if kind == "half":  # headers and part of the body
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b'{"choices": ')
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)
