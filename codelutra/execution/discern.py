"""How many wrong queries does a suite's judging recognise? Tries references with one thing changed, on the database and on
its copies (for `codelutra check`)."""

from __future__ import annotations

import random
from typing import Any

import polars as pl

from codelutra.execution.lucky import confirm
from codelutra.execution.outcomes import Progress, Runs, execute
from codelutra.schema import SAMPLES, usable
from codelutra.suites.base import Suite
from codelutra.suites.copies.mutants import mutants

MOST = 200  # references that are changed
PER_REFERENCE = 10  # changes of one


def changed_references(problems: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, list[str]]:
    """A seeded choice of PROBLEMS' references, each with one thing changed in every way, as SAMPLES; and the kinds."""
    rows, kinds, chance = list[tuple[Any, ...]](), list[str](), random.Random(seed)
    chosen = sorted(chance.sample(range(problems.height), min(MOST, problems.height)))
    for problem_id, reference in problems.select("problem_id", "reference")[chosen].rows():
        made = list(mutants(reference))
        made = made if len(made) <= PER_REFERENCE else chance.sample(made, PER_REFERENCE)
        for kind, code in made:
            rows.append((problem_id, len(rows), False, code, code, "stop", 0, 0))
            kinds.append(kind)
    return pl.DataFrame(rows, schema=SAMPLES, orient="row"), kinds


def discern(
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    copies: pl.DataFrame,
    there: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Of changed references of usable train problems: how many were `changed`, how many are `right` on the database, and
    how many of these the copies `caught`; the same `by_kind`. There is no need to catch all: some mean the same as before.
    """
    train = problems.filter(pl.col("split") == "train", pl.col("reference") != "")
    drawn, kinds = changed_references(usable(train, expected), seed)
    outcomes, _ = execute(drawn, problems, expected, suite, pool, timeout_seconds=timeout_seconds, progress=progress)
    after, _, _ = confirm(
        outcomes, copies, problems, there, suite, pool, timeout_seconds=timeout_seconds, max_infra_error=1.0
    )
    frame = pl.DataFrame(
        {"kind": kinds, "right": outcomes["status"] == "correct", "kept": after["status"] == "correct"},
        schema={"kind": pl.String, "right": pl.Boolean, "kept": pl.Boolean},
    )
    counts = [pl.len().alias("changed"), pl.col("right").sum(), (pl.col("right") & ~pl.col("kept")).sum().alias("caught")]
    by_kind = {row.pop("kind"): row for row in frame.group_by("kind").agg(counts).sort("kind").to_dicts()}
    return {**frame.select(counts).row(0, named=True), "by_kind": by_kind}
