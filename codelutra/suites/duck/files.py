"""What a suite asks of DuckDB files, by way of a process that opens them: schemas, and whether a reference fits."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from codelutra.errors import ConfigError, UserError
from codelutra.reading.text import Unreadable, require_file
from codelutra.store.files import sha256_file
from codelutra.suites.databases import is_database, require_held
from codelutra.suites.dialects import DUCKDB, translations
from codelutra.suites.sql_text import statements

ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
_MAGIC = b"DUCK"  # behind a checksum of eight bytes
_LAST_WORDS = 300


def is_duckdb(path: Path) -> bool:
    """Whether it is a file that begins as DuckDB's do."""
    try:
        require_file(path)
        with path.open("rb") as file:
            return file.read(12)[8:] == _MAGIC
    except (OSError, Unreadable):
        return False


def duckdb_digest(path: Path) -> str:
    """sha256 of a DuckDB file. Raises ConfigError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as e:
        raise ConfigError(f"no database at {path}: {e.strerror}; check the path") from e


def require_whole(file: Path) -> None:
    """Raise ConfigError where a DuckDB file is too large, or has changes that are not in it yet."""
    file = file.resolve()
    require_held(file, ".wal", f"duckdb {file.name} CHECKPOINT")


class Reader:
    """A process that opens DuckDB files, started with the first question. A context manager. What is wrong with a file is a
    ConfigError."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def schema(self, file: Path) -> str:
        """As prompts show it: a line a table or view, with types as DuckDB names them."""
        return "\n".join(self._ask("schema", file))

    def scan(self, file: Path) -> None:
        """Read all of it. Raises ConfigError where it is damaged."""
        self._ask("scan", file)

    def make(self, out: Path, tables: Mapping[str, Path]) -> None:
        """Write `out` with a table for each of these CSV and parquet files. Raises ConfigError with the one that fails."""
        self._ask("make", out, tables={name: str(path.absolute()) for name, path in tables.items()})

    def not_answerable(self, file: Path, query: str) -> str:
        """Why a reference cannot be asked of this database, or "". DuckDB prepares it and does not run it."""
        if (count := statements(query, DUCKDB)) > 1:
            return f"{count} statements; give one query (a `;` may stand only at its end)"
        kind, why = self._tried(file, query)
        if not kind:
            return _names_catalog(query, file.stem)
        if kind == "refused":
            return f"the sandbox does not run it: {why}"
        for dialect, translated in translations(query, DUCKDB.name):
            if not self._tried(file, translated)[0]:
                return f"not DuckDB's dialect ({why}); it reads as {dialect}, in DuckDB it would be: {translated}"
        return f"DuckDB refuses the query: {why}"

    def _tried(self, file: Path, query: str) -> tuple[str, str]:
        try:
            query.encode()
        except UnicodeEncodeError as e:
            return "wrong", str(e)
        kind, why = self._ask("refusal", file, query=query)
        return kind, why

    def _ask(self, do: str, file: Path, **more: Any) -> Any:
        process = self._process = self._process or subprocess.Popen(
            [sys.executable, "-m", "codelutra.suites.duck.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "TZ": "UTC"},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"do": do, "path": str(file.absolute()), **more}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            raise ConfigError(self._ended(file))
        said = json.loads(line)
        if "error" not in said:
            return said["is"]
        if do == "make":
            raise ConfigError(said["error"])
        if "Could not set lock" in said["error"]:
            raise ConfigError(f"{file} is open in another program ({said['error']}); close it there, or take a copy")
        raise ConfigError(f"{file} cannot be read as a DuckDB database: {said['error']}; copy it again")

    def _ended(self, file: Path) -> str:
        """Why the process has ended, which is then forgotten."""
        assert self._process
        _, words = self._process.communicate()
        code, self._process = self._process.returncode, None
        if "No module named 'duckdb'" in words:
            return f"{file} needs the package duckdb: `pip install duckdb==2.0.1`, or `make setup`"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = words.strip().splitlines()[-1][:_LAST_WORDS] if words.strip() else "it said nothing"
        return f"{file}: DuckDB ended ({how}; {last}) while it read the file, so the file is damaged; copy it again"


def _names_catalog(query: str, catalog: str) -> str:
    """Why a query that DuckDB takes here would fail in the sandbox, where the file has another name; or ""."""
    try:
        found = sqlglot.parse_one(query, read=DUCKDB.name).find_all(exp.Table)
        if any(catalog.lower() in (table.catalog.lower(), table.db.lower()) for table in found):
            return f"it names the database file ({catalog}.…), which has another name in the sandbox; leave that out"
    except (SqlglotError, RecursionError, ValueError):
        pass  # what sqlglot cannot read, the check in the sandbox will tell
    return ""


def tables_in(folder: Path, questions: Path) -> dict[str, Path]:
    """The CSV and parquet files of a folder by the names of their tables, without the file of `questions`. Raises UserError
    where there are none, or two of one name."""
    found, asked = dict[str, Path](), os.path.realpath(questions)
    try:
        listed = sorted(folder.iterdir())
    except OSError as e:
        raise UserError(f"{folder} cannot be read: {e.strerror}") from e
    for path in listed:
        ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if path.name.lower().endswith(e)), "")
        name = path.name[: len(path.name) - len(ending)] if ending else ""
        if not name or path.name.startswith(".") or not path.is_file() or os.path.realpath(path) == asked:
            continue
        if twin := next((other for other in found if other.lower() == name.lower()), ""):
            raise UserError(f"{found[twin]} and {path} would both be table {name}; rename one")
        found[name] = path
    if not found:
        held = next((p for p in (*listed, *sorted(folder.glob("*/*"))) if is_database(p) or is_duckdb(p)), None)
        also = (
            f". It holds databases: give one, {held}; several go into a suite.yaml (docs/your-own-task.md)" if held else ""
        )
        raise UserError(f"{folder} has no file that ends in {', '.join(ENDINGS)}; each such file becomes a table{also}")
    return found
