"""The reference check: what every reference gives, judged by the same path as the samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import polars as pl

from codelutra.errors import OutageError
from codelutra.execution.outcomes import PREVIEW, Progress, Runs
from codelutra.execution.verdicts import decided
from codelutra.schema import EXPECTED, check
from codelutra.suites.base import Job, Suite
from sandbox.answers import printable
from sandbox.protocol import Result, decode, encode


def judge_references(
    problems: pl.DataFrame, suite: Suite, pool: Runs, *, timeout_seconds: float, progress: Progress | None = None
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The expected output of each problem, as EXPECTED; and how many problems there are, how many without one.

    Each reference runs twice, once as the expectation and once as an answer, and then as often as its suite wants to see
    what of its output is determined. A problem is a `reference_error` where that
    answer is not correct, or where the suite says the output cannot judge. Where a problem has checks and no reference,
    what the checks expect is computed twice and must be the same, and an empty program must fail them. Every program
    that a problem accepts goes the same way; one that cannot judge makes the problem a `reference_error`.

    Raises StageError when the sandbox itself failed for any of them.
    """
    several = [[row, *suite.accepted(row)] for row in problems.rows(named=True)]
    rows = list(chain.from_iterable(several))

    def jobs() -> Iterator[Job]:
        for i, row in enumerate(rows):
            yield suite.expected_job(row, f"{i}e", timeout_seconds)
            yield suite.answer_job(row, row["reference"], f"{i}a", timeout_seconds)
            if not row["reference"]:
                yield suite.expected_job(row, f"{i}t", timeout_seconds)

    results = pool.map(jobs())
    expected, wanted = [], []
    for i, row in enumerate(rows):
        want, got = next(results), next(results)
        twice = want if row["reference"] else next(results)
        outage = next((r for r in (want, got, twice) if r.status == "infra_error"), None)
        if outage:
            raise _outage(row, outage)
        found, why = decided(partial(_wanted, suite, row, want, twice, got))
        wanted.append(found or (None, why))
        if progress:
            progress(i + 1, len(rows))
    next(results, None)  # a pool takes the next jobs when these are finished
    settled = _checked(rows, wanted, suite, pool, timeout_seconds)
    for row, *further in several:
        output, error = _either(suite, [next(settled) for _ in (row, *further)])
        status = "reference_error" if error else "correct"
        expected.append({"problem_id": row["problem_id"], "status": status, "expected": output, "error": error})
    next(settled, None)  # as above
    frame = check(pl.DataFrame(expected, schema=EXPECTED), EXPECTED)
    return frame, {"problems": frame.height, "reference_errors": frame.filter(pl.col("status") != "correct").height}


def _either(suite: Suite, found: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """The expected output of a problem and its error, from those of each program that it accepts."""
    if len(found) == 1:
        return found[0]
    for number, (_, error) in enumerate(found, 1):
        if error:
            return "", error if number == 1 else f"accepted query {number}: {error}"
    return json.dumps(encode(suite.either([decode(json.loads(output)) for output, _ in found]))), ""


def _wanted(suite: Suite, row: Mapping[str, Any], want: Result, twice: Result, got: Result) -> tuple[Any, str]:
    """The expected output, and ""; or None and why there is none."""
    error = _reference_error(suite, row, want, got) if row["reference"] else _check_error(suite, row, want, twice, got)
    return (None, printable(error)) if error else (want.value, "")


def _checked(
    rows: Sequence[Mapping[str, Any]], wanted: Sequence[tuple[Any, str]], suite: Suite, pool: Runs, timeout_seconds: float
) -> Iterator[tuple[str, str]]:
    """The expected outputs as canonical JSON, and errors, after the further runs that the suite asks for."""
    further = [
        list(suite.check_jobs(row, value, str(i), timeout_seconds)) if row["reference"] and not error else []
        for i, (row, (value, error)) in enumerate(zip(rows, wanted, strict=True))
    ]
    results = pool.map(job for jobs in further for job in jobs)
    for row, jobs, (value, error) in zip(rows, further, wanted, strict=True):
        given = [next(results) for _ in jobs]
        if outage := next((r for r in given if r.status == "infra_error"), None):
            raise _outage(row, outage)
        found, why = (None, error) if error else decided(partial(_settled, suite, row, value, given))
        yield found or ("", why)
    next(results, None)


def _settled(suite: Suite, row: Mapping[str, Any], value: Any, given: Sequence[Result]) -> tuple[str, str]:
    value, error = suite.checked(row, value, given) if given else (value, "")
    return ("", printable(error)) if error else (json.dumps(encode(value)), "")


def _outage(row: Mapping[str, Any], failed: Result) -> OutageError:
    return OutageError(
        f"the sandbox failed while checking the reference of {row['problem_id']}: {failed.error}; "
        "see `codelutra doctor`, then give the same command again"
    )


def _reference_error(suite: Suite, row: Mapping[str, Any], want: Result, got: Result) -> str:
    """Why a reference cannot judge, or "". `want`: what it gave as the expectation; `got`: as an answer."""
    if error := _failed(want, got) or suite.usable(row, want.value):
        return error
    if suite.agrees(row, got.value, want.value):
        return ""
    differs = "its output does not agree with what is expected: it fails its own checks, or two runs of it differ"
    return suite.changes(row) or "; ".join(filter(None, (differs, suite.usable(row, got.value))))


def _check_error(suite: Suite, row: Mapping[str, Any], want: Result, twice: Result, empty: Result) -> str:
    """Why checks without a reference cannot judge, or "". `empty`: what an empty program gave."""
    if error := _failed(want, twice):
        return error
    if reason := suite.usable(row, want.value):
        return reason.replace("the reference", "its checks")
    if json.dumps(encode(want.value)) != json.dumps(encode(twice.value)):
        return "what its checks expect differs from one run to the next"
    if empty.status == "ok" and suite.agrees(row, empty.value, want.value):
        return "its checks pass an empty program"
    return ""


def _failed(*results: Result) -> str:
    return next((f"{r.status}: {(r.error or '')[-PREVIEW:]}" for r in results if r.status != "ok"), "")
