"""Worlds into problems: draw from the families, keep queries whose wrong neighbours give something else, split.

The result depends on the declarations alone: no clock, no hash seed, no library that rewrites SQL.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from codelutra.suites.equality import agrees
from codelutra.suites.starter_sql.build import Rows, fill, make_rows
from codelutra.suites.starter_sql.declare import World
from codelutra.suites.starter_sql.families import FAMILIES, Family
from codelutra.suites.starter_sql.tell import Draft, NothingToAsk, Teller

MODE = "sql-strict/v2"
_TRIES = 400
_MAX_ROWS = 40  # of an answer
_SPLITS = ("train", "train", "dev", "train", "train", "test")


def problems(world: World) -> list[dict[str, str]]:
    """The world's problems without their judging material. Splits share no question and no query."""
    rows = make_rows(world)
    with sqlite3.connect(":memory:") as connection:
        fill(world, rows, connection)
        found = list(_accepted(world, rows, connection))
    connection.close()
    schema = "\n".join(f"{t.name}({', '.join(world.columns(t))})" for t in world.tables)
    return [
        {
            "problem_id": f"{world.name}-{number:03d}{'b' if wording else ''}",
            "split": split,
            "prompt": f"{schema}\n\n{question}",
            "reference": draft.sql,
            "difficulty": family.difficulty,
        }
        for number, (family, draft, questions, split) in enumerate(found)
        for wording, question in enumerate(questions)
    ]


def _accepted(world: World, rows: Rows, connection: sqlite3.Connection) -> Iterator[tuple[Family, Draft, list[str], str]]:
    """(family, draft, its questions, split) of all that is asked."""
    queries, questions = set[str](), set[str]()
    # A world begins anywhere in _SPLITS, so that rare families are not all in one split.
    dealt = random.Random(f"splits of {world.name}").randrange(len(_SPLITS))
    for family in FAMILIES:
        tell = Teller(world, rows, f"{world.name} {family.draw.__name__}")
        missing = family.share
        for _ in range(_TRIES):
            try:
                draft = family.draw(tell)
            except NothingToAsk:
                continue
            if draft.sql.lower() in queries or not tells_right_from_wrong(rows, connection, draft.sql):
                continue
            fresh = [w for w in dict.fromkeys(draft.wordings) if w.lower() not in questions]
            if not fresh:
                continue
            split = _SPLITS[dealt % len(_SPLITS)]
            twice = split == "train" and dealt % 4 == 0  # some are asked in two ways, both in the same split
            wordings = tell.rng.sample(fresh, min(len(fresh), 2 if twice else 1))
            queries.add(draft.sql.lower())
            questions |= {w.lower() for w in wordings}
            yield family, draft, wordings, split
            dealt += 1
            missing -= 1
            if not missing:
                break


def tells_right_from_wrong(rows: Rows, connection: sqlite3.Connection, sql: str) -> bool:
    """Whether the query returns 1 to _MAX_ROWS rows, no tie decides them, and every wrong neighbour returns others."""
    right = _run(connection, sql)
    if not 1 <= len(right["rows"]) <= _MAX_ROWS or right["rows"] in ([[0]], [[None]]):
        return False
    ordered = bool(re.search(r"ORDER BY [^)]*$", sql))
    if "LIMIT" in sql and not _cut_is_clear(connection, sql):
        return False
    return not any(agrees(MODE, _run(connection, wrong), right, ordered=ordered) for wrong in neighbours(rows, sql))


def _cut_is_clear(connection: sqlite3.Connection, sql: str) -> bool:
    """Whether no rows tie up to LIMIT k and one row beyond it."""
    head, tail = sql.split(" ORDER BY ")
    key, limit = tail.split()[0], int(tail.split()[-1])
    keyed = re.sub(r"^SELECT .*? FROM", f"SELECT {key} FROM", head)
    keys = _run(connection, f"{keyed} ORDER BY {tail.removesuffix(str(limit))}{limit + 1}")["rows"]
    return len(keys) > limit and len({k for (k,) in keys}) == len(keys)


def _run(connection: sqlite3.Connection, sql: str) -> dict[str, Any]:
    cursor = connection.execute(sql)
    return {"columns": [d[0] for d in cursor.description], "rows": [list(r) for r in cursor], "truncated": False}


_OPPOSITE = {">": "<", "<": ">", ">=": "<=", "<=": ">=", "=": "!=", "!=": "="}
_EDGES = {">": (">=",), ">=": (">",), "<": ("<=",), "<=": ("<",)}
_SWAPPED = {"AVG": "MAX", "MAX": "MIN", "MIN": "MAX", "SUM": "AVG"}


def neighbours(rows: Rows, sql: str) -> Iterator[str]:
    """The query with one thing wrong, in many ways. Only for queries of `families`, in their style."""

    def put(m: re.Match[str], group: int, text: str) -> str:
        return sql[: m.start(group)] + text + sql[m.end(group) :]

    for m in re.finditer(r" (>=|<=|!=|=|>|<) (?=['\d(])", sql):  # another operator, right at the edge too
        for other in (_OPPOSITE[m[1]], *_EDGES.get(m[1], ())):
            yield put(m, 1, other)
    for m in re.finditer(r"(\w+) (?:=|!=|IN|>=|<=|>|<|BETWEEN) \(?('[^']*'|\d+(?:\.\d+)?)", sql):  # another value
        yield put(m, 2, _other_value(rows, m[1], m[2]))
    for m in re.finditer(r"LIKE '([^']+)", sql):
        yield put(m, 1, f"%{m[1].strip('%')[::-1]}%")
    yield from _conditions_dropped(sql)
    for m in re.finditer(r"\b(AVG|MAX|MIN|SUM)\(", sql):  # another aggregate
        yield put(m, 1, _SWAPPED[m[1]])
    for m in re.finditer(r"(DISTINCT )", sql):
        yield put(m, 1, "")
    for m in re.finditer(r" ORDER BY \S+( DESC)?", sql):  # the other end
        yield put(m, 1, "") if m[1] else sql[: m.end()] + " DESC" + sql[m.end() :]
    for m in re.finditer(r"(?:LIMIT|HAVING COUNT\(\*\) \S+) (\d+)", sql):
        yield put(m, 1, str(int(m[1]) + 1))
    for m in re.finditer(r"(?<=[ .])(\w+)(?=,|$)", sql[: sql.find(" FROM")]):  # another column
        yield put(m, 1, "id")


def _conditions_dropped(sql: str) -> Iterator[str]:
    m = re.search(r" WHERE (.*?)(?= GROUP BY| ORDER BY|$)", sql)
    if m and "(SELECT" not in m[1]:
        parts = re.split(r" AND (?=[a-z])", m[1])
        for i in range(len(parts)):
            rest = parts[:i] + parts[i + 1 :]
            yield f"{sql[: m.start()]}{' WHERE ' + ' AND '.join(rest) if rest else ''}{sql[m.end() :]}"
    if m := re.search(r" WHERE [^()]*\)$", sql):  # of a nested query
        yield f"{sql[: m.start()]})"


def _other_value(rows: Rows, column: str, literal: str) -> str:
    """Another value of a column of that name: the next larger one where there is one."""
    text = literal.startswith("'")
    held = (row[column] for table in rows.values() for row in table if column in row)
    found = sorted({v for v in held if isinstance(v, str) == text})
    value: Any = literal.strip("'") if text else float(literal)
    after = [v for v in found if v > value] or [v for v in found if v != value]
    return f"'{after[0]}'" if text else str(after[0])
