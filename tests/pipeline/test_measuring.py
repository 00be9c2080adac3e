"""A suite without dev problems can be measured on test: the real flow, from answers and weights that are there already."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from codelutra.cli.tables import runs_table
from codelutra.config import RunConfig, load_config
from codelutra.errors import StageError
from codelutra.pipeline import stages
from codelutra.pipeline.check import check
from codelutra.pipeline.run import Run
from codelutra.pipeline.sampler import Sampling, measure_plan
from codelutra.reporting.export import export
from codelutra.results.load import list_runs
from codelutra.store.files import locked
from tests.helpers.commands import codelutra
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def measurable(folder: Path, weights: Path, *splits: str, **changes: Any) -> tuple[Path, RunConfig]:
    file = without_dev(folder, *splits, iterations=0, model=f"path:{weights}", **changes)
    return file, load_config(file)


@pytest.mark.parametrize(
    ("splits", "warm", "measured"),
    [
        (["test"] * 4, None, ("policy-0", "policy 0", "")),
        (["test"] * 4, {}, ("base", "base", " It has no train problem either: there was no warm start.")),
        (["train", "train", *["test"] * 4], {}, ("policy-0", "policy 0", "")),
    ],
)
def test_without_iterations_the_start_is_measured_on_test(
    splits: list[str], warm: Any, measured: tuple[str, str, str], weights: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    file, config = measurable(tmp_path, weights, *splits, warm_start=warm)
    with Run(tmp_path, config) as run:
        answer(run, weights, right=3)
    done = codelutra("run", str(file), "--home", str(tmp_path), "--json", **prefect)
    assert done.returncode == 0, done.stderr
    label, name, more = measured
    summary = json.loads(done.stdout)
    assert (summary["state"], summary["best"]) == ("finished", label)
    assert summary["reason"] == "The suite has no dev problem: one policy was measured, on test." + more
    assert (summary["test"]["value"], summary["test"]["n"], summary["test"]["policy"]) == (0.75, 4, label)
    (row,) = summary["policies"]
    assert (row["name"], row["dev"]["n"], row["tokens"]) == (name, 0, 20)

    ((found,), _) = list_runs(tmp_path / "runs")
    assert runs_table([found]).rows[0][-1] == "", "no problem is no share of problems"
    shown = codelutra("status", "nodev", "--home", str(tmp_path), COLUMNS="150").stdout
    assert f"test (scored once, with {name}): 75.0%" in shown
    assert "0.0%" not in shown
    drawn = codelutra("report", "nodev", "--home", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    page = (tmp_path / "runs/nodev/report/index.html").read_text()
    assert f"{name} is measured on the test split alone" in page
    assert "75.0%" in page
    assert "0.0 – 100.0" not in page
    card = (export(tmp_path / "runs/nodev", tmp_path / "out") / "README.md").read_text()
    assert f"| **{name}** |  |  |" in card
    assert "dev pass@1 (" not in card


def test_a_sampling_that_waits_for_the_engine_tells_that_and_no_count(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "accelerator.lock"
    monkeypatch.setenv("CODELUTRA_ACCELERATOR_LOCK", str(lock))
    _, config = measurable(tmp_path, weights, *["test"] * 4)
    with Run(tmp_path, config) as run, locked(lock):
        asked = run.make(stages.problems(run))
        expected = run.make(stages.references(run, asked))
        with measure_plan(run, stages.base_policy(run), asked, expected, "test") as sampling:
            waiter = threading.Thread(target=shard_or_end, args=(sampling,))
            waiter.start()
            deadline = time.monotonic() + 120
            while not any(e["event"] == "waiting" for e in run.dir.events()):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            told = next(e["at"] for e in run.dir.events() if e["event"] == "waiting")
            time.sleep(3)  # progress is heard of every second
            now = run.dir.progressed()
        waiter.join()
        assert not now or now["at"] <= told


def shard_or_end(sampling: Sampling) -> None:
    with suppress(StageError):
        sampling.shard(0)


def test_check_says_that_there_is_no_dev_problem(weights: Path, tmp_path: Path) -> None:
    _, config = measurable(tmp_path, weights, "test", "test")
    report = check(config, tmp_path)
    assert report.notes == ["there are no dev problems: a run can measure its model on test, but not choose among policies"]
    assert report.spoilt == []
