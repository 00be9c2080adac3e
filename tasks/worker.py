"""`python -m tasks.worker`: starts a worker of the pool `codelutra`, or of `--pool`, once the server answers and dead flow
runs are marked as crashed.

After a reboot the server still counts the flow run that was going on, and the next one would wait for its slot. So start a
worker in this way.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time

from prefect.settings import get_current_settings

from codelutra.errors import UserError
from codelutra.store.child import reap_strays
from tasks.server import NOT_ANSWERED, crash_dead_runs, require_server, worker_name

POOL = "codelutra"
_PATIENCE_SECONDS = 180.0  # a server that starts beside us, on a busy machine


def main(arguments: list[str]) -> None:
    """Become `prefect worker start`. Exit 2 where no server is set up or none answers in time."""
    if not get_current_settings().api.url:
        print(
            "worker: PREFECT_API_URL is not set; a worker asks a server (`make ui`, then scripts/worker.sh)", file=sys.stderr
        )
        sys.exit(UserError.exit_code)
    try:
        command = _command(arguments)
        _wait_for_server()
    except UserError as e:
        print(f"worker: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    reap_strays()
    with contextlib.suppress(*NOT_ANSWERED):  # it has gone again: the next flow run marks them
        for name in crash_dead_runs():
            print(f"worker: {name} was still open and its process has ended: marked as crashed", file=sys.stderr)
    os.execv(sys.executable, command)


def _command(arguments: list[str]) -> list[str]:
    """`prefect worker start`, of our pool of processes if the arguments name none. Raises UserError."""
    ours = [] if _given(arguments, "--pool", "-p") else ["--pool", POOL, "--type", "process"]
    if _given(arguments, "--type", "-t") == "docker" and not importlib.util.find_spec("prefect_docker"):
        raise UserError(
            "a worker of type docker needs prefect-docker, which is not installed; run `scripts/setup.sh cluster`"
        )
    return [sys.executable, "-m", "prefect", "worker", "start", *ours, "--name", worker_name(), *arguments]


def _given(arguments: list[str], *options: str) -> str:
    """The value of an option; "" where it is not given."""
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name in options:
            return value or "".join(arguments[at + 1 : at + 2])
    return ""


def _wait_for_server() -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return require_server()
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
