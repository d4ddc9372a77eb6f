"""Serves the audit's page to this machine alone, and takes the verdicts that it sends."""

from __future__ import annotations

import http.server
import json
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from openrlhf_mel.errors import UserError

_MOST_BYTES = 4096  # of a verdict
_IDLE_S = 30  # seconds that a connection may say nothing
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Refused(Exception):
    """A request that is not answered: the status, and why."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class AuditServer(http.server.ThreadingHTTPServer):
    """A server on 127.0.0.1 with one page and one place to send verdicts to, both under a secret path.

    A request needs the path's random token, and a `Host` of this machine, so that no other site's name leads here; a
    verdict also needs the page's own `Origin`, and at most 4,096 bytes of JSON.

    Args:
        port: 0 for any free one.
        page: the page's HTML, asked anew each time: it has the verdicts so far.
        judge: saves a verdict; raises ValueError for one that is none, OSError where it cannot be saved.

    Raises:
        UserError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, port: int, page: Callable[[], str], judge: Callable[[Any], object]):
        self.page, self.judge = page, judge
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: {error}; name another, or 0 for any free one") from None
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up early is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: AuditServer
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._answer(self._page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        self._answer(self._judge, "application/json")

    def _page(self) -> str:
        self._check("")
        return self.server.page()

    def _judge(self) -> str:
        body = self._body()  # before any refusal: a client that is still sending would not read it
        self._check("verdicts")
        if self.headers.get("Origin") not in {f"http://{host}" for host in self.server.hosts}:
            raise Refused(HTTPStatus.FORBIDDEN, "a verdict has to come from the audit's own page")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a verdict has to be JSON")
        try:
            self.server.judge(json.loads(body))
        except (ValueError, RecursionError) as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"no verdict: {error}") from None
        except OSError as error:
            reason = f"the verdict could not be saved: {error.strerror}"
            raise Refused(HTTPStatus.INTERNAL_SERVER_ERROR, reason) from None
        return "{}"

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a verdict has to state its length")
        if len(length) > 9 or int(length) > _MOST_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a verdict has at most {_MOST_BYTES} bytes")
        return self.rfile.read(int(length))

    def _check(self, place: str) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "unknown host")
        wanted = f"/{self.server.token}/{place}"
        if not secrets.compare_digest(self.path.encode(errors="replace"), wanted.encode()):
            raise Refused(HTTPStatus.NOT_FOUND, "no such page; the terminal shows the address")

    def _answer(self, content: Callable[[], str], kind: str) -> None:
        status = HTTPStatus.OK
        try:
            text = content()
        except Refused as refused:
            status, kind, text = refused.status, "text/plain; charset=utf-8", str(refused)
        data = text.encode("utf-8", "xmlcharrefreplace")
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""
