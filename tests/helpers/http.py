"""A server over real HTTP that answers as it is told: below the servers that tests script."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
    """From JSON, where it is that."""
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
def answering(reply: Callable[[Asked], Raw], at: str = "/v1") -> Iterator[str]:
    """The server's address, with the path `at`. `reply` is called in a thread of each connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        broken = False

        def do_GET(self) -> None:
            if self.broken:
                self.close_connection = True
                return
            sent, body = self.rfile.read(int(self.headers["content-length"] or 0)), None
            with suppress(ValueError):
                body = json.loads(sent)
            path, key = urlsplit(self.path).path, self.headers["authorization"]
            said = reply(Asked(self.command, path, body, key, time.monotonic()))
            self.broken = said.breaks
            content = said.body.encode() if isinstance(said.body, str) else said.body
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(said.status)
            for name, value in {"content-length": str(len(content)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with _Quiet(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{at}"
        finally:
            server.shutdown()
            thread.join()
