"""The command line as a user gives it.

Importing what commands need takes longer than most of them do. So a command is forked from a process that has imported it:
with arguments, environment, output and an exit code of its own, as if it had been started.

python -m tests.helpers.commands SOCKET      is that process
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

IMPORTED = (
    "codelutra.cli.app",
    "codelutra.cli.doctor",
    "codelutra.cli.follow",
    "codelutra.cli.shelf",
    "codelutra.cli.tables",
    "codelutra.experiments.run_list",
    "codelutra.pipeline.check",
    "codelutra.pipeline.start",
    "codelutra.pipeline.startable",
    "codelutra.planning.plan",
    "codelutra.results.findings",
)
WHERE = Path.cwd()
# What Python and libraries read when they start: a command with others than ours is started by itself.
AT_START = ("PYTHON", "LC_", "LANG", "LD_", "POLARS_", "HF_", "DOCKER_", "TZ")


def codelutra(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """`codelutra ARGS` in a process of its own; `env` is laid over the environment."""
    environment = os.environ | env
    if _at_start(environment) != _at_start(dict(os.environ)) or not _is_here():
        command = [sys.executable, "-m", "codelutra.cli", *args]
        return subprocess.run(command, capture_output=True, text=True, env=environment)
    out, err, end = os.pipe(), os.pipe(), os.pipe()
    asked = json.dumps({"args": args, "env": environment}).encode()
    socket.send_fds(_commands(_at_start(environment)), [asked], [out[1], err[1], end[1]])
    for _, ours in (out, err, end):
        os.close(ours)
    with ThreadPoolExecutor(3) as readers:  # all at once: a pipe takes no more than 64 KiB that nobody reads
        said, told, code = readers.map(_read, (out[0], err[0], end[0]))
    return subprocess.CompletedProcess(["codelutra", *args], int(code), said, told)


def _at_start(environment: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((k, v) for k, v in environment.items() if k.startswith(AT_START)))


def _is_here() -> bool:
    """The folder a command is given in is on its path of imports."""
    try:
        return Path.cwd() == WHERE
    except FileNotFoundError:
        return False


def _read(pipe: int) -> str:
    with open(pipe, encoding="utf-8") as text:
        return text.read()


@cache
def _commands(at_start: tuple[tuple[str, str], ...]) -> socket.socket:
    """The process that forks commands, which ends with ours; in the environment that Python and libraries have read."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.helpers.commands", str(its.fileno())]
    pipe = subprocess.PIPE  # whose streams a command inherits: they are those of a pipe, too
    _running.append(subprocess.Popen(command, pass_fds=[its.fileno()], stdout=pipe, stderr=pipe))
    its.close()
    return ours


_running: list[subprocess.Popen[bytes]] = []  # to the end of ours


def main(control: int) -> None:
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=control) as asking:
        while True:
            asked, (*pipes,), *_ = socket.recv_fds(asking, 1 << 20, 3)
            if not asked:
                return
            if not os.fork():
                break
            for pipe in pipes:
                os.close(pipe)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, end = pipes
    if pid := os.fork():
        os.close(out)
        os.close(err)
        os.write(end, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        os._exit(0)
    os.close(end)
    for pipe, number in ((out, 1), (err, 2)):
        os.dup2(pipe, number)
        os.close(pipe)
    said = json.loads(asked)
    os.environ.clear()
    os.environ.update(said["env"])
    sys.argv = ["codelutra", *said["args"]]
    runpy.run_module("codelutra.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
