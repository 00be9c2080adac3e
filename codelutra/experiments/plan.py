"""Experiments: several runs, then one result. `compare`, `sweep` and `evaluate` plan arms; a terminal or a Prefect flow
refines every arm, then calls `conclude`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig, load_config
from codelutra.errors import UserError
from codelutra.pipeline.startable import require_startable
from codelutra.planning.refusal import require_room
from codelutra.reporting.figures.drawing import Figure, draw
from codelutra.results.load import finished_summary, read_scores
from codelutra.results.summary import RunSummary
from codelutra.results.table import Table
from codelutra.store.files import write_atomic

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
    missing: Sequence[str] = ()
    """Runs that have not finished."""
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
    notes = "".join(f"\n\nNot in it: {name}, not finished." for name in result.missing)
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
    home: Path, arms: Sequence[Arm], usable: Callable[[Finished], object] = lambda _: True
) -> tuple[list[Finished], list[str]]:
    """The runs that have finished and are `usable`, in the order of `arms`, and the names of the others.

    Raises UserError where there is none.
    """
    found, missing = [], []
    for arm in arms:
        folder = home / "runs" / arm.config.name
        summary = finished_summary(folder)
        if summary and usable(run := Finished(arm, summary, folder)):
            found.append(run)
        else:
            missing.append(arm.config.name)
    if not found:
        raise UserError(
            f"none of these runs has finished under {home / 'runs'}: {', '.join(missing)}; start them with `codelutra "
            "compare`, `sweep` or `evaluate`"
        )
    return found, missing


def folder(experiment: Experiment, home: Path) -> Path:
    return home / "comparisons" / experiment.name
