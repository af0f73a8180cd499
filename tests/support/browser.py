"""A headless Chromium opened on a file, spoken to over a pipe: what it logs, asks for, and shows.

No driver is needed: DevTools' protocol is JSON, each message ended by a zero byte, on descriptors 3 and 4.
Source: https://chromedevtools.github.io/devtools-protocol/, `--remote-debugging-pipe`
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_DEADLINE_S = 60.0


def find_browser() -> str | None:
    """The Chromium of this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """An open page: `logged` are its console messages and errors, `asked` the addresses it requested."""

    to_browser: int
    from_browser: int
    logged: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    session: str = ""
    _number: int = 0
    _buffer: bytes = b""
    _seen: list[str] = field(default_factory=list)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result = answer["result"]
                assert isinstance(result, dict)
                return result
            self._keep(answer)

    def open(self, path: Path) -> None:
        """Load a file and wait until it has loaded."""
        self._seen.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._seen:
            self._keep(self._receive())

    def resize(self, width: int) -> None:
        """Give the window a width in CSS pixels; below 600 it is a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def print_pdf(self) -> bytes:
        """The page as it is printed on A4."""
        printed = self.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(printed["data"])

    def _receive(self) -> dict[str, Any]:
        until = time.monotonic() + _DEADLINE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self.from_browser, 1 << 16)
            assert data, "the browser has gone"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(message)
        assert isinstance(found, dict)
        return found

    def _keep(self, event: dict[str, Any]) -> None:
        method, values = event.get("method", ""), event.get("params", {})
        self._seen.append(method)
        if method == "Runtime.consoleAPICalled":
            self.logged.append(" ".join(str(item.get("value")) for item in values["args"]))
        elif method == "Runtime.exceptionThrown":
            self.logged.append(str(values["exceptionDetails"].get("text")))
        elif method == "Log.entryAdded":
            self.logged.append(f"{values['entry']['level']}: {values['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(values["request"]["url"])


def _above_ten(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


@contextmanager
def open_browser(profile: Path) -> Iterator[Page]:
    """A page in a browser of its own, which ends with the block."""
    program = find_browser()
    assert program is not None
    their_in, to_browser = os.pipe()
    from_browser, their_out = os.pipe()
    # The protocol's descriptors are 3 and 4 in the child; a shell puts ours there, from above them.
    their_in, their_out = (_above_ten(descriptor) for descriptor in (their_in, their_out))
    command = [
        "/bin/bash", "-c", f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}', program,
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(their_in)
    os.close(their_out)
    try:
        page = Page(to_browser, from_browser)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        yield page
        page.session = ""
        page.call("Browser.close")
        process.wait(timeout=_DEADLINE_S)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        process.kill()
        process.wait(timeout=_DEADLINE_S)
