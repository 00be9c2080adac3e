"""Samples → outcomes, through a sandbox pool.

The sandbox says what happened (`Result`), and the suite says whether that is the answer. This module combines the two into
a status. Nothing here runs code. An infrastructure failure never becomes a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import polars as pl

from codelutra.execution.verdicts import decided
from codelutra.schema import OUTCOMES, check
from codelutra.scoring.scores import status_counts
from codelutra.suites.base import Job, Suite
from sandbox.answers import printable, shown
from sandbox.protocol import Result, decode

Progress = Callable[[int, int], None]
PREVIEW = 400  # characters of output and error kept for people


class Runs(Protocol):
    """What a stage needs of a pool: results in the order of the jobs."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Result]: ...


class Cache(Protocol):
    """What a stage needs of an `OutcomeCache`."""

    def get(self, key: bytes) -> dict[str, Any] | None: ...
    def put(self, found: Mapping[bytes, dict[str, Any]]) -> None: ...


def execute(
    samples: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    cache: Cache | None = None,
    machine: str = "",
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """One outcome a sample, as OUTCOMES, in the order of `samples`; and the facts: rows, statuses, other_modes.

    Equal programs for one problem run once. `machine` (image, memory, runtime) is part of the cache's key. `other_modes`
    counts the greedy samples that are right under each of the suite's other comparison modes.
    """
    by_id = {row["problem_id"]: row for row in problems.rows(named=True)}
    wanted = {e["problem_id"]: e for e in expected.rows(named=True)}
    keyed, verdicts = keys(samples, problems, suite, machine, timeout_seconds), dict[bytes, dict[str, Any]]()
    todo = dict[bytes, tuple[dict[str, Any], str]]()
    for key, s in zip(keyed, samples.select("problem_id", "code").rows(named=True), strict=True):
        problem, want = by_id[s["problem_id"]], wanted[s["problem_id"]]
        if key in verdicts or key in todo:
            continue
        if want["status"] != "correct":
            verdicts[key] = _verdict("reference_error", error=want["error"])
        elif not s["code"].strip():
            verdicts[key] = _verdict("no_code")
        elif cache and (known := cache.get(key)) and ("also" in known or not suite.other_modes):
            verdicts[key] = known
        else:
            todo[key] = (problem, s["code"])

    order = list(todo)
    jobs = (suite.answer_job(*todo[k], str(i), timeout_seconds) for i, k in enumerate(order))
    fresh = dict[bytes, dict[str, Any]]()
    for i, (key, result) in enumerate(zip(order, pool.map(jobs), strict=True)):
        problem = todo[key][0]
        fresh[key] = _judge(suite, problem, result, wanted[problem["problem_id"]]["expected"])
        if progress:
            progress(i + 1, len(order))
    if cache:
        cache.put(fresh)
    verdicts |= fresh
    judged = pl.DataFrame([verdicts[k] for k in keyed], schema={c: OUTCOMES[c] for c in _VERDICT})
    outcomes = check(samples.hstack(judged).with_columns(mode=pl.lit(suite.mode)), OUTCOMES)
    also = [mode for k, flag in zip(keyed, samples["greedy"], strict=True) if flag for mode in verdicts[k].get("also", [])]
    others = {mode: also.count(mode) for mode in suite.other_modes}
    return outcomes, {"rows": outcomes.height, "statuses": status_counts(outcomes), "other_modes": others}


def keys(samples: pl.DataFrame, problems: pl.DataFrame, suite: Suite, machine: str, timeout_seconds: float) -> list[bytes]:
    """A key for each sample: equal programs for one problem have the same."""
    by_id = {row["problem_id"]: row for row in problems.rows(named=True)}
    asked = samples.select("problem_id", "code").rows()
    return [_key(suite, by_id[problem], code, machine, timeout_seconds) for problem, code in asked]


def infra_share(outcomes: pl.DataFrame) -> float:
    """Share of outcomes that are infrastructure failures (infra_error)."""
    return outcomes.select((pl.col("status") == "infra_error").mean()).item() or 0.0


_VERDICT = ("status", "verdict", "answer", "output", "seconds", "error")


def _verdict(status: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "verdict": "host", "answer": "", "output": "", "seconds": 0.0, "error": "", "also": [], **more}


def _judge(suite: Suite, problem: Mapping[str, Any], result: Result, expected: str) -> dict[str, Any]:
    verdict = "in-process" if suite.in_process(problem) else "host"
    if result.status != "ok":
        error = printable(result.error or "")[-PREVIEW:]
        return _verdict(result.status, verdict=verdict, seconds=result.seconds, error=error)
    found, why = decided(lambda: _compared(suite, problem, result, decode(json.loads(expected)), verdict))
    return found or _verdict("undecided", verdict=verdict, seconds=result.seconds, error=why)


def _compared(suite: Suite, problem: Mapping[str, Any], result: Result, expected: Any, verdict: str) -> dict[str, Any]:
    if suite.agrees(problem, result.value, expected):
        status, error = "correct", ""
    else:
        error = _raised(result.value)
        status = _failed(error) if verdict == "in-process" or error else "wrong"
    return _verdict(
        status,
        verdict=verdict,
        error=printable(error)[-PREVIEW:],
        answer=suite.answer_digest(problem, result.value),
        output=_preview(result.value),
        seconds=result.seconds,
        also=suite.also(problem, result.value, expected),
    )


def _raised(value: Any) -> str:
    """The error of a Python job's first failing call; "" where none failed."""
    calls = value if isinstance(value, list) else []
    return next((c["error"] for c in calls if isinstance(c, dict) and "error" in c), "")


def _failed(error: str) -> str:
    """The status that an error in a checked call means: wrong, syntax_error, resource_limit or runtime_error."""
    kind = error.partition(":")[0]
    if kind in ("MemoryError", "TooLarge"):
        return "resource_limit"
    if kind in ("", "AssertionError"):
        return "wrong"
    return "syntax_error" if kind in ("SyntaxError", "IndentationError", "TabError") else "runtime_error"


def _preview(value: Any) -> str:
    """The start of an output, for people: the rows of a query, else the value."""
    return shown(value["rows"] if isinstance(value, dict) and "rows" in value else value)[:PREVIEW]


def _key(suite: Suite, problem: Mapping[str, Any], code: str, machine: str, timeout_seconds: float) -> bytes:
    judged = (problem["problem_id"], problem["reference"], problem["judge"], code)
    parts = (suite.name, suite.version, suite.mode, machine, str(timeout_seconds), *judged)
    return hashlib.sha256(b"\0".join(p.encode(errors="surrogatepass") for p in parts)).digest()
