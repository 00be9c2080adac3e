"""Run honest answers and every attack in real containers: honest ones must be judged right, before and after each attack."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sandbox.attacks import (
    CALLS,
    DUCKDB_SCHEMA,
    EXPECTED,
    EXPECTED_ROWS,
    RIGHT,
    RIGHT_QUERY,
    SCHEMA,
    WRONG,
    WRONG_QUERY,
    Attack,
    attacks,
)
from sandbox.errors import SandboxError
from sandbox.pool import Pool
from sandbox.protocol import PythonJob, Result, SqlJob, dumps

HONEST = [True, False, True, False]  # which of the `honest` jobs are correct


def fixture_database(directory: Path) -> dict[str, Path]:
    """A small SQLite file in `directory`, as the {digest: path} a pool wants."""
    path = directory / "fixture.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA)
    connection.close()
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path}


def duckdb_database(pool: Pool, directory: Path, statements: str = DUCKDB_SCHEMA) -> dict[str, Path]:
    """A small DuckDB file in `directory`, as the {digest: path} a pool wants. A pool of image duckdb makes it."""
    call = f"made({statements!r})"
    (result,) = pool.map([PythonJob("fixture", MAKES_DUCKDB, (call,), timeout_seconds=60, max_bytes=32 << 20)])
    if result.status != "ok" or "value" not in result.value[0]:
        raise SandboxError(f"the sandbox cannot make a DuckDB file: {result.error or result.value}")
    content: bytes = result.value[0]["value"]
    path = directory / "fixture.duckdb"
    path.write_bytes(content)
    return {hashlib.sha256(content).hexdigest(): path}


MAKES_DUCKDB = """
import duckdb
def made(statements):
    with duckdb.connect(config={"threads": 1, "async_threads": 0}) as connection:
        connection.execute("attach 'x.duckdb' as x (block_size 16384)")
        connection.execute("use x;" + statements)
        connection.execute("use memory; detach x")
    with open("x.duckdb", "rb") as file:
        return file.read()
"""


def is_correct(result: Result) -> bool:
    """The host's verdict on the fixture problems: outputs compared type for type."""
    if result.status != "ok":
        return False
    if isinstance(result.value, dict):
        return bool(result.value["rows"] == EXPECTED_ROWS)
    return dumps(result.value) == dumps(EXPECTED)


def job(attack: Attack, database: str) -> PythonJob | SqlJob:
    if attack.kind == "sql":
        return SqlJob(attack.name, database, attack.source, timeout_seconds=attack.timeout_seconds)
    return PythonJob(attack.name, attack.source, CALLS, timeout_seconds=attack.timeout_seconds)


def honest(name: str, database: str) -> list[PythonJob | SqlJob]:
    """Two jobs that are right and two that are wrong: the judge must still tell them apart."""
    return [
        PythonJob(f"right after {name}", RIGHT, CALLS),
        PythonJob(f"wrong after {name}", WRONG, CALLS),
        SqlJob(f"right query after {name}", database, RIGHT_QUERY),
        SqlJob(f"wrong query after {name}", database, WRONG_QUERY),
    ]


def survives(attack: Attack, results: list[Result]) -> tuple[str, bool]:
    """The outcome of an attack and the four honest jobs after it, and whether that is as it should be."""
    first, *after = results
    got = "correct" if is_correct(first) else first.status if first.status != "ok" else "wrong"
    allowed = attack.statuses or (got,)
    fit = [is_correct(result) for result in after] == HONEST
    fine = got not in ("correct", "infra_error") and got in allowed and fit
    return got if fit else f"{got}; honest work after it: {[result.status for result in after]}", fine


def probe(pool: Pool, progress: Callable[[int, int], None] = lambda done, total: None) -> list[dict[str, Any]]:
    """One row an attack, and one for the honest answers: name, kind, expected, got, ok."""
    with tempfile.TemporaryDirectory(prefix="codelutra-probe-") as scratch:
        engine = "duckdb" if "duckdb" in pool.settings.preload else "sqlite"
        databases = duckdb_database(pool, Path(scratch)) if engine == "duckdb" else fixture_database(Path(scratch))
        pool.announce(databases)
        (database,) = databases
        results = list(pool.map(honest("nothing", database)))
        good = [is_correct(result) for result in results] == HONEST
        got = "told apart" if good else str([result.status for result in results])
        rows = [_row("right and wrong answers, without an attack", "honest", "told apart", got, good)]
        missing = next((w.container.unfiltered for w in pool.workers if w.container), "")
        rows.append(_row("the runner's own seccomp filter", "escape", "in place", missing or "in place", not missing))
        jobs = (item for attack in attacks(engine) for item in (job(attack, database), *honest(attack.name, database)))
        stream = pool.map(jobs)
        for i, attack in enumerate(attacks(engine)):
            progress(i, len(attacks(engine)))
            got, fine = survives(attack, [next(stream) for _ in range(5)])
            rows.append(_row(attack.name, attack.kind, " or ".join(attack.statuses) or "not correct", got, fine))
        lost = [reason for reason in pool.replaced if reason != "recycled"]
        rows.append(_row("containers lost to all these attacks", "neighbours", "0", str(len(lost)), not lost))
    return rows


def _row(name: str, kind: str, expected: str, got: str, ok: bool) -> dict[str, Any]:
    return {"name": name, "kind": kind, "expected": expected, "got": got, "ok": ok}
