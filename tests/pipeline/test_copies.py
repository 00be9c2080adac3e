"""`suite.copies` in a run: its stages, what `check` says, and that nothing changes without it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from codelutra.config import RunConfig, SuiteSection, parse_config
from codelutra.errors import ConfigError
from codelutra.pipeline import copies as copying
from codelutra.pipeline import stages
from codelutra.pipeline.check import check
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import open_run
from codelutra.pipeline.sampler import measure_plan
from codelutra.results.summary import RunSummary
from codelutra.results.table import policies_notes
from codelutra.schema import COPIES, EXPECTED_ON_COPIES, LUCKY, RIGHT_BY_LUCK, SAMPLES
from codelutra.schema import check as matched
from codelutra.store.artifacts import Artifact, Step, write_frame
from codelutra.suites.base import open_suite
from flows.refine import by_no_luck, measure
from tests.execution.test_lucky import LUCKY_HERE, OLD, QUERIES, RIGHT_ELSEWHERE_TOO, SHOP
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    write_tiny_model(folder / "model")
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.executescript(SHOP)
    with closing(sqlite3.connect(folder / "one.sqlite")) as connection, connection:
        connection.executescript("CREATE TABLE t (a INTEGER CHECK (a = 7) UNIQUE); INSERT INTO t VALUES (7)")
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite, one.sqlite]\n")
    lines = [{"id": i, "split": "train", "question": f"{i}?", "query": q, "database": "shop"} for i, q in QUERIES.items()]
    lines += [{"id": "one", "split": "train", "question": "one?", "query": "SELECT a FROM t", "database": "one"}]
    lines += [{"id": "dev", "split": "dev", "question": "dev?", "query": "SELECT name FROM city", "database": "shop"}]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


def config(folder: Path, **suite: Any) -> RunConfig:
    raw = {"name": "shop", "model": f"path:{folder}/model", "execute": {"workers": 1, "timeout_seconds": 2}}
    return parse_config({**raw, "suite": {"name": "custom", "path": str(folder), **suite}})


def test_check_says_how_many_copies_there_are_and_what_they_tell_apart(folder: Path, tmp_path: Path) -> None:
    report = check(config(folder, copies=4), tmp_path)
    assert report.copies["of_each"] == 4
    assert (report.copies["problems"], report.copies["problems_with_copies"]) == (4, 3)
    first, second = [note for note in report.notes if "copies" in note]
    tried = report.copies["mutants"]
    assert f"the copies catch {tried['caught']} of these" in first
    assert 0 < tried["caught"] <= tried["right"] <= tried["changed"]
    assert second.startswith("fewer copies of one: its constraints leave nothing to perturb")
    assert report.spoilt == []


def test_check_without_copies_makes_none(folder: Path, tmp_path: Path) -> None:
    report = check(config(folder), tmp_path)
    assert report.copies == {}
    assert not [note for note in report.notes if "copies" in note]
    assert not (tmp_path / "store" / "copies").exists()


@pytest.mark.usefixtures("prefect")
def test_a_run_learns_from_what_the_copies_confirm_and_scores_by_the_database(folder: Path, tmp_path: Path) -> None:
    codes = [*RIGHT_ELSEWHERE_TOO[OLD], *LUCKY_HERE[OLD], "SELECT 0"]
    answers = [(OLD, i, False, code, code, "stop", 1, 1) for i, code in enumerate(codes)]

    @flow
    def learned(copies: int) -> tuple[list[Artifact], list[Artifact], Artifact, Artifact]:
        with open_run(tmp_path, config(folder, copies=copies).model_copy(update={"name": f"with-{copies}"})) as run:
            asked = run.make(stages.problems(run))
            expected = run.make(stages.references(run, asked))
            with measure_plan(run, stages.base_policy(run), asked, expected, "dev", train=True) as sampling:
                (number,) = [i for i, _ in sampling.labels(greedy=False)]

                def build(out: Path, work: Path) -> dict[str, Any]:
                    write_frame(pl.DataFrame(answers, schema=SAMPLES, orient="row"), out / "samples.parquet")
                    return {"rows": len(answers), "seconds": 1.0, "tokens": 1}

                samples = run.make(Step(sampling.steps[number].recipe, build))
                outcomes = [run.make(stages.execute(run, samples, asked, expected))]
                kept = by_no_luck(run, sampling, outcomes, asked, expected)
            scores = run.make(stages.score(run, outcomes, asked, expected, "train"))
            return outcomes, kept, scores, run.make(stages.pairs(run, kept, asked, expected))

    official, same, scores, pairs = learned(0)
    assert same == official
    assert "lucky_left_out" not in pairs.facts
    again, kept, same_scores, fewer_pairs = learned(4)
    assert again == official
    assert same_scores == scores
    frame = kept[0].frame("outcomes")
    assert frame.filter(RIGHT_BY_LUCK)["code"].to_list() == LUCKY_HERE[OLD]
    assert kept[0].facts["lucky"] == fewer_pairs.facts["lucky_left_out"] == 3
    assert set(fewer_pairs.frame("pairs")["chosen"]) <= set(RIGHT_ELSEWHERE_TOO[OLD])
    assert set(pairs.frame("pairs")["chosen"]) & set(LUCKY_HERE[OLD])
    matched(kept[0].frame("lucky"), LUCKY)


def test_copies_are_keyed_by_what_makes_them_and_whole_in_the_store(folder: Path, tmp_path: Path) -> None:
    keys = set()
    for changes in ({"copies": 2}, {"copies": 3}, {"copies": 2, "seed": 1}):
        with open_run(tmp_path, config(folder, **changes).model_copy(update={"name": f"n{len(keys)}"})) as run:
            asked = run.make(stages.problems(run))
            made = run.make(copying.copies(run, asked))
            keys.add(made.key)
            frame = matched(made.frame("copies"), COPIES)
            assert {p.name for p in Path(made.path).iterdir()} == {
                "copies.parquet",
                "manifest.json",
                *(f"{digest}.sqlite" for digest in frame["digest"]),
            }
            expected = run.make(stages.references(run, asked))
            there = run.make(copying.references_on_copies(run, made, asked, expected)).frame("expected")
            assert matched(there, EXPECTED_ON_COPIES)["copy"].n_unique() == changes["copies"]
    assert len(keys) == 3


def test_copies_are_refused_where_there_is_no_database() -> None:
    with pytest.raises(ConfigError, match=r"suite\.copies 3: starter-python has no databases"):
        open_suite(SuiteSection(name="starter-python", copies=3))
    with pytest.raises(ConfigError, match="less than or equal to 16"):
        parse_config({"name": "x", "suite": {"name": "starter-sql", "copies": 17}})


@pytest.mark.usefixtures("prefect")
def test_dev_is_scored_by_the_database_and_beside_it_by_the_copies(folder: Path, tmp_path: Path) -> None:
    """Three dev problems with one reference: an answer right everywhere, one by luck, one wrong."""
    old = QUERIES[OLD]
    lines = [{"id": OLD, "split": "train", "question": "old?", "query": old, "database": "shop"}]
    lines += [{"id": f"d{i}", "split": "dev", "question": f"dev {i}?", "query": old, "database": "shop"} for i in range(3)]
    (tmp_path / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    (tmp_path / "shop.sqlite").write_bytes((folder / "shop.sqlite").read_bytes())
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    raw = config(folder, copies=4)
    asked_of = raw.model_copy(update={"iterations": 0, "suite": raw.suite.model_copy(update={"path": str(tmp_path)})})
    codes = [RIGHT_ELSEWHERE_TOO[OLD][0], LUCKY_HERE[OLD][0], "SELECT 0"]
    answers = [(f"d{i}", 0, True, code, code, "stop", 1, 1) for i, code in enumerate(codes)]

    @flow
    def scored() -> RunSummary:
        with open_run(tmp_path, asked_of) as run:
            asked = run.make(stages.problems(run))
            expected = run.make(stages.references(run, asked))
            record = Recorder(run)
            record.prepared(asked, expected)
            with measure_plan(run, stages.base_policy(run), asked, expected, "dev") as sampling:
                (step,) = sampling.steps

                def build(out: Path, work: Path) -> dict[str, Any]:
                    write_frame(pl.DataFrame(answers, schema=SAMPLES, orient="row"), out / "samples.parquet")
                    return {"rows": len(answers), "seconds": 1.0, "tokens": 1}

                run.make(Step(step.recipe, build))
                measure(run, record, sampling, asked, expected, None)
            return record.finish()

    summary = scored()
    (row,) = summary.policies
    assert row.dev_on_copies
    assert (row.dev.correct, row.dev_on_copies.correct, row.dev_on_copies.n) == (2, 1, 3)
    assert any("suite.copies): dev policy 0 33.3%" in note for note in policies_notes(summary)), policies_notes(summary)
    assert (tmp_path / "runs/shop/policy-0/dev-scores-on-copies").exists()
