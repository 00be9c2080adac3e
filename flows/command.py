"""Running a flow from a shell: arguments in, exit code out. Output is for the log; people watch through `codelutra run`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from codelutra.errors import CodelutraError
from codelutra.strays import own_what_follows, reap_strays


def main(flow: Callable[..., Any]) -> None:
    """Exit 0, 1 (a stage could not go on), 2 (something to put right), 130 (interrupted)."""
    parser = argparse.ArgumentParser(description=(flow.__doc__ or "").split("\n")[0])
    parser.add_argument("config", help="a preset's name or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value", dest="overrides")
    parser.add_argument("--home", help="folder of store/ and runs/")
    args = parser.parse_args()
    reap_strays()
    own_what_follows()
    try:
        flow(config=args.config, overrides=args.overrides, home=args.home)
    except CodelutraError as e:
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
