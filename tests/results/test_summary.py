"""The record of a run: it reads what it writes, reads what 0.1.0 wrote, and says what is wrong with a damaged file."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.results.load import chosen_weights, finished_summary, list_runs, load_summary, read_summary
from codelutra.results.summary import Progress, iteration_of, policy_name
from codelutra.store.run_dir import RunDir
from tests.helpers.example_run import example_run
from tests.helpers.old_run import unpack_old_run


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example_run(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_old_run(tmp_path_factory.mktemp("old"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose record says it is going on, and that no process is at."""
    made = RunDir.create(tmp_path, parse_config({"name": "r", "suite": {"name": "starter-sql"}}))
    made.write("summary.json", summary("running"))
    return made


def summary(state: str) -> dict[str, Any]:
    known = {"run": "r", "suite": "starter-sql", "suite_version": "1", "mode": "sql-strict/v1", "model": "hf:example/tiny"}
    return known | {"state": state, "reason": "", "best": None, "policies": []}


# ---- as it is written ------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(example: Path) -> None:
    read = load_summary(example)
    assert read
    assert read.as_json() == json.loads((example / "summary.json").read_text())
    assert read.finished
    assert read.chosen is read.policies[-1]
    assert read.chosen.train is None
    sampled = read.policies[1].train
    assert sampled
    assert sorted(sampled.pass_at_k) == [1, 2, 4], "k is a number again"
    assert read.test
    assert (read.test.policy, read.test.n) == (read.best, 20)


def test_what_a_run_is_doing_now_is_shown_and_never_written(example: Path, tmp_path: Path) -> None:
    run = RunDir(shutil.copytree(example, tmp_path / "runs" / "example", symlinks=True))
    for file in example.parent.glob("*/summary.json"):
        assert "now" not in json.loads(file.read_text())
    run.write("summary.json", json.loads((run.path / "summary.json").read_text()) | {"state": "running"})
    run.progress("train policy 3", 3, 10, "steps", measures={"loss": 0.5})
    with run.hold():
        found = read_summary(run.path.parent, "example")
    assert found.now == Progress.model_validate(run.read("progress.json"))
    assert found.as_json()["now"]["measures"] == {"loss": 0.5}
    found.now = None
    assert "now" not in found.as_json()


def test_a_policy_has_one_name_and_one_folder(example: Path) -> None:
    read = load_summary(example)
    assert read
    labels = ["base", "policy-0", "policy-1", "policy-2"]
    assert [p.label for p in read.policies] == [p.folder for p in read.policies] == labels
    assert [p.name for p in read.policies] == [policy_name(label) for label in labels]
    assert [p.name for p in read.policies] == ["base", "policy 0", "policy 1", "policy 2"]
    assert [iteration_of(label) for label in labels] == [0, 0, 1, 2]
    assert all((example / label / "dev-scores").is_dir() for label in labels)
    assert not list(example.glob("iteration-*"))


# ---- as 0.1.0 wrote it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["old", "old-r001", "old-codelutra-s0", "old-warm-start-s0"])
def test_a_record_of_0_1_0_gives_its_numbers_under_the_labels_of_today(name: str, old: Path) -> None:
    raw = json.loads((old / "home/runs" / name / "summary.json").read_text())
    read = load_summary(old / "home/runs" / name)
    assert read
    rows = list(zip(raw["policies"], read.policies, strict=True))
    labels = {before["title"]: before["label"] for before, _ in rows}
    assert set(labels) >= {"base", "warm start"}
    for before, now in rows:
        assert now.label == before["label"]
        assert (now.dev.value, now.dev.low, now.dev.high, now.dev.n) == tuple(
            before["dev"][k] for k in ("value", "low", "high", "n")
        )
        assert (now.seconds, now.tokens, now.pairs) == (before["seconds"], before["tokens"], before["pairs"])
        for which in ("previous", "start"):
            was, test = before["paired"][which], getattr(now.paired, which)
            assert (test is None) == (was is None)
            if test:
                assert (test.against, test.gained, test.lost, test.p) == (
                    labels[was["against"]],
                    was["gained"],
                    was["lost"],
                    was["p"],
                )
        assert (old / "home/runs" / name / now.folder / "dev-scores/scores.parquet").is_file()
    shown = [p.model_dump(mode="json", exclude={"folder"}) for p in read.policies]  # it lies where 0.1.0 put it
    assert not re.search("warm start|iteration", json.dumps(shown))
    assert (read.state, read.best, read.minutes) == (raw["state"], raw["best"], raw["minutes"])


# ---- damaged ---------------------------------------------------------------------------------------------------------

DAMAGE = {
    "cut short": lambda whole: json.dumps(whole)[:200],
    "empty": lambda whole: "",
    "a list": lambda whole: json.dumps([whole]),
    "a number": lambda whole: "3",
    "nothing": lambda whole: "null",
    "no text": lambda whole: b"\xff\xfe\x00{",
    "a policy that is a word": lambda whole: json.dumps(whole | {"policies": ["base"]}),
    "policies that are a word": lambda whole: json.dumps(whole | {"policies": "base"}),
    "a number that is a word": lambda whole: json.dumps(whole | {"minutes": "long"}),
    "a state nobody knows": lambda whole: json.dumps(whole | {"state": "odd"}),
    "no suite": lambda whole: json.dumps({k: v for k, v in whole.items() if k != "suite"}),
    "a policy without a label": lambda whole: json.dumps(
        whole | {"policies": [{k: v for k, v in p.items() if k != "label"} for p in whole["policies"]]}
    ),
    "a policy of 0.1.0 without paired tests": lambda whole: json.dumps(
        whole | {"policies": [{"label": "base", "title": "base", "folder": "base", "path": "/x"}]}
    ),
    "paired tests of 0.1.0 that are a word": lambda whole: json.dumps(
        whole | {"policies": [p | {"title": "base", "paired": "none"} for p in whole["policies"]]}
    ),
    "a paired test of 0.1.0 against nobody": lambda whole: json.dumps(
        whole | {"policies": [p | {"title": "base", "paired": {"previous": {"p": 1.0}}} for p in whole["policies"]]}
    ),
    "a paired test of 0.1.0 that is a word": lambda whole: json.dumps(
        whole | {"policies": [p | {"title": "base", "paired": {"previous": "none"}} for p in whole["policies"]]}
    ),
    "a title of 0.1.0 that is a list": lambda whole: json.dumps(
        whole | {"policies": [p | {"title": ["base"]} for p in whole["policies"]]}
    ),
    "an interval without its ends": lambda whole: json.dumps(
        whole | {"policies": [p | {"dev": {"value": 0.5}} for p in whole["policies"]]}
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_record_is_named_with_the_command_that_mends_it(how: str, example: Path, tmp_path: Path) -> None:
    run = shutil.copytree(example, tmp_path / "runs" / "example", symlinks=True)
    spoilt = DAMAGE[how](json.loads((run / "summary.json").read_text()))
    (run / "summary.json").write_bytes(spoilt if isinstance(spoilt, bytes) else spoilt.encode())
    for read in (
        load_summary,
        finished_summary,
        lambda path: read_summary(path.parent, path.name),
        lambda path: chosen_weights(path.parent, path.name),
    ):
        with pytest.raises(UserError) as error:
            read(run)
        assert str(error.value).startswith(f"{run}/summary.json is damaged (")
        assert f"`codelutra run {run}/run.yaml --home {tmp_path}` writes it anew" in str(error.value)


def test_a_damaged_record_does_not_hide_the_other_runs(example: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        shutil.copytree(example, tmp_path / "runs" / name, symlinks=True)
        read = json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        (tmp_path / "runs" / name / "summary.json").write_text(json.dumps(read | {"run": name}))
    (tmp_path / "runs/b/summary.json").write_text('{"run": "b"')
    found, damaged = list_runs(tmp_path / "runs")
    assert [s.run for s in found] == ["a", "c"]
    (error,) = damaged
    assert str(tmp_path / "runs/b/summary.json") in str(error)


# ---- the state a run is in -------------------------------------------------------------------------------------------


def test_a_run_whose_process_is_gone_is_interrupted_and_says_how_to_go_on(run: RunDir) -> None:
    found = read_summary(run.path.parent, "r")
    assert found.state == "interrupted"
    assert "codelutra run" in found.reason


def test_the_way_on_leads_to_the_same_home_from_anywhere(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run.path.parent
    home = runs.parent
    assert f"`codelutra run {run.path}/run.yaml --home {home}`" in read_summary(runs, "r").reason
    with run.hold(), pytest.raises(UserError, match=f"`codelutra status r --home {home}`"), run.hold():
        pass
    (run.path / "test-scores").mkdir()
    with pytest.raises(UserError, match=f"run.yaml --home {home}"):
        RunDir.create(runs, parse_config({"name": "r", "suite": {"name": "starter-sql"}, "seed": 1}))
    monkeypatch.setenv("CODELUTRA_HOME", str(home))
    assert f"`codelutra run {run.path}/run.yaml`" in read_summary(runs, "r").reason


def test_a_run_that_stopped_on_an_error_says_which(run: RunDir) -> None:
    run.ledger({"event": "error", "text": "disk full at /x", "exit_code": 2})
    found = read_summary(run.path.parent, "r")
    assert found.state == "failed"
    assert found.reason.startswith("disk full at /x")


def test_a_second_start_that_was_refused_is_no_error_of_the_run(run: RunDir) -> None:
    run.ledger({"event": "refused", "text": "run 'r' is going on in another process", "exit_code": 2})
    assert read_summary(run.path.parent, "r").state == "interrupted"


def test_a_run_that_is_held_is_running_and_shows_what_it_does_now(run: RunDir) -> None:
    run.progress("sample base", 3, 10, "completions")
    with run.hold():
        found = read_summary(run.path.parent, "r")
    assert found.state == "running"
    assert found.now
    assert (found.now.done, found.now.total) == (3, 10)


def test_a_run_that_waits_says_for_what(run: RunDir) -> None:
    run.progress("sample base", 3, 10, "completions")
    run.ledger({"event": "waiting", "what": "the engine of another run (run demo, process 7)", "at": time.time() + 1})
    with run.hold():
        found = read_summary(run.path.parent, "r")
        assert found.reason == "waiting for the engine of another run (run demo, process 7)"
        assert not found.now
        run.ledger({"event": "made", "stage": "sample", "at": time.time() + 2})
        assert read_summary(run.path.parent, "r").now


def test_minutes_go_on_while_a_run_does(run: RunDir) -> None:
    run.write("summary.json", summary("running") | {"minutes": 3.0})
    os.utime(run.path / "summary.json", (time.time() - 600,) * 2)
    assert read_summary(run.path.parent, "r").minutes == 3.0
    with run.hold():
        assert read_summary(run.path.parent, "r").minutes == pytest.approx(13.0, abs=0.5)


def test_a_run_is_known_before_it_has_measured_anything(tmp_path: Path) -> None:
    made = RunDir.create(tmp_path, parse_config({"name": "new", "suite": {"name": "starter-sql"}}))
    with made.hold():
        found = read_summary(tmp_path, "new")
        assert (found.run, found.suite, found.state, found.policies) == ("new", "starter-sql", "running", [])
    ((listed,), ()) = list_runs(tmp_path)
    assert listed.state == "interrupted"
    made.ledger({"event": "error", "text": "no Docker", "exit_code": 2})
    assert read_summary(tmp_path, "new").reason.startswith("no Docker")


def test_a_finished_run_stays_finished(run: RunDir) -> None:
    run.write("summary.json", summary("finished"))
    found, damaged = list_runs(run.path.parent)
    assert [s.state for s in found] == ["finished"]
    assert damaged == []


def test_a_run_has_the_name_of_its_folder(run: RunDir) -> None:
    run.write("summary.json", summary("finished"))
    moved = run.path.rename(run.path.with_name("renamed"))
    shutil.copytree(moved, run.path.with_name("copy"))
    found, damaged = list_runs(run.path.parent)
    assert ([s.run for s in found], damaged) == (["copy", "renamed"], [])


def test_a_run_that_is_not_there_lists_those_that_are(run: RunDir) -> None:
    with pytest.raises(UserError, match=r"no run 'x'.*there: r"):
        read_summary(run.path.parent, "x")
    assert load_summary(run.path.parent / "x") is None
    assert finished_summary(run.path) is None, "it has not finished"


def test_weights_are_those_of_the_chosen_policy_and_else_it_is_told_why_not(
    example: Path, run: RunDir, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"model run:example: the weights of its policy 2 are not at .*makes them anew"):
        chosen_weights(example.parent, "example")  # no weights were given to it
    with pytest.raises(UserError, match=r"model run:r has not chosen a policy yet, it is running"):
        chosen_weights(run.path.parent, "r")
    with pytest.raises(UserError, match=r"model run:x: no run 'x' under .*there: r$"):
        chosen_weights(run.path.parent, "x")
    whole = json.loads((example / "summary.json").read_text())
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/config.json").write_text("{}")
    whole["policies"][1]["path"] = str(tmp_path / "weights")
    run.write("summary.json", whole | {"best": "policy-0"})
    assert chosen_weights(run.path.parent, "r") == tmp_path / "weights"
