"""What `codelutra status` says of a run, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codelutra.cli.tables import doctor_table, list_runs, paired_text, read_summary, runs_table, summary_table
from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.store.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, parse_config({"name": "r", "suite": {"name": "starter-sql"}}))
    made.write("summary.json", summary("running"))
    return made


def summary(state: str) -> dict[str, Any]:
    return {"run": "r", "suite": "starter-sql", "state": state, "reason": "", "best": None, "policies": []}


def test_a_run_whose_process_is_gone_is_interrupted_and_says_how_to_go_on(run: RunDir) -> None:
    found = read_summary(run.path.parent, "r")
    assert found["state"] == "interrupted"
    assert "codelutra run" in found["reason"]


def test_the_way_on_leads_to_the_same_home_from_anywhere(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run.path.parent
    home = runs.parent
    assert f"`codelutra run {run.path}/run.yaml --home {home}`" in read_summary(runs, "r")["reason"]
    with run.hold(), pytest.raises(UserError, match=f"`codelutra status r --home {home}`"), run.hold():
        pass
    with pytest.raises(UserError, match=f"run.yaml --home {home}"):
        RunDir.create(runs, parse_config({"name": "r", "suite": {"name": "starter-sql"}, "seed": 1}))
    monkeypatch.setenv("CODELUTRA_HOME", str(home))
    assert f"`codelutra run {run.path}/run.yaml`" in read_summary(runs, "r")["reason"]


def test_a_run_that_stopped_on_an_error_says_which(run: RunDir) -> None:
    run.ledger({"event": "error", "text": "disk full at /x", "exit_code": 2})
    found = read_summary(run.path.parent, "r")
    assert found["state"] == "failed"
    assert found["reason"].startswith("disk full at /x")


def test_a_second_start_that_was_refused_is_no_error_of_the_run(run: RunDir) -> None:
    run.ledger({"event": "refused", "text": "run 'r' is going on in another process", "exit_code": 2})
    assert read_summary(run.path.parent, "r")["state"] == "interrupted"


def test_a_run_that_is_held_is_running_and_shows_what_it_does_now(run: RunDir) -> None:
    run.progress("sample base", 3, 10, "completions")
    with run.hold():
        found = read_summary(run.path.parent, "r")
    assert found["state"] == "running"
    assert (found["now"]["done"], found["now"]["total"]) == (3, 10)


def test_a_finished_run_stays_finished(run: RunDir) -> None:
    run.write("summary.json", summary("finished"))
    assert [r["state"] for r in list_runs(run.path.parent)] == ["finished"]


def test_a_run_that_is_not_there_lists_those_that_are(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"no run 'x'.*there: r"):
        read_summary(run.path.parent, "x")


@pytest.mark.parametrize("text", ["no [/opt/cuda/lib]", "see [core.py:45]", "pip install 'codelutra[prefect]'"])
def test_reasons_and_paths_are_shown_as_they_are(text: str, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    told = summary("failed") | {"reason": text, "suite": text, "problems": {}, "test": None}
    run.write("summary.json", told)
    summary_table(told, run.path)
    assert capsys.readouterr().out.count(text) == 2
    runs_table(list_runs(run.path.parent))
    doctor_table([{"ok": False, "name": "x", "found": "none", "how_to_get_it": text}])
    assert capsys.readouterr().out.count(text) == 2


def test_a_paired_test_reads_as_gained_lost_p() -> None:
    assert paired_text({"gained": 23, "lost": 9, "p": 0.0201}) == "+23 −9, p = 0.02"
    assert paired_text(None) == ""
