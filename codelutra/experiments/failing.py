"""A retraining that failed, and would fail again: by its data or settings, and not by an outage.

Whoever looks for new data every ten minutes is told once, and then again when something has changed. What failed once it was
begun stands in its row of record.json (`failed`). What failed before there could be a row, such as a config that cannot be
read, is in promoted/.failing/, a file for each config.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from codelutra.errors import CodelutraError, disk_is_full
from codelutra.experiments.plan import Overrides
from codelutra.experiments.retrain import Due, Record, next_retraining
from codelutra.store.artifacts import digest_of
from codelutra.store.files import UNREADABLE, write_atomic


class StillFailingError(CodelutraError):
    """It failed before, on the same data and settings."""


def due_now(
    home: Path, source: str, overrides: Overrides, *, again: bool, require: Callable[[], object] = lambda: None
) -> Due | None:
    """`next_retraining`, after `require`, which raises CodelutraError where something is missing. Where the retraining
    failed before, and not `again`, raises StillFailingError instead."""
    known = home / "promoted" / ".failing" / f"{digest_of([source, overrides])[:16]}.json"
    try:
        require()
        due = next_retraining(home, source, overrides)
    except CodelutraError as e:
        if not passes(e):
            before, told = _read(known), str(e)
            known.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(known, json.dumps(told) + "\n")
            if told == before and not again:
                raise StillFailingError(f"as before: {told}") from e
        raise
    known.unlink(missing_ok=True)
    failed = Record(home, due.name).row(due.arm.label).failed if due else ""
    if due and failed and not again:
        raise StillFailingError(
            f"{due.arm.label} failed, and neither problems nor settings have changed since; `codelutra retrain` tries "
            f"again. It said: {failed}"
        )
    return due


def note_failure(home: Path, due: Due, error: CodelutraError) -> None:
    """Keep why a retraining failed, unless it may well work a little later."""
    if not passes(error):
        with Record(home, due.name).changing() as rows:
            next(r for r in rows if r.run == due.arm.label).failed = str(error)


def passes(error: CodelutraError) -> bool:
    """Whether the same command may work another time, with the same data and settings."""
    return error.transient or disk_is_full(error) or disk_is_full(str(error))


def _read(file: Path) -> str:
    with contextlib.suppress(*UNREADABLE):
        return str(json.loads(file.read_bytes()))
    return ""
