"""DuckDB's queries as text: tokens, clauses, the clock, and what only looks different."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.suites.dialects import DUCKDB
from codelutra.suites.sql import alike, judging
from codelutra.suites.sql_text import bare, clauses, draws, normalise, reads_clock, statements, tokens, told_apart


@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("SELECT x[1], [2, 3]", ["SELECT", "x", "[", "1", "]", ",", "[", "2", ",", "3", "]"]),
        ("SELECT $$a ' ; b$$ || $t$ $$ $t$", ["SELECT", "$$a ' ; b$$", "||", "$t$ $$ $t$"]),
        (r"SELECT E'it\'s' || 'back\'", ["SELECT", r"E'it\'s'", "||", r"'back\'"]),
        ("SELECT 1 /* a /* b ; */ c */ + 2", ["SELECT", "1", "+", "2"]),
        ("SELECT a::INT, b -> 'c', 1_000", ["SELECT", "a", "::", "INT", ",", "b", "->", "'c'", ",", "1_000"]),
        ('SELECT "a;b" FROM t', ["SELECT", '"a;b"', "FROM", "t"]),
        ("SELECT list[1:2]", ["SELECT", "list", "[", "1", ":", "2", "]"]),
    ],
)
def test_tokens_are_duckdb_s(query: str, texts: list[str]) -> None:
    assert [t.text for t in tokens(query, DUCKDB)] == texts


@given(st.text(max_size=80) | st.text("SELECT 'xE\"[`$;-*/()\\\n", max_size=80))
def test_every_character_is_in_a_token_or_in_a_blank(query: str) -> None:
    found = tokens(query, DUCKDB)
    assert all(a.end <= b.start for a, b in pairwise(found))
    edges = zip([0, *(t.end for t in found)], [*(t.start for t in found), len(query)], strict=True)
    assert not any(tokens(query[start:end], DUCKDB) for start, end in edges)


@pytest.mark.parametrize(
    "part", ["'", '"', "[", "`", "/*", "*/", "/*/", "--", "E'", "E'\\", "(", "$", "$$", "$a", "$a$", "1_", "''"]
)
def test_long_nonsense_takes_no_time(part: str) -> None:
    started = time.process_time()
    normalise("SELECT " + part * 50_000, DUCKDB)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("SELECT $$;$$;", 1),
        ("SELECT 1; SELECT 2", 2),
        (r"SELECT E'\';' ; -- x", 1),
        ("SELECT 1 /* /* ; */ ; */", 1),
        ("SELECT [1; 2]", 2),
        ("", 0),
    ],
)
def test_statements_are_counted(query: str, count: int) -> None:
    assert statements(query, DUCKDB) == count


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("FROM t SELECT a ORDER BY a LIMIT 3", ("FROM t SELECT a ", "a", "3", "")),
        ("SELECT a FROM t ORDER BY a OFFSET 2 LIMIT 3", ("SELECT a FROM t ", "a", "3", "2")),
        ("SELECT a FROM t ORDER BY a LIMIT 3 OFFSET 2", ("SELECT a FROM t ", "a", "3", "2")),
        ("SELECT a FROM t ORDER BY a OFFSET 2", ("SELECT a FROM t ", "a", "", "2")),
        ("SELECT a FROM t OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", ("SELECT a FROM t ", "", "NEXT 3", "2")),
        ("SELECT a FROM t LIMIT 10%", ("SELECT a FROM t ", "", "10%", "")),
        ("SELECT x[1] FROM t ORDER BY ALL DESC", ("SELECT x[1] FROM t ", "ALL DESC", "", "")),
        ("SELECT (FROM t SELECT a LIMIT 1)", ("SELECT (FROM t SELECT a LIMIT 1)", "", "", "")),
    ],
)
def test_the_outermost_clauses_are_found(query: str, found: tuple[str, ...]) -> None:
    body, *rest = clauses(query, DUCKDB)
    assert (body, *(text.strip() for text in rest)) == found


@pytest.mark.parametrize(
    "query",
    [
        "SELECT now()",
        "SELECT today()",
        "SELECT current_date - 1",
        "SELECT localtimestamp",
        "SELECT age(DATE '2020-01-01')",
        "SELECT get_current_timestamp()",
        "FROM t WHERE day > (SELECT CURRENT_TIMESTAMP)",
    ],
)
def test_a_query_that_reads_the_clock_is_seen(query: str) -> None:
    assert reads_clock(query, DUCKDB)


@pytest.mark.parametrize(
    "query",
    ["SELECT t.current_date FROM t", "SELECT age(a, b) FROM t", "SELECT 'now()'", "SELECT date('2020-01-01')", "SELECT age"],
)
def test_a_query_that_only_speaks_of_time_reads_no_clock(query: str) -> None:
    assert not reads_clock(query, DUCKDB)


def test_a_query_that_draws_by_chance_is_seen() -> None:
    for query in (
        "SELECT random()",
        "SELECT uuid()",
        "FROM t USING SAMPLE 3",
        "FROM t TABLESAMPLE 10%",
        "SELECT gen_random_uuid()",
    ):
        assert draws(query, DUCKDB), query
    for query in ("SELECT random FROM t", "SELECT sample FROM t", "SELECT 'random()'", "SELECT $$uuid()$$"):
        assert not draws(query, DUCKDB), query


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("((SELECT 1)); -- x", "SELECT 1"),
        ("(SELECT 1) UNION (SELECT 2)", "(SELECT 1) UNION (SELECT 2)"),
        ("((SELECT 1) UNION (SELECT (2)))", "(SELECT 1) UNION (SELECT (2))"),
        ("((SELECT 1)) LIMIT 2", "((SELECT 1)) LIMIT 2"),
        ("(SELECT 1", "(SELECT 1"),
        ("SELECT (1)", "SELECT (1)"),
        ("(", "("),
        ("()", "()"),
        ("", ""),
    ],
)
def test_parentheses_around_a_whole_query_mean_nothing(query: str, kept: str) -> None:
    assert bare(query, DUCKDB) == kept


def test_inner_choices_get_a_further_sort_key() -> None:
    told = told_apart("SELECT (FROM t SELECT a ORDER BY b LIMIT 1)", "KEY", DUCKDB)
    assert " ".join(told.split()) == "SELECT (FROM t SELECT a ORDER BY b , KEY LIMIT 1)"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("select  a from t where b == 1 ;", "SELECT a FROM t WHERE b = 1"),
        ("from t -- all of it", "FROM t"),
        ("SELECT a /* /* */ */ FROM t", "SELECT a FROM t"),
    ],
)
def test_what_only_looks_different_has_one_normal_form(a: str, b: str) -> None:
    assert normalise(a, DUCKDB) == normalise(b, DUCKDB)


@pytest.mark.parametrize(
    ("a", "b"), [("SELECT x[1]", "SELECT x[2]"), ("SELECT $$A$$", "SELECT $$a$$"), (r"SELECT E'\'A'", r"SELECT E'\'a'")]
)
def test_what_may_run_differently_has_two_normal_forms(a: str, b: str) -> None:
    assert normalise(a, DUCKDB) != normalise(b, DUCKDB)
    assert alike(a, DUCKDB.name) != alike(b, DUCKDB.name)


def test_alike_reads_duckdb() -> None:
    assert alike("FROM t SELECT a", "duckdb") == alike("from T select A", "duckdb")
    assert bare(" SELECT $$;$$ ; ", DUCKDB) == "SELECT $$;$$"
    assert '"ordered": true' in judging("FROM t ORDER BY ALL", "0" * 64, dialect=DUCKDB)
    assert '"ordered": false' in judging("FROM t WHERE a = $$ORDER BY a$$", "0" * 64, dialect=DUCKDB)
