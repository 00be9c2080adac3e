"""Inside the forked process: run the program, evaluate the calls, write down what they gave.

Everything here shares its process with the program and is not to be believed: a program can write any result it likes,
which is no more than returning that result. It cannot see what would be right, and it cannot answer for another.
"""

from __future__ import annotations

import atexit
import builtins
import errno
import gc
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
FILE = "program.py"  # where a whole program finds itself
FRAMES_BELOW = 4  # of the runner, below a whole program: it recurses as deep as without them
HEAD = struct.Struct(">4sBII")  # mark, status, lengths of value and error
MARK = b"done"
ERROR_CHARS = 2000
REFUSED = {errno.EPERM, errno.EACCES, errno.EROFS, errno.ENETUNREACH, errno.ENETDOWN}
EXHAUSTED = {errno.ENOSPC, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EDQUOT}

_job: dict[str, Any] = {}


def read_file(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def accept(job: dict[str, Any], *, whole: bool) -> None:
    """Remember the job."""
    _job.update(job, whole=whole)


def run() -> None:
    """Run the accepted job, write its result, end the process."""
    if _job["whole"]:
        sys.setrecursionlimit(sys.getrecursionlimit() + FRAMES_BELOW)
        code = as_python_does(_job.pop("program"))
        end_as_python_does(code)
    status, value, error = outcome(_job["program"], _job["calls"], _job["in_process"])
    flush()
    report(status, value, error)
    os._exit(0)


def report(status: int, value: bytes, error: str) -> None:
    text = error[-ERROR_CHARS:].encode("utf-8", "replace")
    write(HEAD.pack(MARK, status, len(value), len(text)) + value + text)


def as_python_does(source: str) -> int:
    """Run a program as `python3 program.py` does; the exit code. An exception is also reported as the result."""
    path = os.path.abspath(FILE)
    text = source.encode("utf-8", "surrogatepass")
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __cached__=None, __annotations__={}, __builtins__=builtins)
    sys.modules["__main__"] = main
    sys.argv[:] = [path]
    sys.path.insert(0, os.path.dirname(path))
    try:
        with open(path, "wb") as file:
            file.write(text)
        try:
            code = compile(text, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, OverflowError) as problem:
            report(wire.SYNTAX_ERROR, b"", last_line(problem))
            return 1
        exec(code, main.__dict__)
        return 0
    except SystemExit as problem:
        if problem.code is None or isinstance(problem.code, int):
            return (problem.code or 0) & 0xFF
        print(problem.code, file=sys.stderr)
        return 1
    except BaseException as problem:  # noqa: BLE001 - the program may raise anything
        sys.excepthook(type(problem), problem, problem.__traceback__)
        report(status_of(problem), b"", trace(problem))
        return 1


def end_as_python_does(code: int) -> None:
    """End the process as an interpreter ends: threads, exit handlers, what only the program's globals kept alive, streams.

    A real end would also take the warm libraries apart, which is slow.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    flush()
    sys.modules.pop("__main__", None)
    gc.collect()
    flush()
    os._exit(code)


def outcome(source: str, calls: list[str], in_process: bool) -> tuple[int, bytes, str]:
    """(status, canonical JSON of the value, error) of the whole job."""
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, OverflowError) as problem:
        return wire.SYNTAX_ERROR, b"", last_line(problem)
    except MemoryError as problem:
        return wire.RESOURCE_LIMIT, b"", last_line(problem)
    linecache.cache["<program>"] = (len(source), None, source.splitlines(True), "<program>")
    module = types.ModuleType("program")
    module.__dict__["__builtins__"] = builtins
    sys.modules[module.__name__] = module
    sys.argv[:] = ["program"]
    sys.setrecursionlimit(sys.getrecursionlimit() + frames() + 4)  # as deep as under `python3`: our own frames are extra
    try:
        exec(code, module.__dict__)
        value = [evaluate(call, module.__dict__, in_process) for call in calls]
        return wire.OK, json.dumps({"c": value}, separators=(",", ":")).encode("utf-8"), ""
    except SystemExit as problem:
        return wire.RUNTIME_ERROR, b"", last_line(problem)
    except BaseException as problem:  # noqa: BLE001 - the program may raise anything, and that is its result
        return status_of(problem), b"", trace(problem)


def frames() -> int:
    """How many frames the caller stands on, itself included."""
    frame: types.FrameType | None = sys._getframe(1)
    count = 0
    while frame:
        frame, count = frame.f_back, count + 1
    return count


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
        while own is not None and own.tb_frame.f_code.co_filename == __file__:
            own = own.tb_next
        lines = traceback.format_exception(type(problem), problem, own or start, limit=-8)
        return "".join(lines)[-ERROR_CHARS:]
    except BaseException:  # noqa: BLE001
        return last_line(problem)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 - the program may have put anything there
            continue


def write(document: bytes) -> None:
    view = memoryview(document)
    while view:
        view = view[os.write(RESULT_FD, view) :]
