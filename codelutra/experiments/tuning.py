"""`codelutra compare --tune`: tries a small grid of learning rates and passes for each method, on dev with one seed, first.

Every trained method gets as many trials as codelutra, so no method is tuned less than another. The control takes the
settings of codelutra, because it must differ by the DPO term alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.methods import METHODS, arm
from codelutra.experiments.plan import Arm, Experiment, Finished, Overrides, Result, finished_runs
from codelutra.results import text
from codelutra.results.table import Table

RATES, PASSES = ("2e-6", "1e-5", "4e-5", "1e-4"), ("1", "3")
GRID: Sequence[Overrides] = [(f"train.learning_rate={rate}", f"train.epochs={n}") for rate in RATES for n in PASSES]
AS = {"control": "codelutra"}  # takes the other's choice
Tuned = dict[str, Overrides]


def tuning(source: str, overrides: Overrides, methods: Sequence[str], seed: int) -> Experiment:
    """Every trial of the methods that are trained, with test closed. Raises ConfigError, and UserError where `overrides` set
    what is tuned, or nothing is trained."""
    fixed = [text for text in overrides if text.startswith(("train.learning_rate=", "train.epochs="))]
    if fixed:
        raise UserError(f"--tune chooses train.learning_rate and train.epochs for each method; leave out --set {fixed[0]}")
    wanted = dict.fromkeys(AS.get(m, m) for m in methods if METHODS[m].trained)
    config = load_config(source, overrides)
    if not wanted or not config.iterations:
        why = f"{', '.join(methods)} have none" if config.iterations else "iterations is 0"
        raise UserError(f"--tune chooses rates and passes of iterations; {why}. Leave --tune out")
    arms = [_trial(source, overrides, method, i, seed) for method in wanted for i in range(len(GRID))]
    return Experiment("tuning", f"{config.name}-tuning", arms, _result)


def _trial(source: str, overrides: Overrides, method: str, i: int, seed: int) -> Arm:
    planned = arm(source, (*overrides, *GRID[i]), method, seed)
    name = f"name={planned.config.name}-t{i}"
    return Arm.of(f"{method}: {_shown(GRID[i])}", source, (*planned.overrides, "select.test=false", name), seed)


def _shown(chosen: Overrides) -> str:
    return ", ".join(text.removeprefix("train.").replace("_", " ").replace("=", " ") for text in chosen)


def chosen(home: Path, trials: Experiment, methods: Sequence[str]) -> Tuned:
    """Method → the settings of its best trial on dev; of equals the first in the grid. Raises UserError where a method has
    no finished trial."""
    runs, _ = finished_runs(home, trials.arms)
    best: Tuned = {}
    for method in methods:
        if METHODS[method].trained:
            mine = [(i, run) for run in runs for i in [_number(run)] if _method(run) == AS.get(method, method)]
            if not mine:
                raise UserError(f"no trial of {method} has finished; start them with `codelutra compare --tune`")
            best[method] = GRID[max(mine, key=lambda m: (_solved(m[1]), -m[0]))[0]]
    return best


def _method(run: Finished) -> str:
    return run.arm.label.partition(":")[0]


def _number(run: Finished) -> int:
    return int(run.arm.config.name.rpartition("-t")[2])


def _solved(run: Finished) -> int:
    """Of the dev problems, which all trials share. They are counted, as where a policy is chosen (scoring/selection.py): an
    outage, which leaves a problem out, would raise a share."""
    return run.summary.chosen.dev.correct if run.summary.chosen else 0


def _dev(run: Finished) -> float:
    return run.summary.chosen.dev.value if run.summary.chosen else 0.0


def _result(home: Path, arms: Sequence[Arm]) -> Result:
    """A row a trial, the best of each method first."""
    runs, missing = finished_runs(home, arms)
    order = list(dict.fromkeys(map(_method, runs)))
    ranked = sorted(runs, key=lambda run: (order.index(_method(run)), -_solved(run), _number(run)))
    data: list[dict[str, Any]] = [
        {"method": _method(r), "setting": _shown(GRID[_number(r)]), "dev": _dev(r), "run": r.arm.config.name} for r in ranked
    ]
    rows = []
    for run, row in zip(ranked, data, strict=True):
        dev = text.rate(run.summary.chosen.dev) if run.summary.chosen else ""
        rows.append({"method": row["method"], "setting": row["setting"], "dev pass@1 [95 %]": dev})
    title = f"{runs[0].summary.suite}: {len(GRID)} settings a method, by dev; the first of each is taken"
    return Result(title, data, Table.of(rows, numbers=["dev pass@1 [95 %]"]), missing=missing)
