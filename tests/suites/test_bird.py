"""BIRD from its official layout: a small imitation for the rules, a real database's questions for the numbers."""

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
from codelutra.suites.bird import load
from codelutra.suites.splits import normalise_prompt
from tests.helpers.splits import overlaps

REAL = Path(os.environ.get("CODELUTRA_DATA", "/nowhere")) / "bird-superhero"
needs_bird = pytest.mark.skipif(not REAL.is_dir(), reason="set CODELUTRA_DATA to the folder that holds bird-superhero/")
DESCRIPTIONS = (
    "original_column_name,column_name,column_description,data_format,value_description\r\n"
    "CDSCode,cds,CDS Code,text,\r\n"
    'Enr,enrolment," enrolment – K-12 ",integer,"commonsense evidence:\n 0 means closed"\r\n'
    "name,name,name,text,\r\n"
)


def database(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.executescript("CREATE TABLE school (CDSCode, Enr, name); INSERT INTO school VALUES (1, 9, 'a')")
    connection.close()


def question(name: str, n: int) -> dict[str, Any]:
    return {
        "db_id": name,
        "question": f"How many schools with at least {n} pupils?",
        "evidence": f"at least {n} pupils refers to Enr >= {n}" if n else "",
        "SQL": f"SELECT COUNT(*) FROM school\nWHERE Enr >= {n} AND name != 'two  blanks';",
        "difficulty": ("simple", "moderate")[n % 2],
    }


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bird")
    for side, count in (("train", 30), ("dev_20240627", 2)):
        plain = side.partition("_")[0]
        names = [f"{plain}_{i}" for i in range(count)]
        for name in names:
            database(folder / side / f"{plain}_databases" / name / f"{name}.sqlite")
        asked = [question(name, n) | {"question_id": 20 * i + n} for i, name in enumerate(names) for n in range(20)]
        if plain == "train":  # the official train file has neither
            asked = [{k: v for k, v in q.items() if k not in ("question_id", "difficulty")} for q in asked]
        (folder / side / f"{plain}.json").write_text(json.dumps(asked))
        (folder / side / f"{plain}_tables.json").write_text("[]")
    (folder / "dev_20240627" / "dev_tied_append.json").write_text("[]")
    csv = folder / "dev_20240627" / "dev_databases" / "dev_0" / "database_description" / "school.csv"
    csv.parent.mkdir()
    csv.write_bytes(DESCRIPTIONS.encode("cp1252"))
    return folder


def section(folder: Path, **more: Any) -> SuiteSection:
    return SuiteSection(name="bird", path=str(folder), **more)


def test_cross_domain_sides_share_no_database_and_the_official_dev_is_test(release: Path) -> None:
    problems = load(section(release)).problems()
    databases = {s: set(problems.filter(pl.col("split") == s)["group"]) for s in ("train", "dev", "test")}
    assert databases["test"] == {"dev_0", "dev_1"}
    assert databases["train"] | databases["dev"] == {f"train_{i}" for i in range(30)}
    assert not databases["train"] & databases["dev"]
    assert databases["dev"]
    assert problems.height == 640
    assert problems["problem_id"].is_unique().all()
    assert {"train-00000", "dev-00023"} <= set(problems["problem_id"])


def test_in_domain_sides_share_neither_query_nor_question(release: Path) -> None:
    suite = load(section(release, protocol="in-domain", databases=("train_3", "dev_1")))
    problems = suite.problems()
    for (_,), rows in problems.group_by("group"):
        assert overlaps(rows, pl.Series([suite.normalise(r) for r in rows["reference"]])) == []
        assert overlaps(rows, pl.Series([normalise_prompt(p) for p in rows["prompt"]])) == []
        assert Counter(rows["split"].to_list()) == {"train": 12, "dev": 3, "test": 5}


def test_evidence_and_descriptions_are_options_of_the_prompt_and_of_the_version(release: Path) -> None:
    one = {"databases": ("dev_0",), "protocol": "in-domain"}
    schema, asked = "school(CDSCode, Enr, name)", "How many schools with at least 3 pupils?"
    hint = "Hint: at least 3 pupils refers to Enr >= 3"
    told = "school.Enr: enrolment – K-12; commonsense evidence: 0 means closed"
    for shown, prompt in (
        ({}, f"{schema}\n\n{asked}\n{hint}"),
        ({"evidence": False}, f"{schema}\n\n{asked}"),
        ({"descriptions": True}, f"{schema}\n{told}\n\n{asked}\n{hint}"),
    ):
        assert load(section(release, **one, **shown)).problems()["prompt"][3] == prompt
    versions = {load(section(release, **one, evidence=e, descriptions=d)).version for e in (0, 1) for d in (0, 1)}
    assert len(versions) == 4


def test_references_keep_their_text_and_problems_their_difficulty(release: Path) -> None:
    problem = load(section(release)).problems().filter(pl.col("problem_id") == "dev-00001").row(0, named=True)
    assert problem["reference"] == "SELECT COUNT(*) FROM school\nWHERE Enr >= 1 AND name != 'two  blanks'"
    assert problem["difficulty"] == "moderate"


def test_without_the_train_files_dev_can_still_be_evaluated(release: Path) -> None:
    problems = load(section(release / "dev_20240627")).problems()
    assert Counter(problems["split"].to_list()) == {"test": 40}


def test_what_is_missing_is_named_with_the_way_out(release: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither dev\.json nor train\.json in .*; check suite\.path"):
        load(section(tmp_path))
    with pytest.raises(ConfigError, match=r"nope not in .*dev\.json; known: dev_0, dev_1"):
        load(section(release, databases=("nope",)))
    (tmp_path / "dev.json").write_text(json.dumps([question("gone", 1)]))
    with pytest.raises(ConfigError, match=r"no database at .*gone\.sqlite; check suite\.path"):
        load(section(tmp_path))
    (tmp_path / "dev.json").write_text(json.dumps([{"db_id": "x", "question": "?", "query": "SELECT 1"}]))
    with pytest.raises(ConfigError, match=r"dev\.json, entry 0: no SQL; take the file of an official release"):
        load(section(tmp_path))
    (tmp_path / "dev.json").unlink()
    for name in ("dev_a.json", "dev_b.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(ConfigError, match=r"dev_a\.json and dev_b\.json; keep one, or rename it dev\.json"):
        load(section(tmp_path))


@needs_bird
def test_real_references_agree_with_themselves() -> None:
    suite = load(section(REAL, protocol="in-domain", databases=("superhero",)))
    (path,) = suite.databases().values()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)

    def answer(query: str) -> dict[str, Any]:
        cursor = connection.execute(query)
        return {"columns": [d[0] for d in cursor.description], "rows": [list(r) for r in cursor], "truncated": False}

    for problem in suite.problems().rows(named=True):
        output = answer(suite.answer_job(problem, problem["reference"], "a", 5.0).query)
        expected = answer(suite.expected_job(problem, "e", 5.0).query)
        assert suite.usable(problem, expected) == ""
        assert suite.agrees(problem, output, expected), problem["reference"]
    connection.close()
    assert suite.problems().height == 129
