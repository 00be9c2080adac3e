"""The runner: reads jobs on stdin, answers on stdout, keeps the deadlines.

    docker-init ─ supervisor (root without powers, save to change user and to kill)
                   ├─ zygote      forks every program                    user: the program's, once forked
                   ├─ janitor     kills and wipes after them             user: its own; the program's while it does
                   └─ sql worker  started with the first SQL job         user: its own

A program cannot reach the supervisor's stdin and stdout: they belong to another user's process. When anything here
is not as it should be the supervisor says so in a FATAL frame and ends; the host then starts a fresh container.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from sandbox.runner import duck, janitor, program, sql, wire, zygote
from sandbox.runner.clock import STRETCH, schedule

HOME, STORE, SHARED = "/box/w", "/box/db", "/dev/shm"
FLUSH_BYTES, FLUSH_SECONDS = 1 << 16, 0.02
GRACE_SECONDS = 1.0  # beyond its deadline, for a query that cannot be interrupted
DEAD_SECONDS = 30.0  # a killed program that is not gone by then makes the container unfit
CROWD = 8  # processes and threads a program may start and still count as one that waits for others
READ_BYTES = 1 << 18


Ended = tuple[int, bytes, bytes, bytes]  # status, value, stdout, error


class Unfit(Exception):
    """This container can no longer be trusted with honest work."""


class Supervisor:
    """Owns the three servants and the two streams."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.uid: int = config["uid"]
        self.out: list[bytes] = []
        self.out_size = 0
        self.flushed = time.monotonic()
        self.files: dict[str, str] = {}
        self.partial: dict[str, Any] = {}
        self.sql_pid = 0
        self.child = mmap.mmap(-1, zygote.CHILD.size)
        self.janitor = self.spawn(janitor.serve, socket.SOCK_SEQPACKET, self.uid, self.uid + 1, [HOME, SHARED])[1]
        self.zygote = self.spawn(
            zygote.serve, socket.SOCK_SEQPACKET, self.child, self.uid, HOME, config["limits"], config["preload"]
        )[1]
        self.expect(self.janitor, 30.0)
        self.unfiltered = self.expect(self.zygote, 120.0).removeprefix(b"ready").decode()
        self.progress = mmap.mmap(-1, sql.PROGRESS.size)  # younger than the zygote: programs do not have it
        self.poll = select.poll()
        self.poll.register(self.zygote, select.POLLIN)
        self.poll.register(0, 0)  # reports a hang-up only: the owner is gone
        self.ooms = 0  # of the kernel's, before the running program
        self.crowd = crowd()

    def spawn(self, serve: Callable[..., None], kind: int, *arguments: Any) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        pid = os.fork()
        if pid:
            theirs.close()
            return pid, ours
        try:
            null = os.open("/dev/null", os.O_RDWR)
            control = socket.socket(fileno=os.dup2(theirs.fileno(), 3, inheritable=False))
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.closerange(4, 256)
            serve(control, *arguments)
        except zygote.Forked:
            raise
        except BaseException as problem:  # noqa: BLE001 - the last words of a process that ends here
            print(f"{serve.__module__} died: {program.trace(problem)}", file=sys.stderr, flush=True)
        os._exit(1)

    def expect(self, servant: socket.socket, seconds: float) -> bytes:
        """One message from a servant. Raises Unfit when it is dead or silent."""
        servant.settimeout(seconds)
        try:
            message = servant.recv(4096)
        except TimeoutError:
            message = b""
        if not message:
            raise Unfit("a servant of the runner died or fell silent")
        return message

    def emit(self, result: bytes) -> None:
        self.out.append(result)
        self.out_size += len(result)
        if self.out_size > FLUSH_BYTES or time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.out:
            write(wire.frame(wire.RESULTS, b"".join(self.out)))
            self.out, self.out_size = [], 0
        self.flushed = time.monotonic()

    # programs

    def run_programs(self, payload: bytes) -> None:
        for token, timeout, max_bytes, body, inputs in wire.unpack_programs(payload):
            started = time.monotonic()
            run = self.run_whole(timeout, max_bytes, body, inputs) if inputs else self.run_once(timeout, max_bytes, body)
            self.emit(wire.pack_result(token, run[0], time.monotonic() - started, *run[1:]))

    def run_whole(self, timeout: float, max_bytes: int, body: bytes, inputs: list[bytes]) -> Ended:
        """Run a whole program once for each input, in a process of its own each time: what it printed, or its error.

        An end that says nothing about the other inputs ends it all: out of time, out of memory, blocked.
        """
        answers: list[list[str]] = []
        for text in inputs:
            status, _, printed, error = self.run_once(timeout, max_bytes, body, text)
            if status == wire.OK:
                answers.append(["v", printed.decode("utf-8", "replace")])
                max_bytes = max(0, max_bytes - len(printed))
            elif status == wire.RUNTIME_ERROR:
                said = error.decode("utf-8", "replace").strip().splitlines()
                answers.append(["e", said[-1] if said else "it failed"])
            else:
                return status, b"", printed, error
        return wire.OK, json.dumps({"c": answers}, separators=(",", ":")).encode(), b"", b""

    def run_once(self, timeout: float, max_bytes: int, body: bytes, *stdin: bytes) -> Ended:
        files = [os.memfd_create(name) for name in ("job", "result", "stdout", "stderr", "stdin")[: 4 + len(stdin)]]
        try:
            write(body, files[0])
            for text in stdin:
                write(text, files[4])
                os.lseek(files[4], 0, os.SEEK_SET)
            ended = self.run_program(timeout, max_bytes, files)
            if not os.pread(files[0], 1, len(body)):
                raise Unfit(f"the program could not be started: {ended[3].decode('utf-8', 'replace')}")
            return ended
        finally:
            for file in files:
                os.close(file)

    def run_program(self, timeout: float, max_bytes: int, files: list[int]) -> Ended:
        request, self.ooms = zygote.REQUEST.pack(int(timeout) + 1), oom_kills()
        socket.send_fds(self.zygote, [request], files)
        late = not self.wait(timeout)
        if late:
            self.order(janitor.KILL)
        reply = self.expect(self.zygote, DEAD_SECONDS)
        if len(reply) != zygote.REPLY.size:
            raise Unfit("the zygote broke its protocol")
        ended, strays, _, _ = zygote.REPLY.unpack(reply)
        if strays:
            self.order(janitor.KILL)
            self.expect(self.zygote, DEAD_SECONDS)
        if len(files) > 4:
            with contextlib.suppress(OSError):  # it did with it what it liked: then the janitor does it
                os.unlink(f"{HOME}/{program.FILE}")
        if os.listdir(HOME) or os.listdir(SHARED):
            self.order(janitor.WIPE)
            if os.listdir(HOME) or os.listdir(SHARED):
                raise Unfit("the program's directories cannot be emptied")
        return self.judge_end(late, ended, max_bytes, *files[1:])

    def wait(self, timeout: float) -> bool:
        """Wait for the zygote's reply; results that are ready do not wait with us. False when the time is up.

        Time the program spent runnable, waiting for a CPU, is added: a busy machine must not make a right answer late.
        """
        started = time.monotonic()
        if self.out:
            first = min(timeout, FLUSH_SECONDS)
            if self.ready(first):
                return True
            self.flush()
        allowed = timeout
        while (left := allowed - (time.monotonic() - started)) > 0:
            if self.ready(left):
                return True
            allowed = min(STRETCH * timeout, timeout + self.waited())
        return False

    def waited(self) -> float:
        """Seconds the running program has waited for a CPU; none when it brought the crowd it waits in.

        It could lie about its process id, and gain a stretched deadline, no more.
        """
        if crowd() > self.crowd + CROWD:
            return 0.0
        return schedule(zygote.CHILD.unpack(self.child)[0])[1]

    def ready(self, timeout: float) -> bool:
        events = self.poll.poll(timeout * 1000)
        if any(file == 0 for file, _ in events):
            os._exit(0)
        return bool(events)

    def order(self, what: bytes) -> None:
        self.janitor.send(what)
        if self.expect(self.janitor, DEAD_SECONDS) != what:
            raise Unfit("the janitor broke its protocol")

    def judge_end(self, late: bool, ended: int, max_bytes: int, result: int, stdout: int, stderr: int, *stdin: int) -> Ended:
        """How the program ended, from its exit and from what it left in its files. A whole program is judged by its exit
        code and by what it printed, as by a shell: it writes a result only to say why it failed."""
        printed = os.pread(stdout, max_bytes, 0)
        if late:
            return wire.TIMEOUT, b"", printed, b"the program did not end in time"
        if os.fstat(stdout).st_size > max_bytes:
            return wire.RESOURCE_LIMIT, b"", printed, b"printed more than %d bytes" % max_bytes
        if os.WIFSIGNALED(ended):
            status, error = self.judge_signal(os.WTERMSIG(ended))
            return status, b"", printed, error + tail(stderr)
        if not os.WIFEXITED(ended):
            raise Unfit(f"the zygote reports a program that has not ended: wait status {ended}")
        if stdin and os.WEXITSTATUS(ended) == 0:
            return wire.OK, b"", printed, b""
        size = os.fstat(result).st_size
        if size > max_bytes + program.HEAD.size + 4 * program.ERROR_CHARS:
            return wire.RESOURCE_LIMIT, b"", printed, b"the result has more than %d bytes" % max_bytes
        document = os.pread(result, size, 0)
        if size < program.HEAD.size:
            how = b"exit code %d " if stdin else b"ended without a result (exit code %d) "
            return wire.RUNTIME_ERROR, b"", printed, how % os.WEXITSTATUS(ended) + tail(stderr)
        mark, status, n_value, n_error = program.HEAD.unpack_from(document)
        if mark != program.MARK or size != program.HEAD.size + n_value + n_error or status >= wire.INFRA_ERROR:
            return wire.BLOCKED, b"", printed, b"the program wrote into its result file"
        if stdin and status == wire.OK:
            return wire.RUNTIME_ERROR, b"", printed, b"exit code %d" % os.WEXITSTATUS(ended)
        value = document[program.HEAD.size : program.HEAD.size + n_value]
        return status, value, printed, document[program.HEAD.size + n_value :]

    def judge_signal(self, number: int) -> tuple[int, bytes]:
        name = signal.Signals(number).name.encode() if number in set(signal.Signals) else b"%d" % number
        if number == signal.SIGXCPU:
            return wire.TIMEOUT, b"used up its CPU time "
        if number == signal.SIGXFSZ:
            return wire.RESOURCE_LIMIT, b"wrote too large a file "
        if number == signal.SIGKILL and oom_kills() > self.ooms:
            return wire.RESOURCE_LIMIT, b"killed: the container ran out of memory "
        return wire.RUNTIME_ERROR, b"killed by " + name + b" "

    # queries

    def run_queries(self, payload: bytes) -> None:
        """Hand a batch to the worker. One that hangs or dies costs the query it was at, and nobody else's."""
        while payload:
            if not self.sql_pid:
                serve = duck.serve if "duckdb" in self.config["preload"] else sql.serve
                self.sql_pid, self.sql = self.spawn(
                    serve, socket.SOCK_STREAM, self.progress, self.uid + 2, self.files, dict(self.config["sql"])
                )
                sql.PROGRESS.pack_into(self.progress, 0, 0, time.monotonic(), 0.0)
            try:
                self.sql.settimeout(DEAD_SECONDS)
                self.sql.sendall(sql.LENGTH.pack(len(payload)) + payload)
            except OSError as problem:
                raise Unfit(f"the SQL worker does not listen: {problem}") from problem
            answered = self.collect(payload)
            if answered is None:
                return
            os.kill(self.sql_pid, signal.SIGKILL)
            os.waitpid(self.sql_pid, 0)
            self.sql.close()
            self.sql_pid = 0
            token, started, _ = sql.PROGRESS.unpack(self.progress)
            jobs = [job for job in json.loads(payload) if job[0] not in answered]
            if any(job[0] == token for job in jobs):
                seconds = time.monotonic() - started
                late = next(job[3] for job in jobs if job[0] == token) <= seconds
                status, error = (wire.TIMEOUT, b"did not end in time") if late else (wire.RESOURCE_LIMIT, b"died")
                self.emit(wire.pack_result(token, status, seconds, error=b"the query " + error))
            left = [job for job in jobs if job[0] != token]
            payload = json.dumps(left).encode() if left else b""

    def collect(self, payload: bytes) -> set[int] | None:
        """Pass the worker's blocks on. None when the batch is done, else the tokens that were answered."""
        buffer, answered = bytearray(), set[int]()
        timeouts: dict[int, float] = {}
        while True:
            self.sql.settimeout(FLUSH_SECONDS if self.out else 0.5)
            try:
                data = self.sql.recv(READ_BYTES)
                if not data:
                    return answered
            except TimeoutError:
                self.flush()
                self.ready(0)
                timeouts = timeouts or {job[0]: job[3] for job in json.loads(payload)}
                token, started, used = sql.PROGRESS.unpack(self.progress)
                allowed = timeouts.get(token, 0.0)
                if schedule(self.sql_pid)[0] - used > allowed + GRACE_SECONDS:
                    return answered
                if time.monotonic() - started > STRETCH * allowed + GRACE_SECONDS:
                    return answered
                continue
            buffer += data
            while len(buffer) >= sql.LENGTH.size:
                (length,) = sql.LENGTH.unpack_from(buffer)
                if length == 0:
                    return None
                end = sql.LENGTH.size + length
                if len(buffer) < end:
                    break
                block = bytes(buffer[sql.LENGTH.size : end])
                del buffer[:end]
                answered.update(record.token for record in wire.unpack_results(block))
                self.emit(block)

    # databases

    def chunk(self, payload: bytes) -> None:
        digest = payload[:32].hex()
        if digest not in self.partial:
            self.partial[digest] = (open(f"{STORE}/{digest}", "xb"), hashlib.sha256())  # noqa: SIM115 - closed when whole
        file, seen = self.partial[digest]
        file.write(payload[32:])
        seen.update(payload[32:])

    def stored(self, payload: bytes) -> None:
        digest = payload[:32].hex()
        file, seen = self.partial.pop(digest)
        file.close()
        if seen.hexdigest() != digest:
            raise Unfit(f"database {digest} arrived with another digest")
        os.chmod(file.name, 0o444)
        self.know(digest, file.name)

    def know(self, digest: str, path: str) -> None:
        self.files[digest] = path
        self.tell_worker({"know": digest, "path": path})

    def tell_worker(self, news: dict[str, str]) -> None:
        if self.sql_pid:
            text = json.dumps(news).encode()
            self.sql.sendall(sql.LENGTH.pack(len(text)) + text)

    def drop(self, payload: bytes) -> None:
        digest = payload.hex()
        path = self.files.pop(digest)
        self.tell_worker({"forget": digest})
        if path.startswith(STORE):
            os.unlink(path)

    def mounted(self, payload: bytes) -> None:
        self.know(payload[:32].hex(), payload[32:].decode("utf-8", "surrogateescape"))

    def serve(self) -> None:
        """Obey frames until stdin ends: that is how a container learns that its owner is gone."""
        obey = {
            wire.PYTHON: self.run_programs,
            wire.SQL: self.run_queries,
            wire.CHUNK: self.chunk,
            wire.STORED: self.stored,
            wire.MOUNTED: self.mounted,
            wire.DROP: self.drop,
        }
        buffer = bytearray()
        while data := os.read(0, READ_BYTES):
            buffer += data
            for kind, payload in wire.take_frames(buffer):
                obey[kind](payload)
            self.flush()


def oom_kills() -> int:
    """How often the kernel killed in this container for want of memory (cgroup v2, then v1); 0 where it won't say."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path) as file:
                return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        except OSError:
            continue
    return 0


def crowd() -> int:
    """How many processes and threads there are in this container; 0 where the kernel won't say."""
    for path in ("/sys/fs/cgroup/pids.current", "/sys/fs/cgroup/pids/pids.current"):
        try:
            with open(path) as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


def tail(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, program.ERROR_CHARS, max(0, size - program.ERROR_CHARS))


def write(document: bytes, file: int = 1) -> None:
    view = memoryview(document)
    while view:
        view = view[os.write(file, view) :]


def fatal(message: str) -> NoReturn:
    write(wire.frame(wire.FATAL, message.encode("utf-8", "replace")))
    os._exit(3)


def main() -> BaseException:
    """Supervise until stdin ends. Returns in the process of a program alone, which is then the caller's to run.

    The exception keeps the runner's frames, with sockets in them that must not close the program's files.
    """
    try:
        supervisor = Supervisor(json.loads(os.environ.pop("CODELUTRA_RUNNER")))
        hello = {"protocol": wire.PROTOCOL, "python": sys.version.split()[0], "unfiltered": supervisor.unfiltered}
        write(wire.frame(wire.HELLO, json.dumps(hello).encode()))
        supervisor.serve()
    except (Unfit, wire.BrokenFrame, OSError, KeyError, ValueError, struct.error) as problem:
        fatal(program.trace(problem))
    except zygote.Forked as forked:
        return forked
    os._exit(0)
