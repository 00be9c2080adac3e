"""What failed and what blocks is told, with what to do; what is well is not."""

from __future__ import annotations

import base64
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codelutra.cli.doctor import Check
from codelutra.cli.health import _docker, _engine, _left_behind, _nights, _runs, _store
from codelutra.cli.server_health import server
from codelutra.experiments.retrain import Record, Retraining
from codelutra.store.artifacts import Store
from codelutra.store.child import OWNER, strays
from codelutra.store.run_dir import RunDir
from sandbox import owner
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.http import Asked, Raw, answering

FEW = {"name": "starter-sql", "train": 10, "dev": 8, "test": 8}


def by_name(found: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_runs_are_told_by_how_they_ended_and_old_ones_only_counted(tmp_path: Path) -> None:
    for name in ("well", "cut", "broken", "old", "going"):
        example_run(tmp_path, name=name, skills=(0.1, 0.4), suite=FEW, finished=name in ("well", "old"))
    RunDir(tmp_path / "runs/broken").ledger({"event": "error", "text": "disk full at /x\nsecond line", "exit_code": 2})
    for file in (tmp_path / "runs/old").iterdir():
        if file.is_file() and not file.is_symlink():
            os.utime(file, (1, time.time() - 8 * 86400))
    with RunDir(tmp_path / "runs/going").hold():
        RunDir(tmp_path / "runs/going").progress("sample policy-0", 3, 9, "completions")
        found = by_name(_runs(tmp_path, 7))
    assert set(found) == {"run well", "run cut", "run broken", "run going", "runs"}
    assert found["run well"].found.startswith("finished 20")
    assert (found["run cut"].ok, found["run cut"].warn) == (True, True)
    assert not found["run broken"].ok
    assert found["run broken"].found.endswith(": disk full at /x")
    assert "codelutra run" in found["run broken"].how_to_get_it
    assert found["run going"].found == "sample policy-0 3/9 completions"
    assert found["runs"].found == "1 that ended more than 7 days ago"
    done = codelutra("health", "--home", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    assert {c["name"] for c in json.loads(done.stdout) if not c["ok"]} >= {"run broken"}


def test_a_run_that_says_nothing_for_an_hour_is_suspected(tmp_path: Path) -> None:
    run = RunDir(example_run(tmp_path, name="still", skills=(0.1, 0.4), suite=FEW, finished=False))
    for file in run.path.iterdir():
        if file.is_file() and not file.is_symlink():
            os.utime(file, (1, time.time() - 7200))
    with run.hold():
        (check,) = [c for c in _runs(tmp_path, 7) if c.name == "run still"]
    assert check.warn
    assert "nothing new for 120 minutes" in check.found


def test_a_night_that_has_not_finished_and_weights_that_are_gone_are_not_well(tmp_path: Path) -> None:
    record = Record(tmp_path, "town")
    row = Retraining(run="town-r001", made_of="x", base_model="m", model="m", began_at=1e9)
    done = row.model_copy(update={"verdict": "kept", "policy": "policy-1"})
    for rows, ok, says in (
        ([row], False, "town-r001, begun 2001-09-"),
        ([done], True, "town-r001 of 2001-09-"),
        ([done.model_copy(update={"verdict": "promoted", "promoted_at": 1e9})], False, "are gone"),
    ):
        with record.changing() as there:
            there[:] = rows
        (check,) = _nights(tmp_path)
        assert (check.ok, says in check.found, bool(check.how_to_get_it)) == (ok, True, not ok)


HOLD = """import fcntl, sys
with open(sys.argv[1], "a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()"""


@contextmanager
def holding(lock: Path, **env: str) -> Iterator[int]:
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | env) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process.pid
        process.kill()


def test_an_engine_is_blocked_only_by_a_process_whose_run_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "accelerator.lock"
    monkeypatch.setenv("CODELUTRA_ACCELERATOR_LOCK", str(lock))
    (check,) = _engine()
    assert (check.ok, check.found) == (True, "free")
    lock.write_text("run demo, process 7")
    with holding(lock) as pid:
        (check,) = _engine()
        assert (check.ok, check.found) == (True, f"held by run demo, process 7 (engine or trainer: {pid})")
    gone = owner.marks() | {owner.STARTED: "1"}  # of a process that had our number before us
    with holding(lock, **{OWNER: owner.as_text(gone)}) as pid:
        assert pid in strays()
        (check,) = _engine()
        (left,) = _left_behind()
        assert (check.ok, left.warn) == (False, True)
        assert f"kill {pid}" in check.how_to_get_it
        assert str(pid) in left.how_to_get_it
    (check,) = _engine()
    assert check.found == "free"


def test_what_was_set_aside_and_what_is_unfinished_is_told(tmp_path: Path) -> None:
    assert [c.found for c in _store(tmp_path)] == ["nothing unfinished"]
    for left in (".partial/pairs-1/work", ".damaged/pairs-2-3"):
        (tmp_path / "store" / left).mkdir(parents=True)
    damaged, unfinished = _store(tmp_path)
    assert (damaged.warn, unfinished.warn) == (True, False)
    assert unfinished.found.startswith("1 unfinished")
    with Store(tmp_path / "store").alone():
        assert any("prune" in c.found for c in _store(tmp_path))
    with Store(tmp_path / "store").in_use():
        assert not any("prune` is at work" in c.found for c in _store(tmp_path))


# The docker package leaves its socket to the garbage collector when connecting fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_docker_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    (check,) = _docker()
    assert check.ok
    monkeypatch.setenv("DOCKER_HOST", "unix:///not/there.sock")
    (check,) = _docker()
    assert (check.ok, "codelutra doctor" in check.how_to_get_it) == (False, True)
    gc.collect()


PASSWORD = "me:s3cret"


@contextmanager
def prefect(rows: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """A server that gives the rows of the state type or name that is asked for, and "limits"."""

    def answer(asked: Asked) -> Raw:
        known = asked.authorization == f"Basic {base64.b64encode(PASSWORD.encode()).decode()}"
        state = asked.body.get("flow_runs", {}).get("state", {})
        kind = state["type"]["any_"][0] if "type" in state else state["name"]["any_"][0] if state else "limits"
        return Raw(200 if known else 401, rows.get(kind, []))

    with answering(answer, "/api") as url:
        yield url


def flow_run(name: str, **labels: str) -> dict[str, Any]:
    return {"name": name, "deployment_id": "d1", "labels": labels}


def test_flow_runs_whose_process_is_gone_and_slots_that_nobody_holds_block() -> None:
    dead = flow_run("night-7", **(owner.marks() | {owner.STARTED: "1"}))
    ours, next_one = flow_run("night-8", **owner.marks()), flow_run("night-9")
    slots = [{"name": "deployment:d1", "active_slots": 1}, {"name": "other", "active_slots": 5}]
    waits = {"AwaitingConcurrencySlot": [next_one], "limits": slots}
    for rows, blocks in (
        ({}, set()),
        ({"RUNNING": [ours], **waits}, set()),
        ({"RUNNING": [dead], **waits}, {"prefect runs", "prefect slots"}),
        (waits, {"prefect slots"}),
        ({"Late": [next_one]}, {"prefect worker"}),
    ):
        with prefect(rows) as url:
            found = by_name(server(url, PASSWORD))
        assert {name for name, check in found.items() if not check.ok} == blocks
        assert all(check.how_to_get_it for check in found.values() if not check.ok)
    assert "night-7" in str(by_name(_with({"RUNNING": [dead]}))["prefect runs"])


def _with(rows: dict[str, list[dict[str, Any]]]) -> Iterator[Check]:
    with prefect(rows) as url:
        yield from server(url, PASSWORD)


def test_a_server_that_does_not_answer_or_wants_another_password_is_told_without_it() -> None:
    assert [c.ok for c in server("", "")] == [True]
    with prefect({}) as url:
        (check,) = server(url, "me:other")
        assert (check.ok, "401" in check.found, "other" in str(check)) == (False, True, False)
    (check,) = server(url.replace("//", "//u:s3cret@"), PASSWORD)
    assert (check.ok, "s3cret" in str(check)) == (False, False)
