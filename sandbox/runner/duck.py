"""The worker for DuckDB files: each query runs in a process of its own, forked from one that has the database open.

What a query leaves in its process (a seed, a temporary table) ends with it. The connection only reads, DuckDB's access to
files, extensions and settings is off and locked, and one SELECT is all that runs. The worker's user is one that programs
cannot reach, and the runner's seccomp filter lies over it. A query's process holds nothing but the pipe for its result.

Worlds (worlds.py) are made with what a connection may have of its own: macros in place of the clock's functions, a seed,
and a temporary view over each table that reads it from its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import resource
import select
import signal
import socket
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NoReturn

from sandbox.runner import seccomp, sql, wire
from sandbox.runner.clock import STRETCH, schedule
from sandbox.runner.duck_cells import cell
from sandbox.runner.worlds import CLOCKS, WORLDS

if TYPE_CHECKING:
    import duckdb

CONNECTIONS = 16
HEADS = ("select", "with", "from", "values", "table", "pivot", "unpivot", "describe", "desc", "summarize", "show", "(")
SETTINGS: dict[str, Any] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_unsigned_extensions": False,
    "python_enable_replacements": False,  # a table may not be a variable of this program
    "temp_directory": "",
    "max_temp_directory_size": "0KB",
    "threads": 1,
    "async_threads": 0,  # no thread at all: a fork has only the one that calls it
}
CLOCK_MACROS = (
    "now() AS TIMESTAMPTZ '{0}+00'",
    "get_current_timestamp() AS TIMESTAMPTZ '{0}+00'",
    "transaction_timestamp() AS TIMESTAMPTZ '{0}+00'",
    "current_localtimestamp() AS TIMESTAMP '{0}'",
    "current_date() AS DATE '{1}'",
    "today() AS DATE '{1}'",
    "get_current_time() AS TIMETZ '{2}+00'",
    "current_localtime() AS TIME '{2}'",
    "age(a) AS system.main.age(TIMESTAMP '{1}', a), (a, b) AS system.main.age(a, b)",
)
_REFUSED = ("read-only mode", "configuration has been locked", "disabled through configuration", "disabled by configuration")
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG


class Refused(Exception):
    """Not one query."""


def opened(path: str, memory_bytes: int = 0) -> duckdb.DuckDBPyConnection:
    """A connection that can do nothing but read this file. Raises duckdb.Error."""
    import duckdb

    limit = {"memory_limit": f"{memory_bytes}B"} if memory_bytes else {}
    return duckdb.connect(path, read_only=True, config={**SETTINGS, **limit, "lock_configuration": True})


def only_query(connection: duckdb.DuckDBPyConnection, query: str) -> duckdb.Statement:
    """The one statement of a text. Raises Refused, ValueError where it is no text or has none, duckdb.Error."""
    query.encode()
    if "\0" in query:
        raise ValueError("there is a NUL in the query")
    found = connection.extract_statements(query)
    if not found:
        raise ValueError("there is no statement in the query")
    if len(found) > 1:
        raise Refused("only one statement is allowed")
    kind = str(found[0].type).rpartition(".")[2]
    # PIVOT over values that are not named comes as several steps: they are temporary, and go with this process.
    if kind == "SELECT" or (kind == "MULTI" and _head(query).startswith(HEADS)):
        return found[0]
    raise Refused(f"only queries are allowed, not {kind}")


def _head(query: str) -> str:
    return sql.COMMENTS.sub("", query).lstrip("; \t\r\n\f").lower()


def classify(problem: Exception) -> int:
    name, text = type(problem).__name__, str(problem)
    if name in ("ParserException", "SyntaxException", "ValueError", "UnicodeEncodeError"):
        return wire.SYNTAX_ERROR
    if name in ("PermissionException", "Refused") or any(said in text for said in _REFUSED):
        return wire.BLOCKED
    if name in ("OutOfMemoryException", "MemoryError", "TooMuch"):
        return wire.RESOURCE_LIMIT
    return wire.RUNTIME_ERROR


def make_world(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Give the connection another clock; in even worlds tables are read from their end. Raises duckdb.Error."""
    clock = CLOCKS[number]
    for macro in CLOCK_MACROS:
        connection.execute(f"CREATE TEMP MACRO {macro.format(clock, *clock.split())}")
    if number % 2:
        return
    tables = (
        "SELECT database_name, table_name FROM duckdb_tables() WHERE schema_name = 'main' AND NOT internal AND NOT temporary"
    )
    for database, table in connection.execute(tables).fetchall():
        name = quoted(table)
        source = f"{quoted(database)}.main.{name}"
        connection.execute(f"CREATE TEMP VIEW {name} AS SELECT * FROM {source} ORDER BY rowid DESC")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Worker:
    """Owns the open databases; each query gets a fork of it."""

    def __init__(self, files: dict[str, str], heap_bytes: int, control: socket.socket, progress: mmap.mmap) -> None:
        self.files, self.heap_bytes = files, heap_bytes
        self.control, self.progress = control, progress  # a query's process has neither
        self.connections: OrderedDict[tuple[str, str], duckdb.DuckDBPyConnection] = OrderedDict()

    def connect(self, database: str, name: str) -> duckdb.DuckDBPyConnection:
        key = (database, name if name in WORLDS else "")
        connection = self.connections.get(key)
        if connection is None:
            if len(self.connections) >= CONNECTIONS:
                self.connections.popitem(last=False)[1].close()
            connection = opened(self.files[database], self.heap_bytes)
            if name in WORLDS:
                make_world(connection, WORLDS[name])
            if len(os.listdir("/proc/self/task")) > 1:
                raise RuntimeError("DuckDB has started threads, which a fork would not have")
            self.connections[key] = connection
        self.connections.move_to_end(key)
        return connection

    def forget(self, database: str) -> None:
        for key in [key for key in self.connections if key[0] == database]:
            self.connections.pop(key).close()

    def run(
        self, database: str, query: str, timeout: float, max_rows: int, max_bytes: int, name: str
    ) -> tuple[int, bytes, str]:
        """(status, JSON of the result, error). Raises nothing a query can provoke."""
        if database not in self.files:
            return wire.INFRA_ERROR, b"", f"database {database} is not in this container"
        try:
            connection = self.connect(database, name)
        except Exception as problem:  # noqa: BLE001 - duckdb's, MemoryError, RuntimeError: all of them the file's
            return wire.INFRA_ERROR, b"", f"the database cannot be read (a data_mount must be readable by all): {problem}"
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ours)
            self.answer(theirs, connection, query, max_rows, max_bytes, name)
        os.close(theirs)
        try:
            return self.hear(child, ours, timeout, max_bytes)
        finally:
            os.close(ours)

    def answer(
        self, pipe: int, connection: duckdb.DuckDBPyConnection, query: str, max_rows: int, max_bytes: int, name: str
    ) -> NoReturn:
        """In the fork: run the query, write status and document, end."""
        try:
            ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL, 0, 0, 0)
            os.close(self.control.fileno())
            self.progress.close()
            seed = WORLDS[name] / 16 if name in WORLDS else random.SystemRandom().uniform(-1, 1)
            connection.execute("SELECT setseed(?)", [seed])
            document = bytes([wire.OK]) + read(connection, only_query(connection, query), max_rows, max_bytes)
        except MemoryError:
            document = bytes([wire.RESOURCE_LIMIT]) + b"out of memory"
        except Exception as problem:  # noqa: BLE001 - whatever DuckDB or a value raises is the query's result
            said = f"{type(problem).__name__}: {problem}" if not isinstance(problem, Refused) else str(problem)
            document = bytes([classify(problem)]) + said[-2000:].encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            view = memoryview(document)
            while view:
                view = view[os.write(pipe, view) :]
        os._exit(0)

    def hear(self, child: int, pipe: int, timeout: float, max_bytes: int) -> tuple[int, bytes, str]:
        """What the fork says before its deadline. It is not believed: the host reads it as it reads a program's result."""
        document, most, late = bytearray(), max_bytes + 65_536, False
        started, allowed = time.monotonic(), timeout
        waiting = select.poll()
        waiting.register(pipe, select.POLLIN)
        while True:
            left = started + allowed - time.monotonic()
            if left <= 0:
                allowed = min(STRETCH * timeout, timeout + schedule(child)[1])
                if started + allowed <= time.monotonic():
                    late = True
                    break
                continue
            if not waiting.poll(1000 * left):
                continue
            part = os.read(pipe, 1 << 18)
            document += part
            if not part or len(document) > most:
                break
        os.kill(child, signal.SIGKILL)  # one that has ended keeps its exit code
        _, ended = os.waitpid(child, 0)
        if late:
            return wire.TIMEOUT, b"", "the query did not end in time"
        if len(document) > most:
            return wire.RESOURCE_LIMIT, b"", f"the result has more than {max_bytes} bytes"
        if os.WIFSIGNALED(ended) or not document:
            number = os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0
            status = wire.RESOURCE_LIMIT if number in (signal.SIGKILL, signal.SIGXCPU) else wire.RUNTIME_ERROR
            return status, b"", f"the query's process was ended by signal {number}"
        status, body = document[0], bytes(document[1:])
        if status == wire.OK:
            return wire.OK, body, ""
        return (status if status < wire.INFRA_ERROR else wire.BLOCKED), b"", body.decode("utf-8", "replace")


def read(connection: duckdb.DuckDBPyConnection, statement: duckdb.Statement, max_rows: int, max_bytes: int) -> bytes:
    """The result as JSON, as sql.read gives it. Raises sql.TooMuch, duckdb.Error."""
    cursor = connection.execute(statement)
    kinds = [str(column[1]) for column in cursor.description]
    columns = sql._json([column[0] for column in cursor.description])
    parts: list[str] = []
    rows_left, bytes_left, take = max_rows, max_bytes - len(columns), sql.FIRST_ROWS
    while rows := cursor.fetchmany(min(take, rows_left + 1)):
        rows_left -= len(rows)
        if rows_left < 0:
            raise sql.TooMuch(f"the result has more than {max_rows} rows")
        part = sql._json([list(map(cell, row, kinds)) for row in rows])[1:-1]
        bytes_left -= len(part)
        if bytes_left < 0:
            raise sql.TooMuch(f"the result has more than {max_bytes} bytes")
        parts.append(part)
        take = max(1, min(sql.ROWS_AT_ONCE, sql.PART_BYTES * len(rows) // (len(part) + 1)))
    return f'{{"columns":{columns},"rows":[{",".join(parts)}]}}'.encode("ascii")


def serve(control: socket.socket, progress: mmap.mmap, uid: int, files: dict[str, str], limits: dict[str, int]) -> None:
    """Answer batches until the supervisor goes away, as sql.serve does. Runs in a process of its own; never returns."""
    import duckdb

    os.environ.update(HOME="/", TMPDIR="/", TZ="UTC")
    duckdb.connect(config=SETTINGS).close()  # what it imports and allocates when it is first used
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("500")  # when memory runs out a query goes before the runner, and a program, which has 1000, before both
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    heap = limits.pop("HEAP")
    limits["AS"] += mapped()  # what DuckDB maps before any query is not the query's
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    os.setresuid(uid, uid, uid)
    seccomp.install()
    sql.answer_batches(control, control.makefile("rb"), progress, Worker(files, heap, control, progress))


def mapped() -> int:
    """Bytes of address space that this process uses."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
