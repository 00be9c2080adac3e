"""Leases: who makes something, told to other hosts through the shared place, so that two do not train the same policy.

A lease is an object that its holder writes anew every few seconds. Whoever waits for it compares what it holds from one look
to the next: one that has not changed for `lapse` seconds of the waiter's own clock is of a process that is gone. No clock
is compared with another host's. At worst two hosts make one artifact, as without leases: only the time is lost.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from codelutra.store.files import is_gone, this_process
from codelutra.store.place import Place, PlaceError

_MOST = 1 << 12  # bytes


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    beat: float = 20.0
    """Between two writings of a lease that is held."""
    look: float = 3.0
    """Between two looks at a lease that another holds."""
    lapse: float = 90.0
    """After which a lease that has not changed is nobody's."""


@dataclass
class Lease:
    """Something that this process makes; held until `release`, or until it ends."""

    place: Place
    name: str
    pace: Pace
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._released = threading.Event()
        self._writing = threading.Lock()  # a beat that is under way must not bring back what was released
        self._beats = 0

    def hold(self) -> None:
        threading.Thread(target=self._beat, name=f"lease {self.name}", daemon=True).start()

    def content(self) -> bytes:
        host = _plain(socket.gethostname())
        held = {"token": self.token, "process": this_process(), "host": host, "beat": self._beats}
        return json.dumps(held).encode()

    def release(self, *, tell: bool = True) -> None:
        """Let others have it; without `tell`, or where the place does not answer, it lapses. Again, it does nothing."""
        if not self._released.is_set():
            self._released.set()
            if tell:
                with self._writing, contextlib.suppress(PlaceError):
                    if self._is_mine():
                        self.place.remove(self.name)

    def _is_mine(self) -> bool:
        return _read(self.place, self.name).get("token") == self.token

    def _beat(self) -> None:
        while not self._released.wait(self.pace.beat):
            with self._writing, contextlib.suppress(PlaceError):
                if self._released.is_set() or not self._is_mine():
                    return  # or it was away for so long that another took it
                self._beats += 1
                self.place.replace(self.name, self.content())


def take(
    place: Place, name: str, pace: Pace, waiting: Callable[[str], None], made: Callable[[], bool] = lambda: False
) -> Lease | None:
    """The lease `name`, once nobody else has it; None where what it is for was `made` meanwhile. `waiting` is called once,
    with the host that has it.

    Raises PlaceError where the place does not answer; while waiting, only where it has not for `pace.lapse` seconds.
    """
    lease, seen, told = Lease(place, name, pace), b"", False
    since = answered = time.monotonic()
    while True:
        try:
            if place.create(name, lease.content()):
                break
            if made():
                return None
            now = place.read(name, _MOST)
            held = _parsed(now)
            if held.get("token") == lease.token:  # made by a try whose answer was lost
                break
            answered = time.monotonic()
            if now is None:
                continue
            if now != seen:
                seen, since = now, answered
            if is_gone(str(held.get("process", ""))) or answered - since > pace.lapse:
                place.remove(name)
                continue
            if not told:
                waiting(_plain(str(held.get("host", ""))) or "another host")
                told = True
        except PlaceError:
            if not told or time.monotonic() - answered > pace.lapse:
                raise
            seen = b""  # its holder could not write it either
        time.sleep(pace.look)
    lease.hold()
    return lease


def _plain(host: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", host)[:64]


def _read(place: Place, name: str) -> dict[str, object]:
    return _parsed(place.read(name, _MOST))


def _parsed(content: bytes | None) -> dict[str, object]:
    with contextlib.suppress(ValueError, RecursionError):
        held = json.loads(content or b"")
        return held if isinstance(held, dict) else {}
    return {}
