"""A world's rows and its SQLite file, the same bytes on every machine."""

from __future__ import annotations

import random
import sqlite3
from itertools import accumulate
from pathlib import Path
from typing import Any

from codelutra.suites.starter_sql.declare import Label, Link, Number, Table, World

Rows = dict[str, list[dict[str, Any]]]  # by table


def make_rows(world: World) -> Rows:
    """Draw every table's rows: some values are frequent, some parents have many children, a few have none."""
    rng = random.Random(f"rows of {world.name}")
    rows: Rows = {}
    for table in world.tables:
        columns: dict[str, list[Any]] = {"id": list(range(1, table.rows + 1))}
        if table.title:
            columns[table.title] = list(table.titles[: table.rows])
        for link in world.parents(table.name):
            columns[link.column] = _parents(rng, link, len(rows[link.parent]), table.rows)
        for column in table.columns:
            columns[column.column] = _values(rng, column, table.rows)
        rows[table.name] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return rows


def _parents(rng: random.Random, link: Link, parents: int, children: int) -> list[int]:
    having = rng.sample(range(1, parents + 1), parents - link.childless)
    if len(having) > children:
        raise ValueError(f"{link}: {len(having)} parents with a child, only {children} children")
    weights = [rng.random() ** 2 + 0.1 for _ in having]
    chosen = having + rng.choices(having, weights, k=children - len(having))
    rng.shuffle(chosen)
    return chosen


def _values(rng: random.Random, column: Label | Number, count: int) -> list[Any]:
    if isinstance(column, Label):
        weights = list(accumulate(1 / (i + 2) for i in range(len(column.values))))
        return rng.choices(column.values, cum_weights=weights, k=count)
    steps = round((column.high - column.low) / column.step)
    return [column.low + column.step * rng.randint(0, steps) for _ in range(count)]


def fill(world: World, rows: Rows, connection: sqlite3.Connection) -> None:
    """Create the tables and insert the rows."""
    with connection:
        for table in world.tables:
            connection.execute(_create(world, table))
            insert = f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(world.columns(table)))})"
            connection.executemany(insert, [tuple(row.values()) for row in rows[table.name]])


def write_database(world: World, rows: Rows, path: Path) -> None:
    """Write the SQLite file at `path`, which must not exist."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA page_size = 4096")
    connection.execute("PRAGMA auto_vacuum = NONE")
    fill(world, rows, connection)
    connection.execute("VACUUM")
    connection.close()
    # Bytes 96-99 name the library version that wrote last: the one thing in the file that differs between machines.
    with path.open("r+b") as file:
        file.seek(96)
        file.write((3_040_000).to_bytes(4, "big"))


def _create(world: World, table: Table) -> str:
    columns = ["id INTEGER PRIMARY KEY"]
    if table.title:
        columns.append(f"{table.title} TEXT")
    columns += [f"{link.column} INTEGER REFERENCES {link.parent}(id)" for link in world.parents(table.name)]
    for column in table.columns:
        kind = "TEXT" if isinstance(column, Label) else "INTEGER" if column.step == int(column.step) else "REAL"
        columns.append(f"{column.column} {kind}")
    return f"CREATE TABLE {table.name} ({', '.join(columns)})"
