"""One SQL problem judged in the real sandbox."""

from __future__ import annotations

from typing import Any

import polars as pl

from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import PROBLEMS
from codelutra.suites.dialects import DIALECTS
from codelutra.suites.sql import SqlSuite, judging
from sandbox import Pool
from tests.helpers.frames import samples_of


def judged(suite: SqlSuite, pool: Pool, reference: str, *answers: str, judge: str = "") -> tuple[dict[str, Any], list[str]]:
    """The row of EXPECTED for a reference over the suite's first database, and the statuses of answers to it."""
    row = dict.fromkeys(PROBLEMS, "") | {"problem_id": "p", "split": "train", "language": "sql"}
    judge = judge or judging(reference, next(iter(suite.files)), dialect=DIALECTS[suite.dialect])
    problems = pl.DataFrame([row | {"reference": reference, "judge": judge}], schema=PROBLEMS)
    expected, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    samples = samples_of(("p", answer) for answer in answers)
    outcomes, _ = execute(samples, problems, expected, suite, pool, timeout_seconds=5)
    return expected.row(0, named=True), outcomes["status"].to_list()
