"""Spider from its official layout: a small imitation for the rules, the real release for the numbers."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.suites.base import open_suite
from codelutra.suites.spider import FILES, load
from codelutra.suites.splits import normalise_prompt
from tests.helpers.splits import overlaps

REAL = Path(os.environ.get("CODELUTRA_DATA", "/nowhere")) / "spider"
needs_spider = pytest.mark.skipif(not REAL.is_dir(), reason="set CODELUTRA_DATA to the folder that holds spider/")


def imitation(folder: Path, databases: int = 30, queries: int = 20) -> Path:
    """A release in Spider's layout: `databases` of them in train, one more in dev, each query asked in two ways."""
    tables, questions = [], {"train": list[dict[str, str]](), "dev": list[dict[str, str]]()}
    for i in range(databases + 1):
        name = f"db_{i}"
        path = folder / "database" / name / f"{name}.sqlite"
        path.parent.mkdir(parents=True)
        with sqlite3.connect(path) as connection:
            connection.executescript(
                "CREATE TABLE team (team_id, Name); CREATE TABLE player (player_id, team_id, age);"
                "INSERT INTO team VALUES (1, 'a'); INSERT INTO player VALUES (1, 1, 30)"
            )
        connection.close()
        columns = [[-1, "*"], [0, "team_id"], [0, "Name"], [1, "player_id"], [1, "team_id"], [1, "age"]]
        tables.append(
            {
                "db_id": name,
                "table_names_original": ["team", "player"],
                "column_names_original": columns,
                "foreign_keys": [[4, 1]],
            }
        )
        for n in range(queries):
            query = f"SELECT  count(*) FROM player WHERE age  >  {n} ;"
            side = "dev" if i == databases else "train"
            questions[side] += [
                {"db_id": name, "question": f"How many players are older than {n}?", "query": query},
                {"db_id": name, "question": f"Count the players over {n} .", "query": query.lower()},
            ]
    (folder / "tables.json").write_text(json.dumps(tables))
    for side, file in FILES.items():
        (folder / file).write_text(json.dumps(questions[side]))
    return folder


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imitation(tmp_path_factory.mktemp("spider"))


def section(folder: Path, **more: Any) -> SuiteSection:
    return SuiteSection(name="spider", path=str(folder), **more)


def test_cross_domain_sides_share_no_database_and_the_official_dev_is_test(release: Path) -> None:
    problems = load(section(release)).problems()
    databases = {s: set(problems.filter(pl.col("split") == s)["group"]) for s in ("train", "dev", "test")}
    assert databases["test"] == {"db_30"}
    assert databases["train"] | databases["dev"] == {f"db_{i}" for i in range(30)}
    assert not databases["train"] & databases["dev"]
    assert databases["dev"]
    assert len(databases["dev"]) < len(databases["train"]) / 3


def test_in_domain_sides_share_neither_query_nor_question_in_any_database(release: Path) -> None:
    suite = load(section(release, protocol="in-domain", databases=("db_1", "db_2", "db_30")))
    problems = suite.problems()
    for (_,), rows in problems.group_by("group"):
        assert overlaps(rows, pl.Series([suite.normalise(r) for r in rows["reference"]])) == []
        assert overlaps(rows, pl.Series([normalise_prompt(p) for p in rows["prompt"]])) == []
        assert Counter(rows["split"].to_list()) == {"train": 24, "dev": 6, "test": 10}
    assert set(problems["group"]) == {"db_1", "db_2", "db_30"}
    assert len(suite.databases()) == len({p.read_bytes() for p in suite.databases().values()})


def test_another_seed_splits_otherwise_and_the_same_one_the_same(release: Path) -> None:
    frames = [load(section(release, protocol="in-domain", databases=("db_1",), seed=s)).problems() for s in (0, 0, 1)]
    assert frames[0].equals(frames[1])
    assert frames[0]["split"].to_list() != frames[2]["split"].to_list()


def test_prompts_are_the_schema_and_the_question(release: Path) -> None:
    problem = load(section(release)).problems().row(0, named=True)
    schema = "team(team_id, Name)\nplayer(player_id, team_id -> team, age)"
    assert problem["prompt"] == f"{schema}\n\nHow many players are older than 0?"
    assert problem["reference"] == "SELECT count(*) FROM player WHERE age > 0"
    assert problem["group"] == "db_0"


def test_data_is_found_through_the_environment(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spider").symlink_to(release)
    monkeypatch.setenv("CODELUTRA_DATA", str(tmp_path))
    assert open_suite(SuiteSection(name="spider")).problems().equals(load(section(release)).problems())
    assert load(section(Path("$CODELUTRA_DATA/spider"))).problems().height > 0


def test_what_is_missing_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODELUTRA_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"set suite\.path to a folder in its official layout, or CODELUTRA_DATA"):
        load(SuiteSection(name="spider"))
    with pytest.raises(ConfigError, match=r"no folder .*gone; check suite\.path"):
        load(section(tmp_path / "gone"))
    release = imitation(tmp_path / "release", databases=3, queries=4)
    with pytest.raises(ConfigError, match=r"db_9 not in .*; known: db_0, db_1, db_2, db_3"):
        load(section(release, databases=("db_9",)))
    with pytest.raises(ConfigError, match=r"in-domain needs suite\.databases"):
        load(section(release, protocol="in-domain"))
    with pytest.raises(ConfigError, match=r"no train problem among the chosen databases; .* in-domain"):
        load(section(release, databases=("db_3",)))
    (release / "database" / "db_1" / "db_1.sqlite").unlink()
    with pytest.raises(ConfigError, match=r"no database at .*db_1\.sqlite: No such file .*; check the path .*suite\.path"):
        load(section(release))
    tables = json.loads((release / "tables.json").read_text())
    (release / "tables.json").write_text(json.dumps(tables[1:]))
    with pytest.raises(ConfigError, match=r"tables\.json lacks db_0"):
        load(section(release))
    (release / "tables.json").write_text("[")
    with pytest.raises(ConfigError, match=r"tables\.json is not JSON: "):
        load(section(release))
    (release / "dev.json").unlink()
    (release / "tables.json").write_text(json.dumps(tables))
    with pytest.raises(ConfigError, match=r"no dev\.json in "):
        load(section(release))


@needs_spider
def test_real_references_agree_with_themselves() -> None:
    suite = load(section(REAL))
    opened = {d: sqlite3.connect(f"{p.as_uri()}?mode=ro&immutable=1", uri=True) for d, p in suite.databases().items()}

    def answer(job: Any) -> dict[str, Any]:
        cursor = opened[job.database].execute(job.query)
        return {"columns": [d[0] for d in cursor.description], "rows": [list(r) for r in cursor], "truncated": False}

    statuses = Counter[str]()
    for connection in opened.values():
        connection.text_factory = lambda raw: raw.decode(errors="replace")
    for problem in suite.problems().rows(named=True):
        try:
            output = answer(suite.answer_job(problem, problem["reference"], "a", 5.0))
        except sqlite3.Error:
            statuses["error"] += 1
            continue
        expected = answer(suite.expected_job(problem, "e", 5.0))
        assert suite.agrees(problem, output, expected), problem["reference"]
        statuses["empty" if suite.usable(problem, expected) else "correct"] += 1
    for connection in opened.values():
        connection.close()
    assert statuses == {"correct": 7133, "empty": 292, "error": 3}


@needs_spider
def test_real_databases_can_be_specialised_to() -> None:
    names = ("network_2", "movie_1", "soccer_2", "allergy_1", "flight_1", "wine_1")
    counts = Counter(load(section(REAL, protocol="in-domain", databases=names)).problems()["split"].to_list())
    assert counts["train"] >= 330
    assert counts["test"] >= 120
