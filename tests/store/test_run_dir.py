"""A run's folder belongs to one config and one process; its ledger and links survive kills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.store.artifacts import Recipe, Step, Store
from codelutra.store.run_dir import RunDir, read_event


def config(name: str = "r", **more: Any) -> Any:
    return parse_config({"name": name, "suite": {"name": "starter-sql"}, **more})


def measured(run: RunDir) -> None:
    (run.path / "base").mkdir()
    (run.path / "base/dev-scores").symlink_to("/store/score/123")


def test_a_run_name_that_exists_with_another_config_is_refused_with_ways_out(tmp_path: Path) -> None:
    measured(RunDir.create(tmp_path, config()))
    with pytest.raises(UserError, match=r"train\.beta: 0\.1 there, 0\.2 now.*--set name="):
        RunDir.create(tmp_path, config(train={"beta": 0.2}))
    assert "beta: 0.1" in (tmp_path / "r" / "run.yaml").read_text()


def test_a_run_without_results_takes_another_config_unless_a_process_is_at_it(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, config())
    with run.hold(), pytest.raises(UserError, match="with another config"):
        RunDir.create(tmp_path, config(train={"beta": 0.2}))
    RunDir.create(tmp_path, config(train={"beta": 0.2}))
    assert "beta: 0.2" in (run.path / "run.yaml").read_text()


@pytest.mark.parametrize("damage", ["a: [", "3", "name: 3", "\0", "- a", ""])
def test_a_config_that_cannot_be_read_is_named_with_the_way_out(tmp_path: Path, damage: str) -> None:
    run = RunDir.create(tmp_path, config())
    (run.path / "run.yaml").write_text(damage)
    with pytest.raises(UserError, match=f"(?s){run.path}/run.yaml is damaged.*remove it"):
        RunDir.create(tmp_path, config())
    assert (run.path / "run.yaml").read_text() == damage
    (run.path / "run.yaml").unlink()
    RunDir.create(tmp_path, config())


def test_how_far_and_on_what_a_run_goes_may_change(tmp_path: Path) -> None:
    measured(RunDir.create(tmp_path, config()))
    further = config(iterations=9, execute={"workers": 7}, select={"patience": 3})
    run = RunDir.create(tmp_path, further)
    assert "iterations: 9" not in (tmp_path / "r" / "run.yaml").read_text(), "another process may be refining it"
    with run.hold():
        run.settle(further)
    assert "iterations: 9" in (tmp_path / "r" / "run.yaml").read_text()
    with pytest.raises(UserError, match=r"train\.beta"):
        run.settle(config(train={"beta": 0.2}))


def test_one_process_at_a_time_refines_a_run(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, config())
    assert not run.held
    with run.hold():
        assert run.held
        with pytest.raises(UserError, match="going on in another process"), run.hold():
            pass
    assert not run.held


@pytest.mark.parametrize(
    "damaged",
    [
        {"stage": [[]]},
        {"key": -1},
        {"label": None},
        {"event": 1},
        {"at": "2020-13-45"},
        {"at": float("nan")},
        {"at": -1},
        {"at": 1e308},
        {"pid": "x"},
        {"pid": None},
    ],
)
def test_an_event_whose_values_are_not_of_their_kinds_is_none(damaged: dict[str, Any]) -> None:
    event = {"at": 1.5e9, "pid": 1, "event": "made", "stage": "pairs", "key": "a", "label": ""}
    assert read_event(json.dumps(event).encode()) == event
    assert read_event(json.dumps(event | damaged).encode()) is None


def test_the_ledger_forgets_a_line_that_a_kill_cut_short_and_nothing_else(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, config())
    run.ledger({"event": "made", "stage": "pairs"})
    with open(run.path / "ledger.jsonl", "a") as f:
        f.write('{"event": "ma')
    assert [e["event"] for e in run.events()] == ["made"]
    for event in ("start", "reused"):
        run.ledger({"event": event})
    assert [e["event"] for e in run.events()] == ["made", "start", "reused"]


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"3", b"null", b'["event"]', b'{"event": 3}', b'{"at": 1}', b"[" * 5000])
def test_a_line_that_is_no_event_is_left_out(tmp_path: Path, line: bytes) -> None:
    run = RunDir.create(tmp_path, config())
    with open(run.path / "ledger.jsonl", "ab") as f:
        f.write(line + b"\n")
    run.ledger({"event": "made"})
    assert [e["event"] for e in run.events()] == ["made"]


def writes_hello(out: Path, work: Path) -> dict[str, Any]:
    (out / "file.txt").write_text("hello")
    return {}


def test_links_lead_into_the_store(tmp_path: Path) -> None:
    made = Store(tmp_path / "store").make(Step(Recipe("pairs", 1, {}, {}), writes_hello))
    run = RunDir.create(tmp_path / "runs", config())
    run.link("policy-0/file.txt", made)
    run.link("policy-0/whole", made)
    assert (run.path / "policy-0" / "file.txt").read_text() == "hello"
    assert json.loads((run.path / "policy-0" / "whole" / "manifest.json").read_text())["digest"] == made.digest
