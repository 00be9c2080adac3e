"""Other worlds: a connection with another clock, other chance, and tables read from their end.

A query whose answer is another one there does not determine its answer. Each world is fixed, so such a query is found
every time. A job chooses a world by the name of its connection, one of WORLDS.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

CLOCKS = (  # all months, weekdays and most hours; the first and the last far from any today
    "2001-01-01 00:00:00",
    "2099-12-31 23:59:59",
    "2004-02-29 03:17:08",
    "2010-03-09 06:31:55",
    "2015-04-15 09:45:12",
    "2018-05-24 11:02:40",
    "2020-06-19 13:20:33",
    "2022-07-30 15:58:01",
    "2024-08-05 17:09:27",
    "2026-09-13 19:41:50",
    "2029-10-16 20:26:14",
    "2040-11-21 22:50:39",
)
WORLDS = {f"world-{number}": number for number in range(len(CLOCKS))}
_DATED = {
    "date": 0,
    "time": 0,
    "datetime": 0,
    "julianday": 0,
    "unixepoch": 0,
    "strftime": 1,
    "timediff": 0,
}  # where times begin
_CURRENT = {"current_date": "date", "current_time": "time", "current_timestamp": "datetime"}
_MASK = (1 << 64) - 1


class World:
    """What a connection to a world sees. Even worlds read tables from the end; chance falls, rises or scatters."""

    def __init__(self, connection: sqlite3.Connection, number: int) -> None:
        self.number, self.clock, self.drawn = number, CLOCKS[number], 0
        self.plain = sqlite3.connect(":memory:", check_same_thread=False)  # SQLite's own functions
        if number % 2 == 0:
            connection.execute("PRAGMA reverse_unordered_selects=1").fetchall()
        for name, place in _DATED.items():
            connection.create_function(name, -1, partial(self.dated, name, place), deterministic=True)
        for name, own in _CURRENT.items():
            connection.create_function(name, 0, partial(self.dated, own, 0), deterministic=True)
        connection.create_function("random", 0, self.random)
        connection.create_function("randomblob", 1, self.randomblob)

    def begin(self) -> None:
        """Chance begins anew with every job."""
        self.drawn = 0

    def dated(self, name: str, place: int, *given: Any) -> Any:
        """SQLite's own function, with this world's clock for 'now' and for a time that is not given."""
        arguments = list(given)
        if len(arguments) == place:
            arguments.append(self.clock)
        for at in range(place, min(place + 1 + (name == "timediff"), len(arguments))):
            if isinstance(arguments[at], str | bytes) and arguments[at].lower() in ("now", b"now"):
                arguments[at] = self.clock
        marks = ", ".join("?" * len(arguments))
        return self.plain.execute(f"SELECT {name}({marks})", arguments).fetchone()[0]

    def random(self) -> int:
        self.drawn += 1
        if self.number < 2:
            return (12_345 + 7_919 * self.drawn) * (1 if self.number else -1)
        mixed = ((self.drawn + self.number) * 0x9E3779B97F4A7C15) & _MASK  # splitmix64
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) - (1 << 63)

    def randomblob(self, size: Any) -> bytes:
        wanted = max(1, min(int(size or 0), 1_000_000))
        drawn = [self.random().to_bytes(8, "big", signed=True) for _ in range(wanted // 8 + 1)]
        return b"".join(drawn)[:wanted]
