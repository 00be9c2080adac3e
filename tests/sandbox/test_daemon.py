"""A daemon that is far away, too old, absent, or gone in the middle. The wire between is real, and ours to cut."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from sandbox import Pool, PythonJob, SandboxError, SqlJob, ensure_daemon_reachable
from sandbox.attacks import RIGHT_QUERY
from sandbox.client import connect
from sandbox.owner import POOL
from tests.helpers.http import Raw, answering

SOCKET = "/var/run/docker.sock"


class Wire:
    """A TCP port that leads to the local daemon's socket, until it is cut."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.is_cut = False
        self.ends: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.run(self.accept)

    def run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self.threads.append(thread)

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut:
                near.close()
                continue
            far = socket.socket(socket.AF_UNIX)
            far.connect(SOCKET)
            self.ends += [near, far]
            self.run(self.copy, near, far)
            self.run(self.copy, far, near)

    def copy(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.is_cut = True
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)
        for end in self.ends:
            end.close()


@pytest.fixture
def wire(image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    wire = Wire()
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{wire.port}")
    yield wire
    wire.close()


def jobs(count: int) -> Iterator[PythonJob]:
    return (PythonJob(str(n), "pass", (str(n),)) for n in range(count))


def test_a_daemon_behind_tcp_serves_programs_and_databases(
    wire: Wire, image: str, databases: dict[str, object], database: str
) -> None:
    with Pool(image=image, workers=1, databases=databases, run="tests") as pool:  # type: ignore[arg-type]
        assert [r.value[0]["value"] for r in pool.map(jobs(50))] == list(range(50))
        (answer,) = pool.map([SqlJob("q", database, RIGHT_QUERY)])
        assert answer.value["rows"] == [["Ada"], ["Bo"]]


def test_a_daemon_that_comes_back_loses_no_result(wire: Wire, image: str) -> None:
    with Pool(image=image, workers=1, run="tests") as pool:
        values = []
        for result in pool.map(jobs(300)):
            values.append(result.value[0]["value"])
            if len(values) == 30:
                wire.cut()
                threading.Timer(2.0, lambda: setattr(wire, "is_cut", False)).start()
        assert values == list(range(300))
        assert pool.replaced


def test_a_daemon_that_stays_away_is_a_clear_stop_and_no_label(
    wire: Wire, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.pool.START_PAUSES", (0.0, 0.2, 0.2, 0.2))
    pool = Pool(image=image, workers=2, run="tests")
    stream = pool.map(jobs(3000))
    seen = [next(stream) for _ in range(30)]
    wire.cut()
    with pytest.raises(SandboxError, match="does not start"):
        seen.extend(stream)
    assert all(result.status == "ok" for result in seen)
    pool.close()  # without the daemon: what stopped the work is not hidden by another error
    wire.is_cut = False
    until = time.monotonic() + 20
    with closing(connect()) as client:
        while left := client.api.containers(all=True, filters={"label": f"{POOL}={pool.settings.pool}"}):
            assert time.monotonic() < until, left
            time.sleep(0.1)


@pytest.mark.parametrize("version", ["1.24", "1.39"])
def test_a_daemon_that_is_too_old_is_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda _: Raw(200, {"ApiVersion": version, "Version": "1.0"}), "") as url:
        monkeypatch.setenv("DOCKER_HOST", url.replace("http", "tcp"))
        with pytest.raises(SandboxError, match=version.replace(".", r"\.")):
            ensure_daemon_reachable()


def test_an_absent_daemon_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(SandboxError, match=r"(?s)127\.0\.0\.1:1.*DOCKER_HOST"):
        ensure_daemon_reachable()
