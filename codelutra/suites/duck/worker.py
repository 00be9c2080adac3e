"""The process that opens DuckDB files for the host: `python -m codelutra.suites.duck.worker`.

A question is a line of JSON on stdin, {"do": …, "path": …}, its answer one on stdout: {"is": …} or {"error": …}. It prepares
queries and runs none. It is a process of its own because a damaged file may end it.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import duckdb

from sandbox.runner.duck import Refused, only_query, opened

_LONGEST_TYPE = 120  # characters of a column's type; an ENUM may have thousands of values
_SCHEMAS = "SELECT {} FROM duckdb_{}() WHERE NOT internal AND NOT temporary ORDER BY schema_name <> 'main', {}"


def main() -> None:
    connections: dict[str, duckdb.DuckDBPyConnection] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        path = asked["path"]
        try:
            if asked["do"] != "make" and path not in connections:
                connections[path] = opened(path)
            said: dict[str, Any] = {"is": _answer(asked, connections.get(path))}
        except (duckdb.Error, RuntimeError, MemoryError, ValueError, OSError) as e:
            said = {"error": _first_line(e)}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


def _answer(asked: dict[str, Any], connection: Any) -> Any:
    match asked["do"]:
        case "make":
            return make(asked["path"], asked["tables"])
        case "schema":
            return schema(connection)
        case "scan":
            return scan(connection)
        case _:
            return refusal(connection, asked["query"])


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).split("\n")[0].removeprefix("Parser Error: ")


def refusal(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """["", ""] where the query can be asked; else "refused" (the sandbox would not run it) or "wrong", and why."""
    try:
        statement = only_query(connection, query)
        if str(statement.type).endswith("SELECT"):
            connection.execute(f"EXPLAIN {statement.query}").fetchall()
    except Refused as e:
        return ["refused", str(e)]
    except duckdb.PermissionException as e:
        return ["refused", _first_line(e)]
    except (duckdb.Error, ValueError, RuntimeError) as e:
        return ["wrong", _first_line(e)]
    return ["", ""]


# ---- schemas -------------------------------------------------------------------------------------------------------------


def schema(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """A line a table or view: `table(column TYPE, other_id TYPE -> other, …)`. A view that cannot be read is left out."""
    links = _links(connection)
    found = []
    for kind in ("tables", "views"):
        what = "schema_name, " + kind[:-1] + "_name"
        for owner, name in connection.execute(_SCHEMAS.format(what, kind, kind[:-1] + "_oid")).fetchall():
            whole = (quoted(connection, owner) + "." if owner != "main" else "") + quoted(connection, name)
            try:
                columns = connection.execute(f"DESCRIBE SELECT * FROM {whole}").fetchall()
            except duckdb.Error:  # it reads files, or what it reads is gone
                continue
            shown = [_column(connection, c, t, links.get((owner, name, c))) for c, t, *_ in columns]
            found.append(f"{whole}({', '.join(shown)})")
    return found


def _column(connection: duckdb.DuckDBPyConnection, name: str, kind: str, link: tuple[str, str] | None) -> str:
    kind = kind if len(kind) <= _LONGEST_TYPE else kind[: _LONGEST_TYPE - 2] + " …"
    if link is None:
        return f"{quoted(connection, name)} {kind}"
    table, column = link
    other = f".{quoted(connection, column)}" if column.lower() != name.lower() else ""
    return f"{quoted(connection, name)} {kind} -> {quoted(connection, table)}{other}"


def _links(connection: duckdb.DuckDBPyConnection) -> dict[tuple[str, str, str], tuple[str, str]]:
    rows = connection.execute(
        "SELECT schema_name, table_name, constraint_column_names, referenced_table, referenced_column_names "
        "FROM duckdb_constraints() WHERE constraint_type = 'FOREIGN KEY' AND referenced_table IS NOT NULL"
    ).fetchall()
    return {
        (owner, name, column): (table, target)
        for owner, name, columns, table, targets in rows
        for column, target in zip(columns, targets, strict=False)
    }


_KEYWORDS: set[str] = set()


def quoted(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """A name as a query must write it."""
    if not _KEYWORDS:
        words = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        _KEYWORDS.update(word for (word,) in connection.execute(words).fetchall())
    bare = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) and name.lower() not in _KEYWORDS
    return name if bare else '"' + name.replace('"', '""') + '"'


def scan(connection: duckdb.DuckDBPyConnection) -> int:
    """Read every block of every table, so that a damaged one is found. The number of rows."""
    rows = 0
    for owner, name in connection.execute(_SCHEMAS.format("schema_name, table_name", "tables", "table_oid")).fetchall():
        table = '"' + owner.replace('"', '""') + '"."' + name.replace('"', '""') + '"'
        found = connection.execute(f"SELECT count(*), max(hash(COLUMNS(*))) FROM {table}").fetchone()
        rows += found[0] if found else 0
    return rows


# ---- folders -------------------------------------------------------------------------------------------------------------


def make(out: str, tables: dict[str, str]) -> int:
    """Write one DuckDB file of CSV and parquet files by the names of their tables. The number of rows.

    CSV files have a header; the types of their columns are found by reading all of each file.
    """
    rows = 0
    with duckdb.connect(out, config={"autoinstall_known_extensions": False, "python_enable_replacements": False}) as made:
        for name, path in tables.items():
            text = "'" + path.replace("'", "''") + "'"
            parquet = path.lower().endswith(".parquet")
            source = f"read_parquet({text})" if parquet else f"read_csv({text}, header = true, sample_size = -1)"
            table = '"' + name.replace('"', '""') + '"'
            try:
                made.execute(f"CREATE TABLE {table} AS SELECT * FROM {source}")
            except (duckdb.Error, RuntimeError) as e:
                raise ValueError(f"{path}: {_first_line(e)}") from e
            columns = [column for column, *_ in made.execute(f"DESCRIBE {table}").fetchall()]
            if len(columns) == 1 and not parquet and re.search(r"[,;|\t]", columns[0]):
                raise ValueError(
                    f"{path}: it reads as one column, {columns[0]!r}; do all lines have as many cells as the first?"
                )
            found = made.execute(f"SELECT count(*) FROM {table}").fetchone()
            rows += found[0] if found else 0
        made.execute("CHECKPOINT")
    return rows


if __name__ == "__main__":
    main()
