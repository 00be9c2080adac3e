"""A small Ray cluster on this machine: a head and nodes, each with a raylet, an address and a process group of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.helpers.ports import free_port

ROOT = Path(__file__).parents[2]
# `ray start`, which gives up after 30 seconds: on a busy machine a node takes longer.
RAY_START = """
import sys, time
from ray._private import services

found = services.get_node

def waited_for(*given):
    end = time.monotonic() + 240
    while True:
        try:
            return found(*given)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)

services.get_node = waited_for
from ray.scripts.scripts import main

main()
"""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # other tests use this machine's memory, too
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    # Who is gone is noticed after seconds, and a busy machine is not taken for one that is gone.
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_agent_register_timeout_ms": "240000",
}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class RayCluster:
    """A head that offers nothing, and nodes that are added; all end with the `with` block."""

    def __init__(self, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets have short names
        self.environment = os.environ | QUIET | environment
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        port = self.address.rpartition(":")[2]
        try:
            self._start(
                "--head", "--port", port, "--temp-dir", str(self.folder), "--include-dashboard=false", "--num-cpus=0"
            )
            self.wait()
        except BaseException:
            self.close()
            raise

    def _start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        own = ("--num-gpus=0", "--object-store-memory=80000000", "--disable-usage-stats", "--block")
        log = self.folder / f"node-{len(self.nodes)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-c", RAY_START, "start", *arguments, *own]
            process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=self.environment | more,
                start_new_session=True,
            )
        self.nodes.append(process)
        return process

    def wait(self, seconds: float = 300) -> None:
        """Until every node that was started and not killed has joined."""
        end = time.monotonic() + seconds
        for number, node in enumerate(self.nodes):
            log = self.folder / f"node-{number}.log"
            while node.returncode is None and "Ray runtime started" not in log.read_text():
                assert node.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)

    def add(self, cpus: int = 1, docker: bool = True, **environment: str) -> subprocess.Popen[bytes]:
        """A node with an address of its own, once it has joined: of several that start at once some never do."""
        offered = json.dumps({"docker": 1} if docker else {})
        at = f"--node-ip-address=127.0.0.{len(self.nodes) + 1}"
        node = self._start("--address", self.address, at, f"--num-cpus={cpus}", f"--resources={offered}", **environment)
        self.wait()
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """kill -9 of a node's raylet and of all that Ray runs beside it; then of its workers."""
        workers = self.workers(node)
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()

    def workers(self, node: subprocess.Popen[bytes]) -> list[int]:
        """Processes that hold something for somebody on a node: each is a group of its own below the raylet, which is in
        the node's group."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError, ValueError):
                if path.read_bytes().startswith(b"ray::Held") and os.getpgid(parent(int(path.parent.name))) == node.pid:
                    found.append(int(path.parent.name))
        return found

    def runs(self, node: subprocess.Popen[bytes], module: str) -> bool:
        """Whether a worker of a node has started this module."""
        workers = self.workers(node)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError, ValueError):
                if module.encode() in path.read_bytes().split(b"\0") and parent(int(path.parent.name)) in workers:
                    return True
        return False

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
