"""What every SQL suite shares: jobs, judging, normalised queries. (`databases.py` reads the SQLite files.)

Rows that tie under an outermost ORDER BY may come in any order, and an output alone does not show which rows tie. So the
reference runs with its sort keys as further columns: the expected output then shows its ties. The answer's query stays as
it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from codelutra.suites import equality
from codelutra.suites.base import Suite, material
from sandbox.protocol import SqlJob

SYSTEM = "Answer with one SQLite query."
MODES = ("sql-strict/v1", "bird-ex/official", "spider-testsuite/v1")  # the first decides; the others are reported


@dataclass(frozen=True)
class SqlSuite(Suite):
    """A suite whose programs are queries over read-only SQLite files."""

    system: str = SYSTEM
    mode: str = MODES[0]
    other_modes: tuple[str, ...] = MODES[1:]

    def answer_job(self, problem: Mapping[str, Any], code: str, job_id: str, timeout_seconds: float) -> SqlJob:
        return SqlJob(job_id, material(problem["judge"])["database"], code, timeout_seconds)

    def expected_job(self, problem: Mapping[str, Any], job_id: str, timeout_seconds: float) -> SqlJob:
        judged = material(problem["judge"])
        query = judged.get("keyed", problem["reference"])
        return SqlJob(job_id, judged["database"], query, timeout_seconds, connection="reference")

    def usable(self, problem: Mapping[str, Any], expected: Any) -> str:
        if expected["truncated"]:
            return "the reference returns more than the sandbox keeps"
        return "" if expected["rows"] else "the reference returns no rows"

    def agrees(self, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        return self.agrees_under(self.mode, problem, output, expected)

    def also(self, problem: Mapping[str, Any], output: Any, expected: Any) -> list[str]:
        return [mode for mode in self.other_modes if self.agrees_under(mode, problem, output, expected)]

    def answer_digest(self, problem: Mapping[str, Any], output: Any) -> str:
        return equality.answer_digest(self.mode, output, ordered=material(problem["judge"])["ordered"])

    def agrees_under(self, mode: str, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        """As `agrees`, under any of MODES."""
        judged = material(problem["judge"])
        ordered = judged["order_by"] if mode == "spider-testsuite/v1" else judged["ordered"]
        return equality.agrees(mode, output, expected, ordered=ordered, sort_keys=judged["sort_keys"])

    def normalise(self, code: str) -> str:
        return normalise(code)


def judging(reference: str, database: str) -> str:
    """A problem's judging material: its database, and whether the order of rows counts.

    ordered: there is an outermost ORDER BY (`sql-strict/v1`). order_by: there is one anywhere (`spider-testsuite/v1`).
    keyed: the query that runs for the expected output instead of the reference, with `sort_keys` further columns.
    """
    judged: dict[str, Any] = {"database": database, "ordered": False, "sort_keys": 0, "order_by": False}
    if "order by" in " ".join(reference.lower().split()):
        ordered, keyed, keys = with_sort_keys(reference)
        judged |= {"order_by": True, "ordered": ordered, "sort_keys": keys} | ({"keyed": keyed} if keys else {})
    return json.dumps(judged, sort_keys=True)


def judging_by_rows(rows: Sequence[Sequence[str | float | None]], database: str, *, ordered: bool) -> str:
    """Judging material of a problem that has expected rows and no reference."""
    values = ", ".join(f"({', '.join(map(_literal, row))})" for row in rows)
    judged = {"database": database, "ordered": ordered, "sort_keys": 0, "order_by": ordered, "keyed": f"VALUES {values}"}
    return json.dumps(judged, sort_keys=True)


def _literal(cell: str | float | None) -> str:
    return str(exp.convert(cell).sql(dialect="sqlite"))


def with_sort_keys(query: str) -> tuple[bool, str, int]:
    """Whether the query has an outermost ORDER BY; the query with its sort keys as last columns; how many those are.

    Two kinds stay unchanged: DISTINCT and compound queries, where a further column would change the rows; and queries with
    an alias inside a key (`ORDER BY total + 1`), which has no meaning among the columns. Their ties are not known, so rows
    are compared one by one: an answer whose tied rows come in another order than the reference's is wrong.
    """
    try:
        tree = sqlglot.parse_one(query, read="sqlite")
    except (SqlglotError, RecursionError):
        return False, query, 0
    order = tree.args.get("order")
    if not isinstance(tree, exp.Query) or not order:
        return False, query, 0
    if not isinstance(tree, exp.Select) or tree.args.get("distinct"):
        return True, query, 0
    # Inside the column list an output column's alias or number means nothing: put what it stands for.
    aliases = {e.alias.lower(): e.this for e in tree.selects if isinstance(e, exp.Alias)}
    keys: list[exp.Expr] = []
    for term in order.expressions:
        key = term.this
        if isinstance(key, exp.Column) and not key.table and key.name.lower() in aliases:
            key = aliases[key.name.lower()]
        elif isinstance(key, exp.Literal) and key.is_int and int(key.name) <= len(tree.selects):
            key = tree.selects[int(key.name) - 1].unalias()
        elif any(not c.table and _is_another(aliases.get(c.name.lower()), c) for c in key.find_all(exp.Column)):
            return True, query, 0
        if isinstance(key, exp.Collate) and key.expression.name.upper() == "NOCASE":
            key = exp.Lower(this=key.this)  # 'a' and 'A' tie
        if key.find(exp.Star) and not key.find(exp.Count):
            return True, query, 0
        keys.append(exp.alias_(key.copy(), f"sort_key_{len(keys)}"))
    return True, tree.select(*keys, append=True).sql(dialect="sqlite", comments=False), len(keys)


def _is_another(aliased: exp.Expr | None, column: exp.Column) -> bool:
    """Whether an alias with the column's name stands for something other than a column of that name."""
    return aliased is not None and not (isinstance(aliased, exp.Column) and aliased.name.lower() == column.name.lower())


@lru_cache(maxsize=65536)
def normalise(code: str) -> str:
    """The query without spacing, case, comments and table aliases, and with the sides of an = in a fixed order.

    "France" beside a comparison becomes the text 'France', as SQLite reads it where no column has that name.
    """
    if not re.match(r"\s*(select|with|\()\b", code, re.IGNORECASE):
        return code
    try:
        tree = sqlglot.parse_one(code, read="sqlite")
        if not isinstance(tree, exp.Query):
            return code
        return _plain(tree).sql(dialect="sqlite", comments=False, normalize_functions="upper")
    except (SqlglotError, RecursionError, ValueError):
        return code


def _plain(tree: exp.Query) -> exp.Query:
    for column in list(tree.find_all(exp.Column)):
        if column.this.args.get("quoted") and not column.table and isinstance(column.parent, exp.Predicate):
            column.replace(exp.Literal.string(column.name))
    for identifier in tree.find_all(exp.Identifier):
        if not identifier.args.get("quoted"):
            identifier.set("this", identifier.name.lower())
    tables = list(tree.find_all(exp.Table))
    names = [t.name for t in tables]
    if len(set(names)) == len(names):  # no table occurs twice, so its name can replace its alias
        called = {t.alias: t.name for t in tables if t.alias}
        for column in tree.find_all(exp.Column):
            if column.table in called:
                column.set("table", exp.to_identifier(called[column.table]))
        for table in tables:
            table.set("alias", None)
    for join in tree.find_all(exp.Join):
        if join.args.get("kind") == "INNER":
            join.set("kind", None)
    for equal in tree.find_all(exp.EQ):
        if isinstance(equal.left, exp.Column) and isinstance(equal.right, exp.Column):
            left, right = sorted((equal.left, equal.right), key=lambda c: str(c.sql()))
            equal.set("this", left.copy())
            equal.set("expression", right.copy())
    return tree
