"""Disk space back: what no run uses any more goes from the store, and runs that are named go with what only they use.

A run uses what its ledger has met. Kept in any case: runs that were promoted, and those that a kept run goes on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from codelutra.errors import UserError
from codelutra.experiments.retrain import Record
from codelutra.store.run_dir import RunDir


@dataclass(frozen=True)
class Unused:
    """What may go: run directories, and directories of the store with their bytes."""

    runs: list[Path]
    artifacts: list[tuple[Path, int]]

    @property
    def size(self) -> int:
        return sum(size for _, size in self.artifacts)


def unused(home: Path, names: Sequence[str] = ()) -> Unused:
    """What can be removed under `home`, with the runs `names`. Removes nothing.

    Raises UserError where a run is going on (it may be about to reuse anything), where a name is no run, or where that run
    was promoted or is what another one goes on from.
    """
    runs = {p.parent.name: RunDir(p.parent) for p in sorted((home / "runs").glob("*/run.yaml"))}
    if missing := [name for name in names if name not in runs]:
        raise UserError(f"no run {missing[0]!r} under {home / 'runs'}; there: {', '.join(runs) or 'none'}")
    if held := [name for name, run in runs.items() if run.held]:
        raise UserError(f"run {held[0]!r} is going on and may be about to reuse anything; prune when it has ended")
    for record in (home / "promoted").glob("*/record.json"):
        name = record.parent.name
        if mine := {r.run for r in Record(home, name).rows if r.promoted_at} & set(names):
            raise UserError(f"run {min(mine)!r} is needed to roll {name} back (it was promoted); it is not removed")
    for name, run in runs.items():
        if name not in names and (needed := _goes_on_from(run)) in names:
            raise UserError(f"run {needed!r} is what {name!r} goes on from; name that one, too, or keep both")
    kept = {(e["stage"], e["key"]) for name, run in runs.items() if name not in names for e in run.events() if "key" in e}
    store = home / "store"
    made = [p for p in store.glob("[!.]*/*") if p.is_dir() and (p.parent.name, p.name) not in kept]
    halves = [p for p in store.glob(".partial/*") if tuple(p.name.rsplit("-", 1)) not in kept]
    found = [*made, *halves, *store.glob(".damaged/*")]
    return Unused([runs[name].path for name in names], [(p, _size(p)) for p in sorted(found)])


def remove(found: Unused) -> None:
    """Remove it: runs first, so that a kill leaves no run whose artifacts are gone."""
    for path in found.runs:
        shutil.rmtree(path)
    for path, _ in found.artifacts:
        shutil.rmtree(path, ignore_errors=True)


def _goes_on_from(run: RunDir) -> str:
    config = yaml.safe_load((run.path / "run.yaml").read_text())
    return str(config["model"]).removeprefix("run:") if str(config["model"]).startswith("run:") else ""


def _size(path: Path) -> int:
    return sum(f.lstat().st_size for f in path.rglob("*") if f.is_file())
