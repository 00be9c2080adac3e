"""Inside the forked process: run the program, evaluate the calls, write down what they gave.

Everything here shares its process with the program and is not to be believed: a program can write any result it likes,
which is no more than returning that result. It cannot see what would be right, and it cannot answer for another.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import json
import linecache
import os
import struct
import sys
import threading
import traceback
import types
from typing import Any

from sandbox.runner import canonical, wire

RESULT_FD = 3
NO_RESULT = 70
HEAD = struct.Struct(">4sBII")  # mark, status, lengths of value and error
MARK = b"done"
ERROR_CHARS = 2000
REFUSED = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH, errno.ENETDOWN}
EXHAUSTED = {errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EDQUOT}

_job: dict[str, Any] = {}


def read_file(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def accept(job: dict[str, Any]) -> int:
    """Remember the job; return the file its stdin is read from."""
    _job.update(job)
    if job["stdin"] is None:
        return os.open("/dev/null", os.O_RDONLY)
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as file:
        file.write(job["stdin"].encode("utf-8", "surrogateescape"))
    os.lseek(stdin, 0, os.SEEK_SET)
    return stdin


def run() -> None:
    """Run the accepted job, write its result, end the process."""
    status, value, error = outcome(_job["program"], _job["calls"], _job["stdin"] is not None, _job["in_process"])
    flush()
    text = error[-ERROR_CHARS:].encode("utf-8", "replace")
    write(HEAD.pack(MARK, status, len(value), len(text)) + value + text)
    os._exit(0)


def outcome(source: str, calls: list[str], is_script: bool, in_process: bool) -> tuple[int, bytes, str]:
    """(status, canonical JSON of the value, error) of the whole job."""
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, OverflowError) as problem:
        return wire.SYNTAX_ERROR, b"", last_line(problem)
    except MemoryError as problem:
        return wire.RESOURCE_LIMIT, b"", last_line(problem)
    linecache.cache["<program>"] = (len(source), None, source.splitlines(True), "<program>")
    module = types.ModuleType("__main__" if is_script else "program")
    module.__dict__["__builtins__"] = builtins
    sys.modules[module.__name__] = module
    sys.argv[:] = ["program"]
    sys.setrecursionlimit(sys.getrecursionlimit() + frames() + 4)  # as deep as under `python3`: our own frames are extra
    try:
        exec(code, module.__dict__)
        if is_script:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            return wire.OK, b"null", ""
        value = [evaluate(call, module.__dict__, in_process) for call in calls]
        return wire.OK, json.dumps({"c": value}, separators=(",", ":")).encode("utf-8"), ""
    except SystemExit as problem:
        if is_script and problem.code in (None, 0):
            return wire.OK, b"null", ""
        return wire.RUNTIME_ERROR, b"", last_line(problem)
    except BaseException as problem:  # noqa: BLE001 - the program may raise anything, and that is its result
        return status_of(problem), b"", trace(problem)


def frames() -> int:
    """How many frames the caller stands on, itself included."""
    return sum(1 for _ in traceback.walk_stack(sys._getframe(1)))


def evaluate(call: str, namespace: dict[str, Any], in_process: bool) -> list[Any]:
    """["v", canonical structure] or ["e", "TypeName: message"]: one bad call does not spoil the others."""
    try:
        try:
            code = compile(call, "<call>", "eval", dont_inherit=True)
        except SyntaxError:
            if not in_process:
                raise
            code = compile(call, "<call>", "exec", dont_inherit=True)
        return ["v", canonical.encode(eval(code, namespace))]
    except BaseException as problem:  # noqa: BLE001 - likewise
        return ["e", last_line(problem)]


def status_of(problem: BaseException) -> int:
    if isinstance(problem, MemoryError):
        return wire.RESOURCE_LIMIT
    number = getattr(problem, "errno", None) if isinstance(problem, OSError) else None
    if number in EXHAUSTED:
        return wire.RESOURCE_LIMIT
    return wire.BLOCKED if number in REFUSED else wire.RUNTIME_ERROR


def last_line(problem: BaseException) -> str:
    try:
        text = f"{type(problem).__name__}: {problem}"
    except BaseException:  # noqa: BLE001 - the exception's own __str__ is the program's as well
        text = f"{type(problem).__name__}: (its message cannot be printed)"
    return text[:ERROR_CHARS]


def trace(problem: BaseException) -> str:
    """The traceback's tail, from the program's own first frame on."""
    try:
        own = start = problem.__traceback__
        while own is not None and not own.tb_frame.f_code.co_filename.startswith("<"):
            own = own.tb_next
        lines = traceback.format_exception(type(problem), problem, own or start, limit=-8)
        return "".join(lines)[-ERROR_CHARS:]
    except BaseException:  # noqa: BLE001
        return last_line(problem)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001 - the program may have put anything there
            continue


def write(document: bytes) -> None:
    view = memoryview(document)
    while view:
        view = view[os.write(RESULT_FD, view) :]
