"""Whose container or process is this? Marks that name the owning process, and the removal of containers whose owner is gone.

A container carries the marks as labels, a process as one text in its environment.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a process that only carries the marks does without Docker's client
    import docker

PREFIX = "codelutra"
REMOVE_SECONDS = 20.0
RUN, POOL, HOST, BOOT, PID, STARTED = (f"{PREFIX}.{name}" for name in ("run", "pool", "host", "boot", "pid", "started"))
MARKS = (HOST, BOOT, PID, STARTED)


def labels(run: str, pool: str) -> dict[str, str]:
    """What a container of this process carries."""
    return {RUN: run, POOL: pool} | marks()


def marks() -> dict[str, str]:
    """What names this process among all processes of all machines."""
    return dict(zip(MARKS, (host(), boot(), str(os.getpid()), started(os.getpid())), strict=True))


def as_text(marks: dict[str, str]) -> str:
    return " ".join(marks[name] for name in MARKS)


def from_text(text: str) -> dict[str, str]:
    """The marks in a text of `as_text`; none where it is anything else."""
    values = text.split(" ")
    return dict(zip(MARKS, values, strict=True)) if len(values) == len(MARKS) else {}


def host() -> str:
    """This machine, and which of its process tables we are in."""
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{_read('/etc/machine-id') or hex(uuid.getnode())}/{namespace}"


def boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def started(pid: int | str) -> str:
    """When a process started, in clock ticks since boot; '' when there is no such process, or nothing but its exit code."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] not in ("Z", "X") else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def is_orphan(marks: dict[str, str]) -> bool:
    """True when the marks name a process of this machine that is gone. Unreadable marks are nobody's, so False."""
    host_of, booted, pid, began = (marks.get(name, "") for name in MARKS)
    if host_of != host() or not booted or not began or not (pid.isascii() and pid.isdecimal()):
        return False
    return booted != boot() or started(pid) != began


def reap_orphans(client: docker.DockerClient | None = None) -> list[str]:
    """Remove the containers of dead owners; returns their names."""
    from sandbox.client import connect

    with contextlib.nullcontext(client) if client else contextlib.closing(connect()) as docker_client:
        return [
            name
            for container in docker_client.api.containers(all=True, filters={"label": POOL})
            if is_orphan(container["Labels"]) and (name := remove(docker_client, container["Id"], container["Names"]))
        ]


def remove_pool(client: docker.DockerClient, pool: str) -> None:
    """Remove every container of one pool, wherever it is in its life, and wait until the daemon has forgotten them.

    A daemon that does not answer is left alone: a container ends by itself when the stream to it does.
    """
    import docker.errors
    import requests.exceptions

    end = time.monotonic() + REMOVE_SECONDS
    with contextlib.suppress(docker.errors.DockerException, requests.exceptions.RequestException):
        while left := client.api.containers(all=True, filters={"label": f"{POOL}={pool}"}):
            with concurrent.futures.ThreadPoolExecutor(max_workers=8) as removers:
                list(removers.map(lambda container: remove(client, container["Id"]), left))
            if time.monotonic() > end:
                return
            time.sleep(0.02)


def remove(client: docker.DockerClient, container_id: str, names: list[str] | None = None) -> str:
    """Remove a container, running or not; '' when it was gone or is going already."""
    import docker.errors

    try:
        client.api.remove_container(container_id, force=True, v=True)
    except (docker.errors.NotFound, docker.errors.APIError) as error:
        if error.status_code not in (404, 409):
            raise
        return ""
    return (names or [container_id])[0].lstrip("/")
