"""Running a flow from a shell: arguments in, exit code out. Output is for the log; people watch through `codelutra run`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from codelutra.errors import CodelutraError
from codelutra.store.child import end_what_followed, own_what_follows, reap_strays, when_parent_ends

_GRACE_SECONDS = 10.0  # for Prefect to tell its server; nothing else is lost, as with any kill


def main(flow: Callable[..., Any]) -> None:
    """Exit 0, 1 (a stage could not go on), 2 (something to put right), 130 (interrupted)."""
    parser = argparse.ArgumentParser(description=(flow.__doc__ or "").split("\n")[0])
    parser.add_argument("config", help="a preset's name or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    parser.add_argument("--home", help="folder of store/ and runs/")
    parser.add_argument("--watched", action="store_true", help="end when stdin or the parent does")
    args = parser.parse_args()
    if args.watched:
        when_parent_ends(_end)
    reap_strays()
    own_what_follows()
    try:
        flow(config=args.config, overrides=args.overrides, home=args.home)
    except CodelutraError as e:
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)  # Prefect would wait for tasks that are going on: minutes, where one trains
    end_what_followed()
    os._exit(128 + signal.SIGTERM)
