"""What SQL suites share: sort keys, normalised queries, schemas, databases."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.databases import chosen_databases, database_digest, read_schema
from codelutra.suites.sql import SqlSuite, judging, normalise, with_sort_keys


@pytest.mark.parametrize(
    ("query", "ordered", "keys"),
    [
        ("SELECT name FROM t", False, 0),
        ("SELECT name FROM t ORDER BY age", True, 1),
        ("SELECT name FROM t ORDER BY age DESC, name LIMIT 3", True, 2),
        ("SELECT name, COUNT(*) AS n FROM t GROUP BY name ORDER BY n", True, 1),
        ("SELECT name, age FROM t ORDER BY 2", True, 1),
        ("SELECT DISTINCT name FROM t ORDER BY name", True, 0),
        ("SELECT name FROM t WHERE age = (SELECT age FROM t ORDER BY age LIMIT 1)", False, 0),
        ("SELECT name FROM (SELECT name FROM t ORDER BY age)", False, 0),
        ("SELECT name FROM t UNION SELECT name FROM t ORDER BY name", True, 0),
        ("SELECT * FROM t ORDER BY age", True, 1),
        ("SELECT name FROM t ORDER BY name COLLATE NOCASE DESC, age", True, 2),
        ("SELECT name, SUM(age) AS total FROM t GROUP BY name ORDER BY ROUND(total, 1) DESC", True, 0),
        ("SELECT name, age + 1 AS next FROM t ORDER BY name, -Next", True, 0),
        ("SELECT name, age * 2 AS age FROM t ORDER BY age + 1", True, 0),
        ("SELECT name, age * 2 AS age FROM t ORDER BY t.age + 1", True, 1),
        ("SELECT name, t.age AS age FROM t ORDER BY age + 1", True, 1),
        ("not a query ORDER BY", False, 0),
    ],
)
def test_only_an_outermost_order_by_orders(query: str, ordered: bool, keys: int) -> None:
    assert with_sort_keys(query)[::2] == (ordered, keys)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT name FROM t ORDER BY age, 1",
        "SELECT name AS who, age + 1 AS next FROM t ORDER BY next DESC, who",
        "SELECT name, COUNT(*) FROM t GROUP BY name ORDER BY COUNT(*) DESC, name LIMIT 2",
        "SELECT T1.name FROM t AS T1 JOIN t AS T2 ON T1.age = T2.age ORDER BY T2.age, T1.name",
        "SELECT * FROM t ORDER BY age DESC",
        "SELECT name FROM t ORDER BY name COLLATE NOCASE, age",
        "SELECT name, age * 2 AS age FROM t ORDER BY age, t.age + 1",
        "SELECT name, t.age AS age FROM t ORDER BY age % 2, age + 1",
    ],
)
def test_a_keyed_query_gives_the_same_rows_and_its_keys_behind_them(query: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE t (name, age); INSERT INTO t VALUES ('a', 3), ('b', 2), ('c', 3), ('a', 1)")
    _, keyed, keys = with_sort_keys(query)
    plain, more = connection.execute(query).fetchall(), connection.execute(keyed).fetchall()
    assert keys > 0
    assert [row[:-keys] for row in more] == plain
    assert len(more[0]) == len(plain[0]) + keys


@pytest.mark.parametrize(
    "key", ["ROUND(total, 1) DESC", "total + 1", "name || total", "-total", "(SELECT total)", "MAX(total, 1)"]
)
def test_what_the_reference_job_runs_is_valid_with_an_alias_inside_a_sort_key(key: str) -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE t (name, age); INSERT INTO t VALUES ('a', 3), ('b', 2), ('a', 1)")
    query = f"SELECT name, SUM(age) AS total FROM t GROUP BY name ORDER BY {key}"
    s, problem = suite(query)
    asked = s.expected_job(problem, "e", 1.0).query
    assert [row[:2] for row in connection.execute(asked)] == connection.execute(query).fetchall()
    expected = table(["a", 4], ["b", 2])
    assert s.agrees(problem, table(["a", 4], ["b", 2]), expected)
    assert not s.agrees(problem, table(["b", 2], ["a", 4]), expected)


def suite(reference: str) -> tuple[SqlSuite, dict[str, str]]:
    problem = {"problem_id": "p", "reference": reference, "judge": judging(reference, "0" * 64)}
    return SqlSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), {}), problem


def table(*rows: list[object]) -> dict[str, object]:
    return {"columns": [str(i) for i in range(len(rows[0]))] if rows else [], "rows": list(rows), "truncated": False}


def test_ties_under_order_by_may_come_in_any_order_through_the_suite() -> None:
    s, problem = suite("SELECT name FROM t ORDER BY age")
    expected = table(["a", 1], ["b", 2], ["c", 2])
    assert s.expected_job(problem, "e", 1.0).query.endswith("sort_key_0 FROM t ORDER BY age")
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
def test_queries_that_mean_the_same_normalise_to_the_same(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)


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
def test_queries_that_differ_stay_different(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


@given(st.text(max_size=40) | st.text("SELECT*from('\",;) wher=1", max_size=60).map("SELECT ".__add__))
def test_normalise_never_raises_and_is_stable(code: str) -> None:
    once = normalise(code)
    assert normalise(once) == once or once == code


@pytest.mark.parametrize("code", ["(" * 5000, "SELECT " + "(" * 5000, "SELECT 1; SELECT 2", "DROP TABLE t", "PRAGMA x", ""])
def test_what_is_no_single_query_comes_back_as_it_was(code: str) -> None:
    assert normalise(code) == code


def test_a_schema_shows_links_and_quotes_odd_names(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(
            'CREATE TABLE team (id INTEGER PRIMARY KEY, "Home Town" TEXT);'
            "CREATE TABLE player (id INTEGER, team_id INTEGER REFERENCES team(id), boss REFERENCES player)"
        )
    connection.close()
    assert read_schema(path) == 'team(id, "Home Town")\nplayer(id, team_id -> team.id, boss -> player)'


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


def test_judging_material_is_short_without_an_order() -> None:
    assert "keyed" not in json.loads(judging("SELECT 1", "0" * 64))
