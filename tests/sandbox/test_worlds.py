"""Virtual tables stay readable and closed to writing; other worlds have a clock, chance and order of their own."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox import Pool, SqlJob
from sandbox.runner.worlds import CLOCKS, WORLDS

GIVEN = (
    "select date('2020-02-30', '+1 day'), strftime('%j', '2020-12-31'), date(0), julianday('x'), time('09:00', '+1 hour')"
)
MATCH = "select line from verse where verse match 'sea'"


def asked(pool: Pool, database: str, *queries: str, connection: str = "") -> list[Any]:
    """The rows each query gives, or its status."""
    jobs = [SqlJob(str(n), database, query, connection=connection) for n, query in enumerate(queries)]
    return [r.value["rows"] if r.status == "ok" else r.status for r in pool.map(jobs)]


@pytest.mark.parametrize(
    "attack",
    [
        "vacuum",
        "insert into verse(verse) values ('rebuild')",
        "create table x (a)",
        "select rtreecheck('stage')",
        "pragma writable_schema = 1",
        "select zeroblob(2000000000)",
        "select * from pragma_table_info('verse')",
        "update sqlite_master set sql = ''",
    ],
)
def test_whatever_was_refused_virtual_tables_can_be_read_after_it(pool: Pool, database: str, attack: str) -> None:
    boxes, each = "select id from stage where x0 < 1", "select value from json_each('[7]')"
    for connection in ("", "reference", "world-0"):
        refused, *read = asked(pool, database, attack, MATCH, boxes, each, connection=connection)
        assert refused in ("blocked", "resource_limit", "runtime_error")
        assert read == [[["the sea"]], [[1]], [[7]]]


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_has_its_own_clock(pool: Pool, database: str, world: str) -> None:
    clock = CLOCKS[WORLDS[world]]
    now, parts, other = asked(
        pool,
        database,
        "select current_timestamp, datetime('now'), datetime(), datetime('NOW', '+0 days'), "
        "datetime(x'4e6f77'), date() || ' ' || time()",
        "select current_date, strftime('%Y'), strftime('%Y', 'now'), unixepoch() - unixepoch('now'), julianday('now') > 0",
        GIVEN,
        connection=world,
    )
    assert now == [[clock] * 6]
    assert parts == [[clock[:10], clock[:4], clock[:4], 0, 1]]
    assert [other] == asked(pool, database, GIVEN)


def test_chance_is_the_same_in_every_job_of_a_world_and_another_in_each(pool: Pool, database: str) -> None:
    query = "select random(), random(), hex(randomblob(9)), length(randomblob(0)) from singer"
    seen = []
    for world in WORLDS:
        first, again = asked(pool, database, query, query, connection=world)
        assert first == again
        assert len({row[0] for row in first}) == len(first)
        assert first[0][3] == 1
        seen.append(str(first))
    assert len(set(seen)) == len(WORLDS)


def test_tables_are_read_from_their_end_in_every_other_world(pool: Pool, database: str) -> None:
    query = "select id from singer"
    orders = [asked(pool, database, query, connection=world)[0] for world in WORLDS]
    assert orders == [[[4], [3], [2], [1]], [[1], [2], [3], [4]]] * (len(WORLDS) // 2)
    assert asked(pool, database, query) == [[[1], [2], [3], [4]]], "and not where an answer runs"
