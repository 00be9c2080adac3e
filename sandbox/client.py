"""The connection to the Docker daemon. DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are respected."""

from __future__ import annotations

import datetime
import os

import docker
import docker.errors
import requests.exceptions

from sandbox.errors import SandboxError

OLDEST_API = (1, 40)  # Docker 19.03: tmpfs options, init, private IPC


def connect(timeout_seconds: int = 120) -> docker.DockerClient:
    """A client of a daemon that answers. Raises SandboxError that says what to do."""
    where = os.environ.get("DOCKER_HOST", "the default socket")
    try:
        client = docker.from_env(timeout=timeout_seconds)
        client.ping()
        version = client.version()["ApiVersion"]
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise SandboxError(
            f"no Docker daemon answers at {where}: {str(error)[:300]}\n"
            "Start one (`sudo systemctl start docker`, or `sudo dockerd &`), or point DOCKER_HOST at one you may use "
            "(`export DOCKER_HOST=ssh://user@host`); with 'permission denied', add yourself to the group `docker`."
        ) from error
    if tuple(int(part) for part in version.split(".")) < OLDEST_API:
        needed = ".".join(str(part) for part in OLDEST_API)
        raise SandboxError(f"the Docker daemon at {where} speaks API {version}; {needed} (Docker 19.03) is the oldest")
    return client


def ensure_daemon_reachable() -> None:
    """Raise SandboxError, which says what to do, unless a usable Docker daemon answers."""
    connect(timeout_seconds=10).close()


def user_ids(client: docker.DockerClient) -> range:
    """User ids for containers: such as no user of this host has, unless the daemon maps them, and then only some."""
    is_mapped = any(
        "name=userns" in option or "name=rootless" in option for option in client.info().get("SecurityOptions") or ()
    )
    return range(10_000, 58_000) if is_mapped else range(0x70000000, 0x7FFFFF00)


def ended_itself(client: docker.DockerClient, container_id: str) -> bool:
    """Whether the daemon saw a container die of what ran in it, or sees it run and say nothing.

    False when someone else ended or stopped it, when it ended because we let go of it, and when the daemon cannot say.
    """
    try:
        now = datetime.datetime.fromisoformat(client.info()["SystemTime"])  # its clock need not be ours
        soon = int(now.timestamp()) + 2  # it hears of a death a moment after us
        events = list(client.api.events(since=1, until=soon, filters={"container": container_id}, decode=True))
        if {"kill", "stop", "pause"} & {event["Action"] for event in events}:
            return False
        if codes := [event["Actor"]["Attributes"].get("exitCode") for event in events if event["Action"] == "die"]:
            return "0" not in codes
        return bool(client.api.inspect_container(container_id)["State"]["Running"])
    except (docker.errors.APIError, requests.exceptions.RequestException):
        return False
