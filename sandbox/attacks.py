"""Programs and queries that try to be judged correct without being right, or to break the sandbox for others.

This is data, most of it in `attacks.toml` and `attacks_duckdb.toml`; `probe.py` and the tests run it in real containers. All
Python attacks pretend to solve one problem, `solve(n) == 7 * n + 3`, for the numbers in CALLS. The right answers are in
EXPECTED, on the host. The queries run on a small database made from SCHEMA.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import NamedTuple

CALLS = ("solve(3)", "solve(10)", "solve(-1)")
EXPECTED = [{"value": 24}, {"value": 73}, {"value": -4}]
RIGHT = "def solve(n):\n    return 7 * n + 3\n"
WRONG = "def solve(n):\n    return 7 * n\n"

SCHEMA = """
create table singer(id integer primary key, name text, age int);
insert into singer values (1, 'Ada', 36), (2, 'Bo', 52), (3, 'Cy', null), (4, 'Di', 29);
create table song(id integer primary key, singer int references singer(id), title text, plays int);
insert into song values (1, 1, 'One', 10), (2, 1, 'Two', 20), (3, 2, 'Three', 5), (4, 4, 'Four', 0);
create virtual table verse using fts5(line);
insert into verse values ('the sea'), ('the sky');
create virtual table stage using rtree(id, x0, x1);
insert into stage values (1, 0, 2);
"""
DUCKDB_SCHEMA = """
create table singer(id integer primary key, name text, age int);
insert into singer values (1, 'Ada', 36), (2, 'Bo', 52), (3, 'Cy', null), (4, 'Di', 29);
create table song(id integer primary key, singer int references singer(id), title text, plays int);
insert into song values (1, 1, 'One', 10), (2, 1, 'Two', 20), (3, 2, 'Three', 5), (4, 4, 'Four', 0);
"""
RIGHT_QUERY = "select name from singer where age > 30 order by name"
EXPECTED_ROWS = [["Ada"], ["Bo"]]
WRONG_QUERY = "select name from singer order by name"


class Attack(NamedTuple):
    """`statuses` are the outcomes it may have; empty allows any that is not correct. infra_error is never allowed."""

    name: str
    kind: str  # a row of the threat model
    source: str
    statuses: tuple[str, ...] = ()
    timeout_seconds: float = 2.0


def attacks(engine: str = "sqlite") -> list[Attack]:
    """All of them, in a fixed order; the queries are for databases of `engine`, "sqlite" or "duckdb"."""
    found = read("attacks.toml") + UNPRINTABLE
    if engine == "sqlite":
        return found
    return [attack for attack in found if attack.kind != "sql"] + read("attacks_duckdb.toml") + DUCKDB_UNPRINTABLE


def read(name: str) -> list[Attack]:
    raw = tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    found = []
    for entry in raw["attack"]:
        prelude, wrong = raw["prelude"][entry["before"]] if "before" in entry else "", WRONG if entry.get("then") else ""
        statuses = tuple(entry.get("statuses", "").split())
        source = prelude + entry["source"] + wrong
        found.append(Attack(entry["name"], entry["kind"], source, statuses, entry.get("timeout_seconds", 2.0)))
    return found


REFUSED = ("syntax_error", "resource_limit", "runtime_error")
UNPRINTABLE = [  # what a text file cannot hold well
    Attack("nested parentheses", "exhaust", "(" * 5000 + ")" * 5000, REFUSED),
    Attack("a nul in the source", "exhaust", "x = 1\0", ("syntax_error",)),
    Attack("half a character in the source", "exhaust", "x = '\udcff'", ("syntax_error",)),
    Attack("sql: a nul in the query", "sql", "select name\0 from singer", ("syntax_error",)),
    Attack("sql: half a character in the query", "sql", "select '\udcff'", ("syntax_error",)),
    Attack("sql: nested too deep", "sql", "select " + "(" * 3000 + "1" + ")" * 3000, REFUSED),
    Attack("sql: many columns", "sql", "select " + ", ".join("1" for _ in range(3000)), REFUSED),
]
DUCKDB_UNPRINTABLE = [
    Attack("duckdb: a nul in the query", "sql", "select name\0 from singer", ("syntax_error",)),
    Attack("duckdb: half a character in the query", "sql", "select '\udcff'", ("syntax_error",)),
    Attack("duckdb: nested too deep", "sql", "select " + "(" * 100_000 + "1" + ")" * 100_000, REFUSED),
    Attack("duckdb: brackets nested too deep", "sql", "select " + "[" * 50_000 + "1" + "]" * 50_000, REFUSED),
    Attack("duckdb: many operators", "sql", "select " + "+".join("1" for _ in range(100_000)), ()),
    Attack("duckdb: many unions", "sql", " union all ".join("select 1" for _ in range(20_000)), (*REFUSED, "timeout")),
    Attack("duckdb: many columns", "sql", "select " + ", ".join("1" for _ in range(3000)), ()),
]
