"""Serves a policy with vLLM's OpenAI server. `follow` starts the server anew when another policy is promoted.

Between the two nobody answers for as long as the model takes to load; requests that are under way are answered first. The
server does not take the host's accelerator lock: it would keep every run waiting. What of the GPU it takes is
`engine.gpu_memory` of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from codelutra.config import RunConfig
from codelutra.errors import UserError
from codelutra.hardware import gpu_capabilities, number_format
from codelutra.prompts import TODAY
from codelutra.sampling.engine import environment
from codelutra.store.child import Child, EndedEarlyError

DRAIN_SECONDS = 120
"""Time that requests have to be answered when another policy is promoted."""
_LOOK_SECONDS = 5.0
_ANYWHERE = {"127.0.0.1", "::1", "localhost"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Served:
    """What a server serves."""

    name: str
    """The model's name in requests."""
    label: str
    """Of the policy, for people."""
    path: Path
    config: RunConfig


@dataclass(frozen=True)
class Where:
    host: str
    port: int
    key: str = ""

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def require_usable(where: Where) -> None:
    """Raise UserError where the port is taken, or others could ask the server without a key."""
    if where.host not in _ANYWHERE and not where.key:
        raise UserError(
            f"--host {where.host} lets other machines ask without a key: name the variable that holds one with "
            "--api-key-env NAME, or leave --host at 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((where.host, where.port))
        except (OSError, OverflowError) as e:
            raise UserError(f"{where.host} port {where.port} cannot be used ({e}); give another one with --port") from e


def arguments(served: Served, where: Where) -> list[str]:
    """Of `vllm serve`. Answers are greedy, as the policy was scored, where a request says nothing else; thinking and the
    date are in prompts as they were in training."""
    engine, thinking = served.config.engine, served.config.prompt.thinking
    template = {"enable_thinking": thinking, "thinking": thinking, "date_string": TODAY.strftime("%d %b %Y")}
    given = {
        "--model": str(served.path),
        "--host": where.host,
        "--port": str(where.port),
        "--served-model-name": served.name,
        "--tokenizer-mode": "hf",
        "--config-format": "hf",
        "--load-format": "hf",
        "--dtype": number_format(engine.dtype),
        "--max-model-len": str(engine.max_model_len),
        "--max-num-seqs": str(engine.max_batch),
        "--tensor-parallel-size": str(engine.tensor_parallel),
        "--override-generation-config": json.dumps({"temperature": 0.0}),
        "--default-chat-template-kwargs": json.dumps(template),
        "--shutdown-timeout": str(DRAIN_SECONDS),
    }
    if gpu_capabilities():
        given["--gpu-memory-utilization"] = str(engine.gpu_memory)
    else:
        given |= {"--kv-cache-memory-bytes": str(int(engine.cache_gib * 2**30)), "--block-size": "128"}
    eager = not gpu_capabilities() if engine.eager is None else engine.eager
    return [*(word for pair in given.items() for word in pair), *(["--enforce-eager"] if eager else [])]


class Server(Child):
    """A server of one policy, to the end of the `with` block."""

    def __init__(self, served: Served, where: Where, log: Path) -> None:
        more = {k: v for k, v in environment().items() if not k.startswith("VLLM_ENABLE")}
        more |= {"VLLM_API_KEY": where.key} if where.key else {}
        super().__init__("server", "codelutra.sampling.serve_worker", log=log, more=more)
        self.send({"arguments": arguments(served, where)})

    def wait(self, where: Where) -> None:
        """Wait until it answers. Raises EndedEarlyError when it ends before."""
        while True:
            self.hear(timeout=0.5)
            with contextlib.suppress(URLError, OSError), urlopen(f"{where.url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return

    def stop(self) -> None:
        """Let it answer what it was asked, for at most DRAIN_SECONDS, and end."""
        self.send({"stop": True})
        until = time.monotonic() + DRAIN_SECONDS + 10
        with contextlib.suppress(EndedEarlyError):
            while time.monotonic() < until:
                self.hear(timeout=1)


def follow(
    current: Callable[[], Served],
    where: Where,
    log: Path,
    say: Say,
    *,
    ready: Callable[[Served], None] = lambda served: None,
    start: Callable[[Served, Where, Path], Server] = Server,
    look_seconds: float = _LOOK_SECONDS,
    what: str = "is promoted",
) -> None:
    """Serve what `current` says, and what it says later, without end; `ready` is called whenever a server answers.

    A later policy that does not load is told of and left out, and the one before is served on. Raises EndedEarlyError when
    the first does not load, or a server ends by itself; `current` may raise UserError, which ends nothing but the first
    time.
    """
    served, before, left_out = current(), None, set[Path]()
    while True:
        with start(served, where, log) as server:
            try:
                server.wait(where)
            except EndedEarlyError as e:
                if not before:
                    raise
                say(f"{served.label} does not load, so {before.label} is served on: {e}")
                left_out.add(served.path)
                served, before = before, None
                continue
            ready(served)
            while True:
                server.hear(timeout=look_seconds)
                if (now := _said(current, say)) and now.path != served.path and now.path not in left_out:
                    break
            say(f"{now.label} {what}; answering what was asked, then serving it")
            server.stop()
        before, served = served, now


def _said(current: Callable[[], Served], say: Say) -> Served | None:
    """None where what is in force cannot be told now: the record is damaged, the weights are gone."""
    try:
        return current()
    except UserError as e:
        say(f"still serving as before: {e}")
        return None


def key_from(variable: str) -> str:
    """The API key in an environment variable. Raises UserError where there is none."""
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"--api-key-env {variable}: ${variable} is {'empty' if not key else 'no key'}; export it first")
    return key
