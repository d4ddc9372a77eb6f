"""A tab of a headless browser, operated by its own protocol over a pipe: real key presses, reloads, screenshots."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT_S = 60  # for each wait


class Tab:
    """Opens the browser on an empty page. It reaches this machine alone."""

    def __init__(self, profile: Path):
        child_in, self._commands = os.pipe()
        self._answers, child_out = os.pipe()
        argv = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        argv += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={profile}"]
        argv += ["--no-first-run", "--remote-debugging-pipe", "about:blank"]
        # The browser reads its commands from descriptor 3 and answers to 4. Ours are moved out of their way first.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (child_in, child_out)]
        shell = ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *argv]
        with open(profile.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(
                shell, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=ends, start_new_session=True
            )
        for end in (child_in, child_out, *ends):
            os.close(end)
        self._numbers, self._read, self._session = itertools.count(1), b"", None
        self._events: list[str] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self._events.append(answer["method"])
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a script's expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + LIMIT_S
        while not self.evaluate(expression):
            assert time.monotonic() < end, (
                f"not within {LIMIT_S} s: {expression}: {self.evaluate('document.body.innerText')[:2000]}"
            )
            time.sleep(0.02)

    def text(self, selector: str) -> str | None:
        """The text of the first such element; None where there is none."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent ?? null")

    def open(self, url: str) -> None:
        """Go to an address, and wait until it is there."""
        self._load("Page.navigate", url=url)

    def reload(self) -> None:
        """Load the page again, and wait until it is there."""
        self._load("Page.reload")

    def press(self, key: str) -> None:
        """Press a key and let go of it."""
        typed = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size, in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser with all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _load(self, method: str, **parameters: Any) -> None:
        self._events.clear()
        self.call(method, **parameters)
        while "Page.loadEventFired" not in self._events:
            self._events.append(self._next()["method"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._answers], [], [], LIMIT_S)
            data = os.read(self._answers, 1 << 20) if ready else b""
            assert data, f"the browser {'said nothing' if not ready else 'ended'}"
            self._read += data
        first, _, self._read = self._read.partition(b"\0")
        return json.loads(first)
