"""A server that speaks chat completions over real HTTP, and misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Raw(NamedTuple):
    """An answer as it goes over the wire."""

    status: int
    body: Any
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed


class Asked(NamedTuple):
    path: str
    body: dict[str, Any]
    authorization: str | None
    at: float

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


def said(content: Any, finish: Any = "stop", prompt: Any = 11, completion: Any = 7, **more: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}, **more}


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def chatting(reply: Callable[[Asked, int], Any]) -> Iterator[tuple[str, list[Asked]]]:
    """The server's address, and what it was asked. `reply` gives the content of the n-th answer, from 1, or a `Raw` one."""
    asked: list[Asked] = []
    one = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with one:
                asked.append(new := Asked(self.path, body, self.headers["authorization"], time.monotonic()))
                number = len(asked)
            answer = reply(new, number)
            raw = answer if isinstance(answer, Raw) else Raw(200, said(answer))
            content = raw.body if isinstance(raw.body, bytes) else json.dumps(raw.body).encode()
            self.send_response(raw.status)
            for name, value in {"content-length": str(len(content)), **raw.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
