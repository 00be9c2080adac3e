"""A night tells Prefect what came of it, and Prefect's server tells people."""

from __future__ import annotations

import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.states import Crashed, Running

from codelutra.experiments.retrain import next_retraining
from codelutra.pipeline.run import Run
from tests.helpers.http import Asked, Raw, answering
from tests.helpers.prefect_server import ROOT, asking, clean_environment, served
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with served(tmp_path_factory.mktemp("prefect")) as env:
        yield env


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web hook, and what it has got."""
    got = list[dict[str, Any]]()

    def answer(asked: Asked) -> Raw:
        got.append(asked.body)
        return Raw(200, "")

    with answering(answer, "/secret-path") as url:
        yield url, got


def notify(env: dict[str, str], *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/notify.py", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, input=stdin)


def heard(got: list[Any], n: int, seconds: float = 90) -> list[Any]:
    until = time.monotonic() + seconds
    while len(got) < n and time.monotonic() < until:
        time.sleep(0.2)
    return got


def retrain(env: dict[str, str], home: Path, config: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """The flow, as a worker runs it: by itself."""
    given = {"config": str(config), "home": str(home), **more}
    code = f"from flows.retrain import retrain; retrain(**{given!r})"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT)


def test_a_web_hook_hears_of_a_night_promoted_kept_failed_and_crashed(
    server: dict[str, str], hook: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    address, got = hook
    done = notify(server, "--to", "-", stdin=address + "\n")
    assert done.returncode == 0, done.stderr
    again = notify(server, "--to", address)  # replaces, so that nobody hears twice
    assert "1 address(es) will hear of: promoted, kept, failed, crashed" in again.stdout, again.stderr
    weights = write_tiny_model(tmp_path / "tiny")
    for n, right in ((4, 2), (5, 5)):
        config = without_dev(tmp_path, *["test"] * n, model=f"path:{weights}", iterations=0)
        found = next_retraining(tmp_path, str(config))
        assert found
        with Run(tmp_path, found.arm.config) as run:
            answer(run, weights, right=right)
        done = retrain(server, tmp_path, config)
        assert done.returncode == 0, done.stderr[-3000:]
        heard(got, n - 3)
    assert retrain(server, tmp_path, config).returncode == 0, "nothing new: nothing to tell"
    assert retrain(server, tmp_path, tmp_path / "no.yaml").returncode != 0
    heard(got, 3)

    @flow(name="retrain")
    def killed() -> None: ...

    with asking(server), get_client(sync_client=True) as client:
        run_id = client.create_flow_run(killed, name="retrain-shop", state=Running()).id
        client.set_flow_run_state(run_id, Crashed(message="its process has ended"), force=True)
    heard(got, 4)
    assert [m["subject"] for m in got] == [
        "codelutra: nodev promoted",
        "codelutra: nodev kept",
        f"codelutra: {tmp_path / 'no.yaml'} failed",
        "codelutra: retrain-shop crashed",
    ]
    assert got[0]["text"].startswith("nodev-r001: promoted, policy 0")
    assert "retrain-" in got[2]["text"]
    assert "ConfigError" in got[2]["text"]
    assert "its process has ended" in got[3]["text"]
    assert notify(server, "--remove").returncode == 0
    with asking(server), get_client(sync_client=True) as client:
        assert client.read_automations() == []
        assert client.read_block_documents() == []


def test_an_e_mail_is_sent_over_smtp(server: dict[str, str], tmp_path: Path) -> None:
    letters = list[str]()

    class Post(socketserver.StreamRequestHandler):
        """As little of SMTP (RFC 5321) as a client needs."""

        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                if line.upper().startswith(b"DATA"):
                    self.wfile.write(b"354 go on\r\n")
                    letter = b"".join(iter(self.rfile.readline, b".\r\n"))
                    letters.append(letter.decode())
                self.wfile.write(b"250 fine\r\n" if not line.upper().startswith(b"QUIT") else b"221 bye\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Post) as post:
        threading.Thread(target=post.serve_forever, daemon=True).start()
        port = post.server_address[1]
        to = f"mailto://127.0.0.1:{port}?from=night@example.org&to=me@example.org&mode=insecure"
        done = notify(server, "--to", to, "--on", "failed")
        assert done.returncode == 0, done.stderr
        assert retrain(server, tmp_path, Path("/nowhere/no.yaml")).returncode != 0
        heard(letters, 1)
        post.shutdown()
    assert len(letters) == 1
    assert "Subject: codelutra: /nowhere/no.yaml failed" in letters[0]
    assert notify(server, "--remove").returncode == 0


def test_an_outage_is_tried_again_and_a_mistake_is_not(server: dict[str, str], tmp_path: Path) -> None:
    weights, again = write_tiny_model(tmp_path / "tiny"), {"tries": 3, "wait_minutes": 0}
    config = without_dev(tmp_path, "test", "test", model=f"path:{weights}", iterations=0)
    no_docker = server | {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    done = retrain(no_docker, tmp_path, config, **again)
    assert (done.returncode, done.stderr.count("trying again in 0 minutes")) == (1, 2), done.stderr[-3000:]
    done = retrain(no_docker, tmp_path, without_dev(tmp_path, "test", model="path:/nowhere", iterations=0), **again)
    assert (done.returncode, done.stderr.count("trying again in 0 minutes")) == (1, 0), done.stderr[-3000:]
    done = retrain(server, tmp_path, tmp_path / "nodev.yaml", again=False)
    assert (done.returncode, "as before: model 'path:/nowhere'" in done.stderr) == (0, True), done.stderr[-3000:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --to ADDRESS, or --remove"),
        (
            ["--to", "http://127.0.0.1:1/", "--on", "promoted,celebrated"],
            "unknown celebrated; known: promoted, kept, failed",
        ),
        (["--to", "nonsense://secret"], "address 1 cannot be used"),
    ],
)
def test_what_notify_cannot_do_is_one_message(server: dict[str, str], arguments: list[str], said: str) -> None:
    done = notify(server, *arguments)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert "secret" not in done.stderr


def test_notify_without_a_server_says_which_settings_are_missing(tmp_path: Path) -> None:
    done = notify(clean_environment(tmp_path), "--to", "http://127.0.0.1:1/")
    assert (done.returncode, "PREFECT_API_URL is not set" in done.stderr) == (2, True), done.stderr
