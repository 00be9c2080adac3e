"""Start the refine flow as a process of its own and show how it goes.

The flow's process writes ledger.jsonl and progress.json; all its noise (vLLM, TRL, Prefect) goes to the run's log.txt. This
process only reads those files, so `codelutra run` and somebody who looks from elsewhere see the same. However this process
ends, the flow's ends with it: it hears its stdin close.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from codelutra.cli.tables import training_text
from codelutra.config import RunConfig
from codelutra.errors import CodelutraError, UserError
from codelutra.store.artifacts import Event
from codelutra.store.child import our_environment
from codelutra.store.paths import home_dir
from codelutra.store.run_dir import RunDir, read_event
from codelutra.suites.base import open_suite

# Where no server is set up, Prefect starts one for the run; on a busy machine that takes longer than its default 20 s.
_ENVIRONMENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_PATIENCE = 15.0  # seconds; of a start that was just killed the flow is still ending


def watch_run(source: str, overrides: tuple[str, ...], config: RunConfig, home: Path | None) -> dict[str, Any]:
    """Run `flows.refine` to its end, showing progress on stderr; returns the run's summary.

    Raises UserError or CodelutraError with the flow's own message when it stops early.
    """
    if not find_spec("prefect"):
        raise UserError(
            "`codelutra run` drives the loop with Prefect, which is not installed: pip install 'codelutra[prefect]'"
        )
    open_suite(config.suite)  # an unusable suite is told before anything is made
    run = RunDir.create(home_dir(home) / "runs", config)
    if run.held:
        print(f"another process has run {config.name}; waiting up to {_PATIENCE:.0f} s for it to end", file=sys.stderr)
        until = time.monotonic() + _PATIENCE
        while run.held and time.monotonic() < until:
            time.sleep(0.5)
        with run.hold():  # raises where it still goes on
            pass
    command = [sys.executable, "-m", "flows.refine", source, "--home", str(home_dir(home)), "--watched"]
    command += [f"--set={o}" for o in overrides]
    seen = run.ledger_size()
    with open(run.log, "ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment())
    with child, _ending(child, signal.SIGTERM, signal.SIGHUP):
        code = _watch(child, run, seen)
    if code:
        raise _failure(code, run, seen, child.pid)
    summary: dict[str, Any] = run.read("summary.json")
    return summary


def _environment() -> dict[str, str]:
    return _ENVIRONMENT | os.environ | our_environment()


@contextlib.contextmanager
def _ending(child: subprocess.Popen[bytes], *numbers: signal.Signals) -> Iterator[None]:
    """Meanwhile these signals end `child`, whose end is then told as any other. Those ignored (`nohup`) stay so."""
    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    before = {n: signal.signal(n, lambda *_: _end(child)) for n in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes]) -> None:
    assert child.stdin
    child.stdin.close()


def _watch(child: subprocess.Popen[bytes], run: RunDir, seen: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"run [bold]{run.path.name}[/]  ·  {escape(str(run.path))}  ·  log: {run.log.name}")
    ledger = _follow(run.path / "ledger.jsonl", seen)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    reused = 0
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bars:
        bar = _Bar(bars)
        try:
            while True:
                ended = child.poll()
                for event in ledger:
                    if event is None:
                        break
                    reused += event["event"] == "reused"
                    if line := _line(event):
                        bars.console.print(line, soft_wrap=True)
                bar.update(run.read("progress.json"))
                if ended is not None:
                    if reused:
                        console.print(f"  reused {reused} finished artifacts from the store")
                    return ended
                time.sleep(0.25)
        except KeyboardInterrupt:
            console.print("stopping; the same command goes on from here")
            _end(child)
            return child.wait()


class _Bar:
    """One bar: whatever stage wrote progress.json last. Above it, of a training, a line every tenth of its steps."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._id: TaskID | None = None
        self._stage = ""
        self._told = -1
        self._first = (0.0, 0)
        self._began = time.time()

    def update(self, state: dict[str, Any] | None) -> None:
        if not state or state["at"] < self._began:
            return
        if state["stage"] != self._stage:
            if self._id is not None:
                self._bars.remove_task(self._id)
            self._stage, self._first, self._told = state["stage"], (state["at"], state["done"]), -1
            self._id = self._bars.add_task(escape(state["stage"]), total=state["total"] or None, count="", rate="")
        assert self._id is not None
        spent = state["at"] - self._first[0]
        rate = f"{(state['done'] - self._first[1]) / spent:,.1f}/s" if spent > 1 else ""
        count = f"{state['done']:,}/{state['total']:,} {state['unit']}"
        self._bars.update(self._id, completed=state["done"], total=state["total"] or None, count=count, rate=rate)
        tenth = 10 * state["done"] // max(1, state["total"])
        if tenth > self._told and (said := training_text(state.get("measures"), "")):
            self._told = tenth
            self._bars.console.print(f"[dim]  {escape(state['stage'])}, step {state['done']:,}:[/] {said}", soft_wrap=True)


def _line(event: Event) -> str | None:
    """What to say of a ledger event, if anything."""
    event = {k: escape(v) if isinstance(v, str) else v for k, v in event.items()}
    label, facts = event.get("label") or "", event.get("facts", {})
    took = f"[dim]{event.get('seconds', 0):.0f} s[/]"
    match event["event"], event.get("stage"):
        case "damaged", stage:
            return f"[red]✗ damaged {stage} artifact set aside and made again: {event['moved_to']}[/]"
        case "resumed", _:
            return f"[yellow]↻ {event['text']}[/]"
        case "note", _:
            return f"[yellow]! {event['text']}[/]"
        case "waiting", _:
            return f"[dim]… waiting for {event['what']}[/]"
        case "measured", _:
            return f"[bold]● {event['text']}[/]"
        case "made", "problems":
            return "✓ problems loaded"
        case "made", "references":
            return f"✓ reference check: {facts['problems']} references, {facts['reference_errors']} unusable  {took}"
        case "made", "warm-start":
            return f"✓ warm start: SFT on references  {took}"
        case "made", "train":
            return f"✓ trained {label}  {took}"
        case "made", "pairs":
            return f"✓ {facts.get('pairs', 0)} pairs"
        case _:
            return None


def _follow(path: Path, start: int) -> Iterator[Event | None]:
    """Ledger events written after byte `start`, whole lines only; None whenever there is nothing new."""
    rest, at = b"", start
    while True:
        new = b""
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as f:
            f.seek(at)
            new = f.read()
        at += len(new)
        *lines, rest = (rest + new).split(b"\n")
        yield from filter(None, map(read_event, lines))
        yield None


def _failure(code: int, run: RunDir, seen: int, pid: int) -> CodelutraError:
    """What process `pid` said of its end: others, started on the same run and refused, write into the same ledger."""
    errors = [e for e in run.events(seen) if e["event"] in ("error", "refused") and e["pid"] == pid]
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        return _with_code("interrupted; the same command goes on from here", 130)
    if errors:
        return _with_code(errors[-1]["text"], errors[-1]["exit_code"])
    return _with_code(f"the run's process ended with code {code} and left no message; see {run.log}", 1)


def _with_code(text: str, code: int) -> CodelutraError:
    error = CodelutraError(text)
    error.exit_code = code
    return error
