"""Two methods over several comparisons together: does one solve more, all suites considered?

`codelutra compare` wrote comparisons/NAME/comparison.json, which names the runs of each method; their scores of the test
split are in their folders. A suite's own difference may be chance in either direction, and a method that gains on one of
three suites may lose on the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.errors import UserError
from codelutra.experiments.methods import METHODS
from codelutra.reading.keys import nearest, shown
from codelutra.results import text
from codelutra.results.load import finished_summary, no_run, read_scores, run_folder
from codelutra.results.table import Table
from codelutra.scoring.scores import difference, mean_pass_at_1, pooled_difference
from codelutra.scoring.statistics import Difference
from codelutra.store.files import reading

FILE = "comparison.json"
_ALL, _ALIKE = "every problem alike", "every suite alike"


@dataclass(frozen=True)
class _Suite:
    """Two methods in one comparison: their SCORES of test, a frame a seed."""

    comparison: str
    suite: str
    first: Sequence[pl.DataFrame]
    second: Sequence[pl.DataFrame]


def pooled(home: Path, names: Sequence[str], methods: Sequence[str]) -> tuple[Table, dict[str, Any]]:
    """How much more the second of two methods solves than the first, by comparison and over all: a table, and as JSON.

    Raises UserError where a comparison, a method in it or a run's scores are not there, and where two comparisons have test
    problems in common, which would count twice.
    """
    if len(methods) != 2 or methods[0] == methods[1]:
        raise UserError(f"--methods {shown(','.join(methods))}: give two different methods, e.g. control,codelutra")
    suites = [_read(home, name, methods) for name in dict.fromkeys(names)]
    if len(suites) < 2:
        raise UserError(f"{', '.join(map(shown, names))}: name two comparisons or more; one has its own table already")
    _require_apart(suites)
    sides = [(s.first, s.second) for s in suites]
    found = {s.comparison: difference(*side) for s, side in zip(suites, sides, strict=True)}
    overall = {_ALL: pooled_difference(sides), _ALIKE: pooled_difference(sides, alike=True)}
    rows = [_row(s, methods, found[s.comparison]) for s in suites]
    blank = dict.fromkeys(rows[0], "")
    rows += [blank | {"comparison": name, "problems": f"{d.n:,}", **_ahead(methods, d)} for name, d in overall.items()]
    data = {
        "methods": list(methods),
        "comparisons": [{"name": s.comparison, "suite": s.suite, **asdict(found[s.comparison])} for s in suites],
        "every_problem_alike": asdict(overall[_ALL]),
        "every_suite_alike": asdict(overall[_ALIKE]),
    }
    words = [c for c in rows[0] if c == "comparison" or "ahead" in c]
    return Table.of(rows, numbers=[c for c in rows[0] if c not in words]), data


def _row(s: _Suite, methods: Sequence[str], found: Difference) -> dict[str, str]:
    seeds = sorted({len(s.first), len(s.second)})
    rates = {m: f"{mean_pass_at_1(side).value:.1%}" for m, side in zip(methods, (s.first, s.second), strict=True)}
    told = {"comparison": s.comparison, "problems": f"{found.n:,}", "seeds": " and ".join(map(str, seeds))}
    return told | rates | _ahead(methods, found)


def _ahead(methods: Sequence[str], d: Difference) -> dict[str, str]:
    return {f"{methods[1]} is ahead by": f"{text.points(d.value, d.low, d.high)}, {text.p_value(d.p)}"}


def _read(home: Path, name: str, methods: Sequence[str]) -> _Suite:
    there = sorted(p.parent.name for p in (home / "comparisons").glob(f"*/{FILE}"))
    if name not in there:
        told = f"there: {', '.join(there) or 'none'}{nearest(name, there)}"
        raise UserError(f"no comparison {shown(name)} under {home / 'comparisons'}; `codelutra compare` makes them; {told}")
    file = home / "comparisons" / name / FILE
    with reading(file, "the command that made it, with --table, writes it anew"):
        data = json.loads(file.read_bytes())
        runs = {str(m["method"]): {int(r["seed"]): str(r["run"]) for r in m["runs"]} for m in data["methods"]}
        suite = str(data["suite"])
    for method in methods:
        if method not in runs:
            raise UserError(
                f"comparison {name} has no method {shown(method)}; it has {', '.join(runs)}{nearest(method, runs)}"
            )
    common = set(runs[methods[0]]) & set(runs[methods[1]])
    sides = [[r for seed, r in sorted(runs[m].items()) if not common or seed in common] for m in methods]
    votes = [m in METHODS and METHODS[m].votes for m in methods]  # of a method that is no more, the greedy answers
    first, second = ([_scores(home, r, v) for r in side] for v, side in zip(votes, sides, strict=True))
    return _Suite(name, suite, first, second)


def _scores(home: Path, name: str, votes: bool) -> pl.DataFrame:
    folder = run_folder(home / "runs", name)
    summary = finished_summary(folder)
    said = summary.test.vote if summary and summary.test and votes else summary and summary.test
    if not said:
        raise no_run(home / "runs", name, that=" that has finished and was scored on test")
    try:
        return read_scores(folder, "test-votes" if votes else "test-scores", said)
    except FileNotFoundError as e:
        raise UserError(f"the scores of run {name} are gone ({e.filename}); run its config again: it goes on") from e


def _require_apart(suites: Sequence[_Suite]) -> None:
    """Raise UserError where two comparisons share test problems."""
    for one, other in combinations(suites, 2):
        ids = [set(s.first[0]["problem_id"].to_list()) for s in (one, other)]
        if one.suite == other.suite and (both := ids[0] & ids[1]):
            raise UserError(
                f"comparisons {one.comparison} and {other.comparison} have {len(both):,} test problems of {one.suite} in "
                "common, which would count twice; name one of the two"
            )
