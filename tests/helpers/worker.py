"""A child that does what it is told, for tests of `codelutra.store.child`: `python -m tests.helpers.worker`."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import codelutra
from codelutra.errors import StageError, UserError
from codelutra.store.child import Parent, serve


class OutOfMemoryError(RuntimeError):
    """As torch has one."""


class SharedGpu:
    """As torch.cuda on a GPU of 80 GiB: 2 are free, 10 are this process's, others hold the rest."""

    def is_initialized(self) -> bool:
        return True

    def mem_get_info(self) -> tuple[int, int]:
        return 2 << 30, 80 << 30

    def memory_reserved(self) -> int:
        return 10 << 30


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
        case ["shared", "GPU"]:
            sys.modules["torch"] = types.SimpleNamespace(cuda=SharedGpu())  # type: ignore[assignment]
            raise OutOfMemoryError("CUDA out of memory")
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
