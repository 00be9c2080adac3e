"""Samples → outcomes, through a sandbox pool; references → expected outputs, through the same path.

The sandbox says what happened (`Result`), the suite says whether that is the answer; this module puts the two together
into statuses. Nothing here runs code, and nothing here may turn our own outage into a wrong answer.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from codelutra.errors import StageError
from codelutra.schema import EXPECTED, OUTCOMES, check
from codelutra.suites.base import Job, Suite
from sandbox.protocol import Result, decode, encode

Progress = Callable[[int, int], None]
_PREVIEW = 400  # characters of output and error kept for people


class Runs(Protocol):
    """What is asked of a pool: results in the order of the jobs."""

    def map(self, jobs: Iterable[Job]) -> Iterator[Result]: ...


class OutcomeCache:
    """The same code on the same problem under the same judge is not run twice, whatever iteration or run it is in.

    Only verdicts that cannot depend on the machine's mood are kept: timeouts, resource limits and outages are run again.
    """

    KEPT = ("correct", "wrong", "runtime_error", "syntax_error", "blocked")

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS outcomes (key BLOB PRIMARY KEY, verdict TEXT) WITHOUT ROWID")

    def get(self, key: bytes) -> dict[str, Any] | None:
        row = self._db.execute("SELECT verdict FROM outcomes WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, found: Mapping[bytes, dict[str, Any]]) -> None:
        kept = [(k, json.dumps(v)) for k, v in found.items() if v["status"] in self.KEPT]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?)", kept)

    def close(self) -> None:
        self._db.close()


def judge_references(
    problems: pl.DataFrame, suite: Suite, pool: Runs, *, timeout_seconds: float, progress: Progress | None = None
) -> pl.DataFrame:
    """The reference check: what every reference gives, as EXPECTED.

    Each is run as the expectation and as an answer; where the answer does not come out correct, or the suite calls the
    output unusable, the problem is a `reference_error` with the reason. Where there is no reference, what the checks expect
    is computed twice and has to be the same, and an empty program has to fail them.

    Raises StageError when the sandbox itself failed for any of them.
    """
    rows = problems.rows(named=True)

    def jobs() -> Iterator[Job]:
        for i, row in enumerate(rows):
            yield suite.expected_job(row, f"{i}e", timeout_seconds)
            yield suite.answer_job(row, row["reference"], f"{i}a", timeout_seconds)
            if not row["reference"]:
                yield suite.expected_job(row, f"{i}t", timeout_seconds)

    results = pool.map(jobs())
    expected = []
    for i, row in enumerate(rows):
        want, got = next(results), next(results)
        twice = want if row["reference"] else next(results)
        outage = next((r for r in (want, got, twice) if r.status == "infra_error"), None)
        if outage:
            raise StageError(
                f"the sandbox failed while checking the reference of {row['problem_id']}: {outage.error}; "
                "see `codelutra doctor`, then give the same command again"
            )
        error = _reference_error(suite, row, want, got) if row["reference"] else _check_error(suite, row, want, twice, got)
        expected.append(
            {
                "problem_id": row["problem_id"],
                "status": "reference_error" if error else "correct",
                "expected": "" if error else json.dumps(encode(want.value)),
                "error": error,
            }
        )
        if progress:
            progress(i + 1, len(rows))
    return check(pl.DataFrame(expected, schema=EXPECTED), EXPECTED)


def execute(
    samples: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    cache: OutcomeCache | None = None,
    machine: str = "",
    progress: Progress | None = None,
) -> pl.DataFrame:
    """One outcome a sample, as OUTCOMES, in the order of `samples`.

    Equal programs for one problem run once. `machine` (image, memory, runtime) is part of the cache's key.
    """
    return execute_and_compare(
        samples,
        problems,
        expected,
        suite,
        pool,
        timeout_seconds=timeout_seconds,
        cache=cache,
        machine=machine,
        progress=progress,
    )[0]


def execute_and_compare(
    samples: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    suite: Suite,
    pool: Runs,
    *,
    timeout_seconds: float,
    cache: OutcomeCache | None = None,
    machine: str = "",
    progress: Progress | None = None,
) -> tuple[pl.DataFrame, dict[str, int]]:
    """As `execute`; with it, how many greedy samples are right under each of the suite's other modes."""
    by_id = {row["problem_id"]: row for row in problems.rows(named=True)}
    wanted = {e["problem_id"]: e for e in expected.rows(named=True)}
    keys, verdicts = [], dict[bytes, dict[str, Any]]()
    todo = dict[bytes, tuple[dict[str, Any], str]]()
    for s in samples.select("problem_id", "code").rows(named=True):
        key = _key(suite, by_id[s["problem_id"]], s["code"], machine, timeout_seconds)
        keys.append(key)
        if key in verdicts or key in todo:
            continue
        if wanted[s["problem_id"]]["status"] != "correct":
            verdicts[key] = _verdict("reference_error", error=wanted[s["problem_id"]]["error"])
        elif not s["code"].strip():
            verdicts[key] = _verdict("no_code")
        elif cache and (known := cache.get(key)) and ("also" in known or not suite.other_modes):
            verdicts[key] = known
        else:
            todo[key] = (by_id[s["problem_id"]], s["code"])

    order = list(todo)
    jobs = (suite.answer_job(*todo[k], str(i), timeout_seconds) for i, k in enumerate(order))
    fresh = dict[bytes, dict[str, Any]]()
    for i, (key, result) in enumerate(zip(order, pool.map(jobs), strict=True)):
        problem = todo[key][0]
        fresh[key] = _judge(suite, problem, result, decode(json.loads(wanted[problem["problem_id"]]["expected"])))
        if progress:
            progress(i + 1, len(order))
    if cache:
        cache.put(fresh)
    verdicts |= fresh
    judged = pl.DataFrame([verdicts[k] for k in keys], schema={c: OUTCOMES[c] for c in _VERDICT})
    greedy = [verdicts[k].get("also", []) for k, flag in zip(keys, samples["greedy"], strict=True) if flag]
    others = {mode: sum(mode in also for also in greedy) for mode in suite.other_modes}
    outcomes = check(
        pl.concat(
            [samples.drop("prompt_tokens", "completion_tokens"), judged.with_columns(mode=pl.lit(suite.mode))],
            how="horizontal",
        ),
        OUTCOMES,
    )
    return outcomes, others


def infra_share(outcomes: pl.DataFrame) -> float:
    """Share of outcomes that are our own outage."""
    return outcomes.select((pl.col("status") == "infra_error").mean()).item() or 0.0


_VERDICT = ("status", "verdict", "answer", "output", "seconds", "error")


def _verdict(status: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "verdict": "host", "answer": "", "output": "", "seconds": 0.0, "error": "", "also": [], **more}


def _judge(suite: Suite, problem: Mapping[str, Any], result: Result, expected: Any) -> dict[str, Any]:
    verdict = "in-process" if suite.in_process(problem) else "host"
    if result.status != "ok":
        return _verdict(result.status, verdict=verdict, seconds=result.seconds, error=(result.error or "")[-_PREVIEW:])
    if suite.agrees(problem, result.value, expected):
        status, error = "correct", ""
    else:
        error = _raised(result.value)
        status = _failed(error) if verdict == "in-process" or error else "wrong"
    return _verdict(
        status,
        verdict=verdict,
        error=error[-_PREVIEW:],
        answer=suite.answer_digest(problem, result.value),
        output=_preview(result.value),
        seconds=result.seconds,
        also=suite.also(problem, result.value, expected),
    )


def _raised(value: Any) -> str:
    """What the first failing call of a Python job raised, "" where none did."""
    calls = value if isinstance(value, list) else []
    return next((c["error"] for c in calls if isinstance(c, dict) and "error" in c), "")


def _failed(error: str) -> str:
    """What an error says of the answer: it ran and was wrong, it is no Python, it wanted too much memory, or it raised."""
    kind = error.partition(":")[0]
    if kind == "MemoryError":
        return "resource_limit"
    if kind in ("", "AssertionError"):
        return "wrong"
    return "syntax_error" if kind in ("SyntaxError", "IndentationError", "TabError") else "runtime_error"


def _preview(value: Any) -> str:
    """An output as people read it: rows of a query, else the value."""
    shown = value["rows"] if isinstance(value, dict) and "rows" in value else value
    return repr(shown)[:_PREVIEW]


def _reference_error(suite: Suite, row: Mapping[str, Any], want: Result, got: Result) -> str:
    for r in (want, got):
        if r.status != "ok":
            return f"{r.status}: {(r.error or '')[-_PREVIEW:]}"
    reason = suite.usable(row, want.value)
    if reason:
        return reason
    return (
        ""
        if suite.agrees(row, got.value, want.value)
        else "its output does not agree with what is expected: it fails its own checks, or two runs of it differ"
    )


def _check_error(suite: Suite, row: Mapping[str, Any], want: Result, twice: Result, empty: Result) -> str:
    """Why checks without a reference are no use, or "". `empty`: what a program that says nothing gives."""
    for r in (want, twice):
        if r.status != "ok":
            return f"{r.status}: {(r.error or '')[-_PREVIEW:]}"
    if reason := suite.usable(row, want.value):
        return reason.replace("the reference", "its checks")
    if json.dumps(encode(want.value)) != json.dumps(encode(twice.value)):
        return "what its checks expect differs from one run to the next"
    if empty.status == "ok" and suite.agrees(row, empty.value, want.value):
        return "its checks pass an empty program"
    return ""


def _key(suite: Suite, problem: Mapping[str, Any], code: str, machine: str, timeout_seconds: float) -> bytes:
    parts = (
        suite.name,
        suite.version,
        suite.mode,
        machine,
        str(timeout_seconds),
        problem["problem_id"],
        problem["reference"],
        problem["judge"],
        code,
    )
    return hashlib.sha256(b"\0".join(p.encode(errors="surrogatepass") for p in parts)).digest()
