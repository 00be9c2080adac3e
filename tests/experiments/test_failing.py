"""A retraining that fails by its data or settings is not tried again and again on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codelutra.errors import BusyError, ConfigError, OutageError, StageError, UserError, full_disk
from codelutra.experiments.failing import StillFailingError, due_now, note_failure
from codelutra.experiments.retrain import Due, conclude, read_record, record_table
from codelutra.store.run_dir import RunDir
from tests.helpers.nights import grow, refined


def due(home: Path, config: Path, *, again: bool = False) -> Due:
    found = due_now(home, str(config), (), again=again)
    assert found
    return found


def test_what_failed_by_its_data_waits_for_other_data_and_for_whoever_asks_for_it(tmp_path: Path) -> None:
    config = grow(tmp_path, range(60))
    night = due(tmp_path, config)
    note_failure(tmp_path, night, StageError("there are no pairs to train on"))
    for _ in range(2):
        with pytest.raises(StillFailingError, match=r"shop-r001 failed, and neither .* have changed.*: there are no pairs"):
            due(tmp_path, config)
    assert record_table(read_record(tmp_path, "shop")).records()[0]["verdict"] == "failed"
    assert due(tmp_path, config, again=True) == night

    grow(tmp_path, range(70))
    assert due(tmp_path, config).arm.label == "shop-r002"
    grow(tmp_path, range(70), train={"epochs": 2})
    third = due(tmp_path, config)
    assert third.arm.label == "shop-r003", "a changed setting is a reason, too"
    note_failure(tmp_path, third, StageError("x"))
    conclude(tmp_path, due(tmp_path, config, again=True), refined(tmp_path, third, 0.0, 0.3, 0.9))
    assert [row.failed for row in read_record(tmp_path, "shop").rows] == ["there are no pairs to train on", "", ""]
    assert due_now(tmp_path, str(config), (), again=False) is None


@pytest.mark.parametrize("error", [OutageError("Docker is down"), full_disk("/data")])
def test_an_outage_is_no_failure_of_the_data(error: OutageError, tmp_path: Path) -> None:
    config = grow(tmp_path, range(60))
    night = due(tmp_path, config)
    note_failure(tmp_path, night, error)
    assert due(tmp_path, config) == night


def test_what_cannot_even_be_read_is_told_once_until_it_says_something_else(tmp_path: Path) -> None:
    config = grow(tmp_path, range(60))
    good = (tmp_path / "problems.jsonl").read_text()
    for broken in ("{", "{}"):
        (tmp_path / "problems.jsonl").write_text(good + broken)
        with pytest.raises(ConfigError):
            due(tmp_path, config)
        for _ in range(2):
            with pytest.raises(StillFailingError, match=r"as before: .*problems\.jsonl"):
                due(tmp_path, config)
        with pytest.raises(ConfigError):
            due(tmp_path, config, again=True)
    (tmp_path / "problems.jsonl").write_text(good)
    night = due(tmp_path, config)
    (tmp_path / "problems.jsonl").write_text(good + "{}")
    with pytest.raises(ConfigError):  # it was good in between
        due(tmp_path, config)
    (tmp_path / "problems.jsonl").write_text(good)
    assert due(tmp_path, config) == night


def test_a_missing_guard_suite_is_told_once(tmp_path: Path) -> None:
    def missing() -> None:
        raise UserError("no guard")

    config = str(grow(tmp_path, range(60)))
    for error in (UserError, StillFailingError):
        with pytest.raises(error, match="no guard"):
            due_now(tmp_path, config, (), again=False, require=missing)


def test_a_run_that_another_process_is_at_has_not_failed(tmp_path: Path) -> None:
    config = grow(tmp_path, range(60))
    night = due(tmp_path, config)
    run = RunDir.create(tmp_path / "runs", night.arm.config)
    with run.hold():
        with pytest.raises(BusyError) as told, RunDir(run.path).hold():
            pass
        assert told.value.transient
        note_failure(tmp_path, night, told.value)
        assert record_table(read_record(tmp_path, "shop")).records()[0]["verdict"] == "unfinished"
    assert due(tmp_path, config) == night
