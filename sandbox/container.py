"""One warm container: how it is locked down, started, spoken to and removed."""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import ssl
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions

from sandbox import image as images
from sandbox import owner
from sandbox.errors import SandboxError
from sandbox.runner import wire

MAIN = (
    "import sys; sys.path.insert(0, '/opt/codelutra'); from sandbox.runner import program, supervisor; "
    "forked = supervisor.main(); program.run()"
)
COMMAND = ["/opt/codelutra/python3", "-s", "-P", "-B", "-c", MAIN]
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/box/w",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# Nothing that a program could leave for the next one: no System V IPC, no message queues.
SYSCTLS = {"kernel.shmmni": "0", "kernel.msgmni": "0", "kernel.sem": "1 1 1 0", "fs.mqueue.queues_max": "0"}
SYSCTLS |= {"net.ipv4.tcp_max_tw_buckets": "0"}  # and no port in TIME_WAIT
SCRATCH_MB, SHARED_MB = 64, 16  # a program's files; its semaphores and shared memory
FILE_MB = 32
STREAM_HEAD = struct.Struct(">BxxxI")
STDOUT, STDERR = 1, 2
CHUNK_BYTES = 1 << 20
START_SECONDS = 180.0
READ_BYTES = 1 << 18
# What a stream raises that has nothing to read or no room to write at the moment; TLS has errors of its own for it.
NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Gone(Exception):
    """The container ended, or it said something that the runner never says."""


@dataclass
class Settings:
    """What all containers of a pool have in common."""

    image: str
    preload: list[str]
    run: str
    pool: str
    memory_mb: int
    pids: int
    runtime: str | None
    database_mb: int  # room for databases; they are kept in memory
    data_mount: Path | None
    everything_fits: bool  # all databases at once; else some are dropped before others are sent
    databases: dict[str, Path] = field(default_factory=dict)


def host_config(client: docker.DockerClient, settings: Settings, uid: int) -> Any:
    """Docker's limits and denials for a container: network, writing, capabilities, memory, processes."""
    mounts = [f"{settings.data_mount.resolve()}:/data:ro"] if settings.data_mount else []
    memory = (settings.memory_mb + settings.database_mb) << 20
    return client.api.create_host_config(
        network_mode="none",
        read_only=True,
        tmpfs={
            "/box/w": f"size={SCRATCH_MB}m,nr_inodes=4096,mode=1770,uid=0,gid={uid},nosuid,nodev,noexec",
            "/dev/shm": f"size={SHARED_MB}m,nr_inodes=1024,mode=1770,uid=0,gid={uid},nosuid,nodev,noexec",
            "/box/db": f"size={settings.database_mb + 1}m,mode=0750,uid=0,gid={uid + 2},nosuid,nodev,noexec",
        },
        cap_drop=["ALL"],
        cap_add=["SETUID", "SETGID", "KILL"],
        security_opt=["no-new-privileges"],
        mem_limit=memory,
        memswap_limit=memory,
        pids_limit=settings.pids,
        init=True,
        ipc_mode="none",
        sysctls=SYSCTLS,
        runtime=settings.runtime,
        auto_remove=True,
        binds=mounts,
        log_config=docker.types.LogConfig(type="none"),
    )


def runner_config(settings: Settings, uid: int) -> str:
    """What the runner gets at its start, as JSON: user id, limits, modules to import."""
    program_mb = settings.memory_mb - SCRATCH_MB // 2
    both, processes = {"NOFILE": 256, "CORE": 0}, max(16, settings.pids - 16)
    limits = both | {"AS": program_mb << 20, "FSIZE": FILE_MB << 20, "NPROC": processes, "MSGQUEUE": 0, "MEMLOCK": 0}
    sql = both | {"HEAP": (program_mb // 2) << 20, "AS": (program_mb + settings.database_mb) << 20, "FSIZE": 0}
    return json.dumps({"uid": uid, "limits": limits, "sql": sql, "preload": settings.preload})


class Container:
    """Owns one running container and its stream; never blocks once started."""

    def __init__(self, client: docker.DockerClient, settings: Settings, name: str, uid: int) -> None:
        self.client, self.settings, self.name = client, settings, name
        self.id = ""
        self.attached: Any = None
        self.outbox: deque[memoryview] = deque()
        self.raw, self.frames = bytearray(), bytearray()
        self.stderr = b""
        self.unfiltered = ""  # why programs run without the runner's seccomp filter, where they do
        self.resident: OrderedDict[str, int] = OrderedDict()
        try:
            self.start(uid)
            self.greet()
        except (docker.errors.APIError, requests.exceptions.RequestException, OSError) as error:
            self.remove()
            raise SandboxError(f"container {name} of image {settings.image} does not start: {str(error)[:500]}") from error
        except Gone as error:
            self.remove()
            raise SandboxError(
                f"the runner in {settings.image} did not start: {error}\n"
                f"If it was killed, memory_mb={settings.memory_mb} is below what the image needs to import its libraries; "
                "else build the image again with `python -m sandbox.image`."
            ) from error

    def start(self, uid: int) -> None:
        api, settings = self.client.api, self.settings
        made = api.create_container(
            settings.image,
            COMMAND,
            name=self.name,
            hostname="sandbox",
            stdin_open=True,
            user="0:0",
            working_dir="/",
            labels=owner.labels(settings.run, settings.pool),
            entrypoint="",
            environment={**ENVIRONMENT, "CODELUTRA_RUNNER": runner_config(settings, uid)},
            host_config=host_config(self.client, settings, uid),
            network_disabled=True,
        )
        self.id = made["Id"]
        self.attached = api.attach_socket(self.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self.stream: socket.socket = getattr(self.attached, "_sock", self.attached)
        self.stream.setblocking(False)
        api.start(self.id)

    def greet(self) -> None:
        """Wait for the runner's first frame. Raises Gone."""
        end = time.monotonic() + START_SECONDS
        arriving = select.poll()
        arriving.register(self.stream, select.POLLIN)
        while time.monotonic() < end:
            for kind, payload in self.receive() if arriving.poll(1000) else []:
                if kind != wire.HELLO:
                    raise Gone(f"{payload[-800:].decode('utf-8', 'replace')} {self.said()}")
                hello = json.loads(payload)
                if hello["protocol"] != wire.PROTOCOL:
                    raise Gone(f"it speaks protocol {payload!r}, this host {wire.PROTOCOL}")
                self.unfiltered = hello["unfiltered"]
                return
        raise Gone(f"nothing was heard within {START_SECONDS:.0f} s. {self.said()}")

    def said(self) -> str:
        return self.stderr.decode("utf-8", "replace").strip()

    def fileno(self) -> int:
        return self.stream.fileno()

    def receive(self) -> list[tuple[int, bytes]]:
        """The frames that have come. Raises Gone when the stream has ended or breaks the protocol."""
        frames: list[tuple[int, bytes]] = []
        while True:
            try:
                data = self.stream.recv(READ_BYTES)
            except NOT_NOW:
                return frames
            except OSError as error:
                raise Gone(str(error)) from error
            if not data:
                if frames:
                    return frames  # the end comes again with the next call
                raise Gone(f"the stream ended. {self.said()}")
            frames += self.take(data)
            if len(data) < READ_BYTES // 4:
                return frames

    def take(self, data: bytes) -> list[tuple[int, bytes]]:
        """Undo Docker's multiplexing of stdout and stderr, then our framing."""
        self.raw += data
        raw, at = self.raw, 0
        while len(raw) - at >= STREAM_HEAD.size:
            channel, length = STREAM_HEAD.unpack_from(raw, at)
            end = at + STREAM_HEAD.size + length
            if len(raw) < end:
                break
            part = raw[at + STREAM_HEAD.size : end]
            at = end
            if channel == STDOUT:
                self.frames += part
            else:
                self.stderr = (self.stderr + part)[-2000:]
        del raw[:at]
        try:
            return list(wire.take_frames(self.frames))
        except wire.BrokenFrame as error:
            raise Gone(str(error)) from error

    def send(self, kind: int, payload: bytes) -> None:
        self.outbox.append(memoryview(wire.frame(kind, payload)))

    def transmit(self) -> None:
        """Send as much as the stream takes. Raises Gone."""
        while self.outbox:
            try:
                sent = self.stream.send(self.outbox[0])
            except NOT_NOW:
                return
            except OSError as error:
                raise Gone(str(error)) from error
            if sent == len(self.outbox[0]):
                self.outbox.popleft()
            else:
                self.outbox[0] = self.outbox[0][sent:]

    def need(self, digests: set[str]) -> None:
        """Queue the databases that this container lacks, and drop those longest unused where room is short.

        `digests` together must fit: see `Pool.batch`.
        """
        for digest in digests & self.resident.keys():
            self.resident.move_to_end(digest)
        for digest in sorted(digests - self.resident.keys()):
            path = self.settings.databases[digest]
            mounted = mounted_path(self.settings.data_mount, path)
            if mounted is not None:
                self.send(wire.MOUNTED, bytes.fromhex(digest) + mounted.encode("utf-8", "surrogateescape"))
                self.resident[digest] = 0
                continue
            size = path.stat().st_size
            for oldest in [held for held in self.resident if held not in digests]:
                if sum(self.resident.values()) + size <= self.settings.database_mb << 20:
                    break
                self.send(wire.DROP, bytes.fromhex(oldest))
                del self.resident[oldest]
            for chunk in chunks(path, digest):
                self.send(wire.CHUNK, bytes.fromhex(digest) + chunk)
            self.send(wire.STORED, bytes.fromhex(digest))
            self.resident[digest] = size

    def remove(self) -> None:
        """Remove the container, whatever state it is in."""
        if self.id:
            owner.remove(self.client, self.id)
        self.hang_up()

    def hang_up(self) -> None:
        """Close the stream: the runner ends when its stdin does."""
        if self.attached is not None:
            self.attached._response.close()
            self.attached.close()
            self.stream.close()
            self.attached = None


def room_for(databases: Mapping[str, Path], database_mb: int, data_mount: Path | None) -> int:
    """Megabytes of memory file system a container needs for its databases, at most `database_mb`. Raises SandboxError."""
    sizes = []
    for digest, path in databases.items():
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SandboxError(f"databases: {digest!r} is not the sha256 hex digest of {path}")
        if not path.is_file():
            raise SandboxError(f"databases: there is no file {path}")
        if mounted_path(data_mount, path) is None:
            sizes.append(path.stat().st_size)
    if sizes and max(sizes) > database_mb << 20:
        raise SandboxError(
            f"a database of {max(sizes) >> 20} MB does not fit into database_mb={database_mb}: raise it, "
            "or set data_mount to the directory the databases are in"
        )
    return min(database_mb, (sum(sizes) >> 20) + len(sizes) // 256 + 1)


def mounted_path(data_mount: Path | None, path: Path) -> str | None:
    """Where the container sees a database of the read-only mount."""
    if data_mount is None or not path.resolve().is_relative_to(data_mount.resolve()):
        return None
    return f"/data/{path.resolve().relative_to(data_mount.resolve())}"


def chunks(path: Path, digest: str) -> list[bytes]:
    """The file in pieces. Raises SandboxError when it has changed since it was announced."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise SandboxError(f"{path} changed since it was announced as {digest}; announce its present digest")
    return [content[at : at + CHUNK_BYTES] for at in range(0, len(content), CHUNK_BYTES)] or [b""]


def preload_of(client: docker.DockerClient, tag: str) -> list[str]:
    """The modules that the image asks to import. Raises SandboxError for an image that is absent or has no runner."""
    try:
        marks = client.images.get(tag).labels
    except docker.errors.ImageNotFound as error:
        raise SandboxError(f"image {tag!r} is not there; build it with `python -m sandbox.image`") from error
    if images.LABEL not in marks:
        raise SandboxError(f"image {tag!r} has no runner in it; use one that `python -m sandbox.image KIND` built")
    modules: list[str] = json.loads(marks[f"{images.LABEL}.preload"])
    return modules
