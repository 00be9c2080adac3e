"""What Prefect adds to the stages: cache keys that hit across runs, retries for transient faults only."""

from __future__ import annotations

import gc
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from markdown_it import MarkdownIt
from prefect import __version__ as prefect_version
from prefect import flow, task
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from codelutra.config import parse_config
from codelutra.errors import StageError, UserError
from codelutra.experiments.retrain import next_retraining
from codelutra.pipeline.run import Run, open_run
from codelutra.results.table import Table
from codelutra.schema import PAIRS
from codelutra.store.artifacts import Artifact as StoreArtifact
from flows.compare import compare
from flows.evaluate import evaluate
from flows.retrain import retrain
from tasks import publish
from tasks.options import is_transient
from tasks.stages import answers, execute, groups, pairs, problems, references, sample, score, train, warm_start
from tests.helpers.http import Asked, Raw, answering
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model

STAGE_TASKS = (problems, references, sample, execute, score, pairs, answers, groups, warm_start, train)


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    config = parse_config({"name": "t", "suite": {"name": "starter-sql", "train": 20, "dev": 10, "test": 0}})
    with open_run(tmp_path, config) as opened:
        yield opened


@flow
def load(run: Run) -> State[Any]:
    return problems(run, return_state=True)


def test_a_second_flow_run_finds_the_artifact_cached(run: Run) -> None:
    first, second = load(run), load(run)
    assert (first.name, second.name) == ("Completed", "Cached")
    assert first.result() == second.result()


def test_a_cached_result_whose_artifact_is_gone_is_made_again(run: Run) -> None:
    artifact = load(run).result()
    shutil.rmtree(artifact.path)
    again = load(run)
    assert again.name == "Completed"
    assert again.result().frame("problems").height == 30


def test_a_damaged_artifact_is_not_served_from_the_cache(run: Run) -> None:
    artifact = load(run).result()
    artifact.file("problems.parquet").write_bytes(b"damaged")
    again = load(run)
    assert again.name == "Completed"
    assert again.result().frame("problems").height == 30


def test_what_is_reused_through_prefect_is_in_the_ledger(run: Run) -> None:
    load(run)
    load(run)
    assert [e["event"] for e in run.dir.events()] == ["start", "made", "reused"]


@pytest.mark.parametrize("stage", STAGE_TASKS, ids=lambda t: t.fn.__name__)
def test_every_stage_task_has_a_key_of_its_own_and_keeps_its_result(stage: Any) -> None:
    assert stage.cache_key_fn is not None
    assert stage.persist_result is True
    in_threads = (sample, execute)  # where Prefect cannot end them, and would warn at every task
    assert bool(stage.timeout_seconds) == (stage not in (problems, score, pairs, answers, groups, *in_threads))


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


@pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow")  # a flow would ask for a server that answers
@pytest.mark.parametrize("answers", [False, True])
def test_a_server_that_is_away_or_fails_costs_a_training_its_display_and_nothing_else(
    run: Run, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_EVERY_SECONDS", 0.0)
    asked = list[str]()

    def failing(request: Asked) -> Raw:
        """A server that says it is Prefect's and then answers all that is asked of it with 500."""
        asked.append(request.path)
        return Raw(200 if request.path.endswith("/version") else 500, json.dumps(prefect_version))

    with answering(failing, "/api") as url:
        api = {PREFECT_API_URL: url if answers else "http://127.0.0.1:9/api"}
        with temporary_settings(api), publish.live_progress(run):
            hear = run.training_progress("train", "train policy 1")
            for i in range(1, 10):
                hear(i, 60, {"doing": "progress", "step": i, "loss": 1.0})
    (note,) = run.dir.events()
    assert note["event"] == "note"
    assert "the run goes on" in note["text"]
    assert run.dir.read("progress.json")["total"] == 60
    assert len([path for path in asked if not path.endswith("/version")]) == answers, "then it is left alone"


def test_a_training_shows_its_steps_in_the_ui_while_it_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "_EVERY_SECONDS", 0.0)
    step = {
        "loss": 1.5,
        "chosen_log_prob": -4.0,
        "chosen_drift": 0.5,
        "rejected_log_prob": -9.0,
        "rejected_drift": -2.0,
        "margin": 0.25,
        "kl": 0.0123456,
    }
    tables = list[Any]()

    @flow
    def training() -> None:
        with publish.live_progress(run):
            hear = run.training_progress("train", "train policy 1")
            first = threading.Thread(target=hear, args=(0, 60, {"doing": "training", "resumed_from_step": None}))
            first.start()  # as the sampling thread does: it has no flow run of its own
            first.join()
            for i in range(1, 31):
                hear(i, 60, {"doing": "progress", "step": i, **step})
                tables.append(Artifact.get("t-progress-train-policy-1-steps"))
            tables.append(Artifact.get("t-progress-train-policy-1"))
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


HOSTILE = (
    "x\n```\n# Ours\n![i](http://e/p.png)\n[l](http://e)\n<img src=x onerror=y>\n~~~\n````\nhttp://e.com \x1b]0;t\x07 \u202e"
)


def test_pairs_in_the_ui_are_text_whatever_the_model_and_the_suite_wrote(tmp_path: Path) -> None:
    def shown(text: str) -> list[tuple[str, str]]:
        row = (text, text, text, f"{text} 2", "sample", "wrong", 0, 1, True)
        pl.DataFrame([row] * 3, schema=PAIRS, orient="row").write_parquet(tmp_path / "pairs.parquet")
        said = publish._three_pairs(StoreArtifact("pairs", "k", "d", str(tmp_path)))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", said)
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(said)
        inner = [t for token in tokens for t in (token.children or [])]
        assert {t.type for t in inner} <= {"text", "text_special", "code_inline"}
        return [(t.type, t.tag) for t in tokens]

    assert shown(HOSTILE) == shown("words") == shown("``` diff\n" * 40)


def test_a_comparison_is_shown_whatever_its_config_is_called() -> None:
    @flow
    def compared() -> None:
        publish.publish_table("comparison-My_task.v2", Table.of([{"method": "base"}]), "My_task.v2")

    compared()
    shown: Any = Artifact.get("comparison-my-task-v2")
    assert json.loads(shown.data) == [{"method": "base"}]


def test_a_misspelt_method_is_told_before_any_run_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown method 'grop'; known: base"):
        compare.fn(methods=["base", "grop"], overrides=["model=path:/not/there"], home=str(tmp_path))
    assert not list(tmp_path.iterdir())


# Prefect leaves the clients of a task runner's threads to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_retraining_says_what_became_of_it_and_what_it_promoted_can_be_evaluated(tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "tiny")
    config = without_dev(tmp_path, *["test"] * 4, model=f"path:{weights}", iterations=0)
    home = tmp_path / "home"
    due = next_retraining(home, str(config))
    assert due
    with Run(home, due.arm.config) as opened:
        answer(opened, weights, right=3)
    states = [retrain(config=str(config), home=str(home), return_state=True) for _ in range(2)]
    assert [s.message for s in states] == ["nodev-r001: promoted", "nothing new since the last retraining"]
    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_flow_runs()}
    assert {"retrain-nodev", "refine-nodev-r001"} <= names, "after the config's name, not its path"
    shown: Any = Artifact.get("promoted-nodev")
    assert json.loads(shown.data)[0]["verdict"] == "promoted, policy 0"
    (row,) = evaluate(models=[f"path:{home}/promoted/nodev/model"], config=str(config), home=str(home))
    assert row["test"]["value"] == 0.75
    table: Any = Artifact.get("evaluation-nodev-evaluate")
    assert json.loads(table.data)[0]["test pass@1 [95 %]"].startswith("75.0%")
    gc.collect()
