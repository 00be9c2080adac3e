"""Which runs there are, how much disk each uses, and the removal of one."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codelutra.errors import UserError
from codelutra.experiments.prune import Key, Origins, goes_on_from, met, promoted_artifacts, refuse_needed, size_of
from codelutra.experiments.retrain import Record, retrained
from codelutra.results.load import no_run, read_summary, run_names
from codelutra.results.summary import RunSummary
from codelutra.store.artifacts import Store
from codelutra.store.run_dir import RunDir


@dataclass(frozen=True)
class Listed:
    """A run; the bytes of `folder` are its own, those of `only` are artifacts that no other run uses."""

    name: str
    path: Path
    summary: RunSummary
    changed: float
    """Seconds since 1970: when its newest file was written."""
    folder: int
    uses: int
    """Bytes of all artifacts it uses, shared ones too."""
    only: int
    from_run: str
    """The run whose policy it began with; "" for any other model."""
    used_by: tuple[str, ...]
    """Runs that began with its policy."""
    promoted_in: tuple[str, ...]
    """Retrained configs for which its policy was promoted."""

    @property
    def bytes(self) -> int:
        """What its removal, and a prune, free."""
        return self.folder + self.only

    def as_json(self) -> dict[str, Any]:
        s = self.summary
        return {
            "name": self.name,
            "path": str(self.path),
            "state": s.state,
            "suite": s.suite,
            "model": s.model,
            "best": s.best,
            "dev": s.chosen.dev.value if s.chosen and s.chosen.dev.n else None,
            "test": s.test.value if s.test else None,
            "started": s.started,
            "changed": self.changed,
            "bytes": self.bytes,
            "bytes_used": self.folder + self.uses,
            "from_run": self.from_run or None,
            "used_by": list(self.used_by),
            "promoted_in": list(self.promoted_in),
        }


def listed(home: Path) -> tuple[list[Listed], list[UserError]]:
    """Every run, the one that was started last at the end; and what is wrong with those that cannot be read."""
    names, store = run_names(home / "runs"), Store(home / "store")
    runs = {name: RunDir(home / "runs" / name) for name in names}
    origins, sizes = Origins(store), dict[Key, int]()
    used = {name: origins.of(met(store, run)) for name, run in runs.items()}
    for key in set[Key]().union(*used.values()):
        sizes[key] = size_of(store.root / key[0] / key[1])
    users: dict[Key, int] = {}
    for keys in [*used.values(), origins.of(promoted_artifacts(home, store))]:
        for key in keys:
            users[key] = users.get(key, 0) + 1
    began_with = {name: _quietly_from(run) for name, run in runs.items()}
    promoted = {config: Record(home, config) for config in retrained(home)}
    promoted_runs = {name: {r.run for r in record.rows if r.promoted_at} for name, record in promoted.items()}
    found, damaged = [], []
    for name, run in runs.items():
        try:
            summary = read_summary(home / "runs", name)
        except UserError as e:
            damaged.append(e)
            continue
        files = [p for p in run.path.iterdir() if p.is_file() and not p.is_symlink() and not p.name.startswith(".")]
        found.append(
            Listed(
                name,
                run.path,
                summary,
                max((p.stat().st_mtime for p in files), default=summary.started),
                size_of(run.path),
                sum(sizes[key] for key in used[name]),
                sum(sizes[key] for key in used[name] if users[key] == 1),
                began_with[name],
                tuple(sorted(other for other, origin in began_with.items() if origin == name)),
                tuple(sorted(config for config, promoted in promoted_runs.items() if name in promoted)),
            )
        )
    return sorted(found, key=lambda r: (r.summary.started, r.name)), damaged


def one(home: Path, name: str) -> Listed:
    """Raises UserError, naming those there are, where there is no such run; and what is wrong with one that is damaged."""
    if name not in run_names(home / "runs"):
        raise no_run(home / "runs", name)
    read_summary(home / "runs", name)
    return next(r for r in listed(home)[0] if r.name == name)


def removable(home: Path, name: str) -> Listed:
    """The run `name`, if it may go. Raises UserError where it is going on, was promoted, or another run began with it."""
    found = one(home, name)
    if RunDir(found.path).held:
        raise UserError(f"run {name!r} is going on; end it first (Ctrl-C where it was started), or wait for its end")
    refuse_needed(home, run_names(home / "runs"), [name])
    return found


def remove(home: Path, name: str) -> Listed:
    """Remove a run's folder; what it made stays in the store. Raises UserError as `removable` does."""
    found = removable(home, name)
    with RunDir(found.path).hold():
        shutil.rmtree(found.path)
    return found


def _quietly_from(run: RunDir) -> str:
    with contextlib.suppress(UserError):
        return goes_on_from(run)
    return ""
