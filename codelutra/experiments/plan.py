"""Experiments: several runs, then one result. `compare`, `sweep` and `evaluate` plan arms; a terminal or a Prefect flow
refines every arm, then calls `conclude`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SAME_RESULT, RunConfig, differing, load_config
from codelutra.config.idle import unread
from codelutra.errors import UserError
from codelutra.pipeline.startable import require_startable
from codelutra.planning.refusal import require_room
from codelutra.reporting.figures.drawing import Figure, draw
from codelutra.results.escapes import inline
from codelutra.results.load import finished_summary, read_scores
from codelutra.results.summary import RunSummary
from codelutra.results.table import Table
from codelutra.store.files import write_atomic
from codelutra.store.run_dir import RunDir, told

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """One run of an experiment."""

    label: str
    """What is special about it: a method, a setting, a model."""
    source: str
    """The config it is made of: a preset's name or the path of a YAML file."""
    overrides: Overrides
    """`section.key=value` strings that make `config` of `source`."""
    config: RunConfig
    seed: int = 0

    @staticmethod
    def of(label: str, source: str, overrides: Overrides, seed: int = 0) -> Arm:
        """Raises ConfigError: an arm that exists is valid."""
        return Arm(label, source, overrides, load_config(source, overrides), seed)


@dataclass(frozen=True)
class Result:
    """What an experiment found."""

    title: str
    data: Any
    """As JSON."""
    table: Table
    narrow: Table | None = None
    """What of the table fits a narrow terminal."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Runs that are not in it, and why."""
    figure: Figure | None = None


@dataclass(frozen=True)
class Experiment:
    kind: str
    """ "comparison", "sweep" or "evaluation": also the name of its files."""
    name: str
    """Of its folder under comparisons/."""
    arms: Sequence[Arm]
    conclude: Callable[[Path, Sequence[Arm]], Result]
    """Home and arms → result, from the runs that have finished. Raises UserError where none has."""


def require_possible(experiment: Experiment, home: Path) -> None:
    """Raise UserError, with the way out, where one of the arms cannot run here: before hours go into the first."""
    for arm in experiment.arms:
        require_startable(arm.config, home)
        require_room(arm.config, home)


def conclude(experiment: Experiment, home: Path) -> Result:
    """The result of the arms that have finished, also written to comparisons/NAME/ as JSON, Markdown and figure."""
    result = experiment.conclude(home, experiment.arms)
    out = folder(experiment, home)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{experiment.kind}.json", json.dumps(result.data, indent=1) + "\n")
    notes = "".join(f"\n\nNot in it: {inline(f'{name}, {why}')}." for name, why in result.missing.items())
    write_atomic(out / f"{experiment.kind}.md", result.table.markdown() + notes + "\n")
    if result.figure:
        draw(result.figure).save(out)
    return result


@dataclass(frozen=True)
class Finished:
    """The finished run of one arm."""

    arm: Arm
    summary: RunSummary
    folder: Path

    def scores(self) -> dict[str, pl.DataFrame]:
        """Split → SCORES of what was measured first on dev and, where it is there, of what was chosen on test; "vote": of
        the vote of its samples on test. Raises UserError where they are damaged."""
        s, found = self.summary, {}
        told = {
            "dev": (f"{s.first.folder}/dev-scores", s.first.dev if s.first.dev.n else None),
            "test": ("test-scores", s.test),
            "vote": ("test-votes", s.test and s.test.vote),
        }
        for split, (artifact, said) in told.items():
            with contextlib.suppress(FileNotFoundError):
                if said:
                    found[split] = read_scores(self.folder, artifact, said)
        return found


def finished_runs(
    home: Path, arms: Sequence[Arm], unusable: Callable[[Finished], str] = lambda _: ""
) -> tuple[list[Finished], dict[str, str]]:
    """The runs that have finished, in the order of `arms`, and of the others the name and what keeps them out: also
    settings other than the arm's, and what `unusable` says.

    Raises UserError where there is none.
    """
    found, missing, each = [], dict[str, str](), dict[str, Arm]()
    for arm in arms:
        each.setdefault(arm.config.name, arm)  # one that was asked for twice is one run
    for arm in each.values():
        folder = home / "runs" / arm.config.name
        summary = finished_summary(folder)
        run = Finished(arm, summary, folder) if summary else None
        why = _made_otherwise(run) or unusable(run) if run else "not finished"
        if run and not why:
            found.append(run)
        else:
            missing[arm.config.name] = why
    if not found:
        raise UserError(
            f"none of these runs can be compared under {home / 'runs'}: "
            f"{', '.join(f'{name} ({why})' for name, why in missing.items())}; start them with `codelutra compare`, `sweep` "
            "or `evaluate`, or give the settings that they were made with (--set)"
        )
    return found, missing


def _made_otherwise(run: Finished) -> str:
    """In which settings, that may change a result, a run differs from its arm: nothing was started, so nothing has refused
    it. "" where it does not. `dtype: auto` is whatever it was where the run was made."""
    made, config = RunDir(run.folder).config("remove the run, or put a copy of it back"), run.arm.config
    if made is None:
        return ""
    if config.engine.dtype == "auto":
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"dtype": made.engine.dtype})})
    silent = unread(made) & unread(config) | {"name"}  # that of a folder that was moved
    differ = {k: v for k, v in differing(made, config, SAME_RESULT).items() if k not in silent}
    return f"made with other settings: {told(differ)}" if differ else ""


def folder(experiment: Experiment, home: Path) -> Path:
    return home / "comparisons" / experiment.name
