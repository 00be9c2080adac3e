"""Trackers hear what they should, and nothing they do stops a run or changes its weights."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from codelutra.config import TrainSection, load_config, parse_config
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.tracked import Tracked, numbers_of
from codelutra.results.load import read_summary
from codelutra.training import launch, trackers
from codelutra.training.trackers import Report, require_trackers
from codelutra.training.worker.tracking import Guarded
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.tiny_model import write_tiny_model
from tests.helpers.training import SMALL, place, some_pairs, weights


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package of this source before all others in processes that are started."""

    def put(name: str, source: str) -> None:
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))

    return put


def missing() -> str:
    absent = [name for name, packages in trackers._PACKAGES.items() if not any(map(importlib.util.find_spec, packages))]
    if not absent:
        pytest.skip("every tracker is installed here")
    return absent[0]


def test_a_tracker_that_is_not_installed_is_one_message_and_exit_2(tmp_path: Path) -> None:
    name = missing()
    with pytest.raises(UserError, match=f"report_to: {name} needs the package"):
        require_trackers([name])
    done = codelutra("run", "demo", "--set", f"report_to=[{name}]", "--home", str(tmp_path))
    assert done.returncode == 2
    assert f"pip install {trackers._PACKAGES[name][0]}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_tracker_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"report_to(.|\n)*tensorboard"):
        load_config("demo", ("report_to=[neptune]",))


FAULTS = {
    "raises when imported": ("raise OSError('no disk')", "trackio: OSError: no disk"),
    "raises at its start": ("def init(**_): raise ConnectionError('no route')", "trackio: ConnectionError: no route"),
    "raises later": (
        "class R:\n def log(self, *a, **k): raise ValueError('full')\n def finish(self): pass\ndef init(**_): return R()",
        "trackio: ValueError: full",
    ),
    "dies": ("import os; os._exit(7)", "report_to: the trackers process ended early (exit code 7)"),
    "hangs": ("import time; time.sleep(600)", "report_to: no answer from trackio within 1 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tracker_that_fails_is_told_of_once_and_stops_nothing(fault: str, stand_in: Any, tmp_path: Path) -> None:
    source, said = FAULTS[fault]
    stand_in("trackio", source)
    notes = list[str]()
    tracked = Tracked(["trackio"], tmp_path / "runs/r", notes.append, patience=1.0 if fault == "hangs" else 60.0)
    began = time.monotonic()
    for step in range(3):
        tracked.log(step, {"dev/pass@1": 0.5})
    assert time.monotonic() - began < 20, "the loop waits for no tracker"
    tracked.close()
    assert len(notes) == 1
    assert said in notes[0]


def test_trackers_that_have_died_are_not_waited_for_at_the_end(stand_in: Any, tmp_path: Path) -> None:
    stand_in("trackio", FAULTS["dies"][0])
    notes = list[str]()
    tracked = Tracked(["trackio"], tmp_path / "runs/r", notes.append, patience=60.0)
    began = time.monotonic()
    while not notes and time.monotonic() - began < 60:
        tracked.log(0, {"dev/pass@1": 0.5})
    began = time.monotonic()
    tracked.close()
    assert time.monotonic() - began < 10
    assert len(notes) == 1


def test_every_policy_is_a_step_with_its_numbers(stand_in: Any, tmp_path: Path) -> None:
    """A whole run, reporting: what a tracker that writes down all it hears has heard in the end."""
    heard = tmp_path / "heard"
    stand_in(
        "trackio",
        f"""
import json
def tell(*what): open({str(heard)!r}, "a").write(json.dumps(what) + "\\n")
class R:
    def log(self, numbers, step): print("noise"); tell("log", step, numbers)
    def finish(self): tell("finish")
def init(**said): tell("init", said); return R()
""",
    )
    run = example_run(tmp_path, report_to=["trackio"])
    (first, said), *told, last = map(json.loads, heard.read_text().splitlines())
    assert (first, said["name"], said["project"], last) == ("init", "example", "codelutra", ["finish"])
    steps = [step for _, step, _ in told]
    assert steps == sorted(steps)
    summary = read_summary(run.parent, run.name)
    assert set(steps) == set(range(len(summary.policies)))
    by_step: dict[int, dict[str, float]] = {}
    for _, step, numbers in told:
        by_step.setdefault(step, {}).update(numbers)
    for step, row in enumerate(summary.policies):
        assert by_step[step]["dev/pass@1"] == row.dev.value
        assert numbers_of(row).items() >= {k: v for k, v in by_step[step].items() if k.startswith("dev/")}.items()
        if row.funnel:
            assert by_step[step]["lesson/pairs"] == row.funnel.pairs
    assert summary.test
    assert by_step[steps[-1]]["test/pass@1"] == summary.test.value


def test_every_training_of_a_run_is_told_whom_it_reports_to(tmp_path: Path) -> None:
    raw = {"name": "r", "suite": {"name": "starter-sql"}, "report_to": ["tensorboard", "wandb", "wandb"]}
    for config, to in ((raw, ("tensorboard", "wandb")), (raw | {"report_to": []}, None)):
        with Run(tmp_path, parse_config(config)) as run:
            policy = Policy("policy-0", "/nowhere", "digest")
            report = stages._training(run, policy, tmp_path, tmp_path, "train", "train policy 1", None).report
            assert (report and report.to) == to
    folder = str(tmp_path / "runs/r/tensorboard/train-policy-1")
    assert trackers.environment(Report(("tensorboard",), "r", folder))["TENSORBOARD_LOGGING_DIR"] == folder


def test_what_a_tracker_says_reaches_the_ledger_without_secrets(tmp_path: Path) -> None:
    with Run(tmp_path, parse_config({"name": "r", "suite": {"name": "starter-sql"}})) as run:
        hear = run.training_progress("train", "train policy 1")
        hear(0, 0, {"doing": "tracker", "text": "mlflow: no answer from http://me:secret@host/"})
        (note,) = [e["text"] for e in run.dir.events() if e["event"] == "note"]
    assert note.startswith("mlflow: no answer")
    assert "secret" not in note


def test_a_callback_that_raises_hears_nothing_more_and_training_goes_on() -> None:
    class Broken(TrainerCallback):
        calls = 0

        def on_log(self, *_: Any, **__: Any) -> None:
            Broken.calls += 1
            raise ConnectionError("gone")

    told = list[str]()
    guarded = Guarded("wandb", told.append, Broken)
    for _ in range(3):
        guarded.on_train_begin(None, None, None)
        guarded.on_log(None, None, None, logs={})
    assert Broken.calls == 1
    assert told == ["wandb: ConnectionError: gone; it hears no more of this training"]


def test_trackers_change_no_weight_and_a_broken_one_stops_no_training(stand_in: Any, tmp_path: Path) -> None:
    stand_in("trackio", "raise OSError('no disk')")
    policy = write_tiny_model(tmp_path / "policy")
    events = list[dict[str, Any]]()

    def trained(name: str, report: Report | None) -> dict[str, torch.Tensor]:
        here = place(policy, tmp_path / name, lambda done, total, event: events.append(event))
        config = TrainSection(**SMALL)
        launch.refine(replace(here, report=report), some_pairs(8), config)
        return weights(tmp_path / name / "out")

    alone = trained("alone", None)
    assert not [e for e in events if e["doing"] == "tracker"]
    watched = trained("watched", Report(("trackio",), "r, train policy 1", str(tmp_path / "tensorboard")))
    (told,) = [e["text"] for e in events if e["doing"] == "tracker"]
    assert told.startswith("trackio: ")
    assert alone.keys() == watched.keys()
    assert all(torch.equal(alone[name], watched[name]) for name in alone)


def test_tensorboard_has_the_losses_of_a_training_and_the_numbers_of_the_loop(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    policy, folder = write_tiny_model(tmp_path / "policy"), tmp_path / "runs/r/tensorboard"
    report = Report(("tensorboard",), "r, train policy 1", str(folder / "train"))
    facts = launch.refine(replace(place(policy, tmp_path / "at"), report=report), some_pairs(8), TrainSection(**SMALL))
    read = accumulator.EventAccumulator(str(folder / "train"))
    read.Reload()
    losses = read.Scalars("train/loss")
    assert [e.step for e in losses] == list(range(1, facts["steps"] + 1))
    assert losses[-1].value == pytest.approx(facts["last_loss"], rel=1e-3)

    for _ in range(2):  # a run that is started again tells the same once more
        tracked = Tracked(["tensorboard"], tmp_path / "runs/r", pytest.fail)
        tracked.log(0, {"dev/pass@1": 0.25})
        tracked.log(1, {"dev/pass@1": 0.5})
        tracked.close()
    read = accumulator.EventAccumulator(str(folder / "loop"))
    read.Reload()
    told = [(e.step, float(e.tensor_proto.float_val[0])) for e in read.Tensors("dev/pass@1")]
    assert told == [(0, 0.25), (1, 0.5)]


def test_trackio_keeps_the_steps_of_a_training_and_the_numbers_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    policy, report = write_tiny_model(tmp_path / "policy"), Report(("trackio",), "r, train policy 1", "")
    facts = launch.refine(replace(place(policy, tmp_path / "at"), report=report), some_pairs(8), TrainSection(**SMALL))
    tracked = Tracked(["trackio"], tmp_path / "runs/r", pytest.fail)
    tracked.log(0, {"dev/pass@1": 0.25})
    tracked.log(1, {"dev/pass@1": 0.5})
    tracked.close()
    (file,) = (tmp_path / "trackio").glob("codelutra*.db")
    with closing(sqlite3.connect(file)) as db:
        rows = db.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    told = [(name, step, json.loads(numbers)) for name, step, numbers in rows]
    assert [(step, n["dev/pass@1"]) for name, step, n in told if name == "r"] == [(0, 0.25), (1, 0.5)]
    losses = [n["train/loss"] for name, _, n in told if name == report.name and "train/loss" in n]
    assert len(losses) == facts["steps"]
    assert losses[-1] == pytest.approx(facts["last_loss"], rel=1e-3)
