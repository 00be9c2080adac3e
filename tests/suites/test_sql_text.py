"""Queries as text: tokens, clauses, what only looks different."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from codelutra.suites.sql_text import bare, clauses, draws, normalise, one_line, reads_clock, statements, tokens, told_apart

TABLE = """
CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, "District Name" TEXT, day TEXT, x);
INSERT INTO t VALUES (1, 'New  York', 'North', '2019-03-01', '007'), (2, 'it''s', 'South', '2020-01-01', 7.5),
  (3, 'ab', NULL, '2021-09-09', x'4142'), (4, 'AB', 'north', NULL, 7);
"""


def rows(query: str) -> Any:
    """What SQLite gives for an answer, or that it refuses it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(TABLE)
        try:
            return connection.execute(bare(query)).fetchall()
        except (sqlite3.Error, sqlite3.Warning) as e:
            return type(e)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'a;b', \"c;d\", [e;f], `g;h` -- i;j\n FROM t /* k;l */ WHERE x ->> '$.m' <> 1e-3 || x'4142'",
        "SELECT 'it''s', \"a\"\"b\", 1.5e+3, .5, 5., 0x1F, a.b, ?1, :n, @n, $n",
        "SELECT 'not closed",
        "SELECT 1 /* not closed",
        "SELECT größe, 名前 FROM tabelle",
    ],
)
def test_tokens_are_the_text_without_blanks_and_comments(query: str) -> None:
    found = tokens(query)
    assert all(query[t.start : t.end] == t.text for t in found)
    assert not any(t.text.startswith(("--", "/*")) or t.text.isspace() for t in found)


@given(st.text(max_size=80) | st.text("SELECT 'x\"[`;-*/()\n", max_size=80))
def test_every_character_is_in_a_token_or_in_a_blank(query: str) -> None:
    found = tokens(query)
    edges = zip([0, *(t.end for t in found)], [*(t.start for t in found), len(query)], strict=True)
    assert not any(tokens(query[start:end]) for start, end in edges)
    assert [t.text for t in tokens(one_line(query))] == [t.text for t in tokens(bare(query))]


@pytest.mark.parametrize("part", ["'", '"', "[", "`", "/*", "--", "x'", "(", "''", "[]["])
def test_long_nonsense_takes_no_time(part: str) -> None:
    started = time.process_time()
    normalise("SELECT " + part * 100_000)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("part", [";", " limit", " order by", " limit 1, 2", " union select 1", "(select 1 limit 1) "])
def test_the_clauses_of_long_nonsense_take_no_time(part: str) -> None:
    started = time.process_time()
    clauses("SELECT 1" + part * (200_000 // len(part)))
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("query", "kept", "count"),
    [
        ("SELECT 1;;", "SELECT 1", 1),
        ("-- a\nSELECT 1 -- b\n ; /* c */ ;", "SELECT 1", 1),
        ("SELECT ';' ; -- ;", "SELECT ';'", 1),
        ("SELECT 1; SELECT 2", "SELECT 1; SELECT 2", 2),
        (";;", "", 0),
        ("", "", 0),
        ("; SELECT 1", "; SELECT 1", 1),
    ],
)
def test_semicolons_and_comments_behind_a_query_are_no_part_of_it(query: str, kept: str, count: int) -> None:
    assert bare(query) == kept
    assert statements(query) == count


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("SELECT id FROM t WHERE name = 'New  York'", "SELECT id FROM t WHERE name = 'New  York'"),
        ("SELECT name -- the name\nFROM t", "SELECT name FROM t"),
        (
            'SELECT "District  Name" ,  [a  b]\n\tFROM t /* all\nof it */ WHERE 1;',
            'SELECT "District  Name" , [a  b] FROM t WHERE 1',
        ),
        ("SELECT '--', '/*', 1 -- '\n", "SELECT '--', '/*', 1"),
        ("SELECT 'two\nlines'", "SELECT 'two\nlines'"),
    ],
)
def test_one_line_keeps_texts_and_drops_comments(query: str, line: str) -> None:
    assert one_line(query) == line


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("SELECT a FROM t", ("SELECT a FROM t", "", "", "")),
        ("SELECT a FROM t ORDER BY a DESC, b", ("SELECT a FROM t ", " a DESC, b", "", "")),
        ("SELECT a FROM t ORDER BY a LIMIT 3", ("SELECT a FROM t ", " a ", " 3", "")),
        ("SELECT a FROM t LIMIT 3 OFFSET 2", ("SELECT a FROM t ", "", " 3 ", " 2")),
        ("SELECT a FROM t LIMIT 2, 3", ("SELECT a FROM t ", "", " 3", " 2")),
        ("SELECT a FROM t LIMIT max(2, 3)", ("SELECT a FROM t ", "", " max(2, 3)", "")),
        ("SELECT a FROM (SELECT 1 LIMIT 2)", ("SELECT a FROM (SELECT 1 LIMIT 2)", "", "", "")),
        ('SELECT "limit" FROM t ORDER BY [order by]', ('SELECT "limit" FROM t ', " [order by]", "", "")),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", ("SELECT a FROM t UNION SELECT b FROM u ", " 1", "", "")),
        ("SELECT a FROM t ORDER/**/BY a", ("SELECT a FROM t ", " a", "", "")),
    ],
)
def test_the_outermost_clauses_are_found(query: str, found: tuple[str, ...]) -> None:
    assert clauses(query) == found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a FROM t ORDER BY a LIMIT 1", "SELECT a FROM t ORDER BY a LIMIT 1"),
        ("SELECT (SELECT a FROM t LIMIT 1)", "SELECT (SELECT a FROM t ORDER BY 1 LIMIT 1)"),
        ("SELECT (SELECT a FROM t ORDER BY b LIMIT 1)", "SELECT (SELECT a FROM t ORDER BY b , 1 LIMIT 1)"),
        ("SELECT a FROM (SELECT a FROM t ORDER BY b)", "SELECT a FROM (SELECT a FROM t ORDER BY b)"),
        ("SELECT row_number() OVER (ORDER BY b) FROM t", "SELECT row_number() OVER (ORDER BY b , 1 ) FROM t"),
        ("SELECT rank() OVER (ORDER BY b) FROM t", "SELECT rank() OVER (ORDER BY b) FROM t"),
        (
            "SELECT lag(f(a), 1) OVER (PARTITION BY c ORDER BY b ROWS 1 PRECEDING) FROM t",
            "SELECT lag(f(a), 1) OVER (PARTITION BY c ORDER BY b , 1 ROWS 1 PRECEDING) FROM t",
        ),
        (
            "SELECT lag(a) OVER (PARTITION BY b)",
            "SELECT lag(a) OVER (PARTITION BY b ORDER BY 1 ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING )",
        ),
        ("SELECT sum(a) OVER (ROWS 1 PRECEDING) FROM t", "SELECT sum(a) OVER ( ORDER BY 1 ROWS 1 PRECEDING) FROM t"),
        ("SELECT sum(a) OVER (PARTITION BY b) FROM t", "SELECT sum(a) OVER (PARTITION BY b) FROM t"),
    ],
)
def test_inner_choices_get_a_further_sort_key(query: str, expected: str) -> None:
    assert " ".join(told_apart(query, "1").split()) == expected


CLOCKS = [
    "SELECT CURRENT_DATE",
    "SELECT current_timestamp > '2020'",
    "SELECT date('now')",
    "SELECT DATE ( 'NOW' , '-1 day')",
    "SELECT date()",
    "SELECT strftime('%Y')",
    "SELECT unixepoch()",
    "SELECT 1 FROM t WHERE day < (SELECT datetime(/* when */ 'now'))",
    "WITH x AS (SELECT julianday('now') AS j) SELECT j FROM x",
    "SELECT julianday(coalesce(died, 'now')) - julianday(born) FROM t",
    "SELECT date(('now'))",
    'SELECT date("now")',
    "SELECT date(CASE WHEN died IS NULL THEN ('Now') ELSE died END) FROM t",
    "WITH x AS (SELECT 'now' AS n) SELECT strftime('%w', n) FROM x",
]
NO_CLOCKS = [
    "SELECT 'now'",
    "SELECT name FROM t WHERE name = 'now'",
    "SELECT date(day), strftime('%Y', day), time('12:00', '+1 hour') FROM t",
    "SELECT \"current_date\", t.current_date, 'CURRENT_DATE' FROM t -- CURRENT_TIME",
    "SELECT date, time FROM t",
]


@pytest.mark.parametrize("query", CLOCKS)
def test_a_query_that_reads_the_clock_is_seen(query: str) -> None:
    assert reads_clock(query)


@pytest.mark.parametrize("query", NO_CLOCKS)
def test_a_query_that_only_speaks_of_time_reads_no_clock(query: str) -> None:
    assert not reads_clock(query)


def test_a_query_that_draws_by_chance_is_seen() -> None:
    assert draws("SELECT Random () FROM t")
    assert draws("SELECT 1 FROM t ORDER BY hex(randomblob(4))")
    assert not draws("SELECT random, 'random()' FROM t -- random()")


SAME = [
    ("select  NAME from T;", "SELECT name FROM t"),
    ("SELECT name FROM t -- why", "/* so */ SELECT name FROM t ;;"),
    ("SELECT count( * ) FROM t WHERE id != 1 AND x == 2", "SELECT COUNT(*) FROM t WHERE id <> 1 AND x = 2"),
    ("SELECT\tname,\nid FROM t", "SELECT name , id FROM t"),
]
DIFFERENT = [
    ("SELECT id FROM t WHERE \"District Name\" = 'North'", "SELECT id FROM t WHERE 'District Name' = 'North'"),
    ("SELECT CAST(day AS DATE) FROM t", "SELECT DATE(day) FROM t"),
    ("SELECT id FROM t WHERE name = 'ab'", "SELECT id FROM t WHERE name = 'AB'"),
    ("SELECT id FROM t WHERE name = 'New  York'", "SELECT id FROM t WHERE name = 'New York'"),
    ("SELECT id FROM t WHERE x = 7", "SELECT id FROM t WHERE x = '7'"),
    ("SELECT 7 / 2", "SELECT 7 / 2."),
    ("SELECT 1 - -1", "SELECT 1 --1"),
    ("SELECT 2 + 3 * 4", "SELECT (2 + 3) * 4"),
    ("SELECT x'4142'", "SELECT x '4142'"),
    ("SELECT 1a", "SELECT 1 a"),
    ("SELECT 1 /*", "SELECT 1"),
    ("SELECT id FROM t; SELECT 1", "SELECT id FROM t"),
    ("SELECT name FROM t AS a", "SELECT name FROM t a"),
    ('SELECT "a+1" FROM (SELECT id a+1 FROM t)', 'SELECT "a+1" FROM (SELECT id a + 1 FROM t)'),
    ("SELECT 'a' 'b'", "SELECT 'a''b'"),
    ('SELECT "name" FROM t', "SELECT 'name' FROM t"),
    ("SELECT Ä FROM t", "SELECT ä FROM t"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_what_only_looks_different_has_one_normal_form(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)
    assert rows(a) == rows(b)


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_what_may_run_differently_has_two_normal_forms(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


WORDS = """
    SELECT select FROM from t T WHERE AND and NOT not IN ( ) , . = == != <> < > + - * / || -> ->> ; id ID Id name x X day 1 2
    1. .5 1e1 0x1 'a' 'A' 'North' 'ab' "name" [name] `id` x'41' X'41' NULL null CAST AS INT int DATE date -- /* */ LIKE GLOB
    ORDER BY DESC LIMIT COUNT count max MIN"""
PIECES = st.sampled_from([*WORDS.split(), '"District Name"', "'District Name'", "'New  York'"])
GLUE = st.sampled_from(["", " ", "  ", "\n", "\t", "/**/", "--\n", "/* x */"])


@given(st.lists(st.tuples(PIECES, GLUE), max_size=12), st.lists(GLUE, min_size=12, max_size=12), st.data())
def test_queries_with_one_normal_form_give_the_same_rows(parts: list[tuple[str, str]], other: list[str], data: Any) -> None:
    one = "SELECT " + "".join(piece + glue for piece, glue in parts)
    swapped = [data.draw(st.sampled_from([p, p.lower(), p.upper(), p.replace("'", '"')])) for p, _ in parts]
    two = "SELECT " + "".join(piece + glue for piece, glue in zip(swapped, other, strict=False))
    assume(normalise(one) == normalise(two))
    assert rows(one) == rows(two)


@given(st.text(max_size=60) | st.text("SELECT*from('\",;) wher=1-/", max_size=60).map("SELECT ".__add__))
def test_a_normal_form_is_its_own_and_runs_as_its_query(code: str) -> None:
    once = normalise(code)
    assert normalise(once) == once
    if "\0" not in code and rows(code) not in (sqlite3.ProgrammingError, sqlite3.Warning):
        assert rows(once) == rows(code)
