"""Which policy a name stands for now: the promoted one of a retrained config, or the one that a run chose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codelutra.config import RunConfig
from codelutra.errors import UserError
from codelutra.experiments.retrain import Record, retrained
from codelutra.reporting.export import exported_policy
from codelutra.results.load import run_folder
from codelutra.store.files import UNREADABLE, reading
from codelutra.store.paths import go_on_command
from codelutra.store.run_dir import SAMPLED_NOW, RunDir


@dataclass(frozen=True)
class InForce:
    """A policy that can be loaded, and the run that made it."""

    run: Path
    label: str
    path: Path
    """Its weights, without links: another promotion does not change them."""

    @property
    def config(self) -> RunConfig:
        mend = "put a copy of it back, or start the run with its own config again"
        if found := RunDir(self.run).config(mend):
            return found
        raise UserError(f"{self.run / 'run.yaml'} is not there; {mend}")


def in_force(home: Path, name: str | None = None, policy: str | None = None) -> InForce:
    """The policy that `name` stands for: of a retrained config what is promoted, unless a `policy` is asked for by label.
    None: of the only config that has something promoted.

    Raises UserError where there is no such policy, the run may still choose another, or its weights are gone.
    """
    name = _only_one(home) if name is None else name
    folder = run_folder(home / "runs", name)
    row = Record(home, name).promoted if policy is None else None
    if row:
        return _loadable(InForce(home / "runs" / row.run, row.policy, Path(row.path)))
    found, chosen = exported_policy(folder, policy)
    return _loadable(InForce(found.path, chosen.label, Path(chosen.path)))


def sampled_now(home: Path, name: str) -> InForce | None:
    """The policy that a run wants its servers to serve now; None while it has wanted none.

    Weights of its store are looked for under `home`, which another host may have elsewhere. Raises UserError where they are
    not there, or the run's word of it cannot be read.
    """
    run, mend = RunDir(run_folder(home / "runs", name)), "remove it: the run writes it again when it samples"
    with reading(run.path / SAMPLED_NOW, mend):
        said = run.read(SAMPLED_NOW)
    if said is None:
        return None
    try:
        label, path, there = str(said["label"]), Path(said["path"]), Path(said["home"])
        found = home / path.relative_to(there) if path.is_relative_to(there) else path
        whole = (found / "config.json").is_file()
    except UNREADABLE as e:
        raise UserError(f"{run.path / SAMPLED_NOW} is damaged: {mend}") from e
    if not whole:
        raise UserError(
            f"{label} of run {name!r} is not at {found} on this machine: it must see the run's home, and the cache with the "
            "model that the run starts from"
        )
    return InForce(run.path, label, found.resolve())


def _only_one(home: Path) -> str:
    names = [name for name in retrained(home) if Record(home, name).promoted]
    if len(names) == 1:
        return names[0]
    raise UserError(
        f"give a run's name (`codelutra status` lists them) or a retrained config's; promoted under {home}: "
        f"{', '.join(names) or 'nothing'}"
    )


def _loadable(found: InForce) -> InForce:
    if not (found.path / "config.json").is_file():
        raise UserError(
            f"the weights of {found.label} of run {found.run.name!r} are not at {found.path} any more; "
            f"`{go_on_command(found.run)}` makes them anew"
        )
    return InForce(found.run, found.label, found.path.resolve())
