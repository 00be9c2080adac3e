"""A suite that grows, and what a night would leave of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from codelutra.experiments.retrain import Due, next_retraining
from codelutra.results.load import load_summary
from codelutra.results.summary import RunSummary
from tests.helpers.example_run import example_run


def grow(folder: Path, numbers: Sequence[int], **changes: Any) -> Path:
    """Write a suite with a question for each number, and a config over it; returns the config."""
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS item (id, name, price)")
        if not connection.execute("SELECT COUNT(*) FROM item").fetchone()[0]:
            connection.executemany("INSERT INTO item VALUES (?, ?, ?)", [(i, f"n{i}", i) for i in range(300)])
    lines = [{"question": f"Over {n}?", "query": f"SELECT name FROM item WHERE price > {n}"} for n in numbers]
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    raw: dict[str, Any] = {
        "name": "shop",
        "model": "hf:example/tiny@main",
        "warm_start": {},
        "suite": {"name": "custom", "path": str(folder)},
    }
    (folder / "shop.yaml").write_text(json.dumps(raw | changes))
    return folder / "shop.yaml"


def due(home: Path, config: Path) -> Due:
    found = next_retraining(home, str(config))
    assert found
    return found


def refined(home: Path, found: Due, *skills: float) -> RunSummary:
    """What refining would leave: a run whose base, warm start (if any) and iterations answer so well."""
    changes = found.arm.config.model_dump(mode="json", exclude={"name", "iterations"})
    run = example_run(home, name=found.arm.config.name, skills=skills, **changes)
    summary = load_summary(run)
    assert summary
    for policy in summary.policies:
        if Path(policy.path).is_dir():  # weights, as far as the next night looks
            (Path(policy.path) / "config.json").write_text("{}")
    return summary
