"""What people look at in the Prefect UI: progress while a stage runs, and each iteration's numbers and pairs."""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import polars as pl
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from codelutra.run import Run
from codelutra.schema import STATUSES
from codelutra.show import paired_text
from codelutra.store import Artifact

_EVERY_SECONDS = 5.0
_CLAUSE = re.compile(r"\n|(?=\b(?:FROM|WHERE|GROUP BY|HAVING|ORDER BY|LIMIT|(?:LEFT |INNER )?JOIN|UNION)\b)", re.IGNORECASE)


@task(task_run_name="publish {title}")
def _publish(name: str, title: str, row: dict[str, Any], rows: list[dict[str, Any]], pairs: Artifact | None) -> None:
    key = _slug(f"{name}-{title}")
    create_markdown_artifact(_numbers(row, rows), key=key, description=f"{name}: {title}")
    create_table_artifact(_status_mix(row), key=f"{key}-status", description=f"{name}: what became of {title}'s samples")
    if pairs and pairs.facts["pairs"]:
        create_markdown_artifact(_three_pairs(pairs), key=f"{key}-pairs", description=f"{name}: three pairs of {title}")


def publish(run: Run, row: dict[str, Any], pairs: Artifact | None = None) -> None:
    """Leave a policy's numbers, status mix and three of its pairs in the UI."""
    measured = run.dir.read("summary.json")["policies"]
    _publish(run.config.name, row["title"], row, measured, pairs)


@contextlib.contextmanager
def live_progress(run: Run) -> Iterator[None]:
    """Show every stage's progress as an artifact of the flow run, updated while it goes."""
    bars = dict[str, UUID]()
    due = dict[str, float]()
    lock = threading.Lock()

    def show(stage: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        with lock:
            if now < due.get(stage, 0.0) and done < total:
                return
            due[stage] = now + _EVERY_SECONDS
            share = 100.0 * done / max(total, 1)
            text = f"{run.config.name}: {stage}, {done:,} of {total:,} {unit}"
            if stage in bars:
                update_progress_artifact(bars[stage], progress=share, description=text)
            else:
                key = _slug(f"{run.config.name}-progress-{stage}")
                made = create_progress_artifact(progress=share, key=key, description=text)
                assert isinstance(made, UUID)  # outside an event loop it is no coroutine
                bars[stage] = made

    run.on_progress = show
    try:
        yield
    finally:
        run.on_progress = None


def _numbers(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [
        "| policy | dev pass@1 | 95 % interval | executable | against the one before | pairs made |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        dev, made = r["dev"], (r.get("funnel") or {}).get("pairs", "")
        lines.append(f"| {r['title']} | {dev['value']:.1%} | {dev['low']:.1%} – {dev['high']:.1%} | {r['executable']:.0%} "
                     f"| {paired_text(r['paired']['previous'])} | {made} |")  # fmt: skip
    if funnel := row.get("funnel"):
        lines += ["", "### Funnel", "", "| step | count |", "|---|---|"]
        lines += [f"| {k.replace('_', ' ')} | {v:,} |" for k, v in funnel.items() if isinstance(v, int)]
    return "\n".join([f"## {row['title']}", "", *lines])


def _status_mix(row: dict[str, Any]) -> list[dict[str, Any]]:
    dev, train = row["statuses"]["dev"], row["statuses"]["train"]
    return [{"status": s, "dev (greedy)": dev.get(s, 0), "train (sampled)": train.get(s, 0)}
            for s in STATUSES if s in dev or s in train]  # fmt: skip


def _three_pairs(pairs: Artifact) -> str:
    frame = pairs.frame("pairs")
    picked = frame.filter(pl.int_range(pl.len()) % max(1, frame.height // 3) == 0).head(3)
    parts = []
    for p in picked.rows(named=True):
        question = p["prompt"].strip().splitlines()[-1]
        diff = difflib.unified_diff(_words(p["rejected"]), _words(p["chosen"]), "rejected", "chosen", lineterm="", n=50)
        parts += [
            f"### {p['problem_id']}", question, "",
            f"| chosen ({p['chosen_source']}) | rejected ({p['rejected_status']}) |", "|---|---|",
            f"| `{_cell(p['chosen'])}` | `{_cell(p['rejected'])}` |", "",
            "```diff", *list(diff)[3:], "```", "",
        ]  # fmt: skip
    return "\n".join(parts)


def _words(code: str) -> list[str]:
    """A program in lines short enough for a diff: one SQL clause, or one source line, each."""
    return [line.strip() for line in _CLAUSE.split(code) if line.strip()]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("`", "'")[:300]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
