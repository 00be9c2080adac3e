"""A run's folder belongs to one config and one process; its ledger and links survive kills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.store.artifacts import Recipe, Step, Store
from codelutra.store.run_dir import RunDir


def config(name: str = "r", **more: Any) -> Any:
    return parse_config({"name": name, "suite": {"name": "starter-sql"}, **more})


def test_a_run_name_that_exists_with_another_config_is_refused_with_ways_out(tmp_path: Path) -> None:
    RunDir.create(tmp_path, config())
    with pytest.raises(UserError, match=r"train\.beta: 0\.1 there, 0\.2 now.*--set name="):
        RunDir.create(tmp_path, config(train={"beta": 0.2}))
    assert "beta: 0.1" in (tmp_path / "r" / "run.yaml").read_text()


def test_how_far_and_on_what_a_run_goes_may_change(tmp_path: Path) -> None:
    RunDir.create(tmp_path, config())
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


def test_the_ledger_forgets_a_line_that_a_kill_cut_short(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, config())
    run.ledger({"event": "made", "stage": "pairs"})
    with open(run.path / "ledger.jsonl", "a") as f:
        f.write('{"event": "ma')
    assert [e["event"] for e in run.events()] == ["made"]
    for event in ("lost: its line goes on where the other ends", "reused"):
        run.ledger({"event": event})
    assert [e["event"] for e in run.events()] == ["made", "reused"]


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
