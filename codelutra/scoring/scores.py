"""Outcomes → SCORES, one row a problem; SCORES → pass@1, pass@k, breakdowns and comparisons.

Which problems count: those with a greedy sample, except where its outcome was an infrastructure failure (infra_error).
That says nothing about the model, so the problem leaves the denominator and is counted in `left_out`. A reference_error
stays in the denominator as not correct, as in the official evaluations, and so do an output that could not be compared
(undecided) and a prompt that was too long to ask.
Of samples at temperature only those count that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from codelutra.errors import StageError
from codelutra.schema import ASKED, EXECUTABLE, SCORES, STATUS, STATUSES, check, collapse
from codelutra.scoring.statistics import (
    Difference,
    Estimate,
    Paired,
    bootstrap,
    exact_mcnemar,
    percentiles,
    pooled_gain,
    wilson,
)


def score_problems(
    outcomes: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    split: str,
    counted: Sequence[Mapping[str, int]] = (),
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """One row for each problem of `split`, as SCORES, in their order; and the facts: what the rows say (`summary`).

    Outcomes of other problems are left aside. `counted`: the `other_modes` that `execute` gave with each shard.
    Raises StageError for outcomes judged under two comparison modes.
    """
    modes = outcomes["mode"].unique().sort().to_list()
    if len(modes) > 1:
        raise StageError(f"outcomes judged under {' and '.join(modes)} in one frame; score each comparison mode by itself")
    broken = expected.filter(pl.col("status") == "reference_error").select("problem_id", broken=True)
    judged = outcomes.join(broken, on="problem_id", how="left").with_columns(
        status=pl.when("broken").then(pl.lit("reference_error", STATUS)).otherwise("status")
    )
    right, ran = pl.col("status") == "correct", pl.col("status").is_in(EXECUTABLE)
    sampled = (
        judged.filter(~pl.col("greedy"), pl.col("status") != "infra_error", ASKED)
        .group_by("problem_id")
        .agg(
            samples=pl.len().cast(pl.Int32),
            correct=right.sum().cast(pl.Int32),
            executable=ran.sum().cast(pl.Int32),
            unique_answers=pl.col("answer").filter(ran).n_unique().cast(pl.Int32),
            unique_correct=collapse(pl.col("code")).filter(right).n_unique().cast(pl.Int32),
        )
    )
    greedy = judged.filter("greedy").group_by("problem_id").agg(greedy_status=pl.col("status").first())
    scores = (
        problems.filter(pl.col("split") == split)
        .select("problem_id", "split", "group", "difficulty", mode=pl.lit(modes[0] if modes else ""))
        .join(greedy, on="problem_id", how="left", maintain_order="left")
        .join(sampled, on="problem_id", how="left", maintain_order="left")
        .with_columns(pl.col("samples", "correct", "executable", "unique_answers", "unique_correct").fill_null(0))
    )
    scores, facts = check(scores, SCORES), summary(scores)
    others = other_modes(counted, facts["pass@1"])
    return scores, {"split": split, **facts, "other_modes": others, "statuses": status_counts(outcomes)}


def pass_at_1(scores: pl.DataFrame) -> Estimate:
    """Share of problems whose greedy answer is correct, with Wilson's interval."""
    return wilson(*scores.select(*_COUNTS).row(0))


def breakdown(scores: pl.DataFrame) -> pl.DataFrame:
    """pass@1 of each group, most problems first. Columns: `group`, then those of Estimate."""
    counts = scores.group_by("group").agg(*_COUNTS).filter(pl.col("n") > 0).sort(["n", "group"], descending=[True, False])
    rows = [{"group": group, **asdict(wilson(*numbers))} for group, *numbers in counts.rows()]
    return pl.DataFrame(rows, schema=["group", *Estimate.__dataclass_fields__])


def pass_at_k(scores: pl.DataFrame, k: int, *, seed: int = 0) -> Estimate:
    """Unbiased pass@k, the mean over problems of 1 - C(n-c, k) / C(n, k), with a percentile bootstrap over problems.

    n samples, c of them correct (Chen et al. 2021, arXiv 2107.03374). Problems with fewer than k samples are left out.
    """
    if k < 1:
        raise ValueError(f"pass@k needs k of at least 1, not {k}")
    drawn = scores.filter(pl.col("samples") > 0)
    kinds = drawn.filter(pl.col("samples") >= k).group_by("samples", "correct").len().sort("samples", "correct")
    problems = int(kinds["len"].sum())
    if not problems:
        return Estimate(0.0, 0.0, 1.0, 0, 0, drawn.height)
    values = np.array([1 - math.comb(n - c, k) / math.comb(n, k) for n, c, _ in kinds.rows()])
    shares = kinds["len"].to_numpy() / problems
    # Drawing problems with replacement is drawing how many of each kind there are.
    means = np.random.default_rng(seed).multinomial(problems, shares, size=2000) @ values / problems
    solved = int(kinds.filter(pl.col("correct") > 0)["len"].sum())
    return Estimate(float(shares @ values), *percentiles(means), problems, solved, drawn.height - problems)


def mcnemar(scores_a: pl.DataFrame, scores_b: pl.DataFrame) -> Paired:
    """Exact two-sided McNemar test of b against a on the problems that count for both.

    Raises StageError where the two were judged under different comparison modes.
    """
    modes = {m for s in (scores_a, scores_b) for m in s["mode"].unique() if m}
    if len(modes) > 1:
        raise StageError(f"scores under {' and '.join(sorted(modes))} cannot be compared; judge both under one mode")
    both = that_count(scores_a).join(that_count(scores_b), on="problem_id", suffix="_b")
    return paired_test(both, "greedy_status", "greedy_status_b")


def paired_test(both: pl.DataFrame, before: str, after: str) -> Paired:
    """Exact two-sided McNemar test of the statuses in column `after` against those in `before`, a row a problem."""
    a, b = (pl.col(c) == "correct" for c in (before, after))
    gained, lost = both.select((b & ~a).sum().alias("gained"), (a & ~b).sum().alias("lost")).row(0)
    return exact_mcnemar(gained, lost, both.height)


def mean_pass_at_1(seeds: Sequence[pl.DataFrame]) -> Estimate:
    """pass@1 averaged over several seeds (SCORES, one frame each); `correct` counts problems that every seed solves.

    The interval is Wilson's for one seed, else a percentile bootstrap over problems and seeds.
    """
    return pass_at_1(seeds[0]) if len(seeds) == 1 else _averaged(_solved(seeds), seeds[0].height)


def mean_of_samples(seeds: Sequence[pl.DataFrame]) -> Estimate:
    """Share of a problem's samples that are right, averaged over problems and over seeds (SCORES, one frame each); `correct`
    counts problems that a sample of every seed solves. Only problems count that every seed drew samples of.

    The interval is a percentile bootstrap: over problems, and with several seeds over seeds.
    """
    if len(seeds) == 1:
        return pass_at_k(seeds[0], 1)
    share = pl.col("correct") / pl.col("samples")
    drawn = [s.filter(pl.col("samples") > 0).select("problem_id", value=share) for s in seeds]
    return _averaged(_by_seed(drawn), pl.concat(drawn)["problem_id"].n_unique())


Seeds = Sequence[pl.DataFrame]  # SCORES of one method on one suite, a frame a seed


def difference(first: Seeds, second: Seeds) -> Difference:
    """Mean pass@1 of `second` less that of `first`, paired by problem.

    Seeds are averaged within a problem first, so more seeds do not count as more problems. As many seeds on both sides are
    paired in their order.
    """
    return pooled_difference([(first, second)])


def pooled_difference(suites: Sequence[tuple[Seeds, Seeds]], *, alike: bool = False) -> Difference:
    """`difference` over several suites: every problem counts the same, or with `alike` every suite (`pooled_gain`)."""
    return pooled_gain([_paired(first, second) for first, second in suites], alike=alike)


def _paired(first: Seeds, second: Seeds) -> tuple[Any, Any]:
    """Which problems each method solves, of those that both were asked: (problems, its seeds) of each."""
    both = _solved(first).join(_solved(second), on="problem_id", suffix="_b").sort("problem_id")
    if both.is_empty():
        raise StageError("the two methods were not measured on a common problem")
    return _matrix(both["value"]), _matrix(both["value_b"])


def status_mix(statuses: pl.Series) -> dict[str, int]:
    """How many of each status, in the order of STATUSES, those that did not occur included; nulls are not counted."""
    counts = dict(statuses.drop_nulls().value_counts().rows())
    return {s: counts.get(s, 0) for s in STATUSES}


def status_counts(outcomes: pl.DataFrame) -> dict[str, dict[str, int]]:
    """How many OUTCOMES of each status there are, greedy and sampled ones apart; statuses that did not occur left out."""
    by = outcomes.group_by("greedy", "status").len().sort("greedy", "status").rows()
    return {kind: {s: n for g, s, n in by if g is flag} for kind, flag in (("greedy", True), ("sampled", False))}


def summary(scores: pl.DataFrame) -> dict[str, Any]:
    """What SCORES say, as JSON: `pass@1` and `greedy` statuses; for samples their shares, means and pass@k.

    `executable` is the share of greedy answers that ran to their end, of samples where there is no greedy one.
    """
    drawn = scores.filter(pl.col("samples") > 0)
    samples, right, ran = (int(drawn[c].sum()) for c in ("samples", "correct", "executable"))
    counting = that_count(scores)
    greedy_ran = int(counting["greedy_status"].is_in(EXECUTABLE).sum())
    most = drawn.select(pl.col("samples").max().fill_null(0)).item()
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64, 128) if k <= most]
    return {
        "problems": scores.height,
        "mode": scores["mode"].drop_nulls().first() if scores.height else "",
        "pass@1": asdict(pass_at_1(scores)) if counting.height else None,
        "greedy": status_mix(scores["greedy_status"]),
        "executable": greedy_ran / counting.height if counting.height else ran / samples if samples else 0.0,
        "samples": samples,
        "correct_share": right / samples if samples else 0.0,
        "executable_share": ran / samples if samples else 0.0,
        "unique_answers": drawn["unique_answers"].mean() or 0.0,
        "unique_correct": drawn["unique_correct"].mean() or 0.0,
        "pass@k": {str(k): asdict(pass_at_k(scores, k)) for k in ks},
    }


def other_modes(counts: Sequence[Mapping[str, int]], greedy: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """pass@1 under the modes reported beside the label's own, from the counts of each shard of greedy outcomes.

    A problem whose reference cannot judge counts as not correct under every mode. Empty without greedy samples, and
    where a shard was made before these were counted.
    """
    if not greedy or not counts or not all(counts):
        return {}
    n, correct = greedy["n"], {mode: sum(c[mode] for c in counts) for mode in counts[0]}
    return {mode: {"value": c / n if n else 0.0, "n": n, "correct": c} for mode, c in correct.items()}


def that_count(scores: pl.DataFrame) -> pl.DataFrame:
    """The problems whose greedy answer counts: it was asked for, and our own failure did not lose it."""
    return scores.filter(pl.col("greedy_status").is_not_null(), pl.col("greedy_status") != "infra_error")


def _solved(seeds: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """`_by_seed`, whether the greedy answer is right: of the problems that count in all of them."""
    right = (pl.col("greedy_status") == "correct").cast(pl.Float64)
    return _by_seed([that_count(s).select("problem_id", value=right) for s in seeds])


def _by_seed(seeds: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """(problem_id, value) of each seed → (problem_id, the list of its values in the order of seeds), of the problems that
    all seeds have, by id."""
    each = pl.concat([s.with_columns(seed=pl.lit(i)) for i, s in enumerate(seeds)])
    values = each.sort("problem_id", "seed").group_by("problem_id", maintain_order=True).agg("value")
    return values.filter(pl.col("value").list.len() == len(seeds))


def _averaged(values: pl.DataFrame, problems: int) -> Estimate:
    """The mean of what `_by_seed` gives, which is left of so many `problems`."""
    if values.is_empty():
        return Estimate(0.0, 0.0, 1.0, 0, 0, problems)
    found = _matrix(values["value"])
    everywhere = int((found > 0).all(axis=1).sum())
    return Estimate(float(found.mean()), *bootstrap(found), len(found), everywhere, problems - len(found))


def _matrix(values: pl.Series) -> Any:
    """(problems, seeds)"""
    return np.array(values.to_list())


_GREEDY = pl.col("greedy_status").drop_nulls()
_COUNTS = (  # what `wilson` takes
    (_GREEDY == "correct").sum().alias("correct"),
    (_GREEDY != "infra_error").sum().alias("n"),
    (_GREEDY == "infra_error").sum().alias("left_out"),
)
