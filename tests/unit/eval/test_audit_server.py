"""eval/auditing/audit_server.py: only the audit's own page on this machine can save a verdict."""

import http.client
import json
import threading

import pytest

from eval.auditing.audit_server import AuditServer
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)
SENT = {"key": "b/q/greedy", "verdict": "right", "revealed": False}


class Judge:
    def __init__(self):
        self.judged = []
        self.failure = None

    def __call__(self, sent):
        if self.failure:
            raise self.failure
        self.judged.append(sent)


@pytest.fixture
def server():
    judge = Judge()
    with AuditServer(0, lambda: f"page \ud800 {len(judge.judged)}", judge) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(server, method, path, body=None, **headers):
    """Return the status, the headers and the text of an answer; a header that is None is not sent."""
    own = {"Host": f"127.0.0.1:{server.server_port}"}
    if method == "POST":
        own |= {"Origin": f"http://127.0.0.1:{server.server_port}", "Content-Type": "application/json"}
        own |= {"Content-Length": str(len(body))}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in (own | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def post(server, sent=SENT, **headers):
    body = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return ask(server, "POST", f"/{server.token}/verdicts", body, **headers)


def test_the_page_and_a_verdict(server):
    assert server.server_address[0] == "127.0.0.1" and len(server.token) >= 32
    status, headers, text = ask(server, "GET", f"/{server.token}/")
    assert (status, text) == (200, "page &#55296; 0")
    assert headers["Content-Type"] == "text/html; charset=utf-8" and headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff"
    assert post(server)[0] == 200 and server.judge.judged == [SENT]
    assert ask(server, "GET", f"/{server.token}/")[2] == "page &#55296; 1"


@pytest.mark.parametrize("path", ["/", "/index.html", "/x/", "//", "/%2e%2e/"])
def test_without_the_token_there_is_nothing(server, path):
    assert ask(server, "GET", path)[0] == 404
    assert ask(server, "GET", f"/{server.token}/verdicts")[0] == 404
    assert ask(server, "POST", f"{path}verdicts", json.dumps(SENT).encode())[0] == 404
    assert ask(server, "POST", f"/{server.token}/", json.dumps(SENT).encode())[0] == 404
    assert server.judge.judged == []


@pytest.mark.parametrize(
    "headers, status",
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": None}, 403),
        ({"Host": "127.0.0.1:1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "²"}, 411),
        ({"Content_Length": "4097"}, 413),
        ({"Content_Length": "9" * 30}, 413),
    ],
)
def test_what_does_not_come_from_the_page_is_refused(server, headers, status):
    assert post(server, **headers)[0] == status and server.judge.judged == []
    if "Host" in headers:
        assert ask(server, "GET", f"/{server.token}/", **headers)[0] == 403


def test_the_machine_s_other_name_is_its_own(server):
    name = f"localhost:{server.server_port}"
    assert post(server, Host=name, Origin=f"http://{name}")[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 4000])
def test_what_is_no_json_is_refused(server, body):
    status, _, text = post(server, body)
    assert status == 400 and text.startswith("no verdict") and server.judge.judged == []


@pytest.mark.parametrize(
    "failure, status", [(ValueError("unknown \ud800"), 400), (OSError(28, "No space left on device"), 500)]
)
def test_a_verdict_that_is_not_saved_is_answered_so(server, failure, status):
    server.judge.failure = failure
    found, _, text = post(server)
    assert found == status and ("unknown" in text or "No space left" in text)
    server.judge.failure = None
    assert post(server)[0] == 200


def test_other_methods_are_refused(server):
    assert ask(server, "DELETE", f"/{server.token}/")[0] == 501


def test_a_silent_connection_keeps_nobody_waiting(server):
    waiting = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    waiting.connect()
    assert post(server)[0] == 200
    waiting.close()


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_cannot_be_had_is_named(port, server):
    with pytest.raises(UserError, match=f"--port {port}: "):
        AuditServer(port, str, print)
    with pytest.raises(UserError, match="in use"):
        AuditServer(server.server_port, str, print)
