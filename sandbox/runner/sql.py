"""The SQL worker: persistent read-only connections, an authorizer, deadlines, caps.

It runs as a user of its own that programs cannot reach. What may be done is a short list: read tables, call harmless
functions, recurse. There is no statement in that list that leaves anything behind on a connection.

Virtual tables (full-text search, R*Tree, json_each) prepare statements of their own when they are first opened. So they are
opened before the first query, while a wider rule holds; a query can then read them and can open no other.
"""

from __future__ import annotations

import base64
import json
import mmap
import os
import re
import resource
import socket
import sqlite3
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from sandbox.runner import wire
from sandbox.runner.worlds import WORLDS, World

LENGTH = struct.Struct(">I")
PROGRESS = struct.Struct("=Qdd")  # token of the running job, when it started (monotonic), CPU seconds used before it
STEPS = 2000  # virtual machine steps between two looks at the clock
FIRST_ROWS, ROWS_AT_ONCE, PART_BYTES = 16, 1000, 1 << 18
COMMENTS = re.compile(r"--[^\n]*|/\*.*?(\*/|$)", re.DOTALL)
FLUSH_BYTES, FLUSH_SECONDS = 1 << 16, 0.05
CONNECTIONS = 64
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
OPENING = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}  # only prepared: the connection reads only
OPENING_PRAGMAS = {"data_version", "page_size"}
TABLE_FUNCTIONS = ("json_each", "json_tree")
FORBIDDEN_FUNCTIONS = {"load_extension", "fts3_tokenizer", "readfile", "writefile", "edit", "sqlite_log"}
_STATUS_OF = {
    sqlite3.SQLITE_AUTH: wire.BLOCKED,
    sqlite3.SQLITE_READONLY: wire.BLOCKED,
    sqlite3.SQLITE_PERM: wire.BLOCKED,
    sqlite3.SQLITE_INTERRUPT: wire.TIMEOUT,
    sqlite3.SQLITE_NOMEM: wire.RESOURCE_LIMIT,
    sqlite3.SQLITE_TOOBIG: wire.RESOURCE_LIMIT,
    sqlite3.SQLITE_FULL: wire.RESOURCE_LIMIT,
}


class NotASelect(Exception):
    """It ran, but it is not a query: nothing it could do was allowed."""


class TooMuch(Exception):
    """More rows or bytes than the job allows."""


def authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action in ALLOWED:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def authorize_opening(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    if action in OPENING or (action == sqlite3.SQLITE_PRAGMA and first in OPENING_PRAGMAS and second is None):
        return sqlite3.SQLITE_OK
    return authorize(action, first, second, database, source)


def open_virtual_tables(connection: sqlite3.Connection, rule: Callable[..., int] = authorize) -> None:
    """Open the virtual tables, then let queries do what `rule` allows. What cannot be opened stays unusable."""
    rules = [authorize_opening]
    # One authorizer for both: setting another one would make the tables prepare their statements again.
    connection.set_authorizer(lambda *asked: rules[-1](*asked))
    virtual = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'create virtual table%'"
    tables = ['"' + name.replace('"', '""') + '"' for (name,) in connection.execute(virtual).fetchall()]
    for table in (*tables, *(f"{name}('[]')" for name in TABLE_FUNCTIONS)):
        try:
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
        except sqlite3.Error:  # no such module, or a broken index: so it will say to a query
            continue
    rules.append(rule)


class Worker:
    """Owns the connections; one job after the other."""

    def __init__(self, files: dict[str, str], heap_bytes: int) -> None:
        self.files = files
        self.heap_bytes = heap_bytes
        self.deadline = 0.0
        self.connections: OrderedDict[tuple[str, str], sqlite3.Connection] = OrderedDict()
        self.worlds: dict[tuple[str, str], World] = {}

    def connect(self, database: str, name: str) -> sqlite3.Connection:
        key = (database, name)
        connection = self.connections.get(key)
        if connection is None:
            if len(self.connections) >= CONNECTIONS:
                oldest, unused = self.connections.popitem(last=False)
                self.worlds.pop(oldest, None)
                unused.close()
            uri = f"file:{self.files[database]}?mode=ro&immutable=1"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            for pragma in (f"hard_heap_limit={self.heap_bytes}", "temp_store=2", "query_only=1"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
            if name in WORLDS:
                self.worlds[key] = World(connection, WORLDS[name])
            connection.set_progress_handler(self.late, STEPS)
            open_virtual_tables(connection)
            self.connections[key] = connection
        self.connections.move_to_end(key)
        if name in WORLDS:
            self.worlds[key].begin()
        return connection

    def late(self) -> bool:
        # queries compute and never wait: what they use is CPU time, and a busy machine does not make them late
        return time.thread_time() > self.deadline

    def forget(self, database: str) -> None:
        for key in [key for key in self.connections if key[0] == database]:
            self.worlds.pop(key, None)
            self.connections.pop(key).close()

    def run(
        self, database: str, query: str, timeout: float, max_rows: int, max_bytes: int, name: str
    ) -> tuple[int, bytes, str]:
        """(status, JSON of the result, error). Raises nothing a query can provoke, MemoryError aside."""
        self.deadline = time.thread_time() + timeout
        if database not in self.files:
            return wire.INFRA_ERROR, b"", f"database {database} is not in this container"
        try:
            connection = self.connect(database, name)
        except sqlite3.Error as problem:
            return wire.INFRA_ERROR, b"", f"the database cannot be read (a data_mount must be readable by all): {problem}"
        try:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(max_bytes, 1_000_000))
            return wire.OK, fetch(connection, query, max_rows, max_bytes), ""
        except TooMuch as problem:
            return wire.RESOURCE_LIMIT, b"", str(problem)
        except NotASelect:
            return wire.BLOCKED, b"", "only queries are allowed"
        except MemoryError:
            self.forget(database)
            return wire.RESOURCE_LIMIT, b"", "out of memory"
        except sqlite3.Warning as problem:
            return wire.BLOCKED, b"", str(problem)
        except (sqlite3.Error, ValueError, OverflowError) as problem:
            status = classify(problem)
            if status in (wire.BLOCKED, wire.RESOURCE_LIMIT):
                # VACUUM, or no memory, makes SQLite drop what it knows of the schema: virtual tables would stay closed.
                self.forget(database)
            return status, b"", f"{type(problem).__name__}: {problem}"


def classify(problem: Exception) -> int:
    code = getattr(problem, "sqlite_errorcode", None)
    if code is not None:
        known = _STATUS_OF.get(code & 0xFF)
        if known is not None:
            return known
        text = str(problem)
        if text.startswith("not authorized"):  # of a function, or of a virtual table's statement
            return wire.BLOCKED
        syntax = text.endswith("syntax error") or text.startswith(("unrecognized token", "incomplete input"))
        return wire.SYNTAX_ERROR if syntax else wire.RUNTIME_ERROR
    if isinstance(problem, sqlite3.ProgrammingError) and "one statement" in str(problem):
        return wire.BLOCKED
    if isinstance(problem, (ValueError, sqlite3.ProgrammingError)):  # a NUL or a lone surrogate in the query
        return wire.SYNTAX_ERROR
    return wire.RUNTIME_ERROR


def fetch(connection: sqlite3.Connection, query: str, max_rows: int, max_bytes: int) -> bytes:
    """The result as JSON. Text that is not UTF-8 comes back with its bad bytes escaped."""
    connection.text_factory = str
    try:
        return read(connection, query, max_rows, max_bytes)
    except sqlite3.OperationalError as problem:
        if not str(problem).startswith("Could not decode to UTF-8"):
            raise
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return read(connection, query, max_rows, max_bytes)


def read(connection: sqlite3.Connection, query: str, max_rows: int, max_bytes: int) -> bytes:
    cursor = connection.execute(query)
    try:
        if cursor.description is None:
            if COMMENTS.sub("", query).strip("; \t\r\n\f"):
                raise NotASelect
            raise ValueError("there is no statement in the query")
        columns = _json([column[0] for column in cursor.description])
        parts: list[str] = []
        rows_left, bytes_left, take = max_rows, max_bytes - len(columns), FIRST_ROWS
        while rows := cursor.fetchmany(min(take, rows_left + 1)):
            rows_left -= len(rows)
            if rows_left < 0:
                raise TooMuch(f"the result has more than {max_rows} rows")
            part = _json(rows)[1:-1]
            bytes_left -= len(part)
            if bytes_left < 0:
                raise TooMuch(f"the result has more than {max_bytes} bytes")
            parts.append(part)
            take = max(1, min(ROWS_AT_ONCE, PART_BYTES * len(rows) // (len(part) + 1)))  # rows may be very wide
        return f'{{"columns":{columns},"rows":[{",".join(parts)}]}}'.encode("ascii")
    finally:
        cursor.close()


def _blob(cell: Any) -> dict[str, str]:
    return {"b": base64.b64encode(cell).decode("ascii")}


_json = json.JSONEncoder(separators=(",", ":"), default=_blob, check_circular=False).encode


def serve(control: socket.socket, progress: mmap.mmap, uid: int, files: dict[str, str], limits: dict[str, int]) -> None:
    """Answer batches until the supervisor goes away. Runs in a process of its own; never returns.

    A batch comes as length and JSON: [[token, database, query, timeout, max_rows, max_bytes, connection], ...], or news:
    {"know": database, "path": path}, {"forget": database}. Blocks of packed results go back as length and bytes; an
    empty block ends the batch.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    heap = limits.pop("HEAP")
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    os.setresuid(uid, uid, uid)
    answer_batches(control, control.makefile("rb"), progress, Worker(files, heap))


def answer_batches(control: socket.socket, stream: BinaryIO, progress: mmap.mmap, worker: Any) -> NoReturn:
    """The loop of `serve`, for a worker of either engine. stream: what is read from `control`."""
    while head := stream.read(LENGTH.size):
        batch = json.loads(stream.read(*LENGTH.unpack(head)))
        if isinstance(batch, dict):
            if "forget" in batch:
                worker.forget(batch["forget"])
            else:
                worker.files[batch["know"]] = batch["path"]
            continue
        waiting: list[bytes] = []
        size, flushed = 0, time.monotonic()
        for token, *job in batch:
            started = time.monotonic()
            if waiting and (size > FLUSH_BYTES or started - flushed > FLUSH_SECONDS):
                send(control, waiting)
                waiting, size, flushed = [], 0, started
            PROGRESS.pack_into(progress, 0, token, started, time.thread_time())
            status, table, error = worker.run(*job)
            text = error[-2000:].encode("utf-8", "replace")
            waiting.append(wire.pack_result(token, status, time.monotonic() - started, table, b"", text))
            size += len(table)
        send(control, waiting)
        control.sendall(LENGTH.pack(0))
    os._exit(0)


def send(control: socket.socket, waiting: list[bytes]) -> None:
    block = b"".join(waiting)
    if block:
        control.sendall(LENGTH.pack(len(block)) + block)
