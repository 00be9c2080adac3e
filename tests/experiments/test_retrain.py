"""Retraining as data grows: sides hold, nothing new costs nothing, only what is better is promoted."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError, UserError
from codelutra.experiments.evaluate import evaluation
from codelutra.experiments.in_force import in_force
from codelutra.experiments.retrain import (
    Due,
    Record,
    Retraining,
    conclude,
    next_retraining,
    promote,
    read_record,
    record_table,
)
from codelutra.pipeline.run import Run
from codelutra.reporting.export import exported_policy
from codelutra.results.findings import read_findings
from codelutra.results.lineage import _keys, lineage
from codelutra.suites.base import open_suite
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.nights import due, grow, refined
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def sides(folder: Path, **more: Any) -> dict[str, str]:
    frame = open_suite(SuiteSection(name="custom", path=str(folder), **more)).problems()
    return dict(frame.select("prompt", "split").rows())


def test_problems_stay_on_their_side_as_the_suite_grows(tmp_path: Path) -> None:
    grow(tmp_path, range(0, 120, 2))
    before, seen = sides(tmp_path), tmp_path / "problems.parquet"
    open_suite(SuiteSection(name="custom", path=str(tmp_path))).problems().write_parquet(seen)
    grow(tmp_path, range(119, -1, -1))  # twice as many, in another order
    anew, held = sides(tmp_path), sides(tmp_path, splits_of=[str(seen)])
    assert {p: s for p, s in held.items() if p in before} == before
    assert {p: s for p, s in anew.items() if p in before} != before, "dealt anew, sides change: this test could not fail"
    assert [list(held.values()).count(s) for s in ("train", "dev", "test")] == [72, 18, 30], "new ones fill the shares"


def test_prompts_that_end_alike_are_not_the_same_problem(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"Write f of {n}.\n\nUse type hints.",
            "reference": f"def f(): return {n}",
            "function": "f",
            "cases": [[]],
        }
        for n in range(60)
    ]
    (tmp_path / "suite.yaml").write_text("kind: python-function\n")
    for some in (lines[:30], lines):
        (tmp_path / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in some))
        if some is not lines:
            open_suite(SuiteSection(name="custom", path=str(tmp_path))).problems().write_parquet(tmp_path / "seen.parquet")
    held = list(sides(tmp_path, splits_of=[str(tmp_path / "seen.parquet")]).values())
    assert [held.count(s) for s in ("train", "dev", "test")] == [36, 9, 15]


def test_what_was_train_anywhere_stays_train(tmp_path: Path) -> None:
    grow(tmp_path, range(30))
    frame = open_suite(SuiteSection(name="custom", path=str(tmp_path))).problems()
    files = [tmp_path / f"{i}.parquet" for i in range(2)]
    frame.with_columns(split=pl.lit("test", frame.schema["split"])).write_parquet(files[0])
    frame.head(20).with_columns(split=pl.lit("train", frame.schema["split"])).write_parquet(files[1])
    held = sides(tmp_path, splits_of=[str(f) for f in files])
    assert list(held.values()) == ["train"] * 20 + ["test"] * 10


def test_sides_are_of_custom_suites_and_of_files_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="splits_of is for suite custom"):
        SuiteSection(name="mbpp", splits_of=("x.parquet",))
    grow(tmp_path, range(30))
    with pytest.raises(ConfigError, match=r"splits_of 'none\.parquet' is no problems\.parquet of a run"):
        sides(tmp_path, splits_of=["none.parquet"])


def test_the_first_is_promoted_nothing_new_is_nothing_and_what_grew_goes_on_from_it(tmp_path: Path) -> None:
    config = grow(tmp_path, range(0, 200, 2))
    first = due(tmp_path, config)
    assert (first.arm.config.name, first.arm.config.model, first.arm.config.warm_start is not None) == (
        "shop-r001",
        "hf:example/tiny@main",
        True,
    )
    assert due(tmp_path, config) == first, "begun and not concluded: it comes again"
    row = conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    assert (row.verdict, row.policy) == ("promoted", "policy-1")
    assert next_retraining(tmp_path, str(config)) is None

    grow(tmp_path, range(200))
    second = due(tmp_path, config)
    assert (second.arm.config.name, second.arm.config.model, second.arm.config.warm_start) == (
        "shop-r002",
        "run:shop-r001",
        None,
    )
    was = pl.read_parquet(tmp_path / "runs/shop-r001/problems.parquet").select("prompt", "split")
    now = open_suite(second.arm.config.suite).problems().select("prompt", "split")
    assert now.join(was, on="prompt").filter(pl.col("split") != pl.col("split_right")).height == 0
    assert now.height == 2 * was.height


def test_only_a_better_policy_is_promoted(tmp_path: Path) -> None:
    config = grow(tmp_path, range(200))
    first = due(tmp_path, config)
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.5))
    model = tmp_path / "promoted/shop/model"
    link = model.readlink()

    grow(tmp_path, range(205))
    worse = due(tmp_path, config)
    row = conclude(tmp_path, worse, refined(tmp_path, worse, 0.5, 0.1))
    assert (row.verdict, row.policy, row.paired) == ("kept", "policy-0", None)
    assert model.readlink() == link

    grow(tmp_path, range(210))
    unsure = due(tmp_path, config)
    assert unsure.arm.config.model == "run:shop-r001", "from the promoted policy, not from the last"
    row = conclude(tmp_path, unsure, refined(tmp_path, unsure, 0.4, 0.9), alpha=1e-12)
    assert row.paired
    assert row.paired.gained > row.paired.lost
    assert row.verdict == "kept", "more certainty was asked for"

    grow(tmp_path, range(215))
    better = due(tmp_path, config)
    row = conclude(tmp_path, better, refined(tmp_path, better, 0.4, 0.9))
    assert row.verdict == "promoted"
    assert model.resolve() == Path(row.path)
    record = read_record(tmp_path, "shop")
    assert [r["now"] for r in record_table(record).records()] == ["", "", "", "●"]
    assert conclude(tmp_path, better, refined(tmp_path, better, 0.4, 0.9)) == row, "concluded once"


def test_what_was_not_compared_with_the_promoted_policy_is_not_promoted(tmp_path: Path) -> None:
    """Two at once, or a way back taken while one is going on: the later one began from something else."""
    config = grow(tmp_path, range(100))
    early = due(tmp_path, config)
    grow(tmp_path, range(110))
    late = due(tmp_path, config)
    assert (early.arm.config.name, late.arm.config.name, late.arm.config.model) == (
        "shop-r001",
        "shop-r002",
        early.arm.config.model,
    )
    assert conclude(tmp_path, early, refined(tmp_path, early, 0.0, 0.3, 0.9)).verdict == "promoted"
    row = conclude(tmp_path, late, refined(tmp_path, late, 0.0, 0.3, 0.9))
    assert row.paired
    assert row.paired.gained > row.paired.lost
    assert row.verdict == "kept"


def test_a_base_that_nothing_improved_gets_its_warm_start_again_with_more_data(tmp_path: Path) -> None:
    config = grow(tmp_path, range(40))
    first = due(tmp_path, config)
    assert conclude(tmp_path, first, refined(tmp_path, first, 0.9, 0.0, 0.0)).verdict == "promoted"
    grow(tmp_path, range(200))
    second = due(tmp_path, config)
    assert (second.arm.config.model, second.arm.config.warm_start is not None) == (first.arm.config.model, True)


def test_a_retraining_whose_start_is_no_longer_promoted_begins_anew(tmp_path: Path, weights: Path) -> None:
    config = grow(tmp_path, range(100))
    for n, skills in ((100, (0.0, 0.3, 0.5)), (105, (0.3, 0.9))):
        grow(tmp_path, range(n))
        found = due(tmp_path, config)
        summary = refined(tmp_path, found, *skills)
        for policy in summary.policies:
            policy.path = str(weights)
        conclude(tmp_path, found, summary)
    grow(tmp_path, range(110))
    assert due(tmp_path, config).arm.config.model == "run:shop-r002"
    promote(tmp_path, "shop", "shop-r001")
    again = due(tmp_path, config)
    assert (again.arm.config.name, again.arm.config.model) == ("shop-r004", "run:shop-r001")


def test_newer_data_begins_anew_and_a_new_setting_too(tmp_path: Path) -> None:
    config = grow(tmp_path, range(100))
    due(tmp_path, config)
    grow(tmp_path, range(110))
    assert due(tmp_path, config).arm.config.name == "shop-r002"
    found = next_retraining(tmp_path, str(config), ("train.beta=0.3",))
    assert found
    assert (found.arm.config.name, found.arm.config.train.beta) == ("shop-r003", 0.3)
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.execute("INSERT INTO item VALUES (1000, 'new', 1000)")
    connection.close()
    assert due(tmp_path, config).arm.config.name == "shop-r004", "the database's content is data, too"


def test_what_changes_no_number_is_nothing_new(tmp_path: Path) -> None:
    config = grow(tmp_path, range(100))
    first = due(tmp_path, config)
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    assert next_retraining(tmp_path, str(config), ("execute.workers=4", "engine.gpu_memory=0.5")) is None
    assert next_retraining(tmp_path, str(config), ("train.beta=0.3",)) is not None


def test_another_model_needs_another_name_once_one_was_trained(tmp_path: Path) -> None:
    due(tmp_path, grow(tmp_path, range(100), model="hf:exmaple/typo@main"))
    first = due(tmp_path, grow(tmp_path, range(100)))
    assert (first.arm.config.name, first.arm.config.model) == ("shop-r002", "hf:example/tiny@main")
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    config = grow(tmp_path, range(100), model="hf:other/model@main")
    with pytest.raises(UserError, match=r"first trained from 'hf:example/tiny@main'.*another name"):
        next_retraining(tmp_path, str(config))
    assert [r.run for r in Record(tmp_path, "shop").rows] == ["shop-r001", "shop-r002"]


def test_a_name_that_leaves_no_room_for_a_number_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = grow(tmp_path, range(100), name="x" * 62)
    with pytest.raises(ConfigError, match="name"):
        next_retraining(tmp_path, str(config))
    assert Record(tmp_path, "x" * 62).rows == []


def test_sides_outlive_the_runs_and_a_schema_or_a_file_that_changes(tmp_path: Path) -> None:
    config = grow(tmp_path, range(0, 200, 2))
    first = due(tmp_path, config)
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    was = side_by_question(first)
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection, connection:
        connection.execute("ALTER TABLE item ADD COLUMN colour")
    grow(tmp_path, range(200))
    second = due(tmp_path, config)
    for file in (tmp_path / "runs").rglob("problems.parquet"):
        file.unlink()
    assert due(tmp_path, config) == second, "an unfinished one stays what it was"
    now = side_by_question(second)
    assert {q: now[q] for q in was} == was
    (tmp_path / "shop.sqlite").rename(tmp_path / "shop-november.sqlite")
    (tmp_path / "suite.yaml").write_text("kind: sql\ndatabases: [shop-november.sqlite]\n")
    third = due(tmp_path, config)
    assert third.arm.config.name == "shop-r003"
    renamed = side_by_question(third)
    assert {q: renamed[q] for q in now} == now


def side_by_question(found: Due) -> dict[str, str]:
    frame = open_suite(found.arm.config.suite).problems()
    return {prompt.partition("\n\n")[2]: split for prompt, split in frame.select("prompt", "split").rows()}


def test_the_way_back_promotes_an_earlier_one(tmp_path: Path, weights: Path) -> None:
    config = grow(tmp_path, range(100))
    for n, skills in ((100, (0.0, 0.1, 0.5)), (105, (0.3, 0.9))):
        grow(tmp_path, range(n))
        found = due(tmp_path, config)
        summary = refined(tmp_path, found, *skills)
        for policy in summary.policies:
            policy.path = str(weights if n == 100 else tmp_path / "gone")
        conclude(tmp_path, found, summary)
    with pytest.raises(UserError, match=r"no finished retraining 'shop-r009' of shop; there: shop-r001, shop-r002"):
        promote(tmp_path, "shop", "shop-r009")
    with pytest.raises(UserError, match="weights of shop-r002 are not at"):
        promote(tmp_path, "shop", "shop-r002")
    promote(tmp_path, "shop", "shop-r001")
    assert (tmp_path / "promoted/shop/model").resolve() == weights
    grow(tmp_path, range(110))
    assert due(tmp_path, config).arm.config.model == "run:shop-r001"
    with pytest.raises(UserError, match=r"nothing called 'shed' was retrained .*there: shop"):
        read_record(tmp_path, "shed")


def test_problems_that_end_alike_and_have_no_reference_are_not_the_same() -> None:
    ending = "\n\nWrite one function and nothing else."
    one, other = (set(_keys(f"Add {n}.{ending}", "", "")) for n in (1, 2))
    assert not one & other
    assert set(_keys(f"Add 1.{ending}", "", "")) == one


def test_a_problem_that_was_learned_is_not_measured_on(tmp_path: Path) -> None:
    config = grow(tmp_path, range(100))
    first = due(tmp_path, config)
    row = conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    dealt_anew = {"name": "custom", "path": str(tmp_path), "seed": 1}
    for i, model in enumerate(("run:shop-r001", f"path:{row.path}", f"path:{tmp_path}/promoted/shop/model")):
        with pytest.raises(UserError, match=r"problems to measure on were train problems of run 'shop-r001'.*splits_of"):
            example_run(tmp_path, name=f"other-{i}", suite=dealt_anew, model=model)
    (arm,) = evaluation(str(config), ("suite.seed=1",), ["run:shop-r001"], tmp_path).arms
    parsed = arm.config
    assert example_run(tmp_path, name="measured", suite=parsed.suite.model_dump(), model=parsed.model).exists()
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection, connection:
        connection.execute("ALTER TABLE item ADD COLUMN colour")
    with pytest.raises(UserError, match="train problems of run 'shop-r001'"):
        example_run(tmp_path, name="other-schema", suite=dealt_anew, model="run:shop-r001")
    grow(tmp_path, range(100, 200))
    fresh = example_run(tmp_path, name="another", suite=dealt_anew, model="run:shop-r001")
    assert fresh.exists(), "new problems are fine"


def test_a_circle_of_runs_has_an_end(tmp_path: Path) -> None:
    for name, model in (("a", "run:b"), ("b", "run:a")):
        example_run(tmp_path, name=name, skills=(0.1, 0.2))
        summary = json.loads((tmp_path / f"runs/{name}/summary.json").read_text())
        (tmp_path / f"runs/{name}/summary.json").write_text(json.dumps(summary | {"model": model}))
    assert [f.path.name for f in lineage(read_findings(tmp_path / "runs/a"))] == ["b", "a"]


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"5", b"{}", b"[1]", b'[{"run": 3}]', b"\xff\xfe"])
def test_a_damaged_record_is_named_and_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    config = grow(tmp_path, range(30))
    file = tmp_path / "promoted/shop/record.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    for attempt in (lambda: next_retraining(tmp_path, str(config)), lambda: read_record(tmp_path, "shop")):
        with pytest.raises(UserError, match=r"record\.json is damaged \(.*move it away to begin shop's history anew"):
            attempt()
    assert file.read_bytes() == content


def test_the_command_retrains_twice_and_says_when_there_is_nothing_new(
    weights: Path, prefect: dict[str, str], tmp_path: Path
) -> None:
    """The real flow and sandbox, from answers that are in the store already; no engine, no training."""
    home = ["--home", str(tmp_path)]
    for n, right in ((4, 2), (5, 5)):
        config = without_dev(tmp_path, *["test"] * n, model=f"path:{weights}", iterations=0)
        found = due(tmp_path, config)
        with Run(tmp_path, found.arm.config) as run:
            answer(run, weights, right=right)
        done = codelutra("retrain", str(config), *home, "--json", **prefect)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["retrainings"][-1]["test"]["n"] == n
    said = json.loads(done.stdout)
    assert [(r["model"], r["verdict"]) for r in said["retrainings"]] == [
        (f"path:{weights}", "promoted"),
        ("run:nodev-r001", "kept"),
    ]
    again = codelutra("retrain", str(config), *home, COLUMNS="150", **prefect)
    assert again.returncode == 0, again.stderr
    assert "nothing new since the last retraining" in again.stderr
    assert "nodev-r002" in again.stdout
    assert str(tmp_path / "promoted/nodev/model") in again.stdout.replace("\n", "")
    assert (tmp_path / "promoted/nodev/model/config.json").is_file()
    back = codelutra("promoted", "nodev", *home, "--to", "nodev-r002", "--json")
    assert json.loads(back.stdout)["promoted"]["run"] == "nodev-r002"
    assert codelutra("promoted", "nope", *home).returncode == 2


@pytest.mark.parametrize("ahead", [60.0, 1e6, 1e12])
def test_the_last_promotion_counts_whatever_the_clock_said_at_earlier_ones(tmp_path: Path, ahead: float) -> None:
    weights = [tmp_path / name for name in ("one", "two")]
    for folder in weights:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    record = Record(tmp_path, "demo")
    with record.changing() as rows:
        for name, folder in zip(("demo-r001", "demo-r002"), weights, strict=True):
            rows.append(
                Retraining(
                    run=name, made_of="", base_model="m", model="m", verdict="kept", path=str(folder), policy="policy-1"
                )
            )
        rows[0].promoted_at = time.time() + ahead  # by 0.1.0, before the clock was set back
    for name, folder in (("demo-r002", weights[1]), ("demo-r001", weights[0]), ("demo-r002", weights[1])):
        promote(tmp_path, "demo", name)
        assert record.promoted
        assert record.promoted.run == name
        assert (record.folder / "model").resolve() == folder
        assert record.start("m") == f"run:{name}"


def test_what_is_not_here_leaves_no_row(tmp_path: Path) -> None:
    for model in ("path:/nowhere", "gguf:/nowhere.gguf", "run:nobody", "nobody's"):
        with pytest.raises(UserError):
            due(tmp_path, grow(tmp_path, range(60), model=model))
    config = grow(tmp_path, range(60))
    first = due(tmp_path, config)
    assert first.arm.label == "shop-r001"
    row = conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    grow(tmp_path, range(70))
    shutil.move(row.path, tmp_path / "away")
    with pytest.raises(UserError, match=r"the weights of its policy 1 are not at .* makes them anew"):
        due(tmp_path, config)
    assert [r.run for r in Record(tmp_path, "shop").rows] == ["shop-r001"]
    shutil.move(tmp_path / "away", row.path)
    assert due(tmp_path, config).arm.label == "shop-r002"


def test_a_home_that_was_moved_still_has_its_promoted_policy(tmp_path: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "moved"
    home.mkdir()
    config = grow(tmp_path, range(60))
    first = due(home, config)
    conclude(home, first, refined(home, first, 0.0, 0.3, 0.9))
    grow(tmp_path, range(70))
    before = due(home, config)
    home.rename(moved)
    row = Record(moved, "shop").promoted
    assert row
    assert in_force(moved, "shop").path == Path(row.path) == (moved / "promoted/shop/model").resolve()
    assert Path(row.path).is_relative_to(moved / "store")
    assert exported_policy(moved / "runs/shop-r001", None)[1].path == row.path
    assert due(moved, config).arm.label == before.arm.label
    assert Path(Record(moved, "shop").row("shop-r002").sides[0]).is_relative_to(moved)
    assert promote(moved, "shop", "shop-r001").path == row.path
    assert (moved / "promoted/shop/model/config.json").is_file(), "the link is set anew with every change of the record"
