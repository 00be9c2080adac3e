"""Verdicts kept on disk: one program on one problem under one judge runs once, across iterations and runs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codelutra.errors import UserError, disk_is_full, full_disk


class OutcomeCache:
    """Verdicts by key, in an SQLite file that several processes may use at once.

    Only verdicts that do not depend on the machine's load are kept. Timeouts, resource limits and infrastructure
    failures are run again.
    """

    KEPT = ("correct", "wrong", "runtime_error", "syntax_error", "blocked")

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        with self._usable():
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS outcomes (key BLOB PRIMARY KEY, verdict TEXT) WITHOUT ROWID")

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        """Raises UserError where the file is no database, or is damaged."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            if disk_is_full(e):
                raise full_disk(self._path) from e
            raise UserError(
                f"{self._path} cannot be used ({e}); remove it, with {self._path.name}-wal and -shm: it only spares running "
                "programs a second time"
            ) from e

    def get(self, key: bytes) -> dict[str, Any] | None:
        with self._usable():
            row = self._db.execute("SELECT verdict FROM outcomes WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, found: Mapping[bytes, dict[str, Any]]) -> None:
        kept = [(k, json.dumps(v)) for k, v in found.items() if v["status"] in self.KEPT]
        with self._usable(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?)", kept)

    def close(self) -> None:
        self._db.close()
