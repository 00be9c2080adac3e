"""What Prefect adds to the stages: cache keys that hit across runs, retries for transient faults only."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.testing.utilities import prefect_test_harness

from codelutra.config import parse_config
from codelutra.errors import StageError
from codelutra.run import RunRef, open_run
from tasks import publish
from tasks.execute import execute
from tasks.options import is_transient
from tasks.pairs import pairs
from tasks.prepare import problems, references
from tasks.sample import sample
from tasks.score import score
from tasks.train import train, warm_start

STAGE_TASKS = (problems, references, sample, execute, score, pairs, warm_start, train)


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness():
        yield


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunRef]:
    config = parse_config({"name": "t", "suite": {"name": "starter-sql", "train": 20, "dev": 10, "test": 0}})
    with open_run(tmp_path, config) as opened:
        yield opened.ref


@flow
def load(run: RunRef) -> State[Any]:
    return problems(run, return_state=True)


def test_a_second_flow_run_finds_the_artifact_cached(run: RunRef) -> None:
    first, second = load(run), load(run)
    assert (first.name, second.name) == ("Completed", "Cached")
    assert first.result() == second.result()


def test_a_cached_result_whose_artifact_is_gone_is_made_again(run: RunRef) -> None:
    artifact = load(run).result()
    shutil.rmtree(artifact.path)
    again = load(run)
    assert again.name == "Completed"
    assert again.result().frame("problems").height == 30


def test_a_damaged_artifact_is_not_served_from_the_cache(run: RunRef) -> None:
    artifact = load(run).result()
    artifact.file("problems.parquet").write_bytes(b"damaged")
    again = load(run)
    assert again.name == "Completed"
    assert again.result().frame("problems").height == 30


def test_what_is_reused_through_prefect_is_in_the_ledger(run: RunRef) -> None:
    load(run)
    load(run)
    assert [e["event"] for e in run.open().dir.events()] == ["start", "made", "reused"]


@pytest.mark.parametrize("stage", STAGE_TASKS, ids=lambda t: t.fn.__name__)
def test_every_stage_task_has_a_key_of_its_own_and_keeps_its_result(stage: Any) -> None:
    assert stage.cache_key_fn is not None
    assert stage.persist_result is True
    assert stage.timeout_seconds or stage in (problems, score, pairs)


@pytest.mark.parametrize(("error", "tries"), [(StageError("diverged"), 1), (OSError("connection reset"), 3)])
def test_only_transient_faults_are_tried_again(error: Exception, tries: int) -> None:
    calls = []

    @task(retries=2, retry_condition_fn=is_transient)
    def fails() -> None:
        calls.append(1)
        raise error

    @flow
    def once() -> None:
        fails(return_state=True)

    once(return_state=True)
    assert len(calls) == tries


def test_a_training_shows_its_steps_in_the_ui_while_it_goes_on(run: RunRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_EVERY_SECONDS", 0.0)
    step = {"loss": 1.5, "chosen_log_prob": -4.0, "chosen_drift": 0.5, "rejected_log_prob": -9.0, "rejected_drift": -2.0,
            "margin": 0.25, "kl": 0.0123456}  # fmt: skip
    tables = list[Any]()

    @flow
    def training() -> None:
        opened = run.open()
        with publish.live_progress(opened):
            hear = opened.training_progress("train", "train iteration 1")
            first = threading.Thread(target=hear, args=(0, 60, {"doing": "training", "resumed_from_step": None}))
            first.start()  # as the sampling thread does: it has no flow run of its own
            first.join()
            for i in range(1, 31):
                hear(i, 60, {"doing": "progress", "step": i, **step})
                tables.append(Artifact.get("t-progress-train-iteration-1-steps"))
            tables.append(Artifact.get("t-progress-train-iteration-1"))
        runs.append(flow_run.id)

    runs = list[str]()
    training()
    bar = tables.pop()
    assert str(bar.flow_run_id) == runs[0], "shown with its run"
    assert {t.id for t in tables} == {tables[0].id}, "changed in place, not piled up"
    rows = json.loads(tables[-1].data)
    assert rows[-1] == {"step": 30} | step | {"kl": 0.01235}
    assert len(rows) <= 25
    assert rows[0]["step"] <= 2
    assert bar.data == 50.0
    assert "30 of 60 steps  ·  loss 1.500  chosen −4.0 (+0.5)" in bar.description
