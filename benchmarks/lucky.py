"""How many wrong queries are right by luck on one database, and how many of those do perturbed copies catch?

    python -m benchmarks.lucky --spider DIR [--databases 20] [--problems 300] [--copies 6] [--out docs/results/lucky.json]

Of a sample of Spider's train questions over some databases, every reference is changed in one place (mutants.py) and judged
in the sandbox, first on the real database, then, where it passes there, on copies. Some changes mean the same as before (a
DISTINCT over a key), so 0 % cannot be reached. Four controls mean the same by construction and must pass everywhere: the
reference as sqlglot writes it, with the sides of its joins exchanged, `ORDER BY c LIMIT 1` as `c = (SELECT max(c) …)`, and
`count(*)` as the count of the primary key. The copies are made from the references as in a run, so they know the constants
that the changes keep.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import sqlglot
from sqlglot import exp

from codelutra.config import SuiteSection
from codelutra.execution.lucky import confirm, expected_on_copies
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import SAMPLES, usable
from codelutra.scoring.statistics import wilson
from codelutra.suites.base import Suite, material, open_suite
from codelutra.suites.copies.make import make_copies, queries_by_database
from codelutra.suites.copies.mutants import mutants, rendered, turned
from sandbox import Pool, ensure_image

CONTROLS = ("= rewritten", "= joins turned", "= LIMIT 1 as extremum", "= rows counted by key")
SECONDS = 5.0


def chosen(suite: Suite, databases: int, problems: int, seed: int) -> pl.DataFrame:
    """A seeded sample of train problems over some databases."""
    frame = suite.problems().filter(pl.col("split") == "train")
    chance = random.Random(seed)
    groups = chance.sample(sorted(set(frame["group"])), databases)
    frame = frame.filter(pl.col("group").is_in(groups))
    kept = sorted(chance.sample(range(frame.height), min(problems, frame.height)))
    return frame[kept]


def as_extremum(query: str) -> str:
    """`SELECT … FROM t ORDER BY c [DESC] LIMIT 1` by a subquery with max or min; "" where a query is another."""
    tree = sqlglot.parse_one(query, read="sqlite")
    used = {name for name, value in tree.args.items() if value}
    limit, order = tree.args.get("limit"), tree.args.get("order")
    if not used <= {"expressions", "from_", "from", "order", "limit", "kind"} or not limit or not order:
        return ""
    (key, *more), table = order.expressions, tree.find(exp.Table)
    if limit.expression.name != "1" or more or not isinstance(key.this, exp.Column) or tree.find(exp.AggFunc):
        return ""
    asked, by = ", ".join(e.sql("sqlite") for e in tree.expressions), key.this.name
    name, extremum = table.this.sql("sqlite"), "max" if key.args.get("desc") else "min"
    return f"SELECT {asked} FROM {table.sql('sqlite')} WHERE {by} = (SELECT {extremum}({by}) FROM {name})"


def counted_by_key(query: str, database: Path) -> str:
    """`SELECT count(*) FROM t …` with t's primary key in place of the star; "" where a query is another."""
    tree = sqlglot.parse_one(query, read="sqlite")
    tables, stars = list(tree.find_all(exp.Table)), [c for c in tree.find_all(exp.Count) if isinstance(c.this, exp.Star)]
    if len(tables) != 1 or not stars:
        return ""
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        asked = "SELECT name FROM pragma_table_info(?) WHERE pk"
        keys = [name for (name,) in connection.execute(asked, (tables[0].name,))]
    if len(keys) != 1:
        return ""
    for star in stars:
        star.set("this", exp.column(keys[0], quoted=True))
    return tree.sql("sqlite")


def programs(problems: pl.DataFrame, files: Mapping[str, Path]) -> tuple[pl.DataFrame, list[str]]:
    """The changed references as SAMPLES, and their kinds."""
    rows, kinds = [], []
    for problem_id, reference, judge in problems.select("problem_id", "reference", "judge").rows():
        made = list(mutants(reference))
        if same := rendered(reference):
            others = (same, turned(reference), as_extremum(reference))
            made += zip(CONTROLS, (*others, counted_by_key(reference, files[material(judge)["database"]])), strict=True)
        for i, (kind, code) in enumerate((k, c) for k, c in made if c):
            rows.append((problem_id, i, False, code, code, "stop", 0, 0))
            kinds.append(kind)
    return pl.DataFrame(rows, schema=SAMPLES, orient="row"), kinds


def measure(suite: Suite, problems: pl.DataFrame, copies: int, seed: int, kept: Path | None = None) -> dict[str, Any]:
    files = {d: suite.databases()[d] for d in queries_by_database(problems)}
    with tempfile.TemporaryDirectory() as scratch:
        made, fewer = make_copies(files, queries_by_database(problems), copies, seed, Path(scratch))
        there = {d: Path(scratch) / f"{d}.sqlite" for d in made["digest"]}
        with Pool(image=ensure_image(suite.image), workers=2, databases={**files, **there}) as pool:
            expected, _ = judge_references(problems, suite, pool, timeout_seconds=SECONDS)
            on_copies, facts = expected_on_copies(made, problems, expected, suite, pool, timeout_seconds=SECONDS)
            judged = usable(problems, expected)
            drawn, kinds = programs(judged, files)
            outcomes, _ = execute(drawn, problems, expected, suite, pool, timeout_seconds=SECONDS)
            confirmed, _, _ = confirm(outcomes, made, problems, on_copies, suite, pool, timeout_seconds=SECONDS)
    frame = confirmed.select("problem_id", "code", "status", "verdict").with_columns(
        kind=pl.Series(kinds), on_one=outcomes["status"] == "correct", on_all=confirmed["status"] == "correct"
    )
    if kept:
        kept.write_text(frame.filter("on_one").write_ndjson())
    return {
        "problems": judged.height,
        "databases": len(files),
        "copies": copies,
        "copies_made": made.height,
        "databases_with_fewer": len(fewer),
        "rows_of_a_copy": round(float(made["rows"].mean() or 0)),
        "references_on_copies": facts,
        "kinds": {kind: rates(frame.filter(pl.col("kind") == kind)) for kind in sorted(set(kinds))},
        "all_changes": rates(frame.filter(~pl.col("kind").is_in(CONTROLS))),
    }


def rates(frame: pl.DataFrame) -> dict[str, Any]:
    """How many pass on the one database, and how many on it and all copies, with Wilson intervals."""
    found: dict[str, Any] = {"queries": frame.height}
    for name in ("on_one", "on_all"):
        passed = int(frame[name].sum())
        share = wilson(passed, frame.height)
        found[name] = {
            "passed": passed,
            "share": round(share.value, 4),
            "interval": [round(share.low, 4), round(share.high, 4)],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spider", type=Path, required=True)
    parser.add_argument("--databases", type=int, default=20)
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--copies", type=int, nargs="+", default=[6])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--queries", type=Path, help="where to write the queries that pass on the database, as NDJSON")
    args = parser.parse_args()
    suite = open_suite(SuiteSection(name="spider", path=str(args.spider)))
    problems = chosen(suite, args.databases, args.problems, args.seed)
    found = {"seed": args.seed, "by_copies": [measure(suite, problems, n, args.seed, args.queries) for n in args.copies]}
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
