"""Retraining as data grow: if something is new, refine the promoted policy, and promote the result if it is better.

    promoted/NAME/record.json    every retraining of the config NAME: what it began from, what it gave, the verdict
    promoted/NAME/model          link to the promoted policy's weights: what a server loads, always whole
    promoted/NAME/sides/         one file for each retraining: all problems so far, and the split each is in

A retraining is a run of its own, NAME-r001, NAME-r002 …: the first as the config says, each later one from the promoted
policy (`model: run:…`), without a warm start. `next_retraining` says which run is due; the caller runs it, and `conclude`
writes its verdict. After a kill the same two calls continue.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, TypeAdapter

from codelutra.config import RunConfig, in_key, load_config, settings
from codelutra.errors import UserError
from codelutra.experiments.changes import Flips, Guarded, flips, lost_on
from codelutra.experiments.plan import Arm, Overrides
from codelutra.pipeline.startable import require_startable
from codelutra.results import text
from codelutra.results.load import read_scores
from codelutra.results.summary import PairedTest, Problems, RunSummary, TestResult, policy_name
from codelutra.results.table import Table
from codelutra.scoring.scores import mcnemar
from codelutra.scoring.statistics import Estimate
from codelutra.store.artifacts import digest_of, read_frame, write_frame
from codelutra.store.files import link_atomic, locked, reading, whole, write_atomic
from codelutra.store.paths import go_on_command, where_now
from codelutra.suites.base import open_suite
from codelutra.suites.splits import KNOWN_BY

ALPHA = (
    0.2  # benchmarks/nights.py: over a year it loses little where there is nothing to gain, and finds much of what there is
)
PROMOTED, KEPT, UNFINISHED = "promoted", "kept", "unfinished"
_READ_BY_0_1_0 = ("engine.tensor_parallel", "train.checkpoint_steps", "warm_start.checkpoint_steps")  # in its digests, too
_WHERE = {"name", "suite.path", "suite.splits_of"}  # of a config: where its data lies; the data are digested themselves


@dataclass(frozen=True)
class Due:
    """The run that is due: its arm, and the config's name."""

    name: str
    arm: Arm


class Retraining(BaseModel):
    """One retraining, as record.json keeps it; what has defaults is known when it is concluded."""

    run: str
    made_of: str
    """Digest of the problems and settings."""
    base_model: str
    """`model` of the config."""
    model: str
    """What it began from."""
    sides: list[str] = []
    verdict: str = UNFINISHED
    failed: str = ""
    """Why it could not be finished, where it would fail again (failing.py)."""
    began_at: float = 0.0
    policy: str = ""
    """Label of the policy the run chose."""
    path: str = ""
    """Its weights."""
    problems: Problems = Problems()
    dev: Estimate | None = None
    start_dev: Estimate | None = None
    paired: PairedTest | None = None
    """The chosen policy against what it began from, on dev."""
    alpha: float = 1.0
    flips: Flips = Flips()
    """The dev problems on which these two differ."""
    guards: list[Guarded] = []
    """The chosen policy against earlier ones on the guard suites."""
    test: TestResult | None = None
    minutes: float = 0.0
    promoted_at: float | None = None
    """Seconds since 1970."""
    promotion: int = 0
    """Counts promotions of this config: the highest is in force, whatever the clock says. 0 where 0.1.0 promoted it."""


class Record:
    """promoted/NAME: rows oldest first, and which policy is promoted."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name = home, name
        self.folder = home / "promoted" / name

    @property
    def rows(self) -> list[Retraining]:
        """Empty before the first retraining. Raises UserError where record.json cannot be read as one."""
        file = self.folder / "record.json"
        mend = (
            f"put a copy of it back, or move it away to begin {self.name}'s history anew "
            f"(its runs stay, and so does the model that {self.folder / 'model'} names)"
        )
        with contextlib.suppress(FileNotFoundError), reading(file, mend):
            rows = TypeAdapter(list[Retraining]).validate_json(file.read_bytes())
            for row in rows:
                row.path = where_now(row.path, self.home)
                row.sides = [str(here) if (here := self.folder / "sides" / Path(s).name).exists() else s for s in row.sides]
            return rows
        return []

    @property
    def promoted(self) -> Retraining | None:
        """The row whose policy is promoted now."""
        promoted = [r for r in self.rows if r.promoted_at]
        return max(promoted, key=lambda r: (r.promotion, r.promoted_at), default=None)

    def row(self, run: str) -> Retraining:
        """The retraining that is the run called `run`."""
        return next(r for r in self.rows if r.run == run)

    @property
    def sides(self) -> list[str]:
        """The newest file of `sides/`, for `suite.splits_of`; empty where there is none."""
        return [str(file) for file in sorted((self.folder / "sides").glob("*.parquet"))[-1:]]

    def start(self, model: str) -> str:
        """What a retraining begins from now, where the config says `model`: that, until a trained one is promoted."""
        now = self.promoted
        return f"run:{now.run}" if now and now.policy != "base" else model

    @contextlib.contextmanager
    def changing(self) -> Iterator[list[Retraining]]:
        """The rows, to be changed in place; written, and the link set, at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            rows = self.rows
            yield rows
            content = [row.model_dump(mode="json") for row in rows]
            write_atomic(self.folder / "record.json", json.dumps(content, indent=1) + "\n")
            if now := self.promoted:
                link_atomic(self.folder / "model", Path(now.path))


def next_retraining(home: Path, source: str, overrides: Overrides = ()) -> Due | None:
    """The run to refine now, or None where problems and settings are those of the last retraining.

    One that was begun and not concluded comes again, unless problems, settings or the promoted policy have changed since.
    Raises ConfigError; and UserError where the config names another model than the first retraining began with, or what it
    asks for is not here. There is no row of it then.
    """
    asked = load_config(source, overrides)
    record = Record(home, asked.name)
    made_of, same = _made_of(asked), {_made_of(asked), _made_of(asked, _READ_BY_0_1_0)}
    with record.changing() as rows:
        began_with = next((r.base_model for r in rows if r.verdict != UNFINISHED), asked.model)
        if began_with != asked.model:
            raise UserError(
                f"{asked.name} was first trained from {began_with!r} and its config says {asked.model!r} now: give the "
                "config another name to begin anew, or put the model back"
            )
        last, start = rows[-1] if rows else None, record.start(asked.model)
        if last and last.made_of in same and last.verdict != UNFINISHED:
            return None
        if not last or last.made_of not in same or last.model != start:
            last = Retraining(run=f"{asked.name}-r{len(rows) + 1:03}", made_of=made_of, base_model=asked.model, model=start)
            last.sides, last.began_at = record.sides, time.time()
            rows.append(last)
        more: Overrides = (*overrides, f"name={last.run}")
        if last.model != asked.model:
            more += (f"model={last.model}", "warm_start=null")
        more += keeping_sides(asked, last.sides)
        due = Due(asked.name, Arm.of(last.run, source, more))
        require_startable(due.arm.config, home)
        if asked.suite.name == "custom":
            _hold_sides(record, due.arm.config, last.sides)
    return due


def keeping_sides(config: RunConfig, sides: list[str]) -> Overrides:
    """What keeps a custom suite's problems on the side they are held on in the files `sides`."""
    if config.suite.name != "custom" or not sides:
        return ()
    return (f"suite.splits_of={json.dumps([*config.suite.splits_of, *sides])}",)


def _made_of(config: RunConfig, more: Sequence[str] = ()) -> str:
    """Digest of problems and settings: those that change a result, and `more`."""
    suite = open_suite(config.suite)
    read = {k: v for k, v in in_key(config).items() if k not in _WHERE}
    if not config.prompt.thinking:  # records of earlier versions know of no such settings
        read = {k: v for k, v in read.items() if not k.startswith("prompt.")}
    read |= {k: v for k, v in settings(config).items() if k in more}
    return digest_of([read, suite.version, suite.problems().write_ndjson(), sorted(suite.databases())])


def _hold_sides(record: Record, config: RunConfig, earlier: list[str]) -> None:
    """Write down on which side the run's problems are, and those of all runs before it."""
    file = record.folder / "sides" / f"{config.name}.parquet"
    if file.exists():
        return
    frames = [_sides(Path(f)) for f in earlier] + [open_suite(config.suite).problems().select(*KNOWN_BY, "split")]
    file.parent.mkdir(exist_ok=True)
    with whole(file) as scratch:
        write_frame(pl.concat(frames).unique(maintain_order=True), scratch)


def _sides(file: Path) -> pl.DataFrame:
    with reading(file, "put a copy of it back: it says on which side problems are held"):
        return pl.read_parquet(file, glob=False)


def gain_on_dev(home: Path, summary: RunSummary) -> PairedTest | None:
    """What the run's chosen policy solves of dev against what the run began from; None where they are the same."""
    scores = _dev_scores(home, summary)
    return PairedTest(against=summary.first.label, **asdict(mcnemar(*scores))) if scores else None


def _dev_scores(home: Path, summary: RunSummary) -> list[pl.DataFrame]:
    """Of what a run began from, and of what it chose; empty where these are the same or dev has no problems."""
    start, chosen = summary.first, summary.chosen
    if chosen is None or chosen is start or not chosen.dev.n:
        return []
    return [read_scores(home / "runs" / summary.run, f"{p.folder}/dev-scores", p.dev) for p in (start, chosen)]


def is_gain(gain: PairedTest | None, alpha: float) -> bool:
    """Whether a policy is better on dev: more problems solved, with an exact McNemar p of at most `alpha`."""
    return gain is not None and gain.gained > gain.lost and gain.p <= alpha


def conclude(
    home: Path, due: Due, summary: RunSummary, *, alpha: float = ALPHA, guards: Sequence[Guarded] = ()
) -> Retraining:
    """Promote the run's chosen policy if it is better than the promoted one; returns the record's row.

    Better: `is_gain` over what it began from, and every one of `guards` held. Where another policy was promoted in the
    meantime the run's is kept unpromoted: nobody has compared the two. Where nothing was promoted before, the run's policy
    is, if the guards held.
    """
    record, start, chosen = Record(home, due.name), summary.first, summary.chosen
    assert chosen is not None
    gain, scores, run = gain_on_dev(home, summary), _dev_scores(home, summary), home / "runs" / summary.run
    problems = read_frame(run / "problems.parquet", f"`{go_on_command(run)}` makes it anew")
    with record.changing() as rows:
        row = next(r for r in rows if r.run == summary.run)
        if row.verdict != UNFINISHED:
            return row
        first, same_start = not record.promoted, record.start(row.base_model) == row.model
        row.failed = ""
        row.policy, row.path, row.problems = chosen.label, chosen.path, summary.problems
        row.dev, row.start_dev, row.paired, row.alpha = chosen.dev, start.dev, gain, alpha
        row.flips = flips(problems, *scores) if scores else Flips()
        row.guards, row.test, row.minutes = list(guards), summary.test, summary.minutes
        wanted = first or (is_gain(gain, alpha) and same_start)
        row.verdict = PROMOTED if wanted and not lost_on(guards) else KEPT
        if row.verdict == PROMOTED:
            _promote(row, rows)
    return row


def promote(home: Path, name: str, run: str) -> Retraining:
    """Promote the policy of an earlier retraining (again): the way back. Raises UserError where there is no such run."""
    with read_record(home, name).changing() as rows:
        done = [r for r in rows if r.verdict != UNFINISHED]
        row = next((r for r in done if r.run == run), None)
        if not row:
            raise UserError(f"no finished retraining {run!r} of {name}; there: {', '.join(r.run for r in done) or 'none'}")
        if not (Path(row.path) / "config.json").is_file():
            raise UserError(f"the weights of {run} are not at {row.path} any more; nothing was changed")
        _promote(row, rows)
    return row


def _promote(row: Retraining, rows: list[Retraining]) -> None:
    row.promoted_at = time.time()
    row.promotion = 1 + max(r.promotion for r in rows)


def retrained(home: Path) -> list[str]:
    """The configs that were retrained, by name."""
    return sorted(record.parent.name for record in (home / "promoted").glob("*/record.json"))


def read_record(home: Path, name: str) -> Record:
    """Raises UserError, naming those there are, where `name` was never retrained."""
    record = Record(home, name)
    if not record.rows:
        raise UserError(
            f"nothing called {name!r} was retrained under {home}; there: {', '.join(retrained(home)) or 'nothing'}. "
            "`codelutra retrain CONFIG` does"
        )
    return record


def _verdict(row: Retraining) -> str:
    if row.verdict == UNFINISHED:
        return "failed" if row.failed else UNFINISHED
    lost = lost_on(row.guards)
    return f"{row.verdict}, {policy_name(row.policy)}" + (f", lost on {lost}" if lost else "")


def record_table(record: Record) -> Table:
    """The record as people read it, one row a retraining; the one whose policy is promoted stands out."""
    now, rows = record.promoted, record.rows
    cells = [
        {
            "run": r.run,
            "from": r.model,
            "train": str(r.problems.train) if r.verdict != UNFINISHED else "",
            "dev pass@1 [95 %]": text.rate(r.dev) if r.dev and r.dev.n else "",
            "against its start": text.paired(r.paired),
            "test": f"{r.test.value:.1%}" if r.test else "",
            "verdict": _verdict(r),
            "now": "●" if now and r.run == now.run else "",
        }
        for r in rows
    ]
    best = next((i for i, r in enumerate(rows) if now and r.run == now.run), None)
    return Table.of(cells, numbers=["train", "dev pass@1 [95 %]", "test"], best=best)
