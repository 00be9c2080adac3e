"""`codelutra status --follow`: shows the ledger of a run that another process works on, and how far its stage is."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rich.console import Console

from codelutra.cli.progress import event_line, shown, shown_on
from codelutra.cli.shelf import when
from codelutra.cli.watch import told_since
from codelutra.errors import UserError
from codelutra.results.load import run_names
from codelutra.results.summary import RunSummary
from codelutra.store.artifacts import Event
from codelutra.store.files import is_locked, lock_holder
from codelutra.store.paths import accelerator_lock
from codelutra.store.run_dir import RunDir

_EVERY = 0.5  # seconds


def at_work(runs: Path) -> str:
    """The run that goes on now. Raises UserError where there is none, or more than one."""
    going = [name for name in run_names(runs) if RunDir(runs / name).held]
    if len(going) == 1:
        return going[0]
    if going:
        raise UserError(f"{len(going)} runs go on: {', '.join(going)}; say which: codelutra status {going[0]} --follow")
    raise UserError(
        f"no run goes on under {runs}; `codelutra run CONFIG` starts one, `codelutra status` lists those there are"
    )


def follow(run: RunDir) -> None:
    """Show on stderr what the run's newest start has told so far and tells from now on, to its end or to Ctrl-C, which
    leaves the run alone."""
    out = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    going = run.held
    if not going:
        out.print(f"run {shown(run.path.name)} does not go on now")
        return
    out.print(f"following [bold]{shown(run.path.name)}[/]; Ctrl-C ends this and leaves the run alone")
    out.print(f"[dim]{shown(engine_line())}[/]")
    ledger, day = told_since(run.path / "ledger.jsonl", 0), ""
    events = _newest_start(list(iter(lambda: next(ledger), None)))
    with contextlib.suppress(KeyboardInterrupt), shown_on(out, since=0.0) as screen:
        while True:
            for event in events:
                if line := event_line(event):
                    stamp, day = _stamp(event, day)
                    screen.say(f"[dim]{stamp}[/]  {line}")
                screen.heard(event)
            screen.update(run.progressed())
            if not going:
                return
            time.sleep(_EVERY)
            going, events = run.held, list(iter(lambda: next(ledger), None))


def engine_line() -> str:
    """Who has the host's engine now."""
    lock = accelerator_lock()
    held = is_locked(lock)
    return f"engine: held by {lock_holder(lock) or 'a process that does not say which'}" if held else "engine: free"


def dates_line(summary: RunSummary, run: RunDir) -> str:
    """When a run began, and when it last wrote."""
    events = run.events()
    last = next((float(e["at"]) for e in reversed(events) if isinstance(e.get("at"), int | float)), 0.0)
    told = f"; last heard of {when(last)}" if last else ""
    return f"began {when(summary.started)}{told}"


def _newest_start(events: list[Event]) -> list[Event]:
    """What the process that wrote last has written."""
    pid = next((e.get("pid") for e in reversed(events)), None)
    return [e for e in events if e.get("pid") == pid]


def _stamp(event: Event, day: str) -> tuple[str, str]:
    """An event's time here, with the day where it is another one than `day`; and its day."""
    at = event.get("at")
    if not isinstance(at, int | float):
        return " " * 8, day
    today = time.strftime("%Y-%m-%d", time.localtime(at))
    clock = time.strftime("%H:%M:%S", time.localtime(at))
    return (clock if today == day else f"{today} {clock}"), today
