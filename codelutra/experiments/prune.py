"""Frees disk space: removes from the store what no run uses any more, and named runs with everything that only they use.

A run uses what its ledger names, what its folder links, the weights in its record, and whatever these were made from.
Always kept: runs that were promoted, with their weights, and runs that a kept run started from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from codelutra.errors import UserError
from codelutra.experiments.retrain import Record, retrained
from codelutra.results.load import load_summary, no_run
from codelutra.store.artifacts import Store, read_manifest
from codelutra.store.files import UNREADABLE
from codelutra.store.run_dir import RunDir

Key = tuple[str, str]  # stage, key


@dataclass(frozen=True)
class Unused:
    """What may go: run directories, and directories of the store with their bytes."""

    runs: list[Path]
    artifacts: list[tuple[Path, int]]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.artifacts)


def unused(home: Path, names: Sequence[str] = ()) -> Unused:
    """What can be removed under `home`, with the runs `names`. Removes and writes nothing.

    Raises UserError where a run is going on (it may be about to reuse anything), where a name is no run, where that run was
    promoted or is what another one goes on from, or where a damaged file keeps any of this from being known.
    """
    for place in (home / "runs", home / "promoted"):
        for path in (place, *sorted(place.glob("*"))):
            if os.path.lexists(path) and not (os.path.isdir(path) if path == place else os.path.exists(path)):
                raise UserError(
                    f"{path} leads to no folder, so what is in use cannot be known; bring back what it led to, or remove it"
                )
    folders = [p for p in sorted((home / "runs").glob("*")) if p.is_dir()]
    runs = {p.name: RunDir(p) for p in folders if any(p.iterdir())}
    if missing := [name for name in names if name not in runs]:
        raise no_run(home / "runs", missing[0])
    if held := [name for name, run in runs.items() if run.held]:
        raise UserError(f"run {held[0]!r} is going on and may be about to reuse anything; prune when it has ended")
    store = Store(home / "store")
    refuse_needed(home, list(runs), names)
    kept = promoted_artifacts(home, store)
    for run in (run for name, run in runs.items() if name not in names):
        kept |= met(store, run)
    kept = Origins(store).of(kept)
    made = [p for p in store.root.glob("[!.]*/*") if p.parent.is_dir() and (p.parent.name, p.name) not in kept]
    halves = [p for p in store.root.glob(".partial/*") if _is_left(store, p.name, kept)]
    found = [*made, *halves, *store.root.glob(".damaged/*")]
    return Unused([runs[name].path for name in names], [(p, size_of(p)) for p in sorted(found)])


def prune(home: Path, names: Sequence[str] = ()) -> Unused:
    """Remove what is `unused`, while nobody works with the store; returns it. Raises UserError where somebody does."""
    with Store(home / "store").alone():
        found = unused(home, names)
        remove(found)
        return found


def remove(found: Unused) -> None:
    """Remove it: runs first, so that a kill leaves no run whose artifacts are gone."""
    for path in found.runs:
        shutil.rmtree(path)
    for path, _ in found.artifacts:
        if not path.is_symlink() and path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def refuse_needed(home: Path, runs: Sequence[str], names: Sequence[str]) -> None:
    """Raise UserError where one of `names` was promoted, or is what another one of `runs` goes on from."""
    for name in retrained(home) if names else ():
        if mine := {r.run for r in Record(home, name).rows if r.promoted_at} & set(names):
            raise UserError(f"run {min(mine)!r} is needed to roll {name} back (it was promoted); it is not removed")
    for name in runs if names else ():
        if name not in names and (needed := goes_on_from(RunDir(home / "runs" / name))) in names:
            raise UserError(f"run {needed!r} is what {name!r} goes on from; name that one, too, or keep both")


def promoted_artifacts(home: Path, store: Store) -> set[Key]:
    """The weights of policies that are or were promoted."""
    rows = (r for name in retrained(home) for r in Record(home, name).rows)
    promoted = [Path(r.path) for r in rows if r.promoted_at]
    return _in_store(store, [*promoted, *(home / "promoted").glob("*/model")])


def goes_on_from(run: RunDir) -> str:
    """The name of the run whose policy this one began with; "" where it began with another model."""
    config = run.config("put a copy of it back, or name this run too: it may go on from one of those that are to go")
    model = config.model if config else ""
    return model.removeprefix("run:") if model.startswith("run:") else ""


def met(store: Store, run: RunDir) -> set[Key]:
    """What the ledger tells of, the folder links, and the record names."""
    told = {(e["stage"], e["key"]) for e in run.events() if {"stage", "key"} <= e.keys()}
    linked = (Path(folder) / name for folder, *names in os.walk(run.path) for name in (*names[0], *names[1]))
    weights: list[Path] = []
    with contextlib.suppress(UserError):  # a damaged record: the others tell
        summary = load_summary(run.path)
        weights += [Path(p.path) for p in summary.policies] if summary else []
    with contextlib.suppress(UserError):
        config = run.config("")
        scheme, _, path = (config.model if config else "").partition(":")
        weights += [Path(os.path.expandvars(path)).expanduser()] if scheme == "path" else []
    return told | _in_store(store, (p for p in linked if p.is_symlink())) | _in_store(store, weights)


def _in_store(store: Store, paths: Iterable[Path]) -> set[Key]:
    """The artifacts that these paths, or what they link, are or lie in."""
    found = set[Key]()
    root = Path(os.path.realpath(store.root))  # `resolve` raises where a link leads to itself
    for path in paths:
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # elsewhere, or a link that leads to itself
            inside = path.resolve().relative_to(root).parts
            found |= {(inside[0], inside[1])} if len(inside) > 1 else set()
    return found


class Origins:
    """What the artifacts of a store were made from."""

    def __init__(self, store: Store) -> None:
        self._by_digest, self._inputs = dict[str, list[Key]](), dict[Key, list[str]]()
        for file in store.root.glob("[!.]*/*/manifest.json"):
            key = (file.parent.parent.name, file.parent.name)
            with contextlib.suppress(*UNREADABLE):
                manifest = read_manifest(file.parent)
                self._by_digest.setdefault(manifest["digest"], []).append(key)
                self._inputs[key] = list(manifest["inputs"].values())

    def of(self, kept: set[Key]) -> set[Key]:
        """`kept`, and the artifacts they were made from: all whose content one of them names as its input."""
        found, new = set(kept), sorted(kept)
        while new:
            asked = {digest for key in new for digest in self._inputs.get(key, ())}
            origins = [
                self._by_digest[d]
                for d in sorted(asked)
                if d in self._by_digest and not found.intersection(self._by_digest[d])
            ]
            new = [key for keys in origins for key in keys]
            found.update(new)
        return found


def _is_left(store: Store, name: str, kept: set[Key]) -> bool:
    """Whether an unfinished artifact is nobody's: no run's, or finished since; and no process is making it."""
    stage, _, key = name.rpartition("-")
    finished = (store.root / stage / key).is_dir()
    return (finished or (stage, key) not in kept) and not store.is_making(name)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all below a folder; links count nothing."""
    return sum(f.lstat().st_size for f in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (f for f in (path, *path.rglob("*")) if f.is_file() and not f.is_symlink())
