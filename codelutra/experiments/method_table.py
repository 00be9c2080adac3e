"""Methods compared: finished runs of several methods → one table. Who is better, by how much, at what cost.

Numbers are of the test split, which every run scored once, with the policy its dev split chose. Several seeds of a method
are averaged problem by problem, so tests are over problems, never over problems × seeds; intervals are over both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import load_config, to_yaml
from codelutra.experiments.methods import METHODS, arm
from codelutra.experiments.plan import Arm, Experiment, Finished, Overrides, Result, finished_runs
from codelutra.reporting.figures.runs import methods_figure
from codelutra.results import text
from codelutra.results.table import Table
from codelutra.scoring.scores import difference, mean_of_samples, mean_pass_at_1
from codelutra.scoring.statistics import Difference, Estimate

AGAINST = "codelutra"  # the method the others are held against, where it is among them
_AHEAD = f"{AGAINST} is ahead by"


@dataclass(frozen=True)
class MethodResult:
    method: str
    runs: Sequence[Finished]
    test: Estimate
    """Mean over seeds."""
    ahead: Difference | None
    """How much more `AGAINST` solves."""
    ahead_by_vote: Difference | None
    """The same of the answers that most samples give, where all of these runs drew some."""
    of_samples: Mapping[str, Estimate]
    """Where every run drew several answers to the test problems: the share of them that is right, and the pass@1 of the one
    that most of them give."""
    ahead_seeds: Sequence[int]
    """Seeds that both have; where they share none, all of either were compared."""


def comparison(
    source: str,
    overrides: Overrides,
    methods: Sequence[str],
    seeds: Sequence[int],
    tuned: Mapping[str, Overrides] | None = None,
) -> Experiment:
    """Every method once with each seed, at the settings that were `tuned` for it. Raises ConfigError: all arms are valid
    before the first one runs."""
    chosen = tuned or {}
    arms = [arm(source, overrides, method, seed, chosen.get(method, ())) for seed in seeds for method in methods]
    return Experiment("comparison", load_config(source, overrides).name, arms, _result)


def _result(home: Path, arms: Sequence[Arm]) -> Result:
    """A run that is missing, unfinished, made with other settings or without its number of test is named in `missing` and
    left out of its method's row."""
    runs, missing = finished_runs(home, arms, _without_number)
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(run.arm.label, []).append(run)
    rows = [_method(method, found) for method in found]
    base = max((r.test.value for r in rows if r.method.startswith("base")), default=0.0)
    first = rows[0].runs[0].summary
    data = {
        **first.model_dump(include={"suite", "suite_version", "mode", "model"}),
        "problems": first.problems.model_dump(exclude_none=True),
        "methods": [_as_json(r, base) for r in rows],
        "missing": list(missing),
        "config": to_yaml(arms[0].config),
    }
    title = f"{first.suite}: test split, policies chosen on dev"
    wide = _table(rows, base, narrow=False)
    narrow = _table(rows, base, narrow=True).without("seeds", "dev pass@1", "samples")
    shown = [(r.method, r.test, [mean_pass_at_1([f.scores()[_measured(f)]]).value for f in r.runs]) for r in rows]
    more = {r.method: {name.replace(" ", "_"): e.value for name, e in r.of_samples.items()} for r in rows}
    return Result(title, data, wide, narrow, missing, methods_figure(first.suite, shown, AGAINST, more))


def _method(method: str, found: dict[str, list[Finished]]) -> MethodResult:
    runs, ours = found[method], found.get(AGAINST, [])
    common = sorted({f.arm.seed for f in runs} & {f.arm.seed for f in ours})
    scores = [f.scores() for f in runs]
    test = mean_pass_at_1([s[_measured(f)] for s, f in zip(scores, runs, strict=True)])
    ahead = ahead_by_vote = None
    if method != AGAINST and ours:
        sides = [[f for f in side if not common or f.arm.seed in common] for side in (runs, ours)]
        told = [[(_measured(f), f.scores()) for f in side] for side in sides]
        ahead = difference(*([s[name] for name, s in side] for side in told))
        if all("vote" in s for side in told for _, s in side):
            ahead_by_vote = difference(*([s["vote"] for _, s in side] for side in told))
    return MethodResult(method, runs, test, ahead, ahead_by_vote, _of_samples(scores), common)


def _measured(run: Finished) -> str:
    """Which of a run's scores are its method's."""
    return "vote" if METHODS[run.arm.label].votes else "test"


def _without_number(run: Finished) -> str:
    if not run.summary.test:
        return "test was not scored"
    return "" if _measured(run) in run.scores() else f"{run.folder / 'test-scores'} is gone"


def _of_samples(scores: Sequence[Mapping[str, pl.DataFrame]]) -> dict[str, Estimate]:
    if not all("vote" in s and "test" in s for s in scores):
        return {}
    return {
        text.MEAN_OF_SAMPLES: mean_of_samples([s["test"] for s in scores]),
        text.MAJORITY_VOTE: mean_pass_at_1([s["vote"] for s in scores]),
    }


def _as_json(r: MethodResult, base: float) -> dict[str, Any]:
    against = {"method": AGAINST, "seeds": list(r.ahead_seeds), **asdict(r.ahead)} if r.ahead else None
    return {
        "method": r.method,
        "what": METHODS[r.method].what,
        "trained_with": {k: getattr(r.runs[0].arm.config.train, k) for k in ("learning_rate", "epochs")},
        "test": asdict(r.test),
        "mean_at_n": asdict(r.of_samples[text.MEAN_OF_SAMPLES]) if r.of_samples else None,
        "vote": asdict(r.of_samples[text.MAJORITY_VOTE]) if r.of_samples else None,
        "against": against,
        "vote_against": asdict(r.ahead_by_vote) if r.ahead_by_vote else None,
        "runs": [{"seed": f.arm.seed, **f.summary.brief()} for f in r.runs],
        "times_base": round(r.test.value / base, 2) if base else None,
    }


def _table(rows: Sequence[MethodResult], base: float, *, narrow: bool) -> Table:
    """One row a method; `narrow` leaves out the interval of the difference, and what came of several samples."""
    cells, drawn = [], {} if narrow else dict.fromkeys(name for r in rows for name in r.of_samples)
    for r in rows:
        runs = [f.summary for f in r.runs]
        dev = [s.chosen.dev for s in runs if s.chosen and s.chosen.dev.n]
        cells.append(
            {
                "method": r.method,
                "seeds": str(len(runs)),
                "dev pass@1": f"{sum(e.value for e in dev) / len(dev):.1%}" if dev else "",
                "test pass@1 [95 %]": text.rate(r.test),
                **{name: f"{e.value:.1%}" if (e := r.of_samples.get(name)) else "" for name in drawn},
                "× base": f"{r.test.value / base:.2f}" if base else "",
                _AHEAD: _ahead(r.ahead, narrow) if r.ahead else "",
                "samples": f"{sum(s.samples for s in runs) // len(runs):,}",
                "min": f"{sum(s.work_minutes for s in runs) / len(runs):.1f}",
            }
        )
    return Table.of(cells, numbers=[c for c in cells[0] if c not in ("method", _AHEAD)])


def _ahead(d: Difference, narrow: bool) -> str:
    said = text.signed(100 * d.value) if narrow else text.points(d.value, d.low, d.high)
    return f"{said}, {text.p_value(d.p)}"
