"""A suite's SQLite files: which are used, their digests, their schemas for prompts, and whether a reference fits them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import sqlglot
from sqlglot.errors import SqlglotError

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.store.files import sha256_file

MAX_GIB = 1.0  # the sandbox holds databases in memory
DIALECTS = ("mysql", "postgres", "tsql", "bigquery", "snowflake", "oracle")
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # the first bytes of a rollback journal that was not finished
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def database_digest(path: Path) -> str:
    """sha256 of a SQLite file. Raises ConfigError where the file is absent or is something else."""
    try:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise ConfigError(f"{path} is not a SQLite database (its first bytes say otherwise); copy it again")
        return sha256_file(path)
    except OSError as e:
        raise ConfigError(f"no database at {path}: {e.strerror}; check suite.path and suite.databases") from e


def read_schema(path: Path) -> str:
    """A database's schema as prompts show it, a line a table: `table(column, other_id -> other, …)`."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        try:
            own = "type = 'table' AND name NOT LIKE 'sqlite_%'"
            names = [r[0] for r in connection.execute(f"SELECT name FROM sqlite_master WHERE {own} ORDER BY rowid")]
            tables = []
            for name in names:
                columns = [r[1] for r in connection.execute(f"PRAGMA table_info({quoted(name, always=True)})")]
                links = {
                    r[3]: (r[2], r[4]) for r in connection.execute(f"PRAGMA foreign_key_list({quoted(name, always=True)})")
                }
                tables.append((name, columns, links))
        except sqlite3.DatabaseError as e:
            raise ConfigError(f"{path} cannot be read as a SQLite database: {e}; copy it again") from e
    return schema_text(tables)


def schema_text(tables: Sequence[tuple[str, Sequence[str], Mapping[str, tuple[str, str | None]]]]) -> str:
    """Tables, given as (name, columns, {column: (table, column) it points to}), in few tokens: a line a table."""
    lines = []
    for name, columns, links in tables:
        shown = []
        for column in columns:
            text = quoted(column)
            if column in links:
                table, target = links[column]
                same = target is None or target.lower() == column.lower()
                text += f" -> {quoted(table)}" if same else f" -> {quoted(table)}.{quoted(str(target))}"
            shown.append(text)
        lines.append(f"{quoted(name)}({', '.join(shown)})")
    return "\n".join(lines)


def quoted(name: str, always: bool = False) -> str:
    """A name as a query must write it."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name)
    return name if plain and not always else '"' + name.replace('"', '""') + '"'


def chosen_databases(section: SuiteSection, known: Sequence[str], where: str) -> list[str]:
    """`section.databases`, or all known ones, without `section.without`. Raises ConfigError for unknown names."""
    for key, names in (("databases", section.databases), ("without", section.without)):
        if unknown := [d for d in names if d not in known]:
            shown = ", ".join(sorted(known)[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
            raise ConfigError(f"suite.{key}: {', '.join(unknown)} not in {where}; known: {shown}")
    return [d for d in known if d not in section.without and (not section.databases or d in section.databases)]


def require_settled(file: Path) -> None:
    """Raise ConfigError where a database is too large, or where somebody is writing to it. An absent file is fine here."""
    if not file.is_file():
        return
    if file.stat().st_size > MAX_GIB * 2**30:
        raise ConfigError(
            f"{file} has {file.stat().st_size / 2**30:.1f} GiB; the sandbox takes {MAX_GIB:g} GiB at most, because it holds "
            "databases in memory. Cut a sample that your references still answer on"
        )
    log = file.with_name(file.name + "-wal")
    if log.is_file() and log.stat().st_size:
        raise ConfigError(
            f"{file} has changes in {log.name} that are not in the file yet; close its other users, or run "
            f"`sqlite3 {file.name} 'PRAGMA wal_checkpoint(TRUNCATE)'`"
        )
    if busy := _in_use(file):
        raise ConfigError(f"{file} {busy}; wait for its other users or close them, or take a copy (`sqlite3 … .backup`)")


def _in_use(file: Path) -> str:
    """Why the file's bytes may not be the database's content now, or "". The caller has looked at its WAL."""
    journal = file.with_name(file.name + "-journal")
    if journal.is_file() and journal.read_bytes()[:8] == _HOT_JOURNAL:
        return f"has an unfinished transaction in {journal.name}"
    with file.open("rb") as opened:
        head = opened.read(20)
    if head[18:19] == b"\2":  # WAL: readers and the writer do not lock each other out
        return ""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
        except sqlite3.DatabaseError as e:
            return f"is locked by another program ({e})" if e.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY else ""
    return ""


def not_answerable(query: str, database: Path) -> str:
    """Why a reference cannot be asked of this database, or "". SQLite prepares it and does not run it."""
    uri = f"{database.absolute().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        reads = _prepares(connection, query)
        if reads == "":
            first = query.split(None, 1)[0].upper()
            return "" if _only_reads(connection, query) else f"the reference writes ({first} …); it may only read"
        for dialect in DIALECTS:
            try:
                translated = sqlglot.transpile(query, read=dialect, write="sqlite")[0]
            except (SqlglotError, RecursionError, IndexError):
                continue
            if translated != query and _prepares(connection, translated) == "":
                return f"not SQLite's dialect ({reads}); it reads as {dialect}, in SQLite it would be: {translated}"
        return f"SQLite refuses the query: {reads}"


def _only_reads(connection: sqlite3.Connection, query: str) -> bool:
    """Whether preparing the query asks for nothing but reading."""
    asked = set[int]()

    def hear(action: int, *_: str | None) -> int:
        asked.add(action)
        return sqlite3.SQLITE_OK

    connection.set_authorizer(hear)
    _prepares(connection, query)
    connection.set_authorizer(None)
    return asked <= _READING


def _prepares(connection: sqlite3.Connection, query: str) -> str:
    """Why SQLite cannot prepare the query, or ""."""
    try:
        connection.execute(f"EXPLAIN {query}")
    except (sqlite3.Error, sqlite3.Warning) as e:
        return str(e)
    return ""
