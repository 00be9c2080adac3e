"""Running a flow from a shell: arguments in, exit code out. Output is for the log; people watch through `codelutra run`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from codelutra.errors import CodelutraError
from sandbox.owner import started

OWNER = "CODELUTRA_OWNER"  # "<pid>:<start>" of the flow's process, in the environment of all it starts


def main(flow: Callable[..., Any]) -> None:
    """Exit 0, 1 (a stage could not go on), 2 (something to put right), 130 (interrupted)."""
    parser = argparse.ArgumentParser(description=(flow.__doc__ or "").split("\n")[0])
    parser.add_argument("config", help="a preset's name or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    parser.add_argument("--home", help="folder of store/ and runs/")
    args = parser.parse_args()
    reap_strays()
    os.environ[OWNER] = f"{os.getpid()}:{started(os.getpid())}"
    try:
        flow(config=args.config, overrides=args.overrides, home=args.home)
    except CodelutraError as e:
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def reap_strays() -> list[int]:
    """Kill what flows that were killed left behind: Prefect's temporary server, above all. Returns the process ids."""
    reaped = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            for item in path.read_bytes().split(b"\0"):
                name, _, value = item.partition(b"=")
                if name == OWNER.encode():
                    pid, _, start = value.decode().partition(":")
                    if started(int(pid)) != start:
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        reaped.append(int(path.parent.name))
    return reaped
