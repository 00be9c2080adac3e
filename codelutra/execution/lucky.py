"""Answers that are right by luck: on the database they agree with the reference, on perturbed copies of it they do not.

A copy counts for a problem where its reference still judges there: it runs, gives rows, determines them, and no LIMIT cuts
rows that tie. A copy counts for an answer unless the answer ran out of time or memory on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from codelutra.errors import OutageError
from codelutra.execution.outcomes import Cache, Progress, Runs, execute, infra_share
from codelutra.execution.references import judge_references
from codelutra.schema import EXPECTED, EXPECTED_ON_COPIES, LUCKY, OUTCOMES, PROBLEMS, RIGHT_BY_LUCK, check, usable
from codelutra.suites.base import Suite, material
from codelutra.suites.determined import tied_limits

_NOT_COMPARED = ("infra_error", "reference_error", "undecided", "timeout", "resource_limit")


def asked_of(copies: pl.DataFrame, problems: pl.DataFrame, split: str = "train") -> Iterator[tuple[int, pl.DataFrame]]:
    """For each copy's number the PROBLEMS that are asked of it: those of the split that have a reference to run there."""
    places = list(map(material, problems["judge"]))
    fits = [place.get("database") is not None and "values" not in place for place in places]
    keyed = problems.with_columns(database=pl.Series([p.get("database") for p in places], dtype=pl.String))
    keyed = keyed.filter(pl.Series(fits, dtype=pl.Boolean), pl.col("split") == split, pl.col("reference") != "")
    for number in range(int(copies["copy"].max() or 0) + 1 if copies.height else 0):  # type: ignore[arg-type]
        here = copies.filter(pl.col("copy") == number).select("database", "digest")
        found = keyed.join(here, on="database", how="inner", maintain_order="left")
        judges = [_moved(j, d) for j, d in found.select("judge", "digest").rows()]
        yield number, found.with_columns(judge=pl.Series(judges, dtype=pl.String)).select(list(PROBLEMS))


def _moved(judge: str, database: str) -> str:
    return json.dumps({**material(judge), "database": database}, sort_keys=True)


def expected_on_copies(
    copies: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    split: str = "train",
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What the usable references give on every copy, as EXPECTED_ON_COPIES, only where a copy counts; and facts.

    Raises StageError when the sandbox itself failed.
    """
    found = [pl.DataFrame(schema=EXPECTED_ON_COPIES)]
    judged = usable(problems, expected)
    numbered = list(asked_of(copies, judged, split))
    total, done = sum(asked.height for _, asked in numbered), 0
    for number, asked in numbered:

        def heard(here: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + here, total)

        frame, _ = judge_references(asked, suite, pool, timeout_seconds=timeout_seconds, progress=heard)
        tied = tied_limits(frame)
        kept = frame.filter(pl.col("status") == "correct", ~pl.col("problem_id").is_in(tied))
        found.append(kept.with_columns(copy=pl.lit(number, pl.Int32)).select(list(EXPECTED_ON_COPIES)))
        done += asked.height
    frame = check(pl.concat(found), EXPECTED_ON_COPIES)
    asked_here = judged.filter(pl.col("split") == split).height
    return frame, {
        "problems": asked_here,
        "problems_with_copies": frame["problem_id"].n_unique(),
        "runs": total,
        "counted": frame.height,
    }


def confirm(
    outcomes: pl.DataFrame,
    copies: pl.DataFrame,
    problems: pl.DataFrame,
    there: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    max_infra_error: float = 0.0,
    split: str = "train",
    cache: Cache | None = None,
    machine: str = "",
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """OUTCOMES with every answer that is right by luck `undecided`, with verdict "copies"; LUCKY; facts.

    there: EXPECTED_ON_COPIES. Correct outcomes of the split's problems run on every copy that counts for their problem. So
    an undecided answer is neither chosen nor rejected, nor counted as right. Raises StageError on too many outages.
    """
    same = ["problem_id", "sample", "greedy"]
    right = outcomes.filter(pl.col("status") == "correct").select(
        *same,
        "completion",
        "code",
        "finish_reason",
        prompt_tokens=pl.lit(0, pl.Int32),
        completion_tokens=pl.lit(0, pl.Int32),
    )
    ran = [pl.DataFrame(schema={c: OUTCOMES[c] for c in (*same, "status")})]
    numbered = list(asked_of(copies, problems, split))
    for number, asked in numbered:
        here = there.filter(pl.col("copy") == number).select(list(EXPECTED))
        drawn = right.join(here, on="problem_id", how="semi", maintain_order="left")
        judged, _ = execute(drawn, asked, here, suite, pool, timeout_seconds=timeout_seconds, cache=cache, machine=machine)
        if (share := infra_share(judged)) > max_infra_error:
            raise OutageError(
                f"{share:.1%} of {judged.height} runs on copies of databases are infrastructure failures (infra_error), "
                f"more than execute.max_infra_error {max_infra_error:.1%}. None were kept; see `codelutra doctor`, then "
                "give the same command again"
            )
        ran.append(judged.filter(~pl.col("status").is_in(_NOT_COMPARED)).select(*same, "status"))
        if progress:
            progress(number + 1, len(numbered))
    counted = (
        pl.concat(ran)
        .group_by(same)
        .agg(copies_run=pl.len().cast(pl.Int32), copies_agreed=(pl.col("status") == "correct").sum().cast(pl.Int32))
    )
    lucky = right.select(same).join(counted, on=same, how="left", maintain_order="left")
    lucky = check(lucky.with_columns(pl.col("copies_run", "copies_agreed").fill_null(0)), LUCKY)
    frame = _marked(outcomes, lucky)
    facts = {
        "rows": frame.height,
        "right": lucky.height,
        "right_compared": lucky.filter(pl.col("copies_run") > 0).height,
        "lucky": frame.filter(RIGHT_BY_LUCK).height,
    }
    return frame, lucky, facts


def _marked(outcomes: pl.DataFrame, lucky: pl.DataFrame) -> pl.DataFrame:
    """OUTCOMES with the samples whose copies do not all agree marked as `undecided`."""
    failed = lucky.filter(pl.col("copies_agreed") < pl.col("copies_run"))
    told = pl.format(
        "right on the database, on {} of {} perturbed copies of it not",
        pl.col("copies_run") - pl.col("copies_agreed"),
        "copies_run",
    )
    failed = failed.select("problem_id", "sample", "greedy", told=told)
    joined = outcomes.join(failed, on=["problem_id", "sample", "greedy"], how="left", maintain_order="left")
    by_luck = pl.col("told").is_not_null()
    marked = joined.with_columns(
        status=pl.when(by_luck).then(pl.lit("undecided", OUTCOMES["status"])).otherwise("status"),
        verdict=pl.when(by_luck).then(pl.lit("copies")).otherwise("verdict"),
        error=pl.coalesce("told", "error"),
    )
    return check(marked, OUTCOMES)
