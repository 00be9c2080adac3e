"""Experiments: several runs, then one result. One runner for `compare`, `sweep` and `evaluate`, from a terminal and from a
Prefect flow; the two differ only in how a run is refined.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codelutra.config import RunConfig
from codelutra.reporting.figures.drawing import Figure, draw
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
    conclude: Callable[[Path], Result]
    """Home → result, from the runs that have finished. Raises UserError where none has."""


def run_experiment(experiment: Experiment, home: Path, refine: Callable[[Arm], RunSummary]) -> Result:
    """Refine every arm, then conclude; finished runs are reused. Raises what `refine` raises."""
    for arm in experiment.arms:
        refine(arm)
    return conclude(experiment, home)


def conclude(experiment: Experiment, home: Path) -> Result:
    """The result of the arms that have finished, also written to comparisons/NAME/ as JSON, Markdown and figure."""
    result = experiment.conclude(home)
    out = folder(experiment, home)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / f"{experiment.kind}.json", json.dumps(result.data, indent=1) + "\n")
    notes = "".join(f"\n\nNot in it: {name}, not finished." for name in result.missing)
    write_atomic(out / f"{experiment.kind}.md", result.table.markdown() + notes + "\n")
    if result.figure:
        draw(result.figure).save(out)
    return result


def folder(experiment: Experiment, home: Path) -> Path:
    return home / "comparisons" / experiment.name
