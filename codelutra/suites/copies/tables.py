"""A SQLite file as rows to perturb, and perturbed rows as a SQLite file. The original is opened read-only.

A table of more than MOST_ROWS rows is thinned: kept are rows that the queries ask for, rows that kept rows point to, and
others by chance. What is not a plain table (views, full-text indexes) is made anew over the copy's rows.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from codelutra.suites.copies.asks import Asks, Cell

MOST_ROWS = 2000  # of a table
MOST_BYTES = 4 << 20  # of a table's texts and blobs
MOST_TABLES = 500
_AT_ONCE = 500  # values in one IN (…)
Row = list[Cell]
Place = tuple[str, str]  # table, column; in lower case


@dataclass
class Column:
    name: str
    key: bool = False  # identifies the row, alone or with others
    unique: bool = False  # no two rows of the original have the same value
    nulls: bool = False  # may be made NULL
    fixed: bool = False  # to be left as it is: part of a key that points elsewhere
    parent: Place | None = None  # it holds values of that column


@dataclass
class Table:
    name: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [column.name.lower() for column in self.columns]


def opened(path: Path) -> closing[sqlite3.Connection]:
    """A read-only connection; text that is not UTF-8 is read with replacement characters."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return closing(connection)


def names_of(path: Path) -> dict[str, list[str]]:
    """The plain tables of a database and their columns, all in lower case. Raises sqlite3.Error."""
    with opened(path) as connection:
        return {t.name.lower(): t.names for t in _tables(connection)}


def read_tables(path: Path, asks: Asks, chance: random.Random) -> dict[str, Table]:
    """The plain tables by name in lower case, with their rows, thinned. Raises sqlite3.Error."""
    with opened(path) as connection:
        tables = {table.name.lower(): table for table in _tables(connection)}
        composite = _declared_links(connection, tables)
        _further_links(connection, tables, asks)
        for name in _children_first(tables):
            tables[name].rows = _rows(connection, tables[name], _wanted(tables, name, asks), chance)
        pointed_to = {c.parent for t in tables.values() for c in t.columns if c.parent}
        for table in tables.values():
            _describe(connection, table, asks, pointed_to, composite)
    return tables


def _tables(connection: sqlite3.Connection) -> Iterator[Table]:
    listed = (
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "AND sql NOT LIKE 'create virtual%' ORDER BY rowid"
    )
    shadows = _shadows(connection)
    for (name,) in connection.execute(listed).fetchall()[:MOST_TABLES]:
        if name in shadows:
            continue
        columns = connection.execute("SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden = 0", (name,)).fetchall()
        yield Table(name, [Column(column, key=bool(pk)) for column, pk in columns])


def _shadows(connection: sqlite3.Connection) -> set[str]:
    with suppress(sqlite3.OperationalError):  # SQLite before 3.37
        return {name for (name,) in connection.execute("SELECT name FROM pragma_table_list WHERE type = 'shadow'")}
    return set()


def column_of(tables: Mapping[str, Table], place: Place) -> Column | None:
    table = tables.get(place[0])
    return next((c for c in table.columns if c.name.lower() == place[1]), None) if table else None


def _declared_links(connection: sqlite3.Connection, tables: Mapping[str, Table]) -> set[Place]:
    """Set the parents that foreign keys declare; returns the columns of those over several columns."""
    composite = set[Place]()
    for name, table in tables.items():
        found = connection.execute(
            'SELECT id, "from", "table", "to" FROM pragma_foreign_key_list(?)', (table.name,)
        ).fetchall()
        wide = {i for i, *_ in found if sum(j == i for j, *_ in found) > 1}
        for number, child, other, target in found:
            keys = [c.name for c in tables[other.lower()].columns if c.key] if other.lower() in tables else []
            target = target or (keys[0] if len(keys) == 1 else "")
            parent, column = (other.lower(), target.lower()), column_of(tables, (name, child.lower()))
            if number in wide:
                composite |= {(name, child.lower()), parent}
            elif column and column_of(tables, parent) and parent != (name, child.lower()):
                column.parent = parent
    return composite


def _further_links(connection: sqlite3.Connection, tables: Mapping[str, Table], asks: Asks) -> None:
    """Set the parents that nothing declares: columns that queries join, and columns called as another table's key.

    The parent is the side with the distinct values, and must hold all values of the child.
    """
    pairs = [tuple(sorted(link)) for link in asks.links if len(link) == 2]
    keys = {(n, k[0]) for n, t in tables.items() if len(k := [c.name.lower() for c in t.columns if c.key]) == 1}
    # Two keys of the same name, as `id` in every table, are no link.
    pairs += [((n, c), (o, k)) for o, k in keys for n, t in tables.items() for c in t.names if c == k and (n, c) not in keys]
    for one, other in sorted(set(pairs)):
        for child, parent in ((one, other), (other, one)):
            column, target = column_of(tables, child), column_of(tables, parent)
            if not column or not target or column.parent or target.parent == child or (column.key and not target.key):
                continue
            if _holds(connection, tables, child, parent):
                column.parent = parent
                break


def _holds(connection: sqlite3.Connection, tables: Mapping[str, Table], child: Place, parent: Place) -> bool:
    """Whether the parent's values are distinct and hold all of the child's (looked at up to a number)."""
    (t, c), (u, p) = ((quoted(tables[n].name), quoted(k)) for n, k in (child, parent))
    distinct, rows = connection.execute(
        f"SELECT count(DISTINCT v), count(*) FROM (SELECT {p} AS v FROM {u} LIMIT 20000)"
    ).fetchone()
    if not rows or distinct < rows:
        return False
    values = f"SELECT {c} AS v FROM {t} WHERE {c} IS NOT NULL LIMIT 2000"
    strays = f"SELECT 1 FROM ({values}) WHERE v NOT IN (SELECT {p} FROM {u} WHERE {p} IS NOT NULL)"
    return connection.execute(f"{strays} LIMIT 1").fetchone() is None


def _children_first(tables: Mapping[str, Table]) -> list[str]:
    """The names in an order in which what points to a table comes before it, as far as there is one."""
    parents = {name: {c.parent[0] for c in t.columns if c.parent} - {name} for name, t in tables.items()}
    order, left = list[str](), dict(parents)
    while left:
        pointed_to = set().union(*left.values())
        free = [name for name in left if name not in pointed_to] or [next(iter(left))]
        order += free
        left = {name: found for name, found in left.items() if name not in free}
    return order


def _wanted(tables: Mapping[str, Table], name: str, asks: Asks) -> list[tuple[str, list[Cell]]]:
    """(column, values): rows to be kept, because queries ask for them or because kept rows point to them."""
    found: dict[str, dict[Cell, None]] = {}
    for table in tables.values():
        for i, column in enumerate(table.columns):
            if column.parent and column.parent[0] == name and table.rows:
                found.setdefault(column.parent[1], {}).update(dict.fromkeys(row[i] for row in table.rows))
    for asked in asks.selects:
        for c in asked.conditions:
            if asked.tables.get(c.alias) == name:
                found.setdefault(c.column, {}).update(dict.fromkeys(c.hits[:2]))
    return [(column, [v for v in values if v is not None]) for column, values in found.items()]


def _rows(
    connection: sqlite3.Connection, table: Table, wanted: Sequence[tuple[str, list[Cell]]], chance: random.Random
) -> list[Row]:
    if not table.columns:
        return []
    name, shown = quoted(table.name), ", ".join(quoted(c.name) for c in table.columns)
    rows = list(_within(connection.execute(f"SELECT {shown} FROM {name} LIMIT {MOST_ROWS + 1}")))
    if len(rows) <= MOST_ROWS and connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] <= MOST_ROWS:
        return rows
    kept = dict[tuple[Cell, ...], None]()
    for column, values in wanted:
        for start in range(0, len(values), _AT_ONCE):
            part = values[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT {shown} FROM {name} WHERE {quoted(column)} IN ({marks}) LIMIT {MOST_ROWS // 2}"
            kept |= dict.fromkeys(map(tuple, _within(connection.execute(query, part))))
    with suppress(sqlite3.OperationalError):  # WITHOUT ROWID
        low, high = connection.execute(f"SELECT min(rowid), max(rowid) FROM {name}").fetchone()
        numbered = isinstance(low, int) and isinstance(high, int)
        drawn = sorted({chance.randint(low, high) for _ in range(MOST_ROWS)}) if numbered else []
        for start in range(0, len(drawn), _AT_ONCE):
            part = [*drawn[start : start + _AT_ONCE]]
            query = f"SELECT {shown} FROM {name} WHERE rowid IN ({', '.join('?' * len(part))})"
            kept |= dict.fromkeys(map(tuple, _within(connection.execute(query, part))))
    kept |= dict.fromkeys(map(tuple, rows))
    return list(_within(list(kept)[:MOST_ROWS]))


def _within(rows: Iterable[tuple[Cell, ...]]) -> Iterator[Row]:
    left = MOST_BYTES
    for row in rows:
        left -= sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if left < 0:
            return
        yield list(row)


def _describe(
    connection: sqlite3.Connection, table: Table, asks: Asks, pointed_to: set[Place], composite: set[Place]
) -> None:
    """Say of the columns what the original's rows show."""
    name = table.name.lower()
    indexes = connection.execute('SELECT name FROM pragma_index_list(?) WHERE "unique"', (table.name,)).fetchall()
    alone = {
        members[0][0].lower()
        for (index,) in indexes
        if len(members := connection.execute("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()) == 1
        and members[0][0]
    }
    bare = len([c for c in table.columns if c.key]) == 1
    for i, column in enumerate(table.columns):
        values = [row[i] for row in table.rows if row[i] is not None]
        place = (name, column.name.lower())
        column.unique = len(set(values)) == len(values)
        column.key = column.key or column.name.lower() in alone or place in pointed_to
        column.unique |= bare and column.key
        column.nulls = not column.key and (len(values) < len(table.rows) or place in asks.compared_with_null)
        column.fixed = place in composite


def write_copy(original: Path, tables: Mapping[str, Table], spare: Mapping[str, Sequence[Row]], target: Path) -> int:
    """Write a database with the original's definitions and these rows; returns how many rows it has.

    A row that the original's constraints refuse is left out; where few are left, the table gets `spare` rows as well. What
    SQLite cannot make here is left out. Raises sqlite3.Error.
    """
    with opened(original) as source, closing(sqlite3.connect(target)) as copy, copy:
        copy.execute("PRAGMA journal_mode=OFF").fetchall()
        copy.execute("PRAGMA trusted_schema=OFF").fetchall()
        made = source.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid").fetchall()
        shadows, virtual = _shadows(source), list[str]()
        for kind, name, sql in made:
            if kind == "table" and name not in shadows and not name.startswith("sqlite_"):
                is_virtual = re.match(r"\s*create\s+virtual\b", sql, re.IGNORECASE)
                if _does(copy, sql) and is_virtual:
                    virtual.append(name)
        for wanted in ("index", "view"):  # no triggers: nobody writes to a copy
            for kind, _, sql in made:
                if kind == wanted:
                    _does(copy, sql)
        for name, table in tables.items():
            if _fill(copy, table, table.rows) * 2 < len(spare[name]):
                _fill(copy, table, spare[name])
        for table in tables.values():
            _drop_strays(source, copy, table)
        count = sum(copy.execute(f"SELECT count(*) FROM {quoted(t.name)}").fetchone()[0] for t in tables.values())
        for name in virtual:
            _fill_virtual(source, copy, name)
    return count


def same_rows(copy: Path, tables: Mapping[str, Table]) -> bool:
    """Whether a copy has just these rows, in whatever order."""
    with opened(copy) as connection:
        for table in tables.values():
            shown = ", ".join(quoted(c.name) for c in table.columns) or "NULL"
            there = Counter(connection.execute(f"SELECT {shown} FROM {quoted(table.name)}"))
            if there != Counter(map(tuple, table.rows)):
                return False
    return True


def _does(connection: sqlite3.Connection, sql: str) -> bool:
    try:
        connection.execute(sql)
    except (sqlite3.Error, sqlite3.Warning):
        return False
    return True


def _fill(copy: sqlite3.Connection, table: Table, rows: Sequence[Row]) -> int:
    if not table.columns:
        return 0
    names, marks = ", ".join(quoted(c.name) for c in table.columns), ", ".join("?" * len(table.columns))
    return _insert(copy, f"INSERT OR IGNORE INTO {quoted(table.name)} ({names}) VALUES ({marks})", rows)


def _drop_strays(source: sqlite3.Connection, copy: sqlite3.Connection, table: Table) -> None:
    """Drop rows that point nowhere, as they do where a link goes over several columns, if the original has none."""
    asked = "SELECT rowid FROM pragma_foreign_key_check(?)"
    with suppress(sqlite3.Error):  # a foreign key that fits no table
        if source.execute(asked, (table.name,)).fetchone():
            return
        for (row,) in copy.execute(asked, (table.name,)).fetchall():
            copy.execute(f"DELETE FROM {quoted(table.name)} WHERE rowid = ?", (row,))


def _insert(copy: sqlite3.Connection, statement: str, rows: Iterable[Sequence[Cell]]) -> int:
    count = 0
    for row in rows:
        with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
            count += copy.execute(statement, row).rowcount
    return count


def _fill_virtual(source: sqlite3.Connection, copy: sqlite3.Connection, name: str) -> None:
    """An index over a table of its own is built anew over the copy's rows; any other gets the original's rows."""
    shown = quoted(name)
    rebuilt = _does(copy, f"INSERT INTO {shown}({shown}) VALUES ('rebuild')")  # FTS
    if rebuilt and copy.execute(f"SELECT count(*) FROM {shown}").fetchone()[0]:
        return
    with suppress(sqlite3.Error):
        columns = [c for (c,) in source.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (name,))]
        listed = ", ".join(map(quoted, columns))
        rows = source.execute(f"SELECT rowid, {listed} FROM {shown} LIMIT {MOST_ROWS}")
        marks = ", ".join("?" * (len(columns) + 1))
        _insert(copy, f"INSERT INTO {shown} (rowid, {listed}) VALUES ({marks})", rows)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
