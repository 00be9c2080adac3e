"""Compares settings on dev: one run for each point of a grid. Runs share the work that their settings do not change. Test is
not scored (`select.test: false`): it is for the one setting that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.plan import Arm, Experiment, Overrides, Result, finished_runs
from codelutra.experiments.variants import variant_name
from codelutra.reporting.figures.runs import runs_compared_figure
from codelutra.results import text
from codelutra.results.table import Table


def sweep(source: str, overrides: Overrides, vary: Sequence[str]) -> Experiment:
    """Every combination of `vary`, each "section.key=value,value,…". Raises UserError where one is not that, ConfigError
    where a value is not allowed: all points are valid before the first one runs."""
    axes = []
    for given in vary:
        key, equals, values = given.partition("=")
        if not (key and equals and values):
            raise UserError(f"--vary {given!r}: write section.key=value,value, e.g. --vary train.learning_rate=1e-5,4e-5")
        axes.append([(key, value.strip()) for value in values.split(",")])
    if not axes:
        raise UserError("nothing to vary; e.g. --vary train.learning_rate=1e-5,4e-5 --vary pairs.references=true,false")
    base = load_config(source, overrides).name
    arms = []
    for chosen in product(*axes):
        label = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen)
        name = variant_name(base, chosen)
        more = (*overrides, *(f"{key}={value}" for key, value in chosen), "select.test=false", f"name={name}")
        arms.append(Arm.of(label, source, more))
    return Experiment("sweep", f"{base}-sweep", arms, _result)


def _result(home: Path, arms: Sequence[Arm]) -> Result:
    """A row an arm that has finished, the one that solves most of the dev problems first; of equals the one given first. A
    problem that an outage left out counts as not solved: else it would raise a share (scoring/selection.py)."""
    runs, missing = finished_runs(home, arms, lambda run: "" if run.summary.chosen else "chose no policy")
    found = [(run.arm.label, run.summary, run.summary.chosen) for run in runs if run.summary.chosen]
    found.sort(key=lambda f: -f[2].dev.correct / max(1, f[2].dev.n + f[2].dev.left_out))
    cells = [
        {
            "setting": label,
            "dev pass@1 [95 %]": text.dev_rate(chosen),
            "chosen": chosen.name,
            "against the start": text.paired(chosen.paired.start),
            "by policy, %": " → ".join(f"{100 * p.dev.value:.1f}" for p in summary.policies),
            "min": f"{summary.work_minutes:.1f}",
        }
        for label, summary, chosen in found
    ]
    data = [
        {"setting": label, **summary.brief(), "against_start": chosen.paired.model_dump()["start"]}
        for label, summary, chosen in found
    ]
    figure = runs_compared_figure([(label, summary) for label, summary, _ in found])
    return Result("dev split, best first", data, Table.of(cells, numbers=["min"]), missing=missing, figure=figure)
