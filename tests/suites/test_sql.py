"""What SQL suites share: judging material, queries that are alike, schemas, databases."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.databases import (
    RESERVED,
    chosen_databases,
    database_digest,
    not_answerable,
    quoted,
    read_schema,
    require_settled,
)
from codelutra.suites.sql import SqlSuite, alike, judging


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT name FROM t", False),
        ("SELECT name FROM t ORDER BY age", True),
        ("SELECT name FROM t order /* by */ by age", True),
        ("SELECT DISTINCT name FROM t ORDER BY name", True),
        ("SELECT name FROM t WHERE age = (SELECT age FROM t ORDER BY age LIMIT 1)", False),
        ("SELECT name FROM (SELECT name FROM t ORDER BY age)", False),
        ("SELECT row_number() OVER (ORDER BY age) FROM t", False),
        ("SELECT name FROM t WHERE name = 'ORDER BY age'", False),
        ("SELECT name FROM t -- ORDER BY age", False),
        ("SELECT name FROM t UNION SELECT name FROM t ORDER BY name", True),
        ("SELECT id FROM v WHERE x -> '$.a' MATCH ? ORDER BY id", True),  # whatever else cannot be parsed
    ],
)
def test_only_an_outermost_order_by_orders(query: str, ordered: bool) -> None:
    assert json.loads(judging(query, "0" * 64))["ordered"] is ordered


def suite(reference: str) -> tuple[SqlSuite, dict[str, str]]:
    problem = {"problem_id": "p", "reference": reference, "judge": judging(reference, "0" * 64)}
    return SqlSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), {}), problem


def table(*rows: list[object]) -> dict[str, object]:
    return {"columns": [str(i) for i in range(len(rows[0]))] if rows else [], "rows": list(rows), "truncated": False}


def test_ties_under_order_by_may_come_in_any_order_through_the_suite() -> None:
    s, problem = suite("SELECT name FROM t ORDER BY age")
    expected = {**table(["a"], ["b"], ["c"]), "ties": [[1, 3]]}
    assert s.expected_job(problem, "e", 1.0).query == problem["reference"]
    assert s.expected_job(problem, "e", 1.0).connection != s.answer_job(problem, "x", "a", 1.0).connection
    assert s.agrees(problem, table(["a"], ["c"], ["b"]), expected)
    assert not s.agrees(problem, table(["b"], ["a"], ["c"]), expected)
    assert s.agrees_under("bird-ex/official", problem, table(["b"], ["a"], ["c"]), expected)
    assert not s.agrees_under("spider-testsuite/v1", problem, table(["a"], ["c"], ["b"]), expected)


def test_spider_minds_the_order_of_a_nested_order_by_and_strict_does_not() -> None:
    s, problem = suite("SELECT name FROM t WHERE id IN (SELECT id FROM u ORDER BY age LIMIT 2)")
    assert s.agrees(problem, table(["b"], ["a"]), table(["a"], ["b"]))
    assert not s.agrees_under("spider-testsuite/v1", problem, table(["b"], ["a"]), table(["a"], ["b"]))


def test_a_reference_without_rows_cannot_judge() -> None:
    s, problem = suite("SELECT 1")
    assert s.usable(problem, {"columns": ["1"], "rows": [], "truncated": False}) == "the reference returns no rows"
    assert s.usable(problem, table([None])) == ""


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("select  NAME from Singer;", "SELECT name FROM singer"),
        ("SELECT T1.a FROM t AS T1 JOIN u T2 ON T1.id = T2.t_id", "SELECT t.a FROM t JOIN u ON u.t_id = t.id"),
        ('SELECT name FROM t WHERE c = "France" -- why', "SELECT name FROM t WHERE c = 'France'"),
        ("SELECT a FROM t INNER JOIN u ON t.x = u.x", "SELECT a FROM t JOIN u ON u.x = t.x"),
        ("SELECT count( * ) FROM t", "SELECT COUNT(*) FROM t"),
        ("SELECT a FROM t WHERE b != 1", "SELECT a FROM t WHERE b <> 1"),
    ],
)
def test_queries_that_mean_the_same_are_alike(a: str, b: str) -> None:
    assert alike(a) == alike(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("SELECT a FROM t WHERE c = 'France'", "SELECT a FROM t WHERE c = 'france'"),
        ("SELECT a FROM t WHERE b > 1", "SELECT a FROM t WHERE b >= 1"),
        ("SELECT a, b FROM t", "SELECT b, a FROM t"),
        ("SELECT DISTINCT a FROM t", "SELECT a FROM t"),
        ('SELECT "A" FROM t', "SELECT 'A' FROM t"),
        ("SELECT T1.a FROM t T1 JOIN t T2 ON T1.x = T2.y", "SELECT T2.a FROM t T1 JOIN t T2 ON T1.x = T2.y"),
    ],
)
def test_queries_that_differ_are_not_alike(a: str, b: str) -> None:
    assert alike(a) != alike(b)


@given(st.text(max_size=40) | st.text("SELECT*from('\",;) wher=1", max_size=60).map("SELECT ".__add__))
def test_alike_never_raises_and_is_stable(code: str) -> None:
    once = alike(code)
    assert alike(once) == once or once == code


@pytest.mark.parametrize("code", ["(" * 5000, "SELECT " + "(" * 5000, "SELECT 1; SELECT 2", "DROP TABLE t", "PRAGMA x", ""])
def test_what_is_no_single_query_comes_back_as_it_was(code: str) -> None:
    assert alike(code) == code


def test_a_schema_shows_links_and_quotes_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            'CREATE TABLE team (id INTEGER PRIMARY KEY, "Home Town" TEXT);'
            "CREATE TABLE player (id INTEGER, team_id INTEGER REFERENCES team(id), boss REFERENCES player)"
        )
    connection.close()
    assert read_schema(path) == 'team(id, "Home Town")\nplayer(id, team_id -> team.id, boss -> player)'


def test_a_schema_shows_what_a_query_can_name(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            'CREATE TABLE "order" (id, "group", status, "current_date", "a""b", desc, "2nd", plan INT AS (id * 2) STORED);'
            "CREATE VIRTUAL TABLE page USING fts5(title, body);"
            "CREATE VIRTUAL TABLE mail USING fts4(subject);"
            "CREATE VIRTUAL TABLE box USING rtree(id, x0, x1, +label);"
            "CREATE TABLE page_views (page, n);"  # no table behind another, whatever its name
            "CREATE TABLE sqlitely (n);"
            'CREATE VIEW open_orders (number, state) AS SELECT id, status FROM "order";'
            "CREATE VIEW gone AS SELECT * FROM nowhere;"
            "PRAGMA writable_schema = ON;"
            "INSERT INTO sqlite_master VALUES ('table', 'far', 'far', 0, 'CREATE VIRTUAL TABLE far USING nowhere(a)')"
        )
    connection.close()
    assert read_schema(path).splitlines() == [
        '"order"(id, "group", status, "current_date", "a""b", desc, "2nd", plan)',
        "page(title, body)",
        "mail(subject)",
        "box(id, x0, x1, label)",
        "page_views(page, n)",
        "sqlitely(n)",
        "open_orders(number, state)",
    ]


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_is_shown_as_a_query_must_write_it(word: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f'CREATE TABLE "{word}" ("{word}")')
        connection.execute(f"INSERT INTO \"{word}\" VALUES ('here')")
        shown = quoted(word)
        assert connection.execute(f"SELECT {shown} FROM {shown} WHERE {shown} = 'here'").fetchall() == [("here",)]
        try:
            bare = connection.execute(f"SELECT {word}, 1 FROM {word} WHERE {word} = 'here' AND NOT {word} > 'x'").fetchall()
        except sqlite3.Error:
            bare = []
        assert bare == [], f"{word} need not be quoted"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT 1; SELECT 2", "2 statements; give one query"),
        ("SELECT 1;; SELECT 2; -- end", "2 statements"),
        ("PRAGMA hard_heap_limit = 20000", "asks for PRAGMA hard_heap_limit"),
        ("PRAGMA user_version", "asks for PRAGMA user_version"),
        ("SELECT * FROM pragma_index_list('t')", r"asks a pragma_… function"),
        ("SELECT name FROM dbstat", r"asks a pragma_… function, or another table of SQLite's own"),
        ("WITH p AS (SELECT * FROM pragma_database_list) SELECT * FROM p", r"asks a pragma_… function"),
        ("DELETE FROM t", r"the reference writes \(DELETE …\)"),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", r"the reference writes \(WITH …\)"),
        ("ATTACH 'other.db' AS o", r"the reference writes \(ATTACH …\)"),
        ("SELECT load_extension('x')", r"calls load_extension\(\), which the sandbox does not allow"),
        ("SELECT TOP 3 a FROM t", "it reads as tsql"),
        ("SELECT b FROM t", "SQLite refuses the query: no such column: b"),
        ("SELECT a FROM t", "^$"),
        ("SELECT key FROM t, json_each(t.a)", "^$"),
        ("SELECT title FROM page WHERE page MATCH 'x'", "^$"),
    ],
)
def test_a_reference_that_cannot_be_asked_is_told_why_and_does_nothing(tmp_path: Path, query: str, said: str) -> None:
    path = tmp_path / "x.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a); CREATE VIRTUAL TABLE page USING fts5(title);")
    before = path.read_bytes()
    assert re.search(said, not_answerable(query, path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("PRAGMA hard_heap_limit").fetchone() == (0,)


@pytest.mark.parametrize("where", ["x.sqlite", "link.sqlite", "chain.sqlite", "folder/x.sqlite"])
def test_changes_that_are_not_in_the_file_yet_are_seen_through_links(tmp_path: Path, where: str) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "x.sqlite").symlink_to(real / "x.sqlite")
    (tmp_path / "link.sqlite").symlink_to("real/x.sqlite")
    (tmp_path / "chain.sqlite").symlink_to("link.sqlite")
    (tmp_path / "folder").symlink_to("real")
    with closing(sqlite3.connect(real / "x.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        connection.commit()
        with pytest.raises(ConfigError, match=r"has changes in x\.sqlite-wal that are not in the file yet"):
            require_settled(tmp_path / where)
    require_settled(tmp_path / where)


def test_files_that_are_no_databases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no database at .*gone\.sqlite: No such file"):
        database_digest(tmp_path / "gone.sqlite")
    (tmp_path / "text.sqlite").write_text("hello")
    with pytest.raises(ConfigError, match="is not a SQLite database"):
        database_digest(tmp_path / "text.sqlite")
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(ConfigError, match="cannot be read as a SQLite database"):
        read_schema(broken)


def test_unknown_databases_are_named_with_the_known_ones() -> None:
    section = SuiteSection(name="spider", databases=("hr_1", "hr_9"))
    with pytest.raises(ConfigError, match=r"hr_9 not in tables\.json; known: hr_1, pets_1"):
        chosen_databases(section, ["hr_1", "pets_1"], "tables.json")


def test_a_long_query_is_refused_in_the_time_that_sqlite_takes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db.sqlite")) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.commit()
    began = time.process_time()
    assert "Expression tree is too large" in not_answerable("SELECT " + "+".join(["1"] * 50_000), tmp_path / "db.sqlite")
    assert time.process_time() - began < 1
