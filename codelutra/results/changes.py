"""What changed between two policies, problem by problem: of one run, of two, of two nights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SAME_RESULT
from codelutra.errors import UserError
from codelutra.results.answers import answers
from codelutra.results.findings import Findings, policy_row, read_findings
from codelutra.results.load import run_folder
from codelutra.results.summary import PolicyResult
from codelutra.scoring.statistics import Paired, exact_mcnemar
from codelutra.store.run_dir import differing

# By what a problem of one run is known in another, the surest first: ids move where lines are put in, prompts where a
# schema changes.
_KNOWN_BY = (("prompt",), ("problem_id", "group", "question"), ("group", "question", "reference"))
_KEPT = ("status", "program", "output", "error")


@dataclass(frozen=True)
class Changes:
    """Two policies on the dev problems that both were asked."""

    before: str
    after: str
    both: pl.DataFrame
    """problem_id, group, question, reference, expected; status, program, output, error of the first policy, and the same
    with `_after` of the second. In the first one's order. Infrastructure failures are left out."""
    only_before: int
    """Problems that only the first was asked."""
    only_after: int
    paired: Paired
    settings: dict[str, tuple[Any, Any]]
    """By dotted name, those that are not the same in the two runs."""
    modes: tuple[str, str]
    """Of comparison, by which each was judged."""

    @property
    def moved(self) -> pl.DataFrame:
        """Gained and lost, with a first column that says which."""
        both_ways = {"gained": self.gained, "lost": self.lost}
        return pl.concat(frame.select(pl.lit(what).alias("change"), pl.all()) for what, frame in both_ways.items())

    @property
    def gained(self) -> pl.DataFrame:
        return self.both.filter(pl.col("status") != "correct", pl.col("status_after") == "correct")

    @property
    def lost(self) -> pl.DataFrame:
        return self.both.filter(pl.col("status") == "correct", pl.col("status_after") != "correct")


def changes(runs: Path, first: str, second: str | None = None) -> Changes:
    """From policy `first` to policy `second`, each "RUN" (its chosen policy) or "RUN:POLICY"; without `second` from the
    policy that run `first` began with to the one it chose.

    Raises UserError where one of them is not there, or the two have no problem in common.
    """
    sides = [_side(runs, first), _side(runs, second)] if second else _start_and_end(runs, first)
    (was, row), (now, new) = sides
    before, after_frame = answers(was, row), answers(now, new)
    joined = _together(before, after_frame)
    names = [_named(found, policy, len({f.path for f, _ in sides}) > 1) for found, policy in sides]
    if joined.is_empty():
        raise UserError(f"{names[0]} and {names[1]} were asked no dev problem in common; give two policies of one suite")
    both = joined.filter(pl.col("status") != "infra_error", pl.col("status_after") != "infra_error")
    right, right_after = (pl.col(c) == "correct" for c in ("status", "status_after"))
    gained, lost = both.select((right_after & ~right).sum().alias("gained"), (right & ~right_after).sum().alias("lost")).row(
        0
    )
    return Changes(
        names[0],
        names[1],
        both,
        before.height - joined.height,
        after_frame.height - joined.height,
        exact_mcnemar(gained, lost, both.height),
        _settings(was, now),
        (was.summary.mode, now.summary.mode),
    )


def _start_and_end(runs: Path, given: str) -> list[tuple[Findings, PolicyResult]]:
    found, row = _side(runs, given)
    if row is found.policies[0]:
        name = found.path.name
        raise UserError(
            f"run {name!r} began with {row.name}, so there is nothing to compare it with; give a second policy, e.g. "
            f"`codelutra diff {given} {name}:{found.policies[-1].label}`, or one of another run"
        )
    return [(found, found.policies[0]), (found, row)]


def _side(runs: Path, given: str) -> tuple[Findings, PolicyResult]:
    name, _, policy = given.partition(":")
    if not name:
        raise UserError(f"{given!r} names no run; write RUN or RUN:POLICY, e.g. demo:policy-1")
    found = read_findings(run_folder(runs, name))
    return found, policy_row(found, policy or None)


def _named(found: Findings, row: PolicyResult, with_run: bool) -> str:
    return f"{row.name} of {found.path.name}" if with_run else row.name


def _together(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The problems of both, each once, with `_after` for the second's columns; in the order of `before`."""
    before, after = before.with_row_index("row"), after.with_row_index("row")
    left, right, pairs = before, after, []
    for key in _KNOWN_BY:
        nth = pl.int_range(pl.len()).over(key).alias("nth")  # equal problems are taken in turn
        kept = pl.lit(True) if "reference" not in key else pl.col("reference") != ""
        a, b = (f.filter(kept).with_columns(nth).select("row", "nth", *key) for f in (left, right))
        same = a.join(b, on=[*key, "nth"], suffix="_after").select("row", "row_after")
        left, right = (
            left.join(same, on="row", how="anti"),
            right.join(same, left_on="row", right_on="row_after", how="anti"),
        )
        pairs.append(same)
    shared = ("problem_id", "group", "question", "reference", "expected")
    return (
        pl.concat(pairs)
        .join(before.select("row", *shared, *_KEPT), on="row")
        .join(after.select("row", *_KEPT), left_on="row_after", right_on="row", suffix="_after")
        .sort("row")
        .drop("row", "row_after")
    )


def _settings(was: Findings, now: Findings) -> dict[str, tuple[Any, Any]]:
    """What differs in the configs of two runs and may change a result."""
    if was.path == now.path:
        return {}
    differ = differing(was.config, now.config, SAME_RESULT)
    return {k: values for k, values in differ.items() if k != "name"}
