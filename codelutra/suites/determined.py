"""What a reference's output determines: which rows may come in another order, or be others, and what no answer can know.

An output does not show which of its rows tie under an ORDER BY, nor which rows a LIMIT left out that tie with the last
one. So a reference with an outermost ORDER BY or LIMIT runs twice more without its LIMIT, with all output columns as
further sort keys, up in one run and down in the other. Rows tie where the two runs disagree about their order. The engine
itself compares them, so collations, positions and aliases mean what they mean to it.

A reference whose answer changes in another world (another clock, other chance, tables read from their end, inner ties
broken another way) does not determine its answer. It can judge nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import polars as pl

from codelutra.suites.dialects import SQLITE, Dialect
from codelutra.suites.sql_text import bare, clauses, draws, ordered_within, reads_clock, told_apart
from sandbox.protocol import decode
from sandbox.runner.worlds import WORLDS

ROOM = 1000  # rows looked at beyond a LIMIT
CLOCK = "it reads the clock, so its answer changes with the day; write the date that is meant"
CHANCE = "it draws by chance, so its answer changes from run to run"
ORDER = (
    "it does not determine its answer: what an inner LIMIT, a window function, an aggregate or a view takes depends on the "
    "order in which rows are read, or on the clock; add sort keys until none tie"
)
TOO_MANY = f"it does not determine its answer: its LIMIT chooses among more than {ROOM} rows that tie; add sort keys"
Row = Sequence[Any]


class Check(NamedTuple):
    """A further run of a reference, of a kind: a "world" must agree with what is expected, two "listing"s show which rows
    tie, and "offset" is how many rows are skipped."""

    query: str
    connection: str
    kind: str = "world"


def checks(reference: str, width: int, rows: int, dialect: Dialect = SQLITE) -> list[Check]:
    """The further runs of a reference whose output has `width` columns and `rows` rows."""
    query = bare(reference, dialect)
    body, order, limit, offset = clauses(query, dialect)
    worlds, found = list(WORLDS), list[Check]()
    cuts = limit or offset
    if (order or (cuts and not ordered_within(query, dialect))) and not _by_all(order, dialect):
        # Without sort keys every row ties with every other, so one listing is enough.
        ways = (dialect.up, dialect.down) if order else (dialect.up,)
        cut = f"\nLIMIT {rows + ROOM} + {dialect.most}(0, ({offset or 0}\n))" if limit else ""
        keys = [", ".join(f"{i + 1}{way}" for i in range(width)) for way in ways]
        listings = [f"{body}\nORDER BY {order},\n{k}{cut}" if order else f"{body}{cut}" for k in keys]
        found = [
            Check(f"SELECT ({offset or 0}\n)", worlds[1], "offset"),
            *(Check(q, worlds[1], "listing") for q in listings),
        ]
    found += [Check(query, world) for world in (worlds if changes(query, dialect) else worlds[:2])]
    for term in (f"1{dialect.up}", f"1{dialect.down}", "random()"):
        told = told_apart(query, term, dialect)
        if told != query:
            found += [Check(told, world) for world in (worlds[:2] if term == "random()" else worlds[1:2])]
    return found


def _by_all(order: str, dialect: Dialect) -> bool:
    """Whether it is DuckDB's ORDER BY ALL, which leaves no ties but between equal rows."""
    return dialect is not SQLITE and order.split(None, 1)[:1] != [] and order.split()[0].lower() == "all"


def with_ties(
    reference: str, expected: dict[str, Any], offset: Any, listings: Sequence[list[Row]], dialect: Dialect = SQLITE
) -> tuple[dict[str, Any], str]:
    """The expected output with what is known of its ties, and why it cannot judge, or "". offset: what OFFSET came to.

    ties: [start, end] of rows that may come in any order. choices: [start, end, rows] where a LIMIT or OFFSET cuts rows
    that tie: any of `rows` are right there.
    """
    clause = clauses(bare(reference, dialect), dialect)
    skipped, count = max(0, int(float(offset or 0))), len(expected["rows"])
    last, whole = skipped + count, not clause.limit or len(listings[0]) < skipped + count + ROOM
    ties: list[list[Any]] = []
    choices: list[list[Any]] = []
    for start, end, closed in _groups(listings) if clause.order else [(0, len(listings[0]), whole)]:
        if end <= skipped or start >= last:
            continue
        if not closed and not whole:
            return expected, TOO_MANY
        place = [max(start, skipped) - skipped, min(end, last) - skipped]
        tied = listings[0][start:end]
        if len({tuple(row) for row in tied}) > 1:
            if start < skipped or end > last:
                choices.append([*place, tied])
            else:
                ties.append(place)
    return {**expected, "ties": ties, "choices": choices}, ""


def _groups(listings: Sequence[list[Row]]) -> Iterator[tuple[int, int, bool]]:
    """(start, end, closed) of the runs of rows that tie: up to each end both listings hold the same rows."""
    up, down = listings
    surplus: Counter[tuple[Any, ...]] = Counter()
    ends = [0]
    for number, (one, other) in enumerate(zip(up, down, strict=True), 1):
        for row, sign in ((tuple(one), 1), (tuple(other), -1)):
            surplus[row] += sign
            if not surplus[row]:
                del surplus[row]
        if not surplus:
            ends.append(number)
    yield from ((start, end, True) for start, end in pairwise(ends))
    if ends[-1] < len(up):
        yield ends[-1], len(up), False


def tied_limits(expected: pl.DataFrame) -> list[str]:
    """The problems of EXPECTED whose LIMIT or OFFSET cuts rows that tie, so that several outputs are right."""
    kept = expected.filter(pl.col("expected").str.contains('"choices"', literal=True)).select("problem_id", "expected")
    return [problem_id for problem_id, output in kept.iter_rows() if _cut(decode(json.loads(output)))]


def _cut(expected: Mapping[str, Any]) -> bool:
    return any(each.get("choices") for each in (expected, *expected.get("others", ())))


def changes(reference: str, dialect: Dialect = SQLITE) -> str:
    """Why a reference may give something else in the next run, as far as its text shows; or ""."""
    query = bare(reference, dialect)
    return CLOCK if reads_clock(query, dialect) else CHANCE if draws(query, dialect) else ""
