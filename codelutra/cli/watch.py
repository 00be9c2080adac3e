"""Start the refine flow as a process of its own and show how it goes.

The flow's process writes ledger.jsonl and progress.json; all its noise (vLLM, TRL, Prefect) goes to the run's log.txt. This
process only reads those files, so `codelutra run` and `codelutra status` show the same. When this process ends, however it
ends, the flow's process sees its stdin close and ends too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from codelutra.cli.progress import event_line, shown, shown_on
from codelutra.config import load_config
from codelutra.errors import CodelutraError, UserError, disk_is_full, full_disk
from codelutra.experiments.variants import set_aside
from codelutra.pipeline.startable import require_startable
from codelutra.planning.refusal import first_lines, require_room
from codelutra.results.load import load_summary
from codelutra.results.summary import RunSummary
from codelutra.store.artifacts import Event
from codelutra.store.child import our_environment
from codelutra.store.paths import go_on_command
from codelutra.store.run_dir import RunDir, read_event
from codelutra.suites.base import open_suite

# Where no server is set up, Prefect starts one for the run; on a busy machine that takes longer than its default 20 s.
_ENVIRONMENT = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

_NO_SERVER = (
    "Failed to reach API",
    "ConnectError",
    "ConnectTimeout",
    "UnsupportedProtocol",
    "InvalidURL",
    "PREFECT_API_URL",
)
_NO_SPACE = 1 << 20  # bytes; with less on the disk not even a log is written
_LINES_SHOWN = 12  # of a log
_PATIENCE = 15.0  # seconds; of a start that was just killed the flow is still ending


def require_prefect() -> None:
    if not find_spec("prefect"):
        raise UserError("runs are driven by Prefect, which is not installed: pip install 'codelutra[prefect]'")


def watch_run(source: str, overrides: tuple[str, ...], home: Path, *, fresh: bool = False) -> RunSummary:
    """Run `flows.refine` to its end, showing progress on stderr; returns the run's summary. `fresh`: an earlier run of this
    name is moved aside first.

    Raises ConfigError, and CodelutraError with the flow's own message when it stops early.
    """
    config = load_config(source, overrides)
    require_prefect()
    require_startable(config, home)  # this and an unusable suite are told before anything is made
    open_suite(config.suite)
    require_room(config, home)  # and so is a model that no setting makes fit
    if fresh and (name := set_aside(home, config)):
        print(f"the run {config.name} that was here is called {name} now", file=sys.stderr)
    run = RunDir.create(home / "runs", config)
    if run.held:
        print(f"another process has run {config.name}; waiting up to {_PATIENCE:.0f} s for it to end", file=sys.stderr)
        until = time.monotonic() + _PATIENCE
        while run.held and time.monotonic() < until:
            time.sleep(0.5)
        with run.hold():  # raises where it still goes on
            pass
    command = [sys.executable, "-m", "flows.refine", source, "--home", str(home), "--watched"]
    command += [f"--set={o}" for o in overrides]
    seen = run.ledger_size()
    with open(run.log, "ab") as log:
        logged = log.tell()
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment())
    with child, _ending(child, signal.SIGTERM, signal.SIGHUP):
        code = _watch(child, run, seen, partial(first_lines, config, home))
    if code:
        raise _failure(code, run, seen, child.pid, logged)
    summary = load_summary(run.path)
    assert summary is not None
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


def _watch(child: subprocess.Popen[bytes], run: RunDir, seen: int, first: Callable[[], list[str]]) -> int:
    out = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
    out.print(f"run [bold]{run.path.name}[/]  ·  {shown(str(run.path))}  ·  log: {run.log.name}")
    ledger, reused, fetched = told_since(run.path / "ledger.jsonl", seen), 0, 0
    with shown_on(out) as screen:
        try:
            for text in first():  # worked out while the flow's process loads
                screen.say(f"  {shown(text)}")
            while True:
                ended = child.poll()
                for event in iter(lambda: next(ledger), None):
                    reused += event["event"] == "reused"
                    fetched += event["event"] == "fetched"
                    if line := event_line(event):
                        screen.say(line)
                    screen.heard(event)
                screen.update(run.progressed())
                if ended is not None:
                    if reused:
                        elsewhere = f", {fetched} of them made by other hosts" if fetched else ""
                        screen.say(f"  reused {reused} finished artifacts from the store{elsewhere}")
                    return ended
                time.sleep(0.25)
        except KeyboardInterrupt:
            screen.say("stopping; what is finished is kept in the store")
            _end(child)
            return child.wait()


def told_since(path: Path, start: int) -> Iterator[Event | None]:
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


def _failure(code: int, run: RunDir, seen: int, pid: int, logged: int = 0) -> CodelutraError:
    """What process `pid` said of its end: others, started on the same run and refused, write into the same ledger. Where it
    said nothing there, its log does, from byte `logged` on."""
    errors = [e for e in run.events(seen) if e["event"] in ("error", "refused") and e.get("pid") == pid]
    if code in (130, 143, -signal.SIGINT, -signal.SIGTERM):
        text, exit_code = f"interrupted; what is finished is kept. Go on with: {go_on_command(run.path)}", 130
    elif errors:
        text, exit_code = str(errors[-1].get("text")), errors[-1].get("exit_code", 1)
    else:
        text, exit_code = _without_message(code, run, logged), 1
    error = CodelutraError(text)
    error.exit_code = exit_code
    return error


def _without_message(code: int, run: RunDir, logged: int) -> str:
    """What can be said of a process that ended before it could: the end of its log, and the cause where that is known."""
    written = run.log.read_bytes()[logged:] if run.log.is_file() else b""
    lines = [line.rstrip() for line in written.decode(errors="replace").splitlines() if line.strip()]
    shown = "".join(f"\n  {line[:300]}" for line in lines[-_LINES_SHOWN:])
    end = f"\nThe end of {run.log}:{shown}" if shown else f"; its log, {run.log}, is empty"
    return f"the run's process ended with code {code} and left no message{_cause(lines, run)}{end}"


def _cause(lines: Sequence[str], run: RunDir) -> str:
    url = os.environ.get("PREFECT_API_URL")
    if url and any(said in line for line in lines for said in _NO_SERVER):
        return f": no Prefect server answers at PREFECT_API_URL ({url}). Start it (`make ui`), or unset PREFECT_API_URL"
    if disk_is_full("\n".join(lines)) or shutil.disk_usage(run.path).free < _NO_SPACE:
        return f": {full_disk(run.path)}"
    return ""
