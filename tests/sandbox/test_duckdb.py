"""DuckDB files in the sandbox: every attack fails, values have one form, a query leaves nothing, worlds differ."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox import Pool, SandboxError, SqlJob, ensure_daemon_reachable, ensure_image
from sandbox.answers import believe
from sandbox.attacks import Attack, attacks
from sandbox.probe import duckdb_database, honest, job, survives
from sandbox.runner import wire
from sandbox.runner.worlds import CLOCKS, WORLDS

QUERIES = [attack for attack in attacks("duckdb") if attack.kind == "sql"]
SEES = """
create table t(id integer, name varchar); insert into t values (1, 'a'), (2, 'b'), (3, null);
create view v as select name from t where id > 1;
"""


@pytest.fixture(scope="module")
def duck() -> Iterator[Pool]:
    """One container, so that what one query leaves behind would meet the next."""
    try:
        ensure_daemon_reachable()
    except SandboxError as error:
        pytest.skip(str(error))
    with Pool(image=ensure_image("duckdb"), workers=1, run="tests-duckdb") as pool:
        yield pool


@pytest.fixture(scope="module")
def fixture(duck: Pool, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = duckdb_database(duck, tmp_path_factory.mktemp("fixture"))
    duck.announce(made)
    return next(iter(made))


@pytest.fixture(scope="module")
def small(duck: Pool, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = duckdb_database(duck, tmp_path_factory.mktemp("small"), SEES)
    duck.announce(made)
    return next(iter(made))


def asked(pool: Pool, database: str, *queries: str, connection: str = "", **more: Any) -> list[Any]:
    """The rows each query gives, or its status."""
    jobs = [SqlJob(str(n), database, query, connection=connection, **more) for n, query in enumerate(queries)]
    return [r.value["rows"] if r.status == "ok" else r.status for r in pool.map(jobs)]


@pytest.mark.parametrize("attack", QUERIES, ids=lambda attack: attack.name)
def test_attack_is_not_correct_and_leaves_the_container_fit(attack: Attack, duck: Pool, fixture: str) -> None:
    replaced = len(duck.replaced)
    got, fine = survives(attack, list(duck.map([job(attack, fixture), *honest(attack.name, fixture)])))
    assert fine, got
    assert duck.replaced[replaced:] == []


def test_the_attacks_on_duckdb_are_more_than_a_few() -> None:
    names = [attack.name for attack in attacks("duckdb")]
    assert len(names) == len(set(names))
    assert len(QUERIES) >= 100


VALUES = {  # each expression, and the cell it is
    "NULL": None,
    "true": 1,
    "false": 0,
    "(-128)::TINYINT": -128,
    "18446744073709551615::UBIGINT": 2**64 - 1,
    "170141183460469231731687303715884105727::HUGEINT": 2**127 - 1,
    "(-170141183460469231731687303715884105727)::HUGEINT": 1 - 2**127,
    "340282366920938463463374607431768211455::UHUGEINT": 2**128 - 1,
    "12345::BIGNUM": 12345,
    "99999999999999999999999999999999999999999999999::BIGNUM": "9" * 47,
    "2.5": 2.5,
    "2.0": 2,
    "99999999999999999999.00::DECIMAL(38,2)": 99999999999999999999,
    "0.1::FLOAT": 0.10000000149011612,
    "1e300": 1e300,
    "'inf'::DOUBLE": float("inf"),
    "'-inf'::DOUBLE": float("-inf"),
    "'nan'::DOUBLE": "NaN",
    "'nan'::FLOAT": "NaN",
    "'ä🦆'": "ä🦆",
    "''": "",
    "'a' || chr(0) || 'b'": "a\0b",
    "'\\x00\\xFF'::BLOB": b"\0\xff",
    "'0101'::BIT": "0101",
    "'b'::ENUM('a', 'b')": "b",
    "'{\"a\": 1}'::JSON": '{"a": 1}',
    "'12345678-1234-5678-1234-567812345678'::UUID": "12345678-1234-5678-1234-567812345678",
    "DATE '2020-02-29'": "2020-02-29",
    "DATE '5877642-06-25 (BC)'": "5877642-06-25 (BC)",
    "TIME '03:04:05.25'": "03:04:05.250000",
    "TIME '24:00:00'": "24:00:00",
    "TIMESTAMP '2020-02-29'": "2020-02-29",
    "TIMESTAMP '2020-02-29 01:02:03'": "2020-02-29 01:02:03",
    "TIMESTAMP '2020-02-29 01:02:03.5'": "2020-02-29 01:02:03.500000",
    "'2020-02-29 01:02:03.123456789'::TIMESTAMP_NS": "2020-02-29 01:02:03.123456",
    "'2020-02-29 01:02:03+02'::TIMESTAMPTZ": "2020-02-28 23:02:03",
    "INTERVAL 1 MONTH": "30 days 00:00:00",
    "INTERVAL 30 DAY": "30 days 00:00:00",
    "INTERVAL '-1 hour'": "-0 days 01:00:00",
    "INTERVAL '1 day 02:03:04.5'": "1 days 02:03:04.500000",
    "[1, 2, NULL]": "[1, 2, null]",
    "[]": "[]",
    "[0.1 + 0.2, 0.30000000001]": "[0.3, 0.3]",
    "['a', 'ä']": '["a", "ä"]',
    "[DATE '2020-01-01']": '["2020-01-01"]',
    "[[1], [2, 3]]": "[[1], [2, 3]]",
    "[1, 2, 3]::INTEGER[3]": "[1, 2, 3]",
    "{'b': 1, 'a': 'x'}": '{"a": "x", "b": 1}',
    "MAP {'k': 1, 'j': 2}": '{"j": 2, "k": 1}',
    "MAP {10: 'x', 2: 'y'}": '{"10": "x", "2": "y"}',
    "['nan'::DOUBLE, 'inf', '-inf', 1e20, 2.0]": '["NaN", "Infinity", "-Infinity", 1e+20, 2]',
    "[true, NULL]": "[1, null]",
    "['\\xFF'::BLOB]": '["ff"]',
    "union_value(k := 5)": 5,
}


def test_every_type_has_its_cell(duck: Pool, small: str) -> None:
    found = asked(duck, small, *(f"SELECT {expression}" for expression in VALUES))
    for expression, cell, rows in zip(VALUES, VALUES.values(), found, strict=True):
        assert rows == [[cell]], expression
        assert type(rows[0][0]) is type(cell), expression


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DATE '2020-01-01'", "TIMESTAMP '2020-01-01 00:00:00'"),
        ("TIMESTAMP '2020-01-01 05:00:00'", "TIMESTAMPTZ '2020-01-01 05:00:00+00'"),
        ("1.0", "1"),
        ("1.50::DECIMAL(5,2)", "1.5::DOUBLE"),
        ("true", "1"),
        ("INTERVAL 1 MONTH", "INTERVAL 30 DAY"),
        ("'nan'::DOUBLE", "'nan'::FLOAT"),
        ("[1, 2]", "[1.0, 2.0]"),
    ],
)
def test_what_duckdb_calls_equal_is_one_cell(duck: Pool, small: str, one: str, other: str) -> None:
    same, cells = asked(duck, small, f"SELECT {one} = {other}", f"SELECT {one}, {other}")
    assert same == [[1]]
    assert cells[0][0] == cells[0][1]


def test_all_types_of_duckdb_come_through(duck: Pool, small: str) -> None:
    """Whatever types there will be: each is a cell, at its least, its most and NULL."""
    (rows,) = asked(duck, small, "FROM test_all_types()", max_bytes=16_000_000)
    assert len(rows) == 3
    assert all(cell is None for cell in rows[2])
    assert {type(cell) for row in rows for cell in row} <= {type(None), int, float, str, bytes}


SCALARS = (
    st.integers(-(2**127), 2**127 - 1).map(lambda n: (f"'{n}'::HUGEINT", n))
    | st.floats(width=64, allow_nan=False).map(lambda f: (f"'{f!r}'::DOUBLE", f))
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")).map(
        lambda t: ("'" + t.replace("'", "''") + "'", t)
    )
    | st.binary(max_size=40).map(lambda b: (f"from_hex('{b.hex()}')", b))
    | st.decimals(-(10**20), 10**20, places=4).map(
        lambda d: (f"'{d}'::DECIMAL(30,4)", int(d) if d == d.to_integral_value() else float(d))
    )
    | st.datetimes().map(
        lambda d: (f"TIMESTAMP '{d.isoformat(' ')}'", str(d.date()) if d.time() == datetime.time() else d.isoformat(" "))
    )
    | st.dates().map(lambda d: (f"DATE '{d}'", str(d)))
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SCALARS, min_size=1, max_size=40))
def test_values_come_back_as_they_are(duck: Pool, small: str, values: list[tuple[str, Any]]) -> None:
    (rows,) = asked(duck, small, "SELECT " + ", ".join(text for text, _ in values))
    assert rows == [[value for _, value in values]]
    assert [type(cell) for cell in rows[0]] == [type(value) for _, value in values]


def test_queries_of_many_forms_are_run(duck: Pool, small: str) -> None:
    found = asked(
        duck,
        small,
        "FROM v ORDER BY ALL",
        "(SELECT id FROM t ORDER BY id DESC LIMIT 1);;",
        "-- first\nSELECT count(*) FROM t -- last",
        "PIVOT t ON name USING count(*) GROUP BY id ORDER BY id",
        "SELECT * EXCLUDE (name) FROM t WHERE id = 2",
        "SELECT 'x;' || $$'$$",
        "VALUES (1), (2)",
        "TABLE t LIMIT 0",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3) SELECT sum(x) FROM c",
    )
    assert found == [
        [["b"], [None]],
        [[3]],
        [[3]],
        [[1, 1, 0], [2, 0, 1], [3, 0, 0]],
        [[2]],
        [["x;'"]],
        [[1], [2]],
        [],
        [[6]],
    ]


def test_a_query_leaves_nothing_to_the_next(duck: Pool, small: str) -> None:
    seed = "SELECT setseed(0.25)"
    first, _, second, _, third = asked(duck, small, "SELECT random()", seed, "SELECT random()", seed, "SELECT random()")
    assert len({str(first), str(second), str(third)}) == 3
    pivot = "PIVOT t ON name USING count(*)"
    assert asked(
        duck, small, pivot, "SELECT count(*) FROM duckdb_types() WHERE logical_type = 'ENUM' AND NOT internal", pivot
    )[1] == [[0]]


def test_more_than_the_caps_is_a_resource_limit(duck: Pool, small: str) -> None:
    assert asked(duck, small, "FROM t", "FROM t LIMIT 2", max_rows=2) == ["resource_limit", [[1, "a"], [2, "b"]]]
    assert asked(duck, small, "SELECT repeat('x', 100)", max_bytes=50) == ["resource_limit"]


def test_a_file_that_is_no_duckdb_is_an_outage_and_others_still_work(duck: Pool, small: str, tmp_path: Path) -> None:
    """DuckDB opens it in the worker, so no query is charged with it."""
    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(b"\0" * 8 + b"DUCK" + b"\7" * 40_000)
    digest = hashlib.sha256(broken.read_bytes()).hexdigest()
    duck.announce({digest: broken})
    assert asked(duck, digest, "SELECT 1") == ["infra_error"]
    assert asked(duck, small, "SELECT 1") == [[[1]]]


def test_a_crash_of_duckdb_costs_the_query_it_is_at(duck: Pool, small: str) -> None:
    """The query's process ends by a signal; the one after it is answered by the same container."""
    replaced = len(duck.replaced)
    deep = "SELECT " + "list_transform([1], lambda x: " * 3000 + "x" + ")" * 3000
    crashed, after = asked(duck, small, deep, "SELECT 1")
    assert crashed in ("runtime_error", "syntax_error", "resource_limit")
    assert after == [[1]]
    assert len(duck.replaced) == replaced


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_has_its_own_clock(duck: Pool, small: str, world: str) -> None:
    clock = CLOCKS[WORLDS[world]]
    day = clock[:10]
    seen = clock.removesuffix(" 00:00:00")
    stamps, days, age = asked(
        duck,
        small,
        "SELECT now(), current_timestamp, get_current_timestamp(), transaction_timestamp(), localtimestamp",
        "SELECT current_date, today(), current_date()",
        "SELECT age(TIMESTAMP '2000-01-01') = age(current_date, TIMESTAMP '2000-01-01')",
        connection=world,
    )
    assert stamps == [[seen] * 5]
    assert days == [[day] * 3]
    assert age == [[1]]
    times, plain = asked(duck, small, "SELECT current_time::VARCHAR, localtime::VARCHAR", "SELECT 1", connection=world)
    assert {time[:8] for time in times[0]} == {clock[11:]}
    assert plain == [[1]]


def test_chance_is_the_same_in_every_job_of_a_world_and_another_in_each(duck: Pool, small: str) -> None:
    seen = set()
    for world in WORLDS:
        first, again = asked(duck, small, *["SELECT random(), uuid() FROM t"] * 2, connection=world)
        assert first == again
        seen.add(str(first))
    assert len(seen) == len(WORLDS)


def test_tables_are_read_from_their_end_in_every_other_world(duck: Pool, small: str) -> None:
    queries = "SELECT id FROM t", "SELECT id FROM main.t", "SELECT list(id) FROM t", "SELECT count(*) FROM v"
    back, same = [[3], [2], [1]], [[1], [2], [3]]
    assert asked(duck, small, *queries, connection="world-0") == [back, back, [["[3, 2, 1]"]], [[2]]]
    for world in ("world-1", "reference", ""):
        assert asked(duck, small, *queries, connection=world) == [same, same, [["[1, 2, 3]"]], [[2]]]


@pytest.mark.parametrize(
    "document",
    [
        b"[]",
        b"null",
        b'{"columns":[],"rows":null}',
        b'{"columns":["a"],"rows":[[1,2]]}',
        b'{"columns":["a"],"rows":[[[1]]]}',
        b'{"columns":["a"],"rows":[[{"b":"!","c":1}]]}',
        b'{"columns":["a"],"rows":[[{"b":5}]]}',
        b'{"columns":["a"],"rows":[[true]]}',
        b'{"columns":[1],"rows":[]}',
        b'{"columns":["a"],"rows":[],"truncated":false}',
        b'{"columns":["a"],"rows":[' + b"[" * 100_000,
    ],
)
def test_a_table_that_the_runner_never_writes_is_not_believed(document: bytes) -> None:
    record = wire.Record(1, wire.OK, 0.0, document, b"", b"")
    assert believe(SqlJob("1", "0" * 64, "SELECT 1"), record, 1).status == "blocked"
