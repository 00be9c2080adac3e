"""The embedded suite: same bytes everywhere, every problem fair, every split on its own side."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.suites.base import open_suite
from codelutra.suites.splits import normalise_prompt
from codelutra.suites.sql import SqlSuite
from codelutra.suites.starter_sql.build import Rows, make_rows
from codelutra.suites.starter_sql.declare import read_world, world_names
from codelutra.suites.starter_sql.generate import neighbours
from codelutra.suites.starter_sql.suite import ensure_made, load, make
from tests.helpers.splits import overlaps


@pytest.fixture(scope="module")
def suite() -> SqlSuite:
    return load(SuiteSection(name="starter-sql"))


@pytest.fixture(scope="module")
def connections(suite: SqlSuite) -> Iterator[Mapping[str, sqlite3.Connection]]:
    opened = {path.stem: sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) for path in suite.databases().values()}
    yield opened
    for connection in opened.values():
        connection.close()


def answer(connection: sqlite3.Connection, query: str) -> dict[str, Any]:
    cursor = connection.execute(query)
    return {"columns": [d[0] for d in cursor.description], "rows": [list(r) for r in cursor], "truncated": False}


def test_two_makings_in_two_processes_are_equal_byte_for_byte(tmp_path: Path) -> None:
    digests = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        program = (
            f"from pathlib import Path; from codelutra.suites.starter_sql.suite import make; make(Path({str(folder)!r}))"
        )
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 11


def test_there_are_enough_worlds_tables_rows_and_problems(
    suite: SqlSuite, connections: Mapping[str, sqlite3.Connection]
) -> None:
    counts = Counter(suite.problems()["split"].to_list())
    assert counts["train"] >= 700
    assert counts["dev"] >= 150
    assert counts["test"] >= 150
    assert len(connections) >= 8
    for connection in connections.values():
        tables = [r[0] for r in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert 2 <= len(tables) <= 5
        for table in tables:
            assert 10 <= connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] <= 400
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()


def test_every_reference_returns_rows_and_agrees_with_itself(
    suite: SqlSuite, connections: Mapping[str, sqlite3.Connection]
) -> None:
    for problem in suite.problems().rows(named=True):
        connection = connections[problem["group"]]
        expected = answer(connection, suite.expected_job(problem, "e", 5.0).query)
        output = answer(connection, suite.answer_job(problem, problem["reference"], "a", 5.0).query)
        assert suite.usable(problem, expected) == ""
        assert suite.agrees(problem, output, expected), problem["reference"]


def test_every_wrong_neighbour_gives_another_answer(suite: SqlSuite, connections: Mapping[str, sqlite3.Connection]) -> None:
    rows: dict[str, Rows] = {name: make_rows(read_world(name)) for name in world_names()}
    total = 0
    for problem in suite.problems().rows(named=True):
        connection = connections[problem["group"]]
        expected = answer(connection, suite.expected_job(problem, "e", 5.0).query)
        wrong = list(neighbours(rows[problem["group"]], problem["reference"]))
        assert wrong, problem["reference"]
        for query in wrong:
            assert not suite.agrees(problem, answer(connection, query), expected), (problem["reference"], query)
        total += len(wrong)
    assert total > 3 * suite.problems().height


def test_splits_share_no_question_and_no_query(suite: SqlSuite) -> None:
    problems = suite.problems()
    assert problems["problem_id"].is_unique().all()
    assert problems["prompt"].is_unique().all()
    assert overlaps(problems, pl.Series([suite.normalise(r) for r in problems["reference"]])) == []
    assert overlaps(problems, pl.Series([normalise_prompt(p) for p in problems["prompt"]])) == []


def test_every_world_and_difficulty_is_on_every_side(suite: SqlSuite) -> None:
    for column, kinds in (("group", 10), ("difficulty", 3)):
        assert suite.problems().group_by("split").agg(pl.col(column).n_unique())[column].to_list() == [kinds] * 3


def test_no_opening_of_a_question_is_repeated_too_often(suite: SqlSuite) -> None:
    questions = [p.rsplit("\n", 1)[1] for p in suite.problems()["prompt"]]
    openings = Counter(" ".join(q.split()[:4]) for q in questions)
    assert openings.most_common(1)[0][1] < 0.08 * len(questions)
    assert all(re.fullmatch(r"[A-Z].*[.?]", q) and "{" not in q and "  " not in q for q in questions)


def test_prompts_and_answers_are_short(suite: SqlSuite) -> None:
    words = suite.problems().select(
        prompt=pl.col("prompt").str.count_matches(r"\w+|[^\w\s]"),
        answer=pl.col("reference").str.count_matches(r"\w+|[^\w\s]"),
    )
    assert words["prompt"].quantile(0.95) < 110
    assert words["answer"].mean() < 35


def test_a_cap_keeps_proportions_and_smaller_caps_are_inside_larger_ones() -> None:
    small = load(SuiteSection(name="starter-sql", train=100, dev=50, test=0)).problems()
    large = load(SuiteSection(name="starter-sql", train=300, dev=50, test=0)).problems()
    assert Counter(small["split"].to_list()) == {"train": 100, "dev": 50}
    assert set(small["problem_id"]) <= set(large["problem_id"])
    assert set(small.filter(pl.col("split") == "train")["group"].value_counts()["count"]) <= {9, 10, 11}
    other = load(SuiteSection(name="starter-sql", train=100, dev=50, test=0, seed=1)).problems()
    assert set(other["problem_id"]) != set(small["problem_id"])


def test_chosen_databases_are_the_only_ones() -> None:
    suite = load(SuiteSection(name="starter-sql", databases=("zoo", "music")))
    assert set(suite.problems()["group"]) == {"zoo", "music"}
    assert {p.stem for p in suite.databases().values()} == {"zoo", "music"}


def test_an_unknown_database_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"zoos not in starter-sql; known: airports, cinema"):
        open_suite(SuiteSection(name="starter-sql", databases=("zoos",)))


def test_a_making_that_was_cut_short_leaves_nothing_that_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODELUTRA_CACHE", str(tmp_path))
    half = tmp_path / "starter-sql" / ".making-half"
    half.mkdir(parents=True)
    (half / "problems.jsonl").write_text("")
    folder = ensure_made()
    assert len(list(folder.iterdir())) == 11
    assert ensure_made() == folder
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    make(fresh)
    assert all((fresh / p.name).read_bytes() == p.read_bytes() for p in folder.iterdir())
