"""The processes we start: with which modules they run, and how what a killed one left behind is found and ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sandbox.owner import started

OWNER = "CODELUTRA_OWNER"  # "<pid>:<start>" of the owning process, in the environment of all it starts


def our_modules() -> dict[str, str]:
    """Environment in which `python -m codelutra…` runs this code and no tasks.py or datasets.py of the current folder."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": paths}


def own_what_follows() -> None:
    """Mark every process started from here on as ours."""
    os.environ[OWNER] = f"{os.getpid()}:{started(os.getpid())}"


def reap_strays() -> list[int]:
    """Kill what flows that were killed left behind: Prefect's temporary server, above all. Returns the process ids."""
    return _kill(lambda pid, start: started(pid) != start)


def end_what_followed() -> None:
    """Kill every process that was started since `own_what_follows`."""
    _kill(lambda pid, _: pid == os.getpid())


def _kill(which: Callable[[int, str], bool]) -> list[int]:
    """Kill the marked processes whose owner (pid, start) is one of `which`."""
    killed = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            for item in path.read_bytes().split(b"\0"):
                name, _, value = item.partition(b"=")
                if name == OWNER.encode():
                    pid, _, start = value.decode().partition(":")
                    if which(int(pid), start):
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        killed.append(int(path.parent.name))
    return killed
