"""A server over real HTTP that answers as it is told: below the servers that tests script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Raw(NamedTuple):
    """An answer as it goes over the wire."""

    status: int
    body: Any
    """Bytes and text as they are, all else as JSON."""
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    breaks: bool = False
    """Whether the connection looks open afterwards, and ends when it is used: vLLM's after an error."""


class Asked(NamedTuple):
    method: str
    path: str
    body: Any
    """Of a POST, from JSON."""
    authorization: str | None
    at: float

    @property
    def prompt(self) -> str:
        """Of a chat completion."""
        return str(self.body["messages"][-1]["content"])


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def answering(reply: Callable[[Asked], Raw]) -> Iterator[str]:
    """The server's address. `reply` is called in a thread of each connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        broken = False

        def do_GET(self) -> None:
            self.answer(None)

        def do_POST(self) -> None:
            self.answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def answer(self, body: Any) -> None:
            if self.broken:
                self.close_connection = True
                return
            path, key = urlsplit(self.path).path, self.headers["authorization"]
            said = reply(Asked(self.command, path, body, key, time.monotonic()))
            self.broken = said.breaks
            content = said.body.encode() if isinstance(said.body, str) else said.body
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(said.status)
            for name, value in {"content-length": str(len(content)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with _Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()
