"""The connection to the Docker daemon. DOCKER_HOST, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are respected."""

from __future__ import annotations

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
