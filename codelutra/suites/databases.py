"""A suite's SQLite files: which are used, their digests, their schemas for prompts, and whether a reference fits them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.reading.keys import shown
from codelutra.reading.text import Unreadable, format_of, require_file
from codelutra.store.files import sha256_file
from codelutra.suites.dialects import translations
from codelutra.suites.folder import plain_name, require_known
from codelutra.suites.sql_text import statements
from sandbox.runner.sql import authorize, open_virtual_tables

FIRST_ROWS = 50_000  # of a table, looked through for values
MAX_GIB = 1.0  # the sandbox holds databases in memory
_NO_NAMES = """
    add all alter and as autoincrement between case cast check collate commit constraint create current_date current_time
    current_timestamp default deferrable delete distinct drop else escape except exists foreign from group having in index
    insert intersect into is isnull join limit not nothing notnull null on or order primary raise references returning select
    set table then to transaction union unique update using values when where"""
RESERVED = frozenset(_NO_NAMES.split())  # SQLite's keywords that are names only where they are quoted
_MAGIC = b"SQLite format 3\0"
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the other one where a name that SQLite complains of is no UTF-8
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # the first bytes of a rollback journal that was not finished


def is_database(path: Path) -> bool:
    """Whether it is a file that begins as SQLite's do."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return file.read(16) == _MAGIC
    except (OSError, Unreadable):
        return False


def database_digest(path: Path) -> str:
    """sha256 of a SQLite file. Raises ConfigError where the file is absent or is something else."""
    try:
        with path.open("rb") as file:
            if (head := file.read(64))[:16] != _MAGIC:
                raise ConfigError(f"{path} is not a SQLite database{_instead(path, head)}")
        return sha256_file(path)
    except OSError as e:
        raise ConfigError(
            f"no database at {path}: {e.strerror}; check the path (in a config: suite.path and suite.databases)"
        ) from e


def _instead(path: Path, head: bytes) -> str:
    """What a file is in the place of a database, with the way out."""
    if not head:
        return ": it is empty; give the database file"
    if head[:2] == b"\x1f\x8b":
        return ": it is packed with gzip; unpack it (`gunzip`)"
    if path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return ": put such files into a folder, a file a table, and give the folder"
    if re.match(rb"\s*(--|/\*|BEGIN|CREATE|DROP|INSERT|PRAGMA|SET)\b|--", head, re.IGNORECASE):
        return f": it is SQL; `sqlite3 {path.stem}.sqlite < {path.name}` makes a database of it"
    what = format_of(head)
    return f": it is {what}" if what else " (its first bytes say otherwise); give the database file"


def read_schema(path: Path) -> str:
    """A database's schema as prompts show it, a line a table or view: `table(column, other_id -> other, …)`.

    Of a virtual table it shows the declared columns, and nothing of the tables behind it. A virtual table of a module that
    SQLite does not have here is left out, and so is a view that cannot be read: no query can use them.
    """
    with open_read_only(path, "&immutable=1") as connection:
        try:
            shadows = _shadow_tables(connection)
            own = "type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            tables = connection.execute(f"SELECT name FROM sqlite_master WHERE {own} ORDER BY type, rowid").fetchall()
            shown = [_shown(connection, table) for (table,) in tables if table not in shadows]
        except UNREADABLE as e:
            raise ConfigError(f"{path} cannot be read as a SQLite database: {e}; copy it again") from e
    return "\n".join(filter(None, shown))


def _shadow_tables(connection: sqlite3.Connection) -> set[str]:
    """The tables in which virtual tables keep their content."""
    try:
        return {name for (name,) in connection.execute("SELECT name FROM pragma_table_list WHERE type = 'shadow'")}
    except sqlite3.OperationalError:  # SQLite before 3.37
        return set()


def _shown(connection: sqlite3.Connection, table: str) -> str:
    try:
        columns = connection.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1", (table,)).fetchall()
    except sqlite3.OperationalError:  # no such module; or a view whose tables are gone
        return ""
    links = connection.execute('SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (table,))
    pointing = {column: (other, target) for column, other, target in links}
    return table_text(table, [column for (column,) in columns], pointing)


def table_text(name: str, columns: Sequence[str], links: Mapping[str, tuple[str, str | None]]) -> str:
    """A table in few tokens. links: the (table, column) that a column points to."""
    shown = []
    for column in columns:
        table, target = links.get(column, ("", None))
        arrow = f" -> {quoted(table)}" if table else ""
        other = f".{quoted(target)}" if target is not None and target.lower() != column.lower() else ""
        shown.append(quoted(column) + arrow + other)
    return f"{quoted(name)}({', '.join(shown)})"


def text_values(path: Path) -> list[tuple[str, str, str]]:
    """(table, column, value) of short texts in ordinary tables: of each column the distinct ones of its first rows."""
    found = list[tuple[str, str, str]]()
    with open_read_only(path, "&immutable=1") as connection:
        named = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
            "WHERE m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY m.rowid, c.cid"
        ).fetchall()
        for table, column in named:
            name, of = ('"' + part.replace('"', '""') + '"' for part in (column, table))
            short = f"typeof({name}) = 'text' AND length({name}) BETWEEN 3 AND 60"
            query = f"SELECT DISTINCT {name} FROM (SELECT {name} FROM {of} LIMIT {FIRST_ROWS}) WHERE {short} LIMIT 5000"
            with suppress(sqlite3.Error):  # text that is no UTF-8
                found += [(table, column, value) for (value,) in connection.execute(query)]
    return found


def reads_of(path: Path, query: str) -> set[tuple[str, str]]:
    """The (table, column)s in lower case that a query reads, as SQLite tells when it prepares it; a view's own columns, not
    what is behind them. Empty for what SQLite refuses."""
    found = set[tuple[str, str]]()
    with open_read_only(path, "&immutable=1") as connection:
        views = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'")}

        def heard(action: int, table: str | None, column: str | None, *where: str | None) -> int:
            if action == sqlite3.SQLITE_READ and where[1] not in views:
                found.add(((table or "").lower(), (column or "").lower()))
            return authorize(action, table, column, *where)

        connection.set_authorizer(heard)
        return set() if _prepares(connection, query) else found


def quoted(name: str) -> str:
    """A name as a query must write it."""
    bare = re.fullmatch(r"[A-Za-z_]\w*", name) and name.lower() not in RESERVED
    return name if bare else '"' + name.replace('"', '""') + '"'


def open_read_only(file: Path, options: str = "") -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro{options}", uri=True, timeout=1))


def chosen_databases(section: SuiteSection, known: Sequence[str], where: str) -> list[str]:
    """`section.databases`, or all known ones, without `section.without`. Raises ConfigError for unknown names."""
    if unplain := [name for name in known if not plain_name(name)]:
        raise ConfigError(
            f"{where} names the database {shown(unplain[0])}, which is not the plain name of a folder: fewer than 200 "
            "characters, and no /"
        )
    require_known("databases", section.databases, known, where)
    require_known("without", section.without, known, where)
    return [d for d in known if d not in section.without and (not section.databases or d in section.databases)]


def require_held(file: Path, log_ending: str, settle: str) -> None:
    """Raise ConfigError where a database is too large for the sandbox, or where its log holds changes that the file lacks.

    log_ending: of the log beside it. settle: the command that brings the changes into the file.
    """
    if file.stat().st_size > MAX_GIB * 2**30:
        raise ConfigError(
            f"{file} has {file.stat().st_size / 2**30:.1f} GiB; the sandbox takes {MAX_GIB:g} GiB at most, because it holds "
            "databases in memory. Cut a sample that your references still answer on"
        )
    log = file.with_name(file.name + log_ending)
    if log.is_file() and log.stat().st_size:
        raise ConfigError(
            f"{file} has changes in {log.name} that are not in the file yet; close its other users, or run `{settle}`"
        )


def require_settled(file: Path) -> None:
    """Raise ConfigError where a database is too large, or where somebody is writing to it. An absent file is fine here."""
    if not file.is_file():
        return
    file = file.resolve()  # SQLite keeps its -wal and -journal beside the file that a link leads to
    require_held(file, "-wal", f"sqlite3 {file.name} 'PRAGMA wal_checkpoint(TRUNCATE)'")
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
    with open_read_only(file) as connection:
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchall()
        except UNREADABLE as e:
            busy = getattr(e, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            return f"is locked by another program ({e})" if busy else ""
    return ""


def not_answerable(query: str, database: Path) -> str:
    """Why a reference cannot be asked of this database, or "".

    SQLite prepares it and does not run it, under the rule that the sandbox has too: a PRAGMA acts when it is prepared.
    """
    if (count := statements(query)) > 1:
        return f"{count} statements; give one query (a `;` may stand only at its end)"
    denied = list[tuple[int, str]]()

    def rule(action: int, first: str | None, second: str | None, *where: str | None) -> int:
        answer = authorize(action, first, second, *where)
        if answer != sqlite3.SQLITE_OK:
            denied.append((action, first or second or ""))
        return answer

    with open_read_only(database, "&immutable=1") as connection:
        open_virtual_tables(connection, rule)
        reads = _prepares(connection, query)
        if denied:
            return _refused(query, *denied[0])
        if reads == "":
            return ""
        for dialect, translated in translations(query, "sqlite"):
            if _prepares(connection, translated) == "":
                return f"not SQLite's dialect ({reads}); it reads as {dialect}, in SQLite it would be: {translated}"
        return f"SQLite refuses the query: {reads}"


def _refused(query: str, action: int, what: str) -> str:
    if action == sqlite3.SQLITE_PRAGMA:
        return f"the reference asks for PRAGMA {what}; it may only read tables and views"
    if action == sqlite3.SQLITE_FUNCTION:
        return f"the reference calls {what}(), which the sandbox does not allow"
    first = query.split(None, 1)[0].upper()
    if first in ("SELECT", "WITH", "VALUES") and what.startswith("sqlite_"):  # what opening a virtual table asks for
        return "the reference asks a pragma_… function, or another table of SQLite's own; it may only read tables and views"
    return f"the reference writes ({first} …); it may only read"


def _prepares(connection: sqlite3.Connection, query: str) -> str:
    """Why SQLite cannot prepare the query, or ""."""
    try:
        connection.execute(f"EXPLAIN {query}")
    except (*UNREADABLE, sqlite3.Error, sqlite3.Warning) as e:
        return str(e)
    return ""
