"""Retraining as data grows: go on from the promoted policy when there is something new, promote what is better.

    promoted/NAME/record.json    every retraining of the config NAME: what it began from, what it gave, the verdict
    promoted/NAME/model          link to the promoted policy's weights: what a server loads, always whole
    promoted/NAME/sides/         a file a retraining: all problems up to it, on the side they are held on

A retraining is a run of its own, NAME-r001, NAME-r002 …: the first as the config says, each later one from the promoted
policy (`model: run:…`), without a warm start. `next_retraining` says which run is due and `conclude` what became of it; in
between somebody refines it. Killed anywhere, the same two calls go on.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SAME_RESULT, RunConfig, load_config, settings
from codelutra.errors import UserError
from codelutra.experiments.methods import Overrides
from codelutra.scoring.scores import mcnemar
from codelutra.store.artifacts import digest_of, write_frame
from codelutra.store.files import link_atomic, locked, whole, write_atomic
from codelutra.suites.base import open_suite
from codelutra.suites.splits import KNOWN_BY

Row = dict[str, Any]
PROMOTED, KEPT, UNFINISHED = "promoted", "kept", "unfinished"
_WHERE = {"name", "suite.path", "suite.splits_of"}  # of a config: where its data lies; the data are digested themselves


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

    @property
    def sides(self) -> list[str]:
        """The newest file of `sides/`, for `suite.splits_of`; empty where there is none."""
        return [str(file) for file in sorted((self.folder / "sides").glob("*.parquet"))[-1:]]

    def start(self, model: str) -> str:
        """What a retraining begins from now, where the config says `model`: that, until a trained one is promoted."""
        now = self.promoted
        return f"run:{now['run']}" if now and now["policy"] != "base" else model

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Row]]:
        """The rows, to be changed in place; written, and the link set, at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            rows = self.rows
            yield rows
            write_atomic(self.folder / "record.json", json.dumps(rows, indent=1) + "\n")
            if now := self.promoted:
                link_atomic(self.folder / "model", Path(now["path"]))


def next_retraining(home: Path, config: str, overrides: Overrides = ()) -> Retraining | None:
    """The run to refine now, or None where problems and settings are those of the last retraining.

    One that was begun and not concluded comes again, unless problems, settings or the promoted policy have changed since.
    Raises ConfigError, and UserError where the config names another model than the first retraining began with.
    """
    asked = load_config(config, overrides)
    record = Record(home, asked.name)
    made_of = _made_of(asked)
    with record.changing() as rows:
        began_with = next((r["base_model"] for r in rows if r["verdict"] != UNFINISHED), asked.model)
        if began_with != asked.model:
            raise UserError(
                f"{asked.name} was first trained from {began_with!r} and its config says {asked.model!r} now: give the "
                "config another name to begin anew, or put the model back"
            )
        last, start = rows[-1] if rows else None, record.start(asked.model)
        if last and last["made_of"] == made_of and last["verdict"] != UNFINISHED:
            return None
        if not last or (last["made_of"], last["model"]) != (made_of, start):
            last = {
                "run": f"{asked.name}-r{len(rows) + 1:03}",
                "made_of": made_of,
                "base_model": asked.model,
                "model": start,
                "sides": record.sides,
                "verdict": UNFINISHED,
                "began_at": time.time(),
            }
            rows.append(last)
        more: Overrides = (f"name={last['run']}",)
        if last["model"] != asked.model:
            more += (f"model={last['model']}", "warm_start=null")
        if asked.suite.name == "custom" and last["sides"]:
            more += (f"suite.splits_of={json.dumps([*asked.suite.splits_of, *last['sides']])}",)
        due = Retraining(asked.name, load_config(config, (*overrides, *more)), (*overrides, *more))
        if asked.suite.name == "custom":
            _hold_sides(record, due, last["sides"])
    return due


def _made_of(config: RunConfig) -> str:
    suite = open_suite(config.suite)
    read = {k: v for k, v in settings(config, SAME_RESULT).items() if k not in _WHERE}
    return digest_of([read, suite.version, suite.problems().write_ndjson(), sorted(suite.databases())])


def _hold_sides(record: Record, due: Retraining, earlier: list[str]) -> None:
    """Write down on which side the run's problems are, and those of all runs before it."""
    file = record.folder / "sides" / f"{due.config.name}.parquet"
    if file.exists():
        return
    frames = [pl.read_parquet(f) for f in earlier] + [open_suite(due.config.suite).problems().select(*KNOWN_BY, "split")]
    file.parent.mkdir(exist_ok=True)
    with whole(file) as scratch:
        write_frame(pl.concat(frames).unique(maintain_order=True), scratch)


def conclude(home: Path, due: Retraining, summary: Row, *, alpha: float = 1.0) -> Row:
    """Promote the run's chosen policy if it is better than the promoted one; returns the record's row.

    Better: more of the run's dev problems solved than by what it began from, with an exact McNemar p of at most `alpha`; 1
    takes any gain, as selection within a run does. Where another policy was promoted in the meantime the run's is kept
    unpromoted: nobody has compared the two. Where nothing was promoted before, the run's policy is.
    """
    record = Record(home, due.name)
    start, best = summary["policies"][0], next(p for p in summary["policies"] if p["label"] == summary["best"])
    gain = None
    if best is not start and best["dev"]["n"]:
        scores = [
            pl.read_parquet(home / "runs" / due.config.name / p["folder"] / "dev-scores/scores.parquet")
            for p in (start, best)
        ]
        gain = asdict(mcnemar(*scores))
    with record.changing() as rows:
        row = next(r for r in rows if r["run"] == due.config.name)
        if row["verdict"] != UNFINISHED:
            return row
        first, same_start = not record.promoted, record.start(row["base_model"]) == row["model"]
        better = gain is not None and gain["gained"] > gain["lost"] and gain["p"] <= alpha
        row |= {
            "verdict": PROMOTED if first or (better and same_start) else KEPT,
            "policy": best["label"],
            "title": best["title"],
            "path": best["path"],
            "problems": summary["problems"],
            "dev": best["dev"],
            "start_dev": start["dev"],
            "paired": gain,
            "alpha": alpha,
            "test": summary["test"],
            "minutes": summary["minutes"],
        }
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
        rows.append(
            {
                "run": r["run"],
                "from": r["model"],
                "train": str(r["problems"].get("train", "")) if done else "",
                "dev pass@1": f"{dev['value']:.1%} [{100 * dev['low']:.1f} – {100 * dev['high']:.1f}]" if dev["n"] else "",
                "against its start": f"+{gain['gained']} −{gain['lost']}, p = {gain['p']:.2g}" if gain else "",
                "test": f"{test['value']:.1%}" if test else "",
                "verdict": f"{r['verdict']}, {r['title']}" if done else r["verdict"],
                "now": "●" if now and r["run"] == now["run"] else "",
            }
        )
    return rows
