"""`RunDir`: the view of the store that people read. One folder a run.

runs/<name>/run.yaml        the resolved config
runs/<name>/ledger.jsonl    what happened, one JSON line an event
runs/<name>/progress.json   what is going on now
runs/<name>/log.txt         everything the libraries print
runs/<name>/…               links to artifacts, and what is written of the run as a whole
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from codelutra.config import HOW_FAR, SAME_RESULT, RunConfig, parse_config, settings, to_yaml
from codelutra.errors import UserError
from codelutra.hardware import number_format
from codelutra.store.artifacts import Artifact, Event
from codelutra.store.files import link_atomic, locked, write_atomic
from codelutra.store.paths import go_on_command, told_command


def read_event(line: bytes) -> Event | None:
    """A line of a ledger; None where a kill or a full disk cut it short."""
    with contextlib.suppress(json.JSONDecodeError):
        event: Event = json.loads(line)
        return event
    return None


class RunDir:
    """runs/<name>/: run.yaml, ledger.jsonl, progress.json, summary.json, log.txt and links into the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._progress_due = 0.0

    @staticmethod
    def create(runs: Path, config: RunConfig) -> RunDir:
        """Open or make the run's directory. Raises UserError if it belongs to another config.

        What may change of a config is not written here but by `settle`: another process may be refining the run.
        """
        run = RunDir(runs / config.name)
        run.path.mkdir(parents=True, exist_ok=True)
        if not run._refuse_other(config):
            run._write_config(config)
        return run

    def settle(self, config: RunConfig) -> None:
        """Make `config` the run's; for whoever holds it. Raises UserError if it belongs to another config."""
        self._refuse_other(config)
        self._write_config(config)

    def _write_config(self, config: RunConfig) -> None:
        """With the number format that `auto` means here: going on with another one, elsewhere, is refused."""
        engine = config.engine.model_copy(update={"dtype": number_format(config.engine.dtype)})
        write_atomic(self.path / "run.yaml", to_yaml(config.model_copy(update={"engine": engine})))

    def _refuse_other(self, config: RunConfig) -> bool:
        """Whether the run has a config. Raises UserError if it is another one."""
        written = self.path / "run.yaml"
        if not written.exists():
            return False
        _refuse_other(self.path, parse_config(yaml.safe_load(written.read_text()), str(written)), config)
        return True

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one process that refines this run. Raises UserError if another is at it."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.path / ".lock", wait=False))
            except BlockingIOError as e:
                raise UserError(
                    f"run {self.path.name!r} is going on in another process; watch it with "
                    f"`{told_command(f'codelutra status {self.path.name}', self.path)}`, or wait until it ends"
                ) from e
            yield

    @property
    def held(self) -> bool:
        """Whether a process is refining this run now."""
        try:
            with locked(self.path / ".lock", wait=False):
                return False
        except BlockingIOError:
            return True

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def ledger(self, event: Event) -> None:
        """Append one line; lines of concurrent writers do not mix (one write, O_APPEND)."""
        line = json.dumps({"at": round(time.time(), 3), "pid": os.getpid(), **event}, default=str) + "\n"
        fd = os.open(self.path / "ledger.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def ledger_size(self) -> int:
        """Bytes of the ledger so far: `events(since=…)` gives what comes later."""
        path = self.path / "ledger.jsonl"
        return path.stat().st_size if path.exists() else 0

    def events(self, since: int = 0) -> list[Event]:
        """The ledger after byte `since`; a line that is still being written, or was cut short, is left out."""
        with contextlib.suppress(FileNotFoundError):
            *lines, _ = (self.path / "ledger.jsonl").read_bytes()[since:].split(b"\n")
            return [event for line in lines if (event := read_event(line))]
        return []

    def progress(self, stage: str, done: int, total: int, unit: str, **more: Any) -> None:
        """What is going on now, for whoever looks; at most five times a second."""
        now = time.monotonic()
        if done < total and now < self._progress_due:
            return
        self._progress_due = now + 0.2
        state = {"stage": stage, "done": done, "total": total, "unit": unit, "at": time.time(), "pid": os.getpid(), **more}
        write_atomic(self.path / "progress.json", json.dumps(state))

    def link(self, name: str, artifact: Artifact) -> None:
        """Make runs/<name>/`name` point at the artifact (or at one file in it: `name` with a suffix)."""
        link = self.path / name
        link_atomic(link, artifact.file(link.name) if link.suffix else Path(artifact.path))

    def write(self, name: str, value: Any) -> None:
        """Write `value` as JSON, whole or not at all."""
        write_atomic(self.path / name, json.dumps(value, indent=1))

    def read(self, name: str) -> Any:
        """JSON written by `write`, or None."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.path / name).read_text())
        return None


def _refuse_other(path: Path, before: RunConfig, now: RunConfig) -> None:
    a, b = (settings(config, SAME_RESULT, HOW_FAR) for config in (before, now))
    for values in (a, b):  # a path as the config has it, and the same one written out
        if where := values.get("suite.path"):
            values["suite.path"] = os.path.abspath(where)
    differ = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k)]
    if differ:
        shown = "; ".join(f"{k}: {a.get(k)!r} there, {b.get(k)!r} now" for k in differ[:5])
        raise UserError(
            f"run {now.name!r} exists at {path} with another config ({shown}). Three ways out: give this one a name of its "
            f"own (--set name=…; finished work is shared through the store), go on with the old one "
            f"({go_on_command(path)}), or remove {path}"
        )
