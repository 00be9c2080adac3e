"""What people look at in the Prefect UI: progress while a stage runs, each policy's numbers and pairs."""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from codelutra.errors import redacted
from codelutra.pipeline.run import Measures, Run
from codelutra.results.escapes import fenced, inline, one_line, paragraph
from codelutra.results.findings import question, spread
from codelutra.results.summary import PolicyResult, RunSummary
from codelutra.results.table import Table, policies_notes, policies_table
from codelutra.results.text import dev_rate
from codelutra.results.text import training as training_text
from codelutra.schema import STATUSES
from codelutra.store.artifacts import Artifact
from tasks.server import NOT_ANSWERED

_EVERY_SECONDS = 5.0
_AWAY_SECONDS = 60.0  # before the next try, where Prefect's server did not answer
_STEPS_SHOWN = 25
_SHOWN = (
    "step",
    "loss",
    "reward",
    "ratio",
    "clip_fraction",
    "right_drift",
    "wrong_drift",
    "entropy",
    "chosen_log_prob",
    "rejected_log_prob",
    "chosen_drift",
    "rejected_drift",
    "margin",
    "accuracy",
    "kl",
    "dpo_share",
    "grad_norm",
    "learning_rate",
)  # of a line of training.jsonl
_CLAUSE = re.compile(r"\n|(?=\b(?:FROM|WHERE|GROUP BY|HAVING|ORDER BY|LIMIT|(?:LEFT |INNER )?JOIN|UNION)\b)", re.IGNORECASE)


@task(task_run_name="publish {name}")
def _publish(run: str, name: str, summary: RunSummary, row: PolicyResult, pairs: Artifact | None) -> None:
    get_run_logger().info("%s: dev pass@1 %s, %.1f minutes", name, dev_rate(row) or "not measured", row.minutes)
    key = _slug(f"{run}-{name}")
    create_markdown_artifact(_numbers(summary, row), key=key, description=f"{run}: {name}")
    create_table_artifact(_status_mix(row), key=f"{key}-status", description=f"{run}: what became of the answers of {name}")
    if pairs and pairs.facts["pairs"]:
        said = f"{run}: three pairs from the answers of {name}"
        create_markdown_artifact(_three_pairs(pairs), key=f"{key}-pairs", description=said)


def publish(run: Run, summary: RunSummary, row: PolicyResult, pairs: Artifact | None = None) -> None:
    """Leave a policy's numbers, status mix and three of its pairs in the UI, if Prefect's server answers."""
    try:
        _publish(run.config.name, row.name, summary, row, pairs)
    except NOT_ANSWERED as e:
        _note(run, f"{row.name} is not shown in Prefect's UI", e)


def _note(run: Run, what: str, error: Exception) -> None:
    """The UI shows what summary.json and the ledger hold anyway; a run does not end for it."""
    run.dir.ledger({"event": "note", "text": redacted(f"{what} ({type(error).__name__}: {error}); the run goes on")})


@contextlib.contextmanager
def live_progress(run: Run) -> Iterator[None]:
    """Show every stage's progress as an artifact of the flow run, and of a training its steps as a table, while it goes.

    Where Prefect's server does not answer, the ledger has one note of it and the stage goes on unseen.
    """
    stages = dict[str, _Stage]()
    told = False
    lock = threading.Lock()
    flow = contextvars.copy_context()  # the sampling thread has none, and what it showed would belong to no run

    def show(stage: str, done: int, total: int, unit: str, measures: Measures) -> None:
        nonlocal told
        with lock:
            if stage not in stages:
                stages[stage] = _Stage(run.config.name, stage)
            try:
                flow.run(stages[stage].show, done, total, unit, measures)
            except NOT_ANSWERED as e:
                stages[stage].wait()
                if not told:
                    _note(run, "Prefect's UI shows no progress while its server does not answer", e)
                told = True

    run.on_progress = show
    try:
        yield
    finally:
        run.on_progress = None


class _Stage:
    """A stage's artifacts: made at its first news, then changed in place, every few seconds at most."""

    def __init__(self, run: str, stage: str) -> None:
        self._key, self._title = _slug(f"{run}-progress-{stage}"), f"{run}: {stage}"
        self._due = 0.0
        self._bar: UUID | None = None
        self._table: UUID | None = None
        self._steps: list[Measures] = []

    def show(self, done: int, total: int, unit: str, measures: Measures) -> None:
        if measures:
            self._steps.append(measures)
        now = time.monotonic()
        if now < self._due and done < total:
            return
        self._due = now + _EVERY_SECONDS
        # A client that had reached its server once would try again for a minute, and the stage would stand still meanwhile.
        # Without the second context every call would leave a client open.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), SyncClientContext.get_or_create():
            self._show(done, total, unit, measures)

    def wait(self) -> None:
        """Leave the server alone for a while."""
        self._due = time.monotonic() + _AWAY_SECONDS

    def _show(self, done: int, total: int, unit: str, measures: Measures) -> None:
        share, text = 100.0 * done / max(total, 1), f"{self._title}, {done:,} of {total:,} {unit}{training_text(measures)}"
        if self._bar:
            update_progress_artifact(self._bar, progress=share, description=text)
        else:
            self._bar = _id(create_progress_artifact(progress=share, key=self._key, description=text))
        if self._steps:
            self._show_steps()

    def _show_steps(self) -> None:
        """At most so many rows, evenly spread, the newest always among them."""
        every = -(-len(self._steps) // _STEPS_SHOWN)
        rows = [{k: float(f"{s[k]:.4g}") for k in _SHOWN if k in s} for s in self._steps[::-1][::every][::-1]]
        if self._table:
            get_client(sync_client=True).update_artifact(self._table, ArtifactUpdate(data=json.dumps(rows)))
        else:
            said = (
                f"{self._title}: log-probabilities and drift from the reference model in nats an answer, KL in nats a token"
            )
            self._table = _id(create_table_artifact(rows, key=f"{self._key}-steps", description=said))


def _id(made: Any) -> UUID:
    assert isinstance(made, UUID)  # outside an event loop it is no coroutine
    return made


def _numbers(summary: RunSummary, row: PolicyResult) -> str:
    parts = [f"## {inline(row.name)}", policies_table(summary).markdown(), *map(paragraph, policies_notes(summary))]
    parts += [f"> **{inline(alarm)}**" for alarm in row.alarms]
    if row.funnel:
        counts = Table.of([{"step": k, "count": f"{n:,}"} for k, n in row.funnel.counts.items()], numbers=["count"])
        parts += ["### From samples to what is learned from", counts.markdown()]
    return "\n\n".join(parts)


def _status_mix(row: PolicyResult) -> list[dict[str, Any]]:
    dev, train = row.statuses["dev"], row.statuses["train"]
    return [
        {"status": s, "dev (greedy)": dev.get(s, 0), "train (sampled)": train.get(s, 0)}
        for s in STATUSES
        if s in dev or s in train
    ]


def publish_table(key: str, table: Table, description: str) -> None:
    """Leave the table of an experiment in the UI: methods compared, models evaluated, a config's retrainings."""
    try:
        shown = [{one_line(k): one_line(v) for k, v in row.items()} for row in table.records()]
        create_table_artifact(shown, key=_slug(key), description=paragraph(description))
    except NOT_ANSWERED as e:  # what it shows is on disk; a night's work does not fail for it
        logging.getLogger(__name__).warning("%s is not shown in Prefect's UI (%s: %s)", key, type(e).__name__, e)


def _three_pairs(pairs: Artifact) -> str:
    """Every text in it is the suite's or the model's: escaped, or inside a block that it cannot close."""
    frame = pairs.frame("pairs")
    parts = []
    for p in spread(frame, 3).rows(named=True):
        diff = difflib.unified_diff(_words(p["rejected"]), _words(p["chosen"]), "rejected", "chosen", lineterm="", n=50)
        parts += [
            f"### {inline(p['problem_id'])}",
            paragraph(question(p["prompt"])),
            f"`+` chosen ({p['chosen_source']}), `-` rejected ({p['rejected_status'].replace('_', ' ')})",
            fenced("\n".join(list(diff)[3:]), "diff"),
        ]
    return "\n\n".join(parts)


def _words(code: str) -> list[str]:
    """A program in lines short enough for a diff: one SQL clause, or one source line, each."""
    return [one_line(line.strip()) for line in _CLAUSE.split(code) if line.strip()]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
