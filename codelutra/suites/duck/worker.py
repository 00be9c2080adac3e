"""The process that opens DuckDB files for the host: `python -m codelutra.suites.duck.worker`.

A question is a line of JSON on stdin, {"do": …, "path": …}, its answer one on stdout: {"is": …} or {"error": …}. It prepares
queries and runs none. It is a process of its own because a damaged file may end it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import duckdb

from codelutra.reading.separated import without_marker
from codelutra.reading.text import MAX_BYTES, Unreadable, read_text
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
            table = '"' + name.replace('"', '""') + '"'
            try:
                _make_table(made, table, Path(path), Path(out).parent)
            except (duckdb.Error, RuntimeError, ValueError) as e:
                said = str(e) if isinstance(e, Unreadable) else f"{path}: {_why(e)}"
                raise ValueError(said) from e
            found = made.execute(f"SELECT count(*) FROM {table}").fetchone()
            rows += found[0] if found else 0
        made.execute("CHECKPOINT")
    return rows


def _make_table(made: duckdb.DuckDBPyConnection, table: str, path: Path, scratch: Path) -> None:
    """DuckDB reads a file in the scratch folder, whose name no pattern is taken for. Raises ValueError."""
    packed, parquet = path.name.lower().endswith(".gz"), path.name.lower().endswith(".parquet")
    file = scratch / f"codelutra-table{'.gz' if packed else ''}"
    file.unlink(missing_ok=True)
    if parquet or _unpacked_size(path, packed) > MAX_BYTES:
        file.symlink_to(path)
        read = (
            f"read_{'parquet' if parquet else 'csv'}({_text(file)}{'' if parquet else ', header = true, sample_size = -1'})"
        )
        made.execute(f"CREATE TABLE {table} AS SELECT * FROM {read}")
        return
    text, mark = without_marker(read_text(path).lstrip("\n"))
    if not text.strip():
        raise ValueError("it is empty; a table has a header, at least")
    file = file.with_suffix("")
    file.write_text(text, "utf-8")
    longest = max(2_000_000, 4 * max(map(len, text.split("\n"))))
    options = f"header = true, sample_size = -1, max_line_size = {longest}{f', delim = {_text(mark)}' if mark else ''}"
    made.execute(f"CREATE TABLE {table} AS SELECT * FROM read_csv({_text(file)}, {options})")
    columns = _columns(made, table)
    if len(columns) == 1 and re.search(r"[,;|\t]", columns[0][0]):
        raise ValueError(f"it reads as one column, {columns[0][0]!r}; do all lines have as many cells as the first?")
    words = ['"' + name.replace('"', '""') + '"' for name, kind in columns if kind == "VARCHAR"]
    kept = _kept_quotes(made, table, words) if '"' in text else ""
    if kept and made.execute(f"SELECT Quote FROM sniff_csv({_text(file)}, {options})").fetchone() != ('"',):
        raise ValueError(
            f"the cell {kept} keeps its quotes, because one in the file is not closed; a quote within a quoted cell is "
            "written twice"
        )
    for word in words:
        _as_numbers(made, table, word, comma="," not in mark + text.partition("\n")[0])


def _unpacked_size(path: Path, packed: bool) -> int:
    if not packed:
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        return int.from_bytes(file.read(), "little")  # as gzip notes it


def _kept_quotes(made: duckdb.DuckDBPyConnection, table: str, words: list[str]) -> str:
    """A cell that is in quotes, or ""."""
    asked = (f"SELECT {word} FROM {table} WHERE {word} LIKE '\"%\"' LIMIT 1" for word in words)
    return next((str(found[0]) for query in asked if (found := made.execute(query).fetchone())), "")


_NOTHING = "lower(trim({word})) IN ('', 'null', 'nan', 'none', 'na', 'n/a', '#n/a', '<na>', '-', '\\n')"
_PLAIN, _COMMA = r"[+-]?(0|[1-9]\d*)?(\.\d+)?([eE][+-]?\d+)?", r"[+-]?(0|[1-9]\d{0,2}(\.\d{3})+|[1-9]\d*)(,\d+)?"


def _as_numbers(made: duckdb.DuckDBPyConnection, table: str, word: str, *, comma: bool) -> None:
    """Have a column of text hold numbers where only words for NULL, or decimal commas, have kept DuckDB from it. What begins
    with a 0, such as a postcode, stays text."""
    held = f"FROM {table} WHERE NOT {_NOTHING.format(word=word)}"
    like = "bool_and(regexp_full_match(trim({0}), '{1}') AND regexp_matches({0}, '\\d'))".format
    found = made.execute(
        f"SELECT {like(word, _PLAIN)}, bool_and(regexp_full_match({word}, '[+-]?\\d{{1,18}}')), {like(word, _COMMA)}, "
        f"bool_or(regexp_matches({word}, ',(\\d{{1,2}}|\\d{{4,}})$')) {held}"
    ).fetchone()
    plain, whole, commas, decimals = found or (False,) * 4
    if plain:
        number, kind = word, "BIGINT" if whole else "DOUBLE"
    elif comma and commas and decimals:
        number, kind = f"replace(replace({word}, '.', ''), ',', '.')", "DOUBLE"
    else:
        return
    value = f"CASE WHEN {_NOTHING.format(word=word)} THEN NULL ELSE CAST(trim({number}) AS {kind}) END"
    made.execute(f"ALTER TABLE {table} ALTER {word} TYPE {kind} USING {value}")


def _columns(made: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in made.execute(f"DESCRIBE {table}").fetchall()]


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _why(problem: BaseException) -> str:
    """The line of DuckDB's message that says why."""
    lines = str(problem).strip().split("\n")
    if "CSV Error on Line" in lines[0] and len(lines) > 2:
        return f"{lines[0].removeprefix('Invalid Input Error: ')}: {lines[2]}"
    if "sniffing" in lines[0]:
        return "it reads as no table with , ; tab or | between cells; are its quotes closed, and its lines equally long?"
    return _first_line(problem)


if __name__ == "__main__":
    main()
