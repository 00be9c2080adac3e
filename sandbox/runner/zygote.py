"""The warm process every program is forked from.

It is asked over a socket the programs never hold: one message per program, carrying four memory files (the job, and
room for result, stdout and stderr), and for a whole program a fifth (stdin). The zygote itself never reads a job, so a
program finds nothing of its neighbours in the memory it inherits. It is a subreaper: whatever a program leaves behind
becomes the zygote's child, so "no children" means that nothing is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import mmap
import os
import random
import resource
import signal
import socket
import struct
import sys
import time

from sandbox.runner import program, seccomp

REQUEST = struct.Struct(">I")  # CPU seconds
REPLY = struct.Struct(">iBId")  # wait status, are strays left, maximum resident KiB, seconds
CHILD = struct.Struct("=I")  # process id of the running program
FILES = 5
RUNNER_PATH = "/opt/codelutra"
PR_SET_CHILD_SUBREAPER = 36


class Forked(BaseException):
    """Raised in a whole program's fresh process, up through all frames of the runner, so that it begins below none."""


def serve(
    control: socket.socket, current: mmap.mmap, uid: int, home: str, limits: dict[str, int], preload: list[str]
) -> None:
    """Fork programs until the supervisor goes away. Runs in a process of its own; never returns."""
    warm(preload)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.chdir(home)
    os.umask(0o077)
    os.environ.clear()
    os.environ.update(ENVIRONMENT, HOME=home, TMPDIR=home)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    gc.collect()
    gc.freeze()
    control.send(b"ready" + seccomp.install().encode())
    while True:
        message, files, _, _ = socket.recv_fds(control, REQUEST.size, FILES)
        if not message:
            os._exit(0)
        answer(control, current, message, files, uid)


ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUTF8": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def warm(preload: list[str]) -> None:
    """Import what programs are likely to import, so that each of them finds it there."""
    sys.path[:] = [entry for entry in sys.path if entry != RUNNER_PATH]
    for name in preload:
        importlib.import_module(name)


def answer(control: socket.socket, current: mmap.mmap, message: bytes, files: list[int], uid: int) -> None:
    """Fork one program, wait for it, say how it ended, and then wait until everything it started is gone."""
    started = time.monotonic()
    child = fork()
    if child == 0:
        try:
            current.close()  # shared memory: what one program wrote there the next would read
            become(uid, *REQUEST.unpack(message), *files)
        except BaseException:  # noqa: BLE001 - nobody is there to hear of it
            os._exit(program.NO_RESULT)
        if len(files) == FILES:
            raise Forked
        program.run()
    CHILD.pack_into(current, 0, child)
    for file in files:
        os.close(file)
    _, status, usage = os.wait4(child, 0)
    while os.WIFSTOPPED(status):  # it made us its tracer: let it hang there until its deadline
        _, status, usage = os.wait4(child, 0)
    strays = children_left(block=False)
    control.send(REPLY.pack(status, strays, usage.ru_maxrss & 0xFFFFFFFF, time.monotonic() - started))
    if strays:
        children_left(block=True)
        control.send(b"clean")


def fork() -> int:
    """Fork, giving the kernel a moment to free the process slots of a fork bomb that was just killed."""
    for pause in (0.01, 0.05, 0.2, 1.0):
        with contextlib.suppress(BlockingIOError):
            return os.fork()
        time.sleep(pause)
    return os.fork()


def children_left(*, block: bool) -> bool:
    while True:
        try:
            pid, _ = os.waitpid(-1, 0 if block else os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def become(uid: int, cpu_seconds: int, job: int, result: int, stdout: int, stderr: int, *stdin: int) -> None:
    """Turn the fresh child into the untrusted user: own session, own files, no way back, no way out."""
    os.setsid()
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # when memory runs out it is the program that goes, not the runner
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    body = program.read_file(job)  # leaves the offset at the end, where "begun" goes
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    program.accept(json.loads(body), whole=bool(stdin))
    os.dup2(stdin[0] if stdin else os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(result, program.RESULT_FD, inheritable=False)
    os.write(job, b"b")  # begun: the supervisor looks for it, and the program does not get this file
    os.closerange(program.RESULT_FD + 1, 256)
    os.setresuid(uid, uid, uid)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
