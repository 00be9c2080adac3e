"""Retraining as data grows: go on from the promoted policy when there is something new, promote what is better.

    promoted/NAME/record.json    every retraining of the config NAME: what it began from, what it gave, the verdict
    promoted/NAME/model          link to the promoted policy's weights: what a server loads, always whole

A retraining is a run of its own, NAME-r001, NAME-r002 …: the first as the config says, each later one from the promoted
policy (`model: run:…`), without a warm start, its problems on the sides they were on. `next_retraining` says which run is
due and `conclude` what became of it; in between somebody refines it. Killed anywhere, the same two calls go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codelutra.config import RunConfig, load_config
from codelutra.errors import UserError
from codelutra.methods import Overrides
from codelutra.store import digest_of, locked, write_atomic
from codelutra.suites import open_suite

Row = dict[str, Any]
PROMOTED, KEPT, UNFINISHED = "promoted", "kept", "unfinished"


@dataclass(frozen=True)
class Retraining:
    """The run that is due."""

    name: str  # of the config
    config: RunConfig
    overrides: Overrides  # what makes `config` of the config given, its own overrides included


class Record:
    """promoted/NAME: rows oldest first, and which policy is promoted."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, name
        self.folder = home / "promoted" / name

    @property
    def rows(self) -> list[Row]:
        with contextlib.suppress(FileNotFoundError):
            rows: list[Row] = json.loads((self.folder / "record.json").read_text())
            return rows
        return []

    @property
    def promoted(self) -> Row | None:
        """The row whose policy is promoted now."""
        return max((r for r in self.rows if r.get("promoted_at")), key=lambda r: r["promoted_at"], default=None)

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Row]]:
        """The rows, to be changed in place; written, and the link set, at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            rows = self.rows
            yield rows
            write_atomic(self.folder / "record.json", json.dumps(rows, indent=1) + "\n")
            if now := self.promoted:
                scratch = self.folder / f".model.{os.getpid()}"
                scratch.unlink(missing_ok=True)
                scratch.symlink_to(os.path.relpath(now["path"], self.folder.resolve()))
                os.replace(scratch, self.folder / "model")


def next_retraining(home: Path, config: str, overrides: Overrides = ()) -> Retraining | None:
    """The run to refine now, or None where problems and settings are those of the last retraining.

    One that was begun and not concluded comes again, unless problems or settings have changed since. Raises ConfigError,
    and UserError where the config names another model than its first retraining began with.
    """
    asked = load_config(config, overrides)
    record = Record(home, asked.name)
    problems = open_suite(asked.suite)
    settings = asked.model_dump(mode="json", exclude={"name"})
    made_of = digest_of([settings, problems.version, problems.problems().write_ndjson(), sorted(problems.databases())])
    with record.changing() as rows:
        if rows and rows[0]["model"] != asked.model:
            raise UserError(
                f"{asked.name} was first trained from {rows[0]['model']!r} ({rows[0]['run']}) and its config says "
                f"{asked.model!r} now: give the config another name to begin anew, or put the model back"
            )
        last = rows[-1] if rows else None
        if last and last["made_of"] == made_of and last["verdict"] != UNFINISHED:
            return None
        if not last or last["made_of"] != made_of:
            start = record.promoted
            last = {"run": f"{asked.name}-r{len(rows) + 1:03}", "made_of": made_of, "verdict": UNFINISHED,
                    "model": f"run:{start['run']}" if start else asked.model, "began_at": time.time()}  # fmt: skip
            rows.append(last)
        earlier = [home / "runs" / r["run"] / "problems.parquet" for r in rows if r is not last]
    more: Overrides = (f"name={last['run']}",)
    if last["model"] != asked.model:
        more += (f"model={last['model']}", "warm_start=null")
    if asked.suite.name == "custom" and (there := [str(file) for file in earlier if file.is_file()]):
        more += (f"suite.splits_of={json.dumps([*asked.suite.splits_of, *there])}",)
    return Retraining(asked.name, load_config(config, (*overrides, *more)), (*overrides, *more))


def conclude(home: Path, due: Retraining, summary: Row, *, alpha: float = 1.0) -> Row:
    """Promote the run's chosen policy if it is better than what it began from; returns the record's row.

    Better: more dev problems solved than by the start (of the run, so by the promoted policy), with an exact McNemar p of
    at most `alpha`; 1 takes any gain, as selection within a run does. The first retraining's policy is always promoted.
    """
    record = Record(home, due.name)
    best = next(p for p in summary["policies"] if p["label"] == summary["best"])
    gain = best["paired"]["start"]  # None where the start itself is the best
    with record.changing() as rows:
        row = next(r for r in rows if r["run"] == due.config.name)
        first = not any(r.get("promoted_at") for r in rows)
        better = bool(gain) and gain["gained"] > gain["lost"] and gain["p"] <= alpha
        row |= {
            "verdict": PROMOTED if first or better else KEPT, "policy": best["label"], "title": best["title"],
            "path": best["path"], "problems": summary["problems"], "dev": best["dev"], "paired": None if first else gain,
            "alpha": alpha, "test": summary["test"], "minutes": summary["minutes"],
        }  # fmt: skip
        if row["verdict"] == PROMOTED:
            row["promoted_at"] = time.time()
    return row


def promote(home: Path, name: str, run: str) -> Row:
    """Promote the policy of an earlier retraining (again): the way back. Raises UserError where there is no such run."""
    with read_record(home, name).changing() as rows:
        done = [r for r in rows if r["verdict"] != UNFINISHED]
        row = next((r for r in done if r["run"] == run), None)
        if not row:
            raise UserError(
                f"no finished retraining {run!r} of {name}; there: {', '.join(r['run'] for r in done) or 'none'}"
            )
        if not (Path(row["path"]) / "config.json").is_file():
            raise UserError(f"the weights of {run} are not at {row['path']} any more; nothing was changed")
        row["promoted_at"] = time.time()
    return row


def read_record(home: Path, name: str) -> Record:
    """Raises UserError, naming those there are, where `name` was never retrained."""
    record = Record(home, name)
    if not record.rows:
        there = sorted(p.parent.name for p in (home / "promoted").glob("*/record.json"))
        raise UserError(
            f"nothing called {name!r} was retrained under {home}; there: {', '.join(there) or 'nothing'}. "
            "`codelutra retrain CONFIG` does"
        )
    return record


def table_rows(record: Record) -> list[dict[str, str]]:
    """The record as people read it, one flat row a retraining."""
    now = record.promoted
    rows = []
    for r in record.rows:
        dev, done = r.get("dev") or {"n": 0}, r["verdict"] != UNFINISHED
        test, gain = r.get("test"), r.get("paired")
        rows.append({
            "run": r["run"],
            "from": r["model"],
            "train": str(r["problems"].get("train", "")) if done else "",
            "dev pass@1": f"{dev['value']:.1%} [{100 * dev['low']:.1f} – {100 * dev['high']:.1f}]" if dev["n"] else "",
            "against its start": f"+{gain['gained']} −{gain['lost']}, p = {gain['p']:.2g}" if gain else "",
            "test": f"{test['value']:.1%}" if test else "",
            "verdict": f"{r['verdict']}, {r['title']}" if done else r["verdict"],
            "now": "●" if now and r["run"] == now["run"] else "",
        })  # fmt: skip
    return rows
