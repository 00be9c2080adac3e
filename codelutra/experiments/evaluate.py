"""Any model on any suite, as a run without iterations; several models, problem by problem against the first."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl

from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.experiments.plan import Arm, Experiment, Overrides, Result, finished_runs
from codelutra.experiments.retrain import Record, keeping_sides
from codelutra.results import text
from codelutra.results.load import chosen_weights, finished_summary
from codelutra.results.summary import TestResult
from codelutra.results.table import Table
from codelutra.scoring.scores import mcnemar

_NAME = 64  # characters a run's name may have


def evaluation(source: str, overrides: Overrides, models: Sequence[str], home: Path) -> Experiment:
    """One run a model. Raises ConfigError, and UserError for a run that has no policy to give: before any is begun."""
    for scheme, _, name in (model.partition(":") for model in models):
        if scheme == "run" and not finished_summary(home / "runs" / name):
            chosen_weights(home / "runs", name)
    arms = [_arm(source, overrides, model, home) for model in models]
    return Experiment("evaluation", f"{load_config(source, overrides).name}-evaluate", arms, _result)


def best_answer(best_of: int | None, verifier: str | None) -> Overrides:
    """What `--best-of` and `--verifier` mean. Raises UserError for a verifier of one answer."""
    if verifier and not best_of:
        raise UserError(f"--verifier {verifier}: it chooses among several answers; say how many with --best-of 8")
    drawn = (f"select.samples={best_of}",) if best_of else ()
    return (*drawn, f"select.verifier={json.dumps(verifier)}") if verifier else drawn


def _arm(source: str, overrides: Overrides, model: str, home: Path) -> Arm:
    """The run that measures `model`.

    Where the config was retrained, its problems are on the sides they are held on there: else a promoted policy would be
    measured on what it was taught.
    """
    base = load_config(source, overrides)
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")
    digest = hashlib.sha256(model.encode()).hexdigest()[:6]
    name = f"{base.name}-evaluate-{slug}"[: _NAME - 7] + f"-{digest}"
    more = (*overrides, "iterations=0", "warm_start=null", f"model={json.dumps(model)}", f"name={name}")
    more += keeping_sides(base, Record(home, base.name).sides)
    return Arm.of(model, source, more)


def _of_several(test: TestResult | None) -> dict[str, str]:
    """What came of several answers to each test problem, where they were drawn."""
    if not test or not test.vote:
        return {}
    found = {"mean of the drawn": text.rate(test.mean), "most frequent": text.rate(test.vote)}
    return found | ({"the verifier's": text.rate(test.ranked)} if test.ranked else {})


def _result(home: Path, arms: Sequence[Arm]) -> Result:
    """pass@1 of dev and test with intervals, and exact McNemar tests against the first model on the problems both were
    asked."""
    runs, missing = finished_runs(home, arms)
    data, cells = [], []
    first: dict[str, pl.DataFrame] = {}
    for run in runs:
        summary = run.summary
        scores = run.scores()
        against = {s: mcnemar(first[s], scores[s]) for s in scores if s in first}
        first = scores if run.arm is arms[0] else first
        tests = {s: asdict(t) for s, t in against.items()}
        about = {"model": run.arm.label, "suite": summary.suite, "mode": summary.mode}
        data.append({**about, **summary.brief(), "against_first": tests})
        split = "test" if summary.test else "dev"
        cells.append(
            {
                "model": run.arm.label,
                "dev pass@1 [95 %]": text.dev_rate(summary.first),
                "test pass@1 [95 %]": text.rate(summary.test),
                "executable": f"{summary.first.executable:.0%}" if summary.first.dev.n else "",
                **_of_several(summary.test),
                f"against the first ({split})": text.paired(against.get(split)),
            }
        )
    return Result(f"{arms[0].source}: greedy pass@1", data, Table.of(cells), missing=missing)
