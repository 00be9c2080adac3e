"""`make ui` or `make server` on a port of its own, for tests that ask a real Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]


def clean_environment(folder: Path, **more: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own |= {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(ROOT)}
    return own | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180", "HOME": str(folder)} | more


def settings_of(folder: Path) -> dict[str, str]:
    lines = (folder / ".config" / "codelutra" / "prefect.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def served(
    folder: Path, script: str = "ui.sh", how: signal.Signals = signal.SIGTERM, **more: str
) -> Iterator[dict[str, str]]:
    """The server, ended by that signal; gives the environment of what asks it. A second one here has the same settings."""
    written = folder / ".config" / "codelutra" / "prefect.env"
    port = int(urlsplit(settings_of(folder)["PREFECT_API_URL"]).port or 0) if written.exists() else free_port()
    env = clean_environment(folder, PREFECT_SERVER_API_PORT=str(port), **more)
    with (folder / "server.log").open("w") as log:
        started = subprocess.Popen([ROOT / "scripts" / script], stdout=log, stderr=log, env=env, cwd="/")
    deadline = time.monotonic() + 180
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
            break
        assert started.poll() is None, (folder / "server.log").read_text()[-2000:]
        assert time.monotonic() < deadline, (folder / "server.log").read_text()[-2000:]
        time.sleep(0.3)
    yield clean_environment(folder) | settings_of(folder)
    started.send_signal(how)
    started.wait()


def asking(env: dict[str, str]) -> Any:
    """Prefect's client in this process asks that server, inside the block."""
    return temporary_settings(
        {PREFECT_API_URL: env["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: env["PREFECT_API_AUTH_STRING"]}
    )
