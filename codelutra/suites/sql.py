"""What every SQL suite shares: jobs, judging, queries that are alike.

`databases.py` reads the SQLite files, `sql_text.py` the text of queries; `determined.py` knows what of a reference's output
an answer must have.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from codelutra.suites import determined, equality
from codelutra.suites.base import Job, Suite, material
from codelutra.suites.dialects import DIALECTS, SQLITE, Dialect
from codelutra.suites.sql_text import bare, clauses, normalise
from sandbox.protocol import Result, SqlJob

SYSTEM = SQLITE.system
MODES = ("sql-strict/v2", "bird-ex/official", "spider-testsuite/v1")  # the first decides; the others are reported


@dataclass(frozen=True)
class SqlSuite(Suite):
    """A suite whose programs are queries over read-only SQLite files, or DuckDB's: `dialect`."""

    dialect: str = SQLITE.name
    system: str = SYSTEM
    mode: str = MODES[0]
    other_modes: tuple[str, ...] = MODES[1:]

    @property
    def speaks(self) -> Dialect:
        return DIALECTS[self.dialect]

    def answer_job(self, problem: Mapping[str, Any], code: str, job_id: str, timeout_seconds: float) -> SqlJob:
        return SqlJob(job_id, material(problem["judge"])["database"], bare(code, self.speaks), timeout_seconds)

    def expected_job(self, problem: Mapping[str, Any], job_id: str, timeout_seconds: float) -> SqlJob:
        judged = material(problem["judge"])
        query = judged.get("values") or bare(problem["reference"], self.speaks)
        return SqlJob(job_id, judged["database"], query, timeout_seconds, connection="reference")

    def check_jobs(self, problem: Mapping[str, Any], expected: Any, job_id: str, timeout_seconds: float) -> list[Job]:
        database = material(problem["judge"])["database"]
        further = determined.checks(problem["reference"], len(expected["columns"]), len(expected["rows"]), self.speaks)
        return [SqlJob(job_id, database, c.query, timeout_seconds, connection=c.connection) for c in further]

    def checked(self, problem: Mapping[str, Any], expected: Any, results: Sequence[Result]) -> tuple[Any, str]:
        reference = problem["reference"]
        further = determined.checks(reference, len(expected["columns"]), len(expected["rows"]), self.speaks)
        pairs = list(zip(further, results, strict=True))
        shown = [result for check, result in pairs if check.kind != "world"]
        if shown and all(r.status == "ok" for r in shown):
            ((offset,),), *listings = (r.value["rows"] for r in shown)
            known, why = determined.with_ties(reference, expected, offset, listings, self.speaks)
            if why:
                return expected, why
            if self.agrees(problem, expected, known):  # else the listings are about something else
                expected = known
        for check, result in pairs:
            if check.kind == "world" and not self._stands(problem, expected, check, result):
                return expected, determined.changes(reference, self.speaks) or determined.ORDER
        return expected, ""

    def accepted(self, problem: Mapping[str, Any]) -> list[dict[str, Any]]:
        judged = material(problem["judge"])
        return [
            {**problem, "reference": o["query"], "judge": json.dumps({**o, "database": judged["database"]}, sort_keys=True)}
            for o in judged.get("also", ())
        ]

    def either(self, outputs: Sequence[Any]) -> Any:
        return {**outputs[0], "others": list(outputs[1:])}

    def changes(self, problem: Mapping[str, Any]) -> str:
        return determined.changes(problem["reference"], self.speaks)

    def _stands(self, problem: Mapping[str, Any], expected: Any, check: determined.Check, result: Result) -> bool:
        """Whether a further run of the reference leaves its answer as it was."""
        if result.status == "ok":
            return self.agrees(problem, result.value, expected)
        reference = problem["reference"]  # a query that could not be run in another way has not changed its answer
        return check.query != bare(reference, self.speaks) or not determined.changes(reference, self.speaks)

    def usable(self, problem: Mapping[str, Any], expected: Any) -> str:
        if expected["truncated"]:
            return "the reference returns more than the sandbox keeps"
        return "" if expected["rows"] else "the reference returns no rows"

    def agrees(self, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        return self.agrees_under(self.mode, problem, output, expected)

    def also(self, problem: Mapping[str, Any], output: Any, expected: Any) -> list[str]:
        return [mode for mode in self.other_modes if self.agrees_under(mode, problem, output, expected)]

    def answer_digest(self, problem: Mapping[str, Any], output: Any) -> str:
        parts = [
            equality.answer_digest(self.mode, each, ordered=judged["ordered"]) for judged, each in _each(problem, output)
        ]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(sorted({*parts})).encode()).hexdigest()[:32]

    def agrees_under(self, mode: str, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        """As `agrees`, under any of MODES: with what one of the accepted queries gives."""
        order = "order_by" if mode == "spider-testsuite/v1" else "ordered"
        return any(
            equality.agrees(mode, output, wanted, ordered=judged[order]) for judged, wanted in _each(problem, expected)
        )

    def normalise(self, code: str) -> str:
        return normalise(code, self.speaks)

    def alike(self, code: str) -> str:
        return alike(code, self.dialect)


def _each(problem: Mapping[str, Any], output: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """How to judge by it, and the output: of the reference, then of each further query that is accepted."""
    judged = material(problem["judge"])
    yield judged, output
    yield from zip(judged.get("also", ()), output.get("others", ()), strict=False)


def judging(reference: str, database: str, also: Sequence[str] = (), dialect: Dialect = SQLITE) -> str:
    """A problem's judging material: its database, and whether the order of rows counts; the same for each query that is
    accepted as well.

    ordered: there is an outermost ORDER BY (`sql-strict/v2`). order_by: there is one anywhere (`spider-testsuite/v1`).
    """
    judged = {"database": database, **_order(reference, dialect)}
    if also:
        judged["also"] = [{"query": query, **_order(query, dialect)} for query in also]
    return json.dumps(judged, sort_keys=True)


def _order(query: str, dialect: Dialect) -> dict[str, Any]:
    anywhere = "order by" in " ".join(query.lower().split())
    return {"ordered": bool(clauses(bare(query, dialect), dialect).order), "order_by": anywhere}


def judging_by_rows(
    rows: Sequence[Sequence[str | float | None]], database: str, *, ordered: bool, dialect: Dialect = SQLITE
) -> str:
    """Judging material of a problem that has expected rows and no reference: `values` is the query that gives them."""
    values = ", ".join(f"({', '.join(_literal(cell, dialect) for cell in row)})" for row in rows)
    judged = {"database": database, "ordered": ordered, "order_by": ordered, "values": f"VALUES {values}"}
    return json.dumps(judged, sort_keys=True)


def _literal(cell: str | float | None, dialect: Dialect) -> str:
    return str(exp.convert(cell).sql(dialect=dialect.name))


@lru_cache(maxsize=65536)
def alike(code: str, dialect: str = SQLITE.name) -> str:
    """The query without spacing, case, comments and table aliases, and with the sides of an = in a fixed order.

    Equal for queries so alike that they must not be in two splits. They need not run the same: "France" beside a
    comparison becomes the text 'France', whether or not a column has that name.
    """
    if not re.match(r"\s*(select|with|from|\()\b", code, re.IGNORECASE):
        return code
    try:
        tree = sqlglot.parse_one(code, read=dialect)
        if not isinstance(tree, exp.Query):
            return code
        return _plain(tree).sql(dialect=dialect, comments=False, normalize_functions="upper")
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
