"""Jobs to bytes, and bytes to results. Everything that comes out of a container is checked here."""

from __future__ import annotations

import base64
import json
import sys
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from sandbox.protocol import MAX_ERROR_CHARS, PythonJob, Result, SqlJob
from sandbox.runner import canonical, wire

Job = SqlJob | PythonJob
MAX_PROGRAM_BYTES = 1 << 20
MAX_STDIN_BYTES = 16 << 20


@dataclass(eq=False)
class Ticket:
    """A job on its way through the pool."""

    job: Job
    attempts: int = 0
    alone: bool = False  # a container died while it ran: it gets a batch of its own, the last time a fresh container
    result: Result | None = None


def refuse(job: Job, databases: Container[str]) -> Result | None:
    """The result of a job that is refused without running it, else None."""
    source = job.query if isinstance(job, SqlJob) else job.program
    if not source.strip():
        return Result(job.id, "syntax_error", error="the program is empty")
    if len(source) > MAX_PROGRAM_BYTES:
        return Result(job.id, "resource_limit", error=f"{len(source)} characters; the limit is {MAX_PROGRAM_BYTES}")
    if not 0 < job.timeout_seconds < 1e6 or job.max_bytes < 1:
        return Result(job.id, "infra_error", error="timeout_seconds and max_bytes must be positive")
    if isinstance(job, SqlJob):
        if job.database not in databases:
            return Result(job.id, "infra_error", error=f"database {job.database} was not announced to the pool")
        if job.max_rows < 0:
            return Result(job.id, "infra_error", error="max_rows must not be negative")
    elif sum(map(len, job.inputs)) > MAX_STDIN_BYTES or sum(map(len, job.calls)) > MAX_STDIN_BYTES:
        return Result(job.id, "infra_error", error=f"inputs and calls may have {MAX_STDIN_BYTES} characters")
    return None


def size(job: Job) -> int:
    """About how many bytes a job takes in the protocol."""
    if isinstance(job, SqlJob):
        return len(job.query) + 150
    return len(job.program) + sum(map(len, job.inputs)) + sum(map(len, job.calls)) + 100


def seconds(job: Job) -> float:
    """The time that a job is given, its runs together."""
    return job.timeout_seconds * max(1, len(job.inputs) if isinstance(job, PythonJob) else 1)


def weight(result: Result) -> int:
    """About how many bytes of memory a result takes while it waits; cheap to compute."""
    value = result.value
    if type(value) is dict:
        return 200 + 60 * len(value["rows"]) * (1 + len(value["columns"]))
    return 500 + len(result.stdout) + _held(value)


def _held(value: Any) -> int:
    """Bytes that a decoded value holds. An empty set is eight bytes of JSON and takes 216."""
    held, left = 0, [value]
    while left:
        one = left.pop()
        held += sys.getsizeof(one)
        if isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            left += one
        elif isinstance(one, canonical.Named):
            left.append(one.what)
    return held


def printable(text: str) -> str:
    """The text without lone surrogates, which no file and no terminal takes: escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: Any) -> str:
    """A decoded value as Python writes it, for people; in canonical JSON where it holds an integer of more than 4,300
    digits, which Python does not write in decimal."""
    try:
        return printable(repr(value))
    except ValueError:
        return json.dumps(canonical.encode(value))


def pack_queries(jobs: Iterable[tuple[int, SqlJob]]) -> bytes:
    batch = [(token, j.database, j.query, j.timeout_seconds, j.max_rows, j.max_bytes, j.connection) for token, j in jobs]
    return json.dumps(batch).encode("ascii")


def pack_programs(jobs: Iterable[tuple[int, PythonJob]]) -> bytes:
    parts: list[bytes] = []
    for token, job in jobs:
        fields = {"program": job.program, "calls": job.calls, "in_process": job.in_process}
        body, inputs = json.dumps(fields).encode("ascii"), [text.encode("utf-8", "surrogateescape") for text in job.inputs]
        parts.append(wire.pack_program(token, job.timeout_seconds, min(job.max_bytes, 1 << 31), body, inputs))
    return b"".join(parts)


def believe(job: Job, record: wire.Record, attempts: int) -> Result:
    """The result that a record describes. A value that is not canonical was forged by the program: `blocked`."""
    status = wire.STATUSES[record.status]
    error: str | None = record.error.decode("utf-8", "replace")[-MAX_ERROR_CHARS:] or None
    stdout = record.stdout.decode("utf-8", "replace") if record.stdout else ""
    value: Any = None
    if record.status == wire.OK:
        try:
            if isinstance(job, SqlJob):
                value = table(record.value)
            else:
                value = calls(record.value, len(job.inputs or job.calls))
        except (canonical.Malformed, ValueError, RecursionError, MemoryError) as problem:
            status, value, error = "blocked", None, printable(f"the result is not canonical: {str(problem)[:300]}")
    return Result(job.id, status, value, stdout, error, record.seconds, attempts)  # type: ignore[arg-type]


def table(document: bytes) -> dict[str, Any]:
    """Columns and rows of a result, of plain cells and of one width. Raises Malformed, ValueError."""
    value = json.loads(document, object_hook=_blob)
    if type(value) is not dict or value.keys() != {"columns", "rows"} or type(value["rows"]) is not list:
        raise canonical.Malformed("not a table")
    columns, rows = value["columns"], value["rows"]
    if type(columns) is not list or not all(type(name) is str for name in columns):
        raise canonical.Malformed("not a table's columns")
    width = len(columns)
    for row in rows:
        if type(row) is not list or len(row) != width or not set(map(type, row)) <= _CELLS:
            raise canonical.Malformed("not a table's row")
    return {"columns": columns, "rows": rows, "truncated": False}


_CELLS = {type(None), int, float, str, bytes}


def _blob(body: dict[str, Any]) -> Any:
    return base64.b64decode(body["b"]) if body.keys() == {"b"} and type(body["b"]) is str else body


def calls(document: bytes, count: int) -> list[dict[str, Any]]:
    """[{"value": …} | {"error": text}], exactly `count` of them. Raises Malformed, ValueError."""
    outer = json.loads(document)
    given = outer.get("c") if type(outer) is dict else None
    if type(given) is not list or len(given) != count:
        raise canonical.Malformed(f"not {count} answers")
    return [call(item) for item in given]


def call(item: Any) -> dict[str, Any]:
    if type(item) is not list or len(item) != 2:
        raise canonical.Malformed("not an answer")
    kind, body = item
    if kind == "v":
        return {"value": canonical.decode(body)}
    if kind == "e" and type(body) is str:
        return {"error": printable(body)[:MAX_ERROR_CHARS]}
    raise canonical.Malformed("not an answer")
