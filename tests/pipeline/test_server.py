"""Prefect's server answers who has its password, and its UI shows no run as going on whose process is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running

from codelutra.errors import UserError
from tasks.server import OURS, crash_dead_runs, require_server, worker_name
from tests.helpers.http import Raw, answering
from tests.helpers.prefect_server import ROOT, asking, clean_environment, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STARTS = """
import sys, time
from prefect import flow, task
from tasks.server import claim

@task
def waits(seconds):
    print("waiting", flush=True)
    time.sleep(seconds)

@flow(name="waits", on_running=[claim])
def waiting(config, overrides, home):
    waits.submit(float(home)).result()
"""
WATCHED = STARTS + "\nfrom flows.command import main\nmain(waiting)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[dict[str, str]]:
    with served(folder) as env:
        yield env


def ask(url: str, password: str = "", **headers: str) -> tuple[int, Any]:
    """Status and headers."""
    import base64

    if password:
        headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as e:
        return e.code, e.headers


def flow_runs(env: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Flow → state and message, of the newest flow run."""
    code = (
        "import json\nfrom prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as c:\n"
        "    print(json.dumps([(r.id.hex, r.state_name, r.state.message or '') for r in c.read_flow_runs()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return {i: (name, message) for i, name, message in json.loads(done.stdout.splitlines()[-1])}


@contextmanager
def started(env: dict[str, str], *, seconds: float = 300) -> Iterator[subprocess.Popen[bytes]]:
    """A flow in a process of its own, which waits by now; the block has to end it."""
    command = [sys.executable, "-c", WATCHED, "demo", "--home", str(seconds), "--watched"]
    with (
        NamedTemporaryFile() as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd=ROOT) as process,
    ):
        while b"\nwaiting\n" not in Path(log.name).read_bytes():
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.2)
        yield process


def test_the_ui_s_server_answers_nobody_without_the_password(server: dict[str, str], folder: Path) -> None:
    api = server["PREFECT_API_URL"]
    assert [ask(f"{api}/admin/version", p)[0] for p in ("", "codelutra:wrong", server["PREFECT_API_AUTH_STRING"])] == [
        401,
        401,
        200,
    ]
    password = server["PREFECT_API_AUTH_STRING"]
    _, foreign = ask(f"{api}/admin/version", password, Origin="http://evil.example")
    assert "access-control-allow-origin" not in foreign
    _, own = ask(f"{api}/admin/version", password, Origin=api.removesuffix("/api"))
    assert own["access-control-allow-origin"] == api.removesuffix("/api")
    file = folder / ".config" / "codelutra" / "prefect.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert server["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith(".filesystem")
    assert len(password) > 30


def test_the_ui_does_not_start_without_a_password(tmp_path: Path) -> None:
    folder = tmp_path / ".config" / "codelutra"
    folder.mkdir(parents=True)
    (folder / "prefect.env").write_text("PREFECT_API_URL=http://127.0.0.1:4200/api\n")
    done = subprocess.run([ROOT / "scripts" / "ui.sh"], env=clean_environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, "holds no PREFECT_SERVER_API_AUTH_STRING" in done.stderr) == (2, True), done


def test_a_run_that_was_killed_is_crashed_once_the_next_starts(server: dict[str, str]) -> None:
    with started(server) as killed, started(server) as going_on:
        open_before = {i for i, (state, _) in flow_runs(server).items() if state == "Running"}
        assert len(open_before) == 2
        killed.kill()
        killed.wait()
        with started(server) as next_one:
            states = flow_runs(server)
            assert sorted(states[i][0] for i in open_before) == ["Crashed", "Running"], "only that of the dead process"
            (message,) = [states[i][1] for i in open_before if states[i][0] == "Crashed"]
            assert "its process has ended" in message
            assert going_on.stdin
            going_on.stdin.close()  # as `codelutra run` ends it
            next_one.send_signal(signal.SIGTERM)  # as `kill` does
            assert [p.wait(timeout=60) for p in (going_on, next_one)] == [143, 143]
    assert {state for state, _ in flow_runs(server).values()} == {"Crashed"}


def test_a_worker_that_starts_marks_what_died_with_the_last_one(server: dict[str, str]) -> None:
    """After a reboot no other run is going on that could: the next one waits for the slot of the dead one."""
    with started(server) as killed:
        killed.kill()
    (dead,) = (i for i, (state, _) in flow_runs(server).items() if state == "Running")
    command = [ROOT / "scripts" / "worker.sh", "--run-once"]
    done = subprocess.run(command, env=server, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "still open and its process has ended" in done.stderr
    assert flow_runs(server)[dead][0] == "Crashed"


def test_a_worker_without_settings_or_server_says_what_to_start(server: dict[str, str], tmp_path: Path) -> None:
    worker = ROOT / "scripts" / "worker.sh"
    done = subprocess.run([worker], env=clean_environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, "The first `make ui` writes it" in done.stderr) == (2, True), done


def test_what_no_process_was_started_for_is_crashed_after_a_while(server: dict[str, str]) -> None:
    """A worker took it and ended. One of somebody else's flow is left alone."""

    @flow(name="waits")
    def waiting() -> None: ...

    with asking(server), get_client(sync_client=True) as client:
        given = [([OURS], Pending()), ([OURS], Running()), ([], Pending())]
        taken = [client.create_flow_run(waiting, tags=tags, state=state).id for tags, state in given]

        def states() -> list[str | None]:
            return [client.read_flow_run(i).state_name for i in taken]

        crash_dead_runs()
        assert states() == ["Pending", "Running", "Pending"], "they may be starting"
        client.update_flow_run_labels(taken[0], {"prefect.worker.name": worker_name()})
        crash_dead_runs()
        assert states() == ["Pending", "Running", "Pending"], "their worker is there"
        (dead := subprocess.Popen(["true"])).wait()
        gone = worker_name().replace(f" {os.getpid()} ", f" {dead.pid} ")
        client.update_flow_run_labels(taken[0], {"prefect.worker.name": gone})
        crash_dead_runs()
        assert states() == ["Crashed", "Running", "Pending"]
        crash_dead_runs(unmarked_seconds=0)
        assert states() == ["Crashed", "Crashed", "Pending"]
        for i in taken:
            client.delete_flow_run(i)


def test_the_temporary_server_answers_its_run_alone_and_ends_with_it(tmp_path: Path) -> None:
    env = clean_environment(tmp_path)
    with started(env) as process:
        (port,) = servers_of(process.pid)
        assert ask(f"http://127.0.0.1:{port}/api/admin/version")[0] == 401
        _, headers = ask(f"http://127.0.0.1:{port}/api/health", Origin="http://evil.example")
        assert "access-control-allow-origin" not in headers
        process.send_signal(signal.SIGTERM)  # to the process alone
        assert process.wait(timeout=60) == 143
    end = time.monotonic() + 10  # a killed process's port is open until the kernel has taken the process down
    while is_open(int(port)):
        assert time.monotonic() < end, "it has outlived its run"
        time.sleep(0.1)
    assert {state for state, _ in flow_runs(env).values()} == {"Crashed"}


def is_open(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def servers_of(pid: int) -> list[str]:
    """Ports of the temporary servers that a process has started."""
    ports = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            words = (path / "cmdline").read_text().split("\0")
            if parent == str(pid) and "--port" in words:
                ports.append(words[words.index("--port") + 1])
    return ports


@pytest.mark.parametrize(
    ("status", "said"), [(200, "does not answer as one"), (404, "does not answer as one"), (401, "asks for a password")]
)
def test_a_server_that_is_none_or_wants_another_password_is_one_clear_message(status: int, said: str) -> None:
    page = answering(lambda _: Raw(status, "<a/>"), "/api")
    with page as api, temporary_settings({PREFECT_API_URL: api}), pytest.raises(UserError, match=f"{api} .*{said}"):
        require_server()
    with temporary_settings({PREFECT_API_URL: api}), pytest.raises(UserError, match="unset PREFECT_API_URL"):
        require_server()
