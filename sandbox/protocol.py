"""What goes into a sandbox and what comes out: two kinds of job, one kind of result, plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sandbox.runner.canonical import Named as Named
from sandbox.runner.canonical import decode as decode
from sandbox.runner.canonical import dumps as dumps
from sandbox.runner.canonical import encode as encode

Status = Literal["ok", "runtime_error", "syntax_error", "timeout", "resource_limit", "blocked", "infra_error"]
MAX_ERROR_CHARS = 2000


@dataclass(frozen=True)
class SqlJob:
    """One statement against one read-only database.

    `database` is the sha256 hex digest of a SQLite file announced with `Pool(databases={digest: path})`; with image duckdb
    of a DuckDB file, whose values become cells as duck_cells.py says. The value is
    `{"columns": [names], "rows": [[cells]], "truncated": False}`, cells None, int, float, str or bytes. More than
    `max_rows` or `max_bytes` is a `resource_limit`. Jobs with different `connection` names never share a connection:
    give references a name of their own.
    """

    id: str
    database: str
    query: str
    timeout_seconds: float = 5.0
    max_rows: int = 10_000
    max_bytes: int = 4_000_000
    connection: str = ""


@dataclass(frozen=True)
class PythonJob:
    """A program, run as a fresh module; then each of `calls` is evaluated in its namespace.

    The value is a list as long as `calls`, each `{"value": canonical}` or `{"error": "TypeName: message"}`. With `inputs`
    the program runs once for each, in a fresh process that reads it as stdin, as `python3 program.py` runs it; the values
    are what it printed, the errors how it failed, and `timeout_seconds` holds for each run. With `in_process` a call may be
    a statement (`assert ...`), for checks that cannot be taken apart; a program can cheat such a check.
    """

    id: str
    program: str
    calls: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    timeout_seconds: float = 5.0
    max_bytes: int = 1_000_000
    in_process: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a job. `value` is None unless `status` is ok; `error` is the end of the error message."""

    id: str
    status: Status
    value: Any = None
    stdout: str = ""
    error: str | None = None
    seconds: float = 0.0
    attempts: int = 1
