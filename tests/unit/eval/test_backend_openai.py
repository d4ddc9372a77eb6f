"""The OpenAI-compatible backend with a scripted local server: every answer arrives once, despite any failure."""

import gc
import json
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing

import pytest

from benchmarks.scripted_server import Answer, Faults, ScriptedServer
from eval import backends
from eval.backends import loop, openai_answers
from eval.backends.openai import OpenAIBackend
from eval.messages import BackendError, Request, Response, Sampling
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

SAMPLING = Sampling(temperature=0.6, top_p=0.9, max_tokens=100)
KEY = "sk-do-not-tell-1234567890"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def answer(prompt: str, greedy: bool, seed: int) -> str:
    return f"{prompt} {greedy} {seed}"


def requests(number: int) -> list[Request]:
    return [
        Request("toy", f"q{i // 3}", i % 3, i % 3 == 0, i, f"Question {i // 3}?\n{{\\frac12}} é") for i in range(number)
    ]


@pytest.fixture
def connect():
    """Return a function that makes backends for a server; they are closed at the test's end."""
    with ExitStack() as stack:

        def make(server: ScriptedServer, model: str | None = None, **options) -> OpenAIBackend:
            options = {"chat": True, "backoff_s": 0.01} | options
            return stack.enter_context(closing(OpenAIBackend(server.url, model or server.model, **options)))

        yield make


def complete(responses: list[Response], asked: list[Request]) -> None:
    """Check that each request is answered once, with its own text."""
    assert sorted(r.request.seed for r in responses) == [request.seed for request in asked]
    for r in responses:
        assert r.text == answer(r.request.prompt, r.request.greedy, r.request.seed)


@pytest.mark.parametrize("chat", [True, False])
def test_what_is_sent(connect, chat):
    asked = requests(2)
    with ScriptedServer(answer) as server:
        backend = connect(server, chat=chat)
        responses = list(backend.generate(asked, SAMPLING))
        backend.close()
    complete(responses, asked)
    shared = {"model": "scripted", "max_tokens": 100, "n": 1}
    prompt = asked[0].prompt
    shared |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    greedy = shared | {"temperature": 0.0, "top_p": 1.0, "seed": 0}
    sampled = shared | {"temperature": 0.6, "top_p": 0.9, "seed": 1}
    assert sorted(server.bodies, key=lambda body: body["seed"]) == [greedy, sampled]
    assert not any("Authorization" in headers for headers in server.headers)


def test_finish_reasons_and_counts(connect):
    said = [Answer("cut off", "length", 7), Answer("done", "stop"), Answer(None, "content_filter"), Answer("\ud800x")]
    with ScriptedServer(lambda prompt, greedy, seed: said[seed]) as server:
        responses = sorted(connect(server).generate(requests(4), SAMPLING), key=lambda r: r.request.seed)
    assert [(r.text, r.finish_reason, r.tokens) for r in responses] == [
        ("cut off", "length", 7),
        ("done", "stop", 1),
        ("", "content_filter", 0),
        ("?x", "stop", 1),
    ]
    assert all(r.prompt_tokens == 4 for r in responses)


def test_counts_unknown(connect):
    with ScriptedServer(answer, usage=False) as server:
        [response] = connect(server).generate(requests(1), SAMPLING)
    assert response.prompt_tokens is None and response.tokens is None


def test_no_requests(connect):
    with ScriptedServer(answer) as server:
        assert list(connect(server).generate([], SAMPLING)) == []
    assert server.requests == 0


@pytest.mark.parametrize(
    "kinds",
    [("500",), ("503",), ("429",), ("drop",), ("half",), ("malformed",), ("no_choices",), ("slow",), ("hang",)],
    ids=lambda kinds: kinds[0],
)
def test_a_third_fails_once(connect, kinds):
    asked = requests(60)
    with ScriptedServer(answer, Faults(share=1 / 3, kinds=kinds, slow_s=0.05, seed=1)) as server:
        complete(list(connect(server, timeout_s=6 if kinds == ("hang",) else 30).generate(asked, SAMPLING)), asked)
        assert 10 <= sum(server.faults.values()) <= 30
        assert server.answered == 60
        assert server.requests == 60 + (0 if kinds == ("slow",) else sum(server.faults.values()))


def test_everything_fails_in_every_way(connect):
    asked = requests(90)
    kinds = ("500", "drop", "malformed", "slow", "half", "no_choices", "429")
    with ScriptedServer(answer, Faults(share=1, kinds=kinds, times=4, slow_s=0.01, retry_after="0")) as server:
        complete(list(connect(server, chat=False).generate(asked, SAMPLING)), asked)


def test_no_more_at_once_than_asked_for(connect):
    asked = requests(60)
    with ScriptedServer(answer, latency_s=0.02) as server:
        complete(list(connect(server, concurrency=5).generate(asked, SAMPLING)), asked)
    assert server.peak == 5


def test_requests_are_taken_as_they_are_needed(connect):
    """A slow caller delays sending: the numbers of requests in flight and of finished responses are bounded."""
    with ScriptedServer(answer) as server:
        responses = connect(server, concurrency=4).generate(requests(300), SAMPLING)
        next(responses)
        sent, before = server.requests, -1
        while sent != before:
            time.sleep(0.2)
            sent, before = server.requests, sent
        assert sent <= 4 * 4
        assert len(list(responses)) == 299


def test_a_dead_server_ends_the_run_and_the_next_goes_on(connect):
    asked = requests(50)
    with ScriptedServer(answer, Faults(dead_after=20)) as server:
        backend = connect(server, concurrency=8, retries=2)
        came = []
        with pytest.raises(BackendError) as error:
            for response in backend.generate(asked, SAMPLING):
                came.append(response)
        message = str(error.value)
        assert server.url in message and "3 tries" in message and "HTTP 500: scripted failure" in message
        assert "run the same command again" in message and "of toy" in message
        assert len(came) == server.answered == 20
        assert server.requests <= 20 + 8 * 3
        with pytest.raises(BackendError, match="/models: no usable answer after 3 tries"):
            backend.identity()
        server.dead = False
        seen = {response.request.seed for response in came}
        came += backend.generate([request for request in asked if request.seed not in seen], SAMPLING)
        complete(came, asked)


def test_a_server_that_is_gone(connect):
    with ScriptedServer(answer) as server:
        pass
    with pytest.raises(BackendError, match=r"ClientConnectorError.*run the same command again"):
        list(connect(server, retries=1).generate(requests(3), SAMPLING))


def test_what_is_under_way_is_kept_when_another_fails(connect):
    """One question fails at once; the others are slow, and still arrive."""

    def slow_but_one(prompt: str, greedy: bool, seed: int) -> Answer:
        if seed == 0:
            return Answer("no", status=500, delay_s=0.1)
        return Answer(answer(prompt, greedy, seed), delay_s=2)

    with ScriptedServer(slow_but_one) as server:
        came = []
        with pytest.raises(BackendError, match="question q0 of toy"):
            for response in connect(server, concurrency=4, retries=0).generate(requests(30), SAMPLING):
                came.append(response)
    assert sorted(r.request.seed for r in came) == [1, 2, 3]


def test_grace_is_limited(connect, monkeypatch):
    monkeypatch.setattr(loop, "GRACE_S", 0.2)

    def first_alone(prompt: str, greedy: bool, seed: int) -> Answer:
        return Answer("no", status=500) if seed == 0 else Answer("", delay_s=30)

    with ScriptedServer(first_alone) as server, pytest.raises(BackendError, match="HTTP 500: no"):
        list(connect(server, concurrency=40, retries=0).generate(requests(40), SAMPLING))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
def test_a_refusal_is_final(connect, status):
    with ScriptedServer(lambda *_: Answer("no such thing", status=status)) as server:
        with pytest.raises(BackendError, match=f"refused with HTTP {status}: no such thing") as error:
            list(connect(server, concurrency=1).generate(requests(5), SAMPLING))
        assert server.requests == 1
    assert ("OPENAI_API_KEY" in str(error.value)) == (status in (401, 403))


def test_the_key_is_sent_and_never_shown(connect, monkeypatch, caplog, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    with ScriptedServer(lambda *_: Answer(f"Incorrect key: {KEY}\x1b[31m", status=401)) as server:
        backend = connect(server)
        with pytest.raises(BackendError) as error:
            list(backend.generate(requests(1), SAMPLING))
        told = [str(error.value), json.dumps(backend.identity()), repr(backend), caplog.text, *capfd.readouterr()]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert not any(KEY in text for text in told)
    assert "[OPENAI_API_KEY]" in told[0] and "\x1b" not in told[0]


def test_a_key_that_is_none_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nX-Header: 1")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
        OpenAIBackend("http://127.0.0.1/v1", "m", chat=True)
    assert "secret" not in str(error.value)


def test_no_proxy_for_this_machine(connect, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    asked = requests(1)
    with ScriptedServer(answer) as server:
        complete(list(connect(server, retries=0).generate(asked, SAMPLING)), asked)
    for url in ("http://localhost:1/v1", "http://[::1]:1/v1", "http://127.9.9.9/v1"):
        assert openai_answers.proxy_of(url) is None
    assert openai_answers.proxy_of("http://models.example/v1") == "http://127.0.0.1:9"


def test_closing_the_iterator_stops_the_sending(connect):
    with ScriptedServer(answer, latency_s=0.05) as server:
        backend = connect(server, concurrency=3)
        responses = backend.generate(requests(200), SAMPLING)
        next(responses)
        responses.close()
        sent = server.requests
        time.sleep(0.3)
        assert server.requests <= sent + 3  # already sent when it was closed
        backend.close()
        backend.close()
    assert "openai" not in [thread.name for thread in threading.enumerate()]


def test_closing_the_backend_first(connect, caplog):
    with ScriptedServer(answer, latency_s=0.05) as server:
        backend = connect(server)
        responses = backend.generate(requests(200), SAMPLING)
        next(responses)
        backend.close()
        responses.close()
        gc.collect()  # a task with an unretrieved error reports it when collected
    assert caplog.text == ""


def test_identity(connect):
    listed = [
        {"id": "other"},
        {"id": "m", "created": 123, "root": "/models/m", "max_model_len": 4096, "permission": []},
    ]
    with ScriptedServer(answer, model="m", models=listed) as server:
        assert connect(server, chat=False).identity() == {
            "backend": "openai",
            "model": "m",
            "chat": False,
            "served": {"id": "m", "max_model_len": 4096},
        }
        with pytest.raises(UserError, match=r"--model absent: not served at http://127.*found m, other"):
            connect(server, "absent").identity()
    with ScriptedServer(answer, models=False) as server:
        assert connect(server).identity()["served"] is None


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http:///v1",
        "http://h:x/v1",
        "http://u:secret@h/v1",
        "http://h/v1?k=secret",
    ],
)
def test_bad_addresses(url):
    with pytest.raises(UserError, match="--base-url") as error:
        OpenAIBackend(url, "m", chat=True)
    assert "secret" not in str(error.value)


def test_make():
    backend = backends.make("openai", base_url="http://127.0.0.1:1/v1/", model="m", chat=True)
    assert isinstance(backend, OpenAIBackend)
    backend.close()
    with pytest.raises(UserError, match=r"--backend tgi: unknown; expected one of vllm, hf, openai"):
        backends.make("tgi")


def test_retry_after_is_waited_for(connect):
    with ScriptedServer(answer, Faults(share=1, kinds=("503",), retry_after="1")) as server:
        start = time.monotonic()
        [_] = connect(server).generate(requests(1), SAMPLING)
        assert time.monotonic() - start >= 1


def test_faults_are_repeatable(connect):
    counts = []
    for _ in range(2):
        with ScriptedServer(answer, Faults(share=0.5, kinds=("500", "malformed"), seed=3)) as server:
            list(connect(server).generate(requests(30), SAMPLING))
            counts.append(Counter(server.faults))
    assert counts[0] == counts[1] and len(counts[0]) == 2
