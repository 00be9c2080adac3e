"""Perturbed copies: they keep what a schema promises, know the queries' constants, and no database stops them."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codelutra.store.files import sha256_file
from codelutra.suites.copies import tables as reading
from codelutra.suites.copies.asks import Asked, Condition, neighbours, read_asks
from codelutra.suites.copies.make import make_copies
from codelutra.suites.copies.mutants import mutants, rendered, turned
from codelutra.suites.copies.perturb import perturbed

SHOP = """
CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT NOT NULL, age INTEGER CHECK (age BETWEEN 0 AND 120), pay REAL,
    city INTEGER NOT NULL REFERENCES city(id), boss INTEGER REFERENCES person(id));
CREATE TABLE likes (person INTEGER REFERENCES person, city INTEGER REFERENCES city, PRIMARY KEY (person, city));
INSERT INTO city VALUES (1, 'Rome'), (2, 'Bonn'), (3, 'Lima'), (4, 'Oslo');
INSERT INTO person VALUES (1, 'Ann', 30, 9.5, 1, NULL), (2, 'Bob', 41, 7.0, 2, 1), (3, 'Cy', 25, 7.5, 1, 1),
    (4, 'Di', 60, 3.0, 3, 2);
INSERT INTO likes VALUES (1, 1), (1, 2), (2, 3), (3, 4);
"""
QUERIES = [
    "SELECT name FROM person WHERE age > 40 AND pay <= 7.0",
    "SELECT c.name FROM city AS c JOIN person AS p ON p.city = c.id GROUP BY c.id HAVING count(*) >= 5",
    "SELECT name FROM person WHERE boss IS NULL",
]


def database(path: Path, script: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(script)
    return path


def copied(path: Path, out: Path, queries: list[str], count: int = 4, seed: int = 0) -> tuple[list[Path], str]:
    out.mkdir(exist_ok=True)
    digest = sha256_file(path)
    frame, fewer = make_copies({digest: path}, {digest: queries}, count, seed, out)
    assert sha256_file(path) == digest, "the original was written to"
    assert sorted(p.name for p in path.parent.iterdir() if p.name.startswith(path.name)) == [path.name]
    return [out / f"{d}.sqlite" for d in frame["digest"]], fewer.get(digest, "")


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("shop")
    path = database(folder / "shop.sqlite", SHOP)
    made, why = copied(path, folder / "out", QUERIES, count=6)
    assert len(made) == 6, why
    return path, made


def test_copies_keep_what_the_schema_promises(shop: tuple[Path, list[Path]]) -> None:
    """Constraints are checked by SQLite itself, which the copies' own definitions ask to."""
    for copy in shop[1]:
        assert rows(copy, "PRAGMA integrity_check") == [("ok",)]
        assert rows(copy, "PRAGMA foreign_key_check") == []
        assert rows(copy, "SELECT sql FROM sqlite_master ORDER BY 1") == rows(
            shop[0], "SELECT sql FROM sqlite_master ORDER BY 1"
        )
        assert rows(copy, "SELECT count(*) FROM person")[0][0] > 10


def test_copies_hold_the_constants_of_the_queries_and_values_just_beside_them(shop: tuple[Path, list[Path]]) -> None:
    ages = {age for copy in shop[1] for (age,) in rows(copy, "SELECT age FROM person")}
    assert ages >= {39, 40, 41}
    assert all(rows(copy, "SELECT 1 FROM person WHERE age > 40 AND pay <= 7.0") for copy in shop[1])
    sizes = {n for copy in shop[1] for (n,) in rows(copy, "SELECT count(*) FROM person GROUP BY city")}
    assert {s < 5 for s in sizes} == {True, False}


def test_null_comes_only_where_there_was_one_or_a_query_asks_for_it(shop: tuple[Path, list[Path]]) -> None:
    assert all(rows(copy, "SELECT count(*) FROM person WHERE age IS NULL OR pay IS NULL") == [(0,)] for copy in shop[1])
    assert any(rows(copy, "SELECT 1 FROM person WHERE boss IS NULL") for copy in shop[1])


def test_every_other_copy_keeps_columns_without_duplicates_so(shop: tuple[Path, list[Path]]) -> None:
    doubled = [rows(copy, "SELECT count(pay) - count(DISTINCT pay) FROM person")[0][0] > 0 for copy in shop[1]]
    assert doubled[0::2] == [False] * 3
    assert any(doubled[1::2])


def test_copies_are_the_same_bytes_for_the_same_seed_and_others_for_another(
    shop: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    again, _ = copied(shop[0], tmp_path / "again", QUERIES, count=6)
    other, _ = copied(shop[0], tmp_path / "other", QUERIES, count=6, seed=1)
    names = [{p.name for p in made} for made in (shop[1], again, other)]
    assert names[0] == names[1]
    assert not names[0] & names[2]


ODD = {
    "generated": """CREATE TABLE t (a INTEGER, b INTEGER, c AS (a + b), d AS (a * 2) STORED);
        INSERT INTO t (a, b) VALUES (1, 2), (3, 4)""",
    "trigger": """CREATE TABLE t (a INTEGER, b INTEGER); INSERT INTO t VALUES (1, 2), (3, 4);
        CREATE TRIGGER no BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'never'); END;""",
    "view": "CREATE TABLE t (a INTEGER, b INTEGER); INSERT INTO t VALUES (1, 2), (3, 4); CREATE VIEW v AS SELECT a FROM t",
    "broken view": "CREATE TABLE t (a INTEGER, b INTEGER); INSERT INTO t VALUES (1, 2); CREATE VIEW v AS SELECT x FROM gone",
    "without rowid": "CREATE TABLE t (a TEXT PRIMARY KEY, b INTEGER) WITHOUT ROWID; INSERT INTO t VALUES ('x', 2), ('y', 4)",
    "full text": """CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, 'two words'), (3, 'four');
        CREATE VIRTUAL TABLE f USING fts5(b, content='t', content_rowid='a'); INSERT INTO f(f) VALUES ('rebuild');
        CREATE VIRTUAL TABLE own USING fts4(x); INSERT INTO own VALUES ('hello');""",
    "odd names": """CREATE TABLE t (a INTEGER, b TEXT, "select" TEXT, "b ""c" TEXT, [ü d] TEXT, rowid TEXT);
        INSERT INTO t VALUES (1, 'p', 'x', 'y', 'z', 'r'), (2, 'q', 'x', 'y', 'z', 's');
        CREATE TABLE "order" ("group" INTEGER); INSERT INTO "order" VALUES (1), (2); CREATE TABLE "a'b;c" (x);
        INSERT INTO "a'b;c" VALUES (1)""",
    "strict": "CREATE TABLE t (a INTEGER, b TEXT, c ANY) STRICT; INSERT INTO t VALUES (1, 'x', 1.5), (2, 'y', x'00')",
    "blobs": "CREATE TABLE t (a BLOB PRIMARY KEY, b BLOB); INSERT INTO t VALUES (x'00ff', zeroblob(100)), (x'01', NULL)",
    "not UTF-8": "CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, CAST(x'ff41' AS TEXT)), (2, 'ok')",
    "UTF-16": "PRAGMA encoding = 'UTF-16'; CREATE TABLE t (a INTEGER, b TEXT); INSERT INTO t VALUES (1, 'ä'), (2, 'ok')",
    "extremes": """CREATE TABLE t (a INTEGER PRIMARY KEY, b REAL); INSERT INTO t VALUES (9223372036854775807, 1e308),
        (-9223372036854775808, -1e308), (0, 9e999), (1, NULL)""",
    "checks": """CREATE TABLE t (a INTEGER, b INTEGER CHECK (b = 2 * a), c TEXT UNIQUE, UNIQUE (a, b));
        INSERT INTO t VALUES (1, 2, 'x'), (2, 4, NULL), (3, 6, NULL), (4, 8, 'y'), (5, 10, 'z'), (6, 12, 'w')""",
    "two to one": """CREATE TABLE p (a INTEGER, b INTEGER, PRIMARY KEY (a, b)); INSERT INTO p VALUES (1, 1), (1, 2), (2, 1);
        CREATE TABLE t (a INTEGER, b INTEGER, c TEXT, FOREIGN KEY (a, b) REFERENCES p(a, b));
        INSERT INTO t VALUES (1, 1, 'x'), (1, 2, 'y'), (2, 1, 'z')""",
    "circle": """CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER REFERENCES u(a)); CREATE TABLE u (a INTEGER PRIMARY KEY,
        b INTEGER REFERENCES t(a)); INSERT INTO t VALUES (1, 1), (2, 1); INSERT INTO u VALUES (1, 2), (2, 2)""",
    "nowhere": """CREATE TABLE t (a INTEGER REFERENCES gone(x), b INTEGER REFERENCES t(gone));
        INSERT INTO t VALUES (1, 2), (2, 3)""",
    "untyped": "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), ('2', 3.5), (x'03', NULL)",
    "autoincrement": "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT); INSERT INTO t (b) VALUES ('x'), ('y')",
    "expression index": """CREATE TABLE t (a INTEGER, b TEXT); CREATE UNIQUE INDEX i ON t (lower(b)) WHERE a > 0;
        INSERT INTO t VALUES (1, 'x'), (2, 'y')""",
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_database_is_copied(name: str, tmp_path: Path) -> None:
    path = database(tmp_path / "odd.sqlite", ODD[name])
    made, why = copied(path, tmp_path / "out", ["SELECT b FROM t WHERE a >= 2", "SELECT count(*) FROM t WHERE b <> 'x'"])
    assert len(made) == 4, why
    for copy in made:
        assert rows(copy, "PRAGMA quick_check") == [("ok",)]
        assert rows(copy, "SELECT count(*) FROM t")[0][0] > 0
    content = "SELECT hex(a), hex(b) FROM t ORDER BY 1, 2"
    assert any(rows(copy, content) != rows(path, content) for copy in made)
    if name == "full text":
        assert rows(made[0], "SELECT count(*) FROM f WHERE f MATCH 'four'") == rows(
            made[0], "SELECT count(*) FROM t WHERE b = 'four'"
        )
        assert rows(made[0], "SELECT x FROM own") == [("hello",)]
    if name == "two to one":
        assert rows(made[0], "PRAGMA foreign_key_check") == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("CREATE TABLE t (a INTEGER, b TEXT)", "it has no row in a plain table"),
        ("CREATE VIRTUAL TABLE t USING fts5(a, b); INSERT INTO t VALUES ('x', 'y')", "it has no row in a plain table"),
        (
            "CREATE TABLE t (a INTEGER CHECK (a = 7), b UNIQUE CHECK (b = 'x')); INSERT INTO t VALUES (7, 'x')",
            "its constraints",
        ),
    ],
    ids=["no rows", "virtual alone", "nothing else fits"],
)
def test_a_database_that_cannot_be_perturbed_has_fewer_copies_and_a_reason(script: str, why: str, tmp_path: Path) -> None:
    made, said = copied(database(tmp_path / "odd.sqlite", script), tmp_path / "out", ["SELECT b FROM t WHERE a > 1"])
    assert made == []
    assert said.startswith(why)


def test_a_damaged_database_has_no_copies_and_a_reason(tmp_path: Path) -> None:
    path = database(tmp_path / "odd.sqlite", SHOP)
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)
    made, why = copied(path, tmp_path / "out", QUERIES)
    assert (made, bool(why)) == ([], True)


def test_a_large_table_is_thinned_to_what_queries_and_links_need(tmp_path: Path) -> None:
    script = """CREATE TABLE big (id INTEGER PRIMARY KEY, v INTEGER); CREATE TABLE small (big INTEGER REFERENCES big(id));
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 50000) INSERT INTO big SELECT i, i * 10 FROM n;
        INSERT INTO small VALUES (49999), (12345)"""
    path = database(tmp_path / "big.sqlite", script)
    asks = read_asks(["SELECT id FROM big WHERE v = 477770"], reading.names_of(path))
    kept = {row[0] for row in reading.read_tables(path, asks, random.Random(0))["big"].rows}
    assert len(kept) == reading.MOST_ROWS
    assert kept >= {49999, 12345, 47777}
    made, _ = copied(path, tmp_path / "out", ["SELECT id FROM big WHERE v = 477770"], count=2)
    assert all(rows(copy, "SELECT count(*) FROM big")[0][0] <= 2 * reading.MOST_ROWS for copy in made)
    assert all(copy.stat().st_size < path.stat().st_size for copy in made)


def test_links_that_nothing_declares_are_found_in_the_joins_of_queries(tmp_path: Path) -> None:
    script = """CREATE TABLE a (k TEXT, v); CREATE TABLE b (x TEXT, w);
        INSERT INTO a VALUES ('p', 1), ('q', 2); INSERT INTO b VALUES ('p', 3), ('p', 4)"""
    path = database(tmp_path / "d.sqlite", script)
    joined = read_asks(["SELECT w FROM a JOIN b ON a.k = b.x"], reading.names_of(path))
    assert reading.read_tables(path, joined, random.Random(0))["b"].columns[0].parent == ("a", "k")
    apart = read_asks(["SELECT w FROM b"], reading.names_of(path))
    assert reading.read_tables(path, apart, random.Random(0))["b"].columns[0].parent is None


NAMES = {"t": ["a", "b", "c"], "u": ["a", "d"]}


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ("SELECT a FROM t WHERE b > 5", Condition("t", "b", (6,), (5, 4))),
        ("SELECT a FROM t WHERE 5 > b", Condition("t", "b", (4,), (5, 6))),
        ("SELECT a FROM t WHERE b >= 5", Condition("t", "b", (5, 6), (4,))),
        ("SELECT a FROM t WHERE b = -5", Condition("t", "b", (-5,), (-4, -6))),
        ("SELECT a FROM t AS x WHERE x.b != 5", Condition("x", "b", (6, 4), (5,))),
        ('SELECT a FROM t WHERE c = "Rome"', Condition("t", "c", ("Rome",), ("Romex", "rOME", "Rom"))),
        ("SELECT a FROM t WHERE c = '2019'", Condition("t", "c", ("2019",), ("2020", "2018"))),
        ("SELECT a FROM t WHERE c LIKE '%x_'", Condition("t", "c", ("xa", "xyxa"), ("xax", "XA", "x"))),
        ("SELECT a FROM t WHERE b BETWEEN 1 AND 3", Condition("t", "b", (1, 3), (2, 0, 4, 2))),
        ("SELECT a FROM t WHERE b IN (1, 9)", Condition("t", "b", (1, 9), (2, 0, 10, 8))),
        ("SELECT a FROM t WHERE lower(c) = 'x'", Condition("t", "c", ("x",), ("xx", "X", ""))),
    ],
)  # fmt: skip
def test_conditions_are_read_with_values_that_fulfil_and_just_miss_them(query: str, condition: Condition) -> None:
    (asked,) = read_asks([query], NAMES).selects
    assert asked.conditions == (condition,)


def test_joins_groups_counts_and_look_ups_are_read() -> None:
    asks = read_asks(
        [
            "SELECT x.c FROM t AS x JOIN u ON x.a = u.a GROUP BY x.c HAVING count(*) > 3",
            "SELECT a FROM t WHERE b NOT IN (SELECT d FROM u) AND c IS NOT NULL",
        ],
        NAMES,
    )
    assert Asked({"x": "t", "u": "u"}, (), ((("x", "a"), ("u", "a")),), (("x", "c"),), (3,)) in asks.selects
    assert asks.links == {frozenset({("t", "a"), ("u", "a")}), frozenset({("t", "b"), ("u", "d")})}
    assert asks.compared_with_null == {("t", "c")}


@pytest.mark.parametrize(
    "query", ["", "SELECT", "no SQL at all", "SELECT " + "(" * 500, "SELECT a FROM gone WHERE b = 1", "SELECT '" + "\ud800'"]
)
def test_a_query_that_cannot_be_read_asks_nothing(query: str) -> None:
    assert [a.conditions for a in read_asks([query], NAMES).selects if a.conditions] == []


@pytest.mark.parametrize(
    "value", [0, 2**63 - 1, -(2**63), 1.5, 1e308, float("inf"), "", "7", "2020-01-09", "²", "ß", None, b"x"]
)
def test_neighbours_are_other_values_of_the_same_kind(value: Any) -> None:
    found = list(neighbours(value))
    assert all(type(n) is type(value) for n in found)
    assert value not in found or value == float("inf")


def test_perturbing_nothing_is_no_error() -> None:
    assert perturbed({}, read_asks([], {}), random.Random(0), distinct=True) == {}


def test_mutants_change_one_thing_each_and_controls_change_nothing() -> None:
    found = dict(
        mutants("SELECT DISTINCT b FROM t WHERE a > 5 AND c = 'x' GROUP BY b HAVING count(*) > 1 ORDER BY b LIMIT 2")
    )
    assert set(found) == {
        "condition dropped", "boundary moved", "constant changed", "HAVING dropped", "DISTINCT dropped", "ORDER BY dropped",
        "LIMIT dropped",
    }  # fmt: skip
    assert found["HAVING dropped"] == "SELECT DISTINCT b FROM t WHERE a > 5 AND c = 'x' GROUP BY b ORDER BY b LIMIT 2"
    assert list(mutants("SELECT max(b) FROM t")) == [("aggregate changed", "SELECT MIN(b) FROM t")]
    assert list(mutants("no query (")) == []
    assert rendered("select a from t") == "SELECT a FROM t"
    assert turned("SELECT d FROM t JOIN u ON t.a = u.a") == "SELECT d FROM u JOIN t ON t.a = u.a"
    assert turned("SELECT * FROM t JOIN u ON t.a = u.a") == turned("SELECT a FROM t") == ""
