"""Verdicts kept on disk: one program on one problem under one judge runs once, across iterations and runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class OutcomeCache:
    """Verdicts by key, in an SQLite file that several processes may use at once.

    Only verdicts that do not depend on the machine's load are kept. Timeouts, resource limits and infrastructure
    failures are run again.
    """

    KEPT = ("correct", "wrong", "runtime_error", "syntax_error", "blocked")

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS outcomes (key BLOB PRIMARY KEY, verdict TEXT) WITHOUT ROWID")

    def get(self, key: bytes) -> dict[str, Any] | None:
        row = self._db.execute("SELECT verdict FROM outcomes WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, found: Mapping[bytes, dict[str, Any]]) -> None:
        kept = [(k, json.dumps(v)) for k, v in found.items() if v["status"] in self.KEPT]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO outcomes VALUES (?, ?)", kept)

    def close(self) -> None:
        self._db.close()
