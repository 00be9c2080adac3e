"""What runs on the nodes of a cluster, in Ray's workers. It knows nothing of Ray."""

from __future__ import annotations

import hashlib
import os
import platform
import queue
import socket
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from codelutra.errors import CodelutraError, StageError, UserError, of_the_system
from codelutra.hardware import number_format
from codelutra.store.artifacts import libraries
from codelutra.store.child import Child, Event
from codelutra.store.files import lock_holder, locked
from codelutra.store.paths import cache_dir

ROOT = Path(__file__).parents[2]
SAME = (
    "install the same lock of the same commit on every node, start Ray there again from that installation, and give the "
    "same command again"
)


def about(store: str, token: str) -> dict[str, Any]:
    """What must be the same on all nodes; and whether this one sees the store: a file there is read, another one left."""
    marker, answer = Path(store, f".cluster-{token}"), Path(store, f".cluster-{token}-{socket.gethostname()}-{os.getpid()}")
    found = {"versions": versions(), "format": number_format("auto")}
    try:
        sees = marker.read_text() == token
        if sees:
            answer.write_text(token)
    except OSError as e:
        return found | {"sees": False, "why": e.strerror or str(e)}
    return found | {"sees": sees, "why": "another file is there", "answer": answer.name}


@cache
def versions() -> dict[str, str]:
    """Of Python, the libraries that decide what an artifact is, and our code, as this process has read them."""
    found = {
        name.removesuffix("-cpu"): version.partition("+")[0] for name, version in libraries().items() if name != "prefect"
    }
    return found | {"python": platform.python_version(), "codelutra's code": code_digest()}


def differences(here: dict[str, str], there: dict[str, str], computes: bool) -> list[str]:
    """What a node has otherwise; what it lacks counts on a node that samples or trains alone."""
    return [
        f"{name} {there.get(name, 'not at all')} (here {version})"
        for name, version in here.items()
        if there.get(name) != version and (name in there or computes)
    ]


def require_alike(flow: dict[str, str], computes: bool) -> None:
    """Raise UserError where this node has not the versions `flow` that the flow's process has."""
    if told := differences(flow, versions(), computes):
        raise UserError(
            f"{socket.gethostname()}, a node of the cluster, has {', '.join(told)}: it has joined, or was changed, since "
            f"the run began; {SAME}"
        )


def code_digest() -> str:
    """Of all modules that a node may run: two installations of one version may hold different code."""
    found = hashlib.sha256()
    for file in sorted(file for package in ("codelutra", "sandbox") for file in (ROOT / package).rglob("*.py")):
        found.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:8]


def address(_: Any = None) -> tuple[str, int]:
    """This node's address, and a free port of it."""
    with socket.socket() as free:
        free.bind(("", 0))
        return _own_address(), int(free.getsockname()[1])


def _own_address() -> str:
    """The address by which other machines reach this one; where there is no route to any, that of the machine itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # nothing is sent
            return str(outward.getsockname()[0])
        except OSError:
            return "127.0.0.1"


class Process:
    """A `Child` on this node, from `start` to `close`. It has the node's accelerator lock, together with others of clusters:
    Ray gives each of those GPUs of its own."""

    def __init__(self, flow: dict[str, str]) -> None:
        """`flow`: the versions where the flow runs."""
        self._flow = flow
        self._events: queue.SimpleQueue[Event | CodelutraError] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._child: Child | None = None
        self._closed = False

    def start(
        self, what: str, module: str, arguments: Sequence[str], log: str, more: dict[str, str], needs: Sequence[str]
    ) -> None:
        """Begin; `heard` tells how it goes. `needs`: folders that the process reads."""
        given = what, module, arguments, Path(log), more, needs
        threading.Thread(target=self._work, args=given, daemon=True).start()

    def _work(
        self, what: str, module: str, arguments: Sequence[str], log: Path, more: dict[str, str], needs: Sequence[str]
    ) -> None:
        try:
            require_alike(self._flow, computes=True)
            for folder in needs:
                _require_seen(Path(folder))
            lock = cache_dir() / "accelerator.lock"
            with locked(lock, shared=True, waiting=lambda: self._events.put(_waiting(lock))):
                child = Child(what, module, *arguments, log=log, more=more)
                self._child = child
                with child:
                    if self._closed:
                        return
                    threading.Thread(target=self._pass_on, args=(child,), daemon=True).start()
                    while True:
                        self._events.put(child.hear())
        except CodelutraError as e:
            self._events.put(e)
        except OSError as e:
            self._events.put(of_the_system(e) or StageError(f"{socket.gethostname()}: {e}"))

    def _pass_on(self, child: Child) -> None:
        while not self._closed:
            child.send(self._messages.get())

    def send(self, message: Any) -> None:
        self._messages.put(message)

    def heard(self, seconds: float) -> list[Event | CodelutraError]:
        """What was told since the last call; waits so long for the first of it."""
        found = []
        try:
            found.append(self._events.get(timeout=seconds))
            while True:
                found.append(self._events.get_nowait())
        except queue.Empty:
            return found

    def close(self) -> None:
        """End it, with all it has started."""
        self._closed = True
        if self._child:
            self._child.__exit__()


def _waiting(lock: Path) -> Event:
    return {"event": "waiting", "for": f"{socket.gethostname()}: {lock_holder(lock) or lock}"}


def _require_seen(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"{socket.gethostname()}, a node of the cluster, has no folder {folder}. Models and policies are read where "
            "they are: give a folder that all nodes see, with --home for runs and CODELUTRA_CACHE for models"
        )


def start(it: Process, *given: Any) -> None:
    it.start(*given)


def send(it: Process, message: Any) -> None:
    it.send(message)


def heard(it: Process, seconds: float) -> list[Event | CodelutraError]:
    return it.heard(seconds)


def close(it: Any) -> None:
    it.close()


def host(_: Any = None) -> str:
    return socket.gethostname()
