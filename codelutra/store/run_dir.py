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
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from codelutra.config import HOW_FAR, SAME_RESULT, RunConfig, differing, parse_config, to_yaml
from codelutra.errors import BusyError, ConfigError, UserError, disk_is_full, full_disk, redacted
from codelutra.hardware import number_format
from codelutra.store.artifacts import Artifact, Event
from codelutra.store.files import UNREADABLE, is_locked, link_atomic, locked, reading, require_plain_file, write_atomic
from codelutra.store.paths import go_on_command, told_command

SAMPLED_NOW = "sampled-now.json"
"""Which policy the run's servers are to serve now: `label`, `path`, and the `home` it may be in."""
_NO_LEDGER = "move it away: it only tells what happened"


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("event", "stage", "label", "key"), str),
    "at": (int, float),
    "pid": int,
}


def read_event(line: bytes) -> Event | None:
    """A line of a ledger; None where a kill or a full disk cut it short, or it is no event: what it has of the keys that
    all events have must be of their kinds."""
    with contextlib.suppress(ValueError, RecursionError):
        event: Event = json.loads(line)
        if isinstance(event, dict) and "event" in event:
            plain = all(isinstance(event[key], kind) for key, kind in _KINDS.items() if key in event)
            return event if plain and 0 <= event.get("at", 0) < 1e11 else None
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
        """Whether the run has a config. Raises UserError if it is another one and there is something to lose."""
        before = self.config("remove it: the run then takes the config that it is started with")
        if before is None:
            return False
        try:
            _refuse_other(self.path, before, config)
        except UserError:
            if self.has_results:
                raise
            return False
        return True

    def is_of_another(self, config: RunConfig) -> bool:
        """Whether starting `config` here is refused: there is something to lose, and it belongs to another config."""
        before = self.config("remove it: the run then takes the config that it is started with")
        return before is not None and self.has_results and bool(differing(before, config, SAME_RESULT, HOW_FAR))

    @property
    def has_results(self) -> bool:
        """Whether a policy was measured here, or a process is at it."""
        return self.held or self.has_scores

    @property
    def has_scores(self) -> bool:
        return any(self.path.rglob("*-scores"))

    def config(self, mend: str) -> RunConfig | None:
        """The config in run.yaml, None where there is none. Raises UserError, with `mend` as the way out, where it is no
        config."""
        file = self.path / "run.yaml"
        with contextlib.suppress(FileNotFoundError), reading(file, mend):
            text = redacted(file.read_text(encoding="utf-8")).replace(
                "://***@", "://"
            )  # 0.1.0 took addresses with a password
            raw = yaml.safe_load(text)
            try:
                return parse_config(raw, str(file))
            except ConfigError as e:
                raise UserError(f"{e}\n{file} is damaged, or of another version of codelutra: {mend}") from e
        return None

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one process that refines this run. Raises BusyError if another is at it."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self.path / ".lock", wait=False))
            except BlockingIOError as e:
                raise BusyError(
                    f"run {self.path.name!r} is going on in another process; watch it with "
                    f"`{told_command(f'codelutra status {self.path.name}', self.path)}`, or wait until it ends"
                ) from e
            yield

    @property
    def held(self) -> bool:
        """Whether a process is refining this run now."""
        return is_locked(self.path / ".lock")

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    def ledger(self, event: Event) -> None:
        """Append one line, and have it on the disk; lines of concurrent writers do not mix (one write, O_APPEND)."""
        line = json.dumps({"at": round(time.time(), 3), "pid": os.getpid(), **event}, default=str).encode() + b"\n"
        file = self.path / "ledger.jsonl"
        with reading(file, _NO_LEDGER):
            require_plain_file(file)
        fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(fd).st_size
            cut_short = size and os.pread(fd, 1, size - 1) != b"\n"  # by a kill: ours is no end of that line
            os.write(fd, b"\n" + line if cut_short else line)
            os.fsync(fd)
        except OSError as e:
            raise (full_disk(file) if disk_is_full(e) else e) from e
        finally:
            os.close(fd)

    def ledger_size(self) -> int:
        """Bytes of the ledger so far: `events(since=…)` gives what comes later."""
        path = self.path / "ledger.jsonl"
        return path.stat().st_size if path.exists() else 0

    def events(self, since: int = 0) -> list[Event]:
        """The ledger after byte `since`; a line that is still being written, or was cut short, is left out."""
        file = self.path / "ledger.jsonl"
        with contextlib.suppress(FileNotFoundError), reading(file, _NO_LEDGER):
            *lines, _ = file.read_bytes()[since:].split(b"\n")
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

    def progressed(self) -> dict[str, Any] | None:
        """What `progress` wrote last, None where there is nothing to be read."""
        with contextlib.suppress(*UNREADABLE):
            state = self.read("progress.json")
            if {type(state["stage"]), type(state["unit"])} == {str} and state["at"] + state["done"] + state["total"] >= 0:
                return dict(state)
        return None

    def link(self, name: str, artifact: Artifact) -> None:
        """Make runs/<name>/`name` point at the artifact (or at one file in it: `name` with a suffix)."""
        link = self.path / name
        link_atomic(link, artifact.file(link.name) if link.suffix else Path(artifact.path))

    def write(self, name: str, value: Any) -> None:
        """Write `value` as JSON, whole or not at all."""
        write_atomic(self.path / name, json.dumps(value, indent=1))

    def read(self, name: str) -> Any:
        """JSON written by `write`, or None. Raises any of UNREADABLE where it is none."""
        with contextlib.suppress(FileNotFoundError):
            require_plain_file(self.path / name)
            return json.loads((self.path / name).read_text())
        return None


def _refuse_other(path: Path, before: RunConfig, now: RunConfig) -> None:
    if before.store and before.store != now.store:
        said = f"shares its work through store {before.store}, and this start " + (
            f"names {now.store}" if now.store else "names none"
        )
        raise UserError(
            f"run {now.name!r} at {path} {said}. Give the same one (--set store={shlex.quote(before.store)}, or "
            f"CODELUTRA_STORE); or change the line `store:` of {path / 'run.yaml'}: what is finished stays here, and is "
            "published to the new one"
        )
    if differ := differing(before, now, SAME_RESULT, HOW_FAR):
        raise UserError(
            f"run {now.name!r} exists at {path} with another config ({told(differ)}). Four ways out: give it a name of "
            "its own (--set name=…; finished work is shared through the store), move the old one aside (`codelutra run … "
            f"--fresh`), go on with the old one ({go_on_command(path)}), or remove it (codelutra runs rm {now.name})"
        )


def told(differ: Mapping[str, tuple[Any, Any]]) -> str:
    """The first of what `differing` gives, for a message."""
    return "; ".join(f"{k}: {was!r} there, {now!r} now" for k, (was, now) in list(differ.items())[:5])
