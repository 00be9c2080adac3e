"""Claim: whatever is killed, the next night of the deployment finishes.

    python -m benchmarks.kills [--only 3] [--out docs/results/nights.json]

A server (scripts/ui.sh), a worker (scripts/worker.sh) and the deployment `nightly` of prefect.yaml, in a folder of their
own, and something that starts server and worker again when they end, as systemd would. Each of ten times a night is started,
some of the three are killed with SIGKILL at a given moment, and the next night has to complete and to conclude the
retraining. The suite is a handful of Python functions whose answers are in the store already: real sandbox, no engine, no
training.

Shorter than as shipped: the worker asks every 2 s (10), a lease that nobody has renewed yet lives 90 s (300).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import prefect
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from codelutra.experiments.retrain import UNFINISHED, Record, next_retraining
from codelutra.pipeline.run import Run
from tasks.server import NOT_ANSWERED
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model

ROOT = Path(__file__).parents[1]
PATIENCE = 900.0  # seconds for a night, on a busy machine
SHORTER = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "90"}


@dataclass(frozen=True)
class Kill:
    """What is killed when: a state of the flow run, the night's first note in the ledger, a stage that has just been made.
    `queued`: the next night is there by then, and waits for the slot."""

    what: tuple[str, ...]
    when: str
    queued: bool = False


ALL = ("server", "worker", "flow")
KILLS = (
    Kill(("flow",), "running"),
    Kill(("worker",), "running"),
    Kill(("server",), "running"),
    Kill(("worker", "flow"), "pending"),
    Kill(("worker", "flow"), "running"),
    Kill(("server", "flow"), "execute"),
    Kill(ALL, "pending"),
    Kill(ALL, "running"),
    Kill(ALL, "first note", queued=True),
    Kill(ALL, "score", queued=True),
)


class Service:
    """A command that is started again whenever it ends, as a service manager does."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path) -> None:
        self._command, self._env, self._log, self._ending = command, env, log, False
        self._start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env, start_new_session=True)

    def _watch(self) -> None:
        while not self._ending:
            self.process.wait()
            time.sleep(2)
            if not self._ending:
                self._start()

    def end(self) -> None:
        self._ending = True
        for pid in (*descendants(self.process.pid), self.process.pid):
            kill(pid)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    parents = dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


class Nights:
    """The deployment, its services, and what happens to a night."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "CODELUTRA_"))} | SHORTER
        env |= {"HOME": str(folder), "PREFECT_SERVER_API_PORT": port, "PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"}
        self.env = env | {"CODELUTRA_CACHE": str(folder / "cache")}
        self.services = {"server": self._service("ui.sh")}
        settings = folder / ".config/codelutra/prefect.env"
        wait(lambda: settings.exists(), 60)
        given = dict(line.split("=", 1) for line in settings.read_text().splitlines())
        self._asks = {
            PREFECT_API_URL: given["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: given["PREFECT_API_AUTH_STRING"],
            PREFECT_CLIENT_MAX_RETRIES: 0,
        }
        wait(lambda: self.ask(lambda client: client.hello()) is not None, 300)
        python = [str(ROOT / ".venv/bin/python"), "-m", "prefect"]
        for arguments in (
            ["work-pool", "create", "codelutra", "--type", "process"],
            ["--no-prompt", "deploy", "-n", "nightly"],
        ):
            subprocess.run([*python, *arguments], cwd=ROOT, env=self.env | given, check=True, capture_output=True)
        self.services["worker"] = self._service("worker.sh")
        self.deployment = self.ask(lambda client: client.read_deployment_by_name("retrain/nightly").id)
        self.weights = write_tiny_model(folder / "tiny")
        self.problems = 4

    def _service(self, script: str) -> Service:
        return Service([str(ROOT / "scripts" / script)], self.env, self.folder / f"{script}.log")

    def end(self) -> None:
        for service in self.services.values():
            service.end()

    def ask(self, what: Callable[[SyncPrefectClient], Any]) -> Any:
        """None where the server does not answer."""
        with temporary_settings(self._asks), contextlib.suppress(*NOT_ANSWERED), get_client(sync_client=True) as client:
            return what(client)
        return None

    def new_data(self) -> Path:
        """A problem more, and what a model would answer to all of them."""
        self.problems += 1
        config = without_dev(self.folder, *["test"] * self.problems, model=f"path:{self.weights}", iterations=0)
        due = next_retraining(self.home, str(config))
        assert due
        with Run(self.home, due.arm.config) as run:
            answer(run, self.weights, right=2)
        self.run = self.home / "runs" / due.arm.config.name
        self.events = self._ledger()
        return config

    def start(self, config: Path) -> UUID:
        given = {"config": str(config), "home": str(self.home)}
        found = None
        while found is None:  # the server may be starting
            found = self.ask(lambda client: client.create_flow_run_from_deployment(self.deployment, parameters=given).id)
        return found  # type: ignore[no-any-return]

    def state(self, night: UUID) -> str:
        run = self.ask(lambda client: client.read_flow_run(night))
        return run.state_name if run else ""

    def ended(self, night: UUID) -> bool:
        run = self.ask(lambda client: client.read_flow_run(night))
        return bool(run and run.state and run.state.is_final())

    def slots(self) -> int | None:
        """Slots of the deployment that are taken; None where the server does not answer."""
        found = self.ask(lambda client: client.read_deployment(self.deployment).global_concurrency_limit)
        return found.active_slots if found else None

    def _ledger(self) -> list[dict[str, Any]]:
        file = self.run / "ledger.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def come(self, moment: str, night: UUID) -> bool:
        if moment == "pending":  # asked of the machine, because the server may take longer to answer than it lasts
            return bool(descendants(self.services["worker"].process.pid))
        if moment == "running":
            return self.state(night) in ("Running", "Completed")
        new = self._ledger()[len(self.events) :]
        if moment in ("execute", "score"):
            return any(e["event"] == "made" and e.get("stage") == moment for e in new)
        return bool(new)  # the first thing that the night notes

    def kill(self, what: tuple[str, ...]) -> None:
        worker = self.services["worker"].process.pid
        flows = descendants(worker)
        pids = []
        if "server" in what:
            server = self.services["server"].process.pid
            pids += [server, *descendants(server)]
        pids += [worker] if "worker" in what else []
        pids += flows if "flow" in what else []
        for pid in pids:
            kill(pid)


def wait(until: Callable[[], bool], seconds: float, every: float = 0.05) -> float:
    """Seconds that it took. Raises TimeoutError."""
    began = time.monotonic()
    while not until():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:.0f} s")
        time.sleep(every)
    return time.monotonic() - began


def tried(nights: Nights, kill: Kill) -> dict[str, Any]:
    """Kill a night and start the next; what came of both."""
    config = nights.new_data()
    wait(lambda: nights.slots() == 0 and not descendants(nights.services["worker"].process.pid), PATIENCE)
    killed = nights.start(config)
    following = None
    if kill.queued:
        wait(lambda: nights.state(killed) in ("Pending", "Running"), PATIENCE)
        following = nights.start(config)
    wait(lambda: nights.come(kill.when, killed), PATIENCE, every=0.01)
    nights.kill(kill.what)
    at = time.monotonic()
    following = following or nights.start(config)
    row: dict[str, Any] = asdict(kill)
    with contextlib.suppress(TimeoutError):
        wait(lambda: nights.state(following) in ("Running", "Completed"), PATIENCE, every=0.5)
        row["seconds_until_the_next_began"] = round(time.monotonic() - at, 1)
        wait(lambda: nights.ended(following), PATIENCE, every=0.5)
        row["seconds_until_the_next_had_ended"] = round(time.monotonic() - at, 1)
    row |= {"killed_night": nights.state(killed), "next_night": nights.state(following)}
    last = Record(nights.home, "nodev").rows[-1]
    row["concluded"] = last.run == nights.run.name and last.verdict != UNFINISHED
    row["held"] = row["next_night"] == "Completed" and row["concluded"]
    return row


@contextlib.contextmanager
def deployed() -> Iterator[Nights]:
    with tempfile.TemporaryDirectory(prefix="nights-", ignore_cleanup_errors=True) as folder:
        nights = Nights(Path(folder))
        try:
            yield nights
        finally:
            nights.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, action="append", help="one of the ten, counted from 1; may be repeated")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    asked = parser.parse_args()
    rows = []
    with deployed() as nights:
        for i, kill in enumerate(KILLS, 1):
            if not asked.only or i in asked.only:
                rows.append(tried(nights, kill))
                while "flow" in kill.what and rows[-1]["killed_night"] == "Completed":  # it had ended before: too late
                    rows[-1] = tried(nights, kill)
                print(json.dumps(rows[-1]), flush=True)
    held = sum(row["held"] for row in rows)
    print(f"{held} of {len(rows)} times the next night finished")
    if asked.out:
        result = {
            "prefect": prefect.__version__,
            "shorter_than_shipped": SHORTER,
            "tried": len(rows),
            "held": held,
            "kills": rows,
        }
        asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
