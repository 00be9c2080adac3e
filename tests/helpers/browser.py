"""A real browser for pages of ours: Debian's chromium, headless, spoken to over its DevTools protocol.

Nothing is fetched and nothing is kept: its profile is a temporary folder.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--remote-debugging-port=0", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_PATIENCE = 60.0  # seconds, for a start on a busy machine


def browser() -> str | None:
    """The program, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One page. What it asked for and what it said in its console is kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._calls = connection, 0
        self.requests: list[str] = []  # addresses
        self.said: list[str] = []  # console messages, errors, dialogs
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._connection.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            told = self._hear()
            if told.get("id") == self._calls:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return dict(told["result"])

    def _hear(self) -> dict[str, Any]:
        told = json.loads(self._connection.recv(timeout=_PATIENCE))
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["params"]["request"]["url"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" | "Page.javascriptDialogOpening":
                self.said.append(json.dumps(told["params"]))
        return dict(told)

    def look(self, *, width: int, dark: bool = False, height: int = 900, scripts: bool = True) -> None:
        """How wide the window is, in CSS pixels, which theme its user prefers, and whether pages may run scripts."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def open(self, page: Path | str) -> None:
        """Load a page, of a file or at an address, and wait until it is whole."""
        self.call("Page.navigate", url=page.absolute().as_uri() if isinstance(page, Path) else page)
        while self._hear().get("method") != "Page.loadEventFired":
            pass

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"]))
        return told["result"].get("value")

    def screenshot(self, to: Path, *, whole: bool = True) -> None:
        """A PNG of the page: all of it, or what the window shows."""
        told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
            told = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        to.write_bytes(base64.b64decode(told["data"]))


@contextlib.contextmanager
def opened() -> Iterator[Tab]:
    """A fresh browser with one empty tab; gone afterwards, with all its processes."""
    program = browser()
    assert program, "ask `browser()` first"
    with tempfile.TemporaryDirectory(prefix="codelutra-browser-", ignore_cleanup_errors=True) as profile:
        flags = [*_FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([program, *flags, "about:blank"], start_new_session=True, **quiet)  # type: ignore[call-overload]
        try:
            with connect(
                _address(Path(profile), process), max_size=None, open_timeout=_PATIENCE, ping_interval=None, proxy=None
            ) as connection:
                yield Tab(connection)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Of the tab's DevTools."""
    import urllib.request

    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            port = int((profile / "DevToolsActivePort").read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                return next(t["webSocketDebuggerUrl"] for t in json.load(answer) if t["type"] == "page")
        time.sleep(0.1)
    raise RuntimeError(f"{process.args!r} did not open its DevTools within {_PATIENCE:g} s (exit {process.poll()})")
