"""A child that does what it is told, for tests of `codelutra.store.child`: `python -m tests.helpers.worker`."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import codelutra
from codelutra.errors import StageError, UserError
from codelutra.store.child import Parent, serve


class OutOfMemoryError(RuntimeError):
    """As torch has one."""


def work(parent: Parent) -> None:
    while True:
        obey(parent, parent.hear())


def obey(parent: Parent, text: str) -> None:
    match text.split():
        case ["user"]:
            raise UserError("put it right")
        case ["stage"]:
            raise StageError("it cannot go on")
        case ["crash"]:
            raise KeyError("boom")
        case ["memory"]:
            raise MemoryError("all of it")
        case ["torch's", "memory"]:
            raise OutOfMemoryError("CUDA")
        case ["exit", code]:
            sys.exit(int(code))
        case ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["lock", path]:
            with parent.holding(Path(path)):
                parent.tell({"event": "locked"})
        case ["below"]:
            parent.tell({"event": "below", "pid": subprocess.Popen(["sleep", "60"]).pid})
        case ["modules"]:
            spec = importlib.util.find_spec("tasks")
            parent.tell({"event": "modules", "files": [codelutra.__file__, spec and spec.origin]})
        case _:
            print('{"event": "not one"}', flush=True)
            parent.tell({"event": "echo", "text": text})


if __name__ == "__main__":
    serve(work)
