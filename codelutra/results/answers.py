"""A policy's greedy answers to the dev problems, each beside what was asked and expected; and which of them failed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from codelutra.errors import UserError
from codelutra.reading.keys import nearest
from codelutra.results.findings import Findings, question
from codelutra.results.summary import PolicyResult
from codelutra.schema import STATUS, STATUSES

_FORMULA = r"^([=+\-@\t\r])"  # what a spreadsheet takes for a formula


def answers(found: Findings, row: PolicyResult) -> pl.DataFrame:
    """One row for each dev problem that `row` was asked, by problem_id: problem_id, group, difficulty, status, question
    (a line of the prompt), prompt, program, reference, output, expected, error.

    A problem whose reference fails has the status reference_error, as in the scores. Raises UserError where the answers
    are not there.
    """
    outcomes, problems = found.dev_outcomes(row), found.frame("problems.parquet")
    expected = found.frame("expected.parquet")
    if outcomes is None or problems is None or expected is None:
        raise UserError(f"run {found.path.name!r} has no answers of {row.name} to dev problems here; {found.mend}")
    broken = pl.col("expected_status") == "reference_error"
    return (
        outcomes.filter("greedy")
        .join(problems.drop("split"), on="problem_id", maintain_order="left")
        .join(expected.select("problem_id", "expected", expected_status="status"), on="problem_id", how="left")
        .select(
            "problem_id",
            "group",
            "difficulty",
            status=pl.when(broken).then(pl.lit("reference_error", STATUS)).otherwise("status"),
            question=pl.col("prompt").map_elements(question, pl.String),
            prompt="prompt",
            program="code",
            reference="reference",
            output="output",
            expected=pl.col("expected").fill_null(""),
            error="error",
        )
        .sort("problem_id")
    )


def failures(
    frame: pl.DataFrame, statuses: Sequence[str] = (), groups: Sequence[str] = (), words: Sequence[str] = ()
) -> pl.DataFrame:
    """Of `answers` those that are not correct: with one of `statuses`, in one of `groups`, whose reference or program has
    one of `words` (a table, a function) in it; none of them means any.

    Raises UserError for a status or group that there is not.
    """
    known = frame["group"].unique().sort().to_list()
    failing = [s for s in STATUSES if s != "correct"]
    for given, there, what in ((statuses, failing, "status"), (groups, known, "group")):
        for wrong in (word for word in given if word not in there):
            raise UserError(f"no {what} {wrong!r}; known: {', '.join(there)}{nearest(wrong, there)}")
    found = frame.filter(pl.col("status") != "correct")
    found = found.filter(pl.col("status").is_in(statuses)) if statuses else found
    found = found.filter(pl.col("group").is_in(groups)) if groups else found
    if words:
        escaped = "|".join(re.escape(word.lower()).replace(r"\ ", " ") for word in words)
        named = (pl.col(c).str.to_lowercase().str.contains(rf"\b(?:{escaped})\b") for c in ("reference", "program"))
        found = found.filter(pl.any_horizontal(*named))
    return found


def as_csv(frame: pl.DataFrame) -> str:
    """CSV with a header. A cell that a spreadsheet would run as a formula gets an apostrophe before it, as models wrote
    some of the cells."""
    text = pl.col(pl.String)
    return (
        frame.with_columns(pl.col(pl.Enum(STATUSES)).cast(pl.String))
        .with_columns(text.str.replace(_FORMULA, "'$1"))
        .write_csv()
    )
