"""Shows on stderr how a run goes: the events of its ledger, and how far the present stage is.

On a terminal this is a progress bar; in a pipe or a file, a line at least every half minute.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from codelutra.results.escapes import one_line, visible
from codelutra.results.text import training
from codelutra.store.artifacts import Event

EVERY_SECONDS = 30.0  # between two lines where there is no terminal
State = dict[str, Any]  # progress.json


def shown(text: str) -> str:
    """Text that may be anybody's, as markup that shows it as it is."""
    return escape(visible(text))


def shown_on(console: Console, since: float | None = None) -> _Bar | AbstractContextManager[Lines]:
    """Where progress is shown; use with `with`. `since`, in seconds since 1970: older progress is of an earlier start; None:
    this start begins now."""
    began = time.time() if since is None else since
    return _Bar(console, began) if console.is_terminal else nullcontext(Lines(console, began=began))


class _Stage:
    """The stage that wrote progress.json last, and how fast it is."""

    def __init__(self, state: State) -> None:
        self.name, self._first = state["stage"], (state["at"], state["done"])

    def count(self, state: State) -> str:
        return shown(f"{state['done']:,}/{state['total']:,} {state['unit']}")

    def rate(self, state: State) -> float:
        """Units a second since it was first seen; 0 while that cannot be told."""
        spent = state["at"] - self._first[0]
        return (state["done"] - self._first[1]) / spent if spent > 1 else 0.0

    def spent(self) -> float:
        """Seconds since it was first heard of."""
        return max(0.0, time.time() - self._first[0])


class _Bar:
    """One bar. Above it, of a training, a line every tenth of its steps."""

    def __init__(self, console: Console, began: float) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console, transient=True, refresh_per_second=4)
        self._id: TaskID | None = None
        self._stage: _Stage | None = None
        self._told, self._began = -1, began
        self._wait: Event | None = None
        self._waited: Event | None = None  # which the bar says

    def __enter__(self) -> Self:
        self._bars.start()
        self._add("starting Prefect" if self._began else "between two stages", None)
        return self

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def _add(self, what: str, total: int | None) -> None:
        if self._id is not None:
            self._bars.remove_task(self._id)
        self._id = self._bars.add_task(shown(what), total=total, count="", rate="")

    def say(self, line: str) -> None:
        """Print a line of markup."""
        self._bars.console.print(line, soft_wrap=True)

    def heard(self, event: Event) -> None:
        """Take in an event of the ledger: until work goes on, what is waited for is what the run does."""
        self._wait = event if event["event"] == "waiting" and "at" in event else self._wait

    def update(self, state: State | None) -> None:
        """Take in what the run does now; None before it has said so. Called several times a second."""
        if self._wait and not _later(state, self._wait):
            if self._stage is not None or self._waited is not self._wait:
                self._stage, self._waited = None, self._wait
                self._add(f"waiting for {self._wait['what']}", None)
            return
        if not state or state["at"] < self._began:
            return
        if not self._stage or state["stage"] != self._stage.name:
            self._stage, self._told = _Stage(state), -1
            self._add(state["stage"], state["total"] or None)
        assert self._id is not None
        rate = self._stage.rate(state)
        self._bars.update(
            self._id,
            completed=state["done"],
            total=state["total"] or None,
            count=self._stage.count(state),
            rate=f"{rate:,.1f}/s" if rate else "",
        )
        tenth = 10 * state["done"] // max(1, state["total"])
        if tenth > self._told and (said := training(state.get("measures"), "")):
            self._told = tenth
            self.say(f"[dim]  {shown(state['stage'])}, step {state['done']:,}:[/] {said}")


class Lines:
    """Lines, where there is no terminal."""

    def __init__(self, console: Console, every: float = EVERY_SECONDS, began: float | None = None) -> None:
        self._console, self._every = console, every
        self._stage: _Stage | None = None
        self._began, self._due = time.time() if began is None else began, time.monotonic() + every
        self._wait: Event | None = None

    def heard(self, event: Event) -> None:
        self._wait = event if event["event"] == "waiting" and "at" in event else self._wait

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._due = time.monotonic() + self._every

    def update(self, state: State | None) -> None:
        fresh = state if state and state["at"] >= self._began else None
        if fresh and (not self._stage or fresh["stage"] != self._stage.name):
            self._stage = _Stage(fresh)
        if time.monotonic() < self._due:
            return
        if self._wait and not _later(fresh, self._wait):
            self.say(f"  waiting for {shown(self._wait['what'])}, {_minutes(time.time() - self._wait['at'])} so far")
            return
        if not fresh or not self._stage:
            self.say(f"  starting, {_minutes(time.time() - self._began)} so far" if self._began else "  between two stages")
            return
        if (rate := self._stage.rate(fresh)) > 0:
            pace = f"{rate:,.1f}/s, {_minutes((fresh['total'] - fresh['done']) / rate)} left"
        else:
            pace = f"{_minutes(self._stage.spent())} so far"
        self.say(f"  {shown(self._stage.name)}: {self._stage.count(fresh)}, {pace}{training(fresh.get('measures'))}")


class Here:
    """How far a command is that does its work itself; for `with`. On a terminal its last line, else a line now and then."""

    def __init__(self, every: float = EVERY_SECONDS) -> None:
        self._every, self._due = every, time.monotonic() + every
        self._began, self._on_terminal = time.monotonic(), sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int, unit: str, measures: object = None) -> None:
        line = one_line(f"{stage}: {done:,}/{total:,} {unit}")
        if self._on_terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            print(f"  {line}, {_minutes(time.monotonic() - self._began)} so far", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _later(state: State | None, event: Event) -> bool:
    """Whether a stage wrote `state` after the event."""
    return bool(state and state["at"] > event["at"])


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


# What is said of an event of the ledger, as markup with the event's fields; and of an artifact that was made, by its stage.
_SAID = {
    "damaged": "[red]✗ damaged {stage} artifact set aside and made again: {moved_to}[/]",
    "resumed": "[yellow]↻ {text}[/]",
    "note": "[yellow]! {text}[/]",
    "unpublished": "[yellow]! {text}[/]",
    "waiting": "[dim]… waiting for {what}[/]",
    "measured": "[bold]● {text}[/]",
}
_TOOK = "  [dim]{seconds:.0f} s[/]"
_MADE = {
    "problems": "✓ problems loaded",
    "references": "✓ reference check: {facts[problems]} references, {facts[reference_errors]} failed" + _TOOK,
    "warm-start": "✓ {label}: SFT on references" + _TOOK,
    "train": "✓ trained {label}" + _TOOK,
    "pairs": "✓ {facts[pairs]} pairs",
    "answers": "✓ {facts[answers]} answers to imitate",
    "groups": "✓ {facts[answers]} answers in {facts[groups]} groups",
}


def event_line(event: Event) -> str | None:
    """What to say of a ledger event, as markup; None where there is nothing to say."""
    said = _MADE.get(event["stage"]) if event["event"] == "made" else _SAID.get(event["event"])
    event = event if event.get("label") else event | {"label": "warm start"}  # what alone has none and is shown by it
    return said.format(**{k: shown(v) if isinstance(v, str) else v for k, v in event.items()}) if said else None
