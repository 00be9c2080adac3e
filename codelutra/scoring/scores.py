"""Outcomes → scores: pass@1, pass@k, intervals and paired tests. Pure functions of frames.

Who counts: a problem with a greedy sample, whatever became of it, except where the outcome was our own outage
(infra_error): that says nothing about the model, so the problem is left out of the denominator and counted in `left_out`.
A reference_error stays in the denominator as not correct, as in the official evaluations, and so does a prompt too long to
be asked; of samples at temperature only those count that were drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist, mean, stdev
from typing import Any

import numpy as np
import polars as pl

from codelutra.errors import StageError
from codelutra.schema import ASKED, EXECUTABLE, SCORES, STATUS, STATUSES, check, collapse

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A share of problems in [0, 1] with its interval; without any problem 0 in [0, 1] with n = 0."""

    value: float
    low: float
    high: float
    n: int  # problems
    correct: int  # of those: solved (pass@1), or solved by any sample (pass@k)
    left_out: int = 0  # problems that could not count: outages (pass@1), fewer than k samples (pass@k)


@dataclass(frozen=True)
class Paired:
    """Two policies on the same problems."""

    gained: int  # solved by the second only
    lost: int  # solved by the first only
    p: float  # exact two-sided McNemar
    n: int  # problems that both were asked


@dataclass(frozen=True)
class Difference:
    """How much more the second of two methods solves, as a share of problems, over the seeds of each."""

    value: float
    low: float
    high: float
    p: float  # two-sided, signs of the problems' differences flipped at random
    n: int  # problems that all seeds of both were asked


@dataclass(frozen=True)
class Seeds:
    """One number over several seeds. `low` and `high` are the smallest and largest value: three seeds give no interval."""

    mean: float
    sd: float  # sample standard deviation, 0 for one seed
    low: float
    high: float
    n: int


def score_problems(
    outcomes: pl.DataFrame, problems: pl.DataFrame, expected: pl.DataFrame, *, normalised: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One row for each of `problems`, as SCORES, in their order; outcomes of other problems are left aside.

    `normalised` (problem_id, code, normalised) says which programs are the same, else whitespace is collapsed.
    Raises StageError for outcomes judged under two comparison modes.
    """
    modes = outcomes["mode"].unique().sort().to_list()
    if len(modes) > 1:
        raise StageError(f"outcomes judged under {' and '.join(modes)} in one frame; score each comparison mode by itself")
    broken = expected.filter(pl.col("status") == "reference_error").select("problem_id", broken=True)
    judged = outcomes.join(broken, on="problem_id", how="left").with_columns(
        status=pl.when("broken").then(pl.lit("reference_error", STATUS)).otherwise("status")
    )
    drawn = judged.filter(~pl.col("greedy"), pl.col("status") != "infra_error", ASKED)
    right, ran = pl.col("status") == "correct", pl.col("status").is_in(EXECUTABLE)
    sampled = (
        _named(drawn, normalised)
        .group_by("problem_id")
        .agg(
            samples=pl.len().cast(pl.Int32),
            correct=right.sum().cast(pl.Int32),
            executable=ran.sum().cast(pl.Int32),
            unique_answers=pl.col("answer").filter(ran).n_unique().cast(pl.Int32),
            unique_correct=pl.col("norm").filter(right).n_unique().cast(pl.Int32),
        )
    )
    greedy = judged.filter("greedy").group_by("problem_id").agg(greedy_status=pl.col("status").first())
    scores = (
        problems.select("problem_id", "split", "group", "difficulty", mode=pl.lit(modes[0] if modes else ""))
        .join(greedy, on="problem_id", how="left", maintain_order="left")
        .join(sampled, on="problem_id", how="left", maintain_order="left")
        .with_columns(pl.col("samples", "correct", "executable", "unique_answers", "unique_correct").fill_null(0))
    )
    return check(scores, SCORES)


def pass_at_1(scores: pl.DataFrame, *, confidence: float = CONFIDENCE) -> Estimate:
    """Share of problems whose greedy answer is correct, with Wilson's interval."""
    row = _rates(scores, [], confidence).row(0, named=True)
    return Estimate(**row)


def breakdown(scores: pl.DataFrame, by: str | Sequence[str] = "group", *, confidence: float = CONFIDENCE) -> pl.DataFrame:
    """pass@1 for every value of `by` ("group", "difficulty", "split" or several), most problems first.

    Columns: `by`, then those of Estimate.
    """
    by = [by] if isinstance(by, str) else list(by)
    return _rates(scores, by, confidence).filter(pl.col("n") > 0).sort(["n", *by], descending=[True] + [False] * len(by))


def pass_at_k(
    scores: pl.DataFrame, k: int, *, confidence: float = CONFIDENCE, resamples: int = 2000, seed: int = 0
) -> Estimate:
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
    means = np.random.default_rng(seed).multinomial(problems, shares, size=resamples) @ values / problems
    low, high = (float(np.quantile(means, q)) for q in ((1 - confidence) / 2, (1 + confidence) / 2))
    solved = int(kinds.filter(pl.col("correct") > 0)["len"].sum())
    return Estimate(float(shares @ values), low, high, problems, solved, drawn.height - problems)


def mcnemar(scores_a: pl.DataFrame, scores_b: pl.DataFrame) -> Paired:
    """Exact two-sided McNemar test of b against a on the problems that count for both.

    Under the null hypothesis each of the gained + lost problems is a fair coin (McNemar 1947; the p value is the exact
    binomial one). Raises StageError where the two were judged under different comparison modes.
    """
    modes = {m for s in (scores_a, scores_b) for m in s["mode"].unique() if m}
    if len(modes) > 1:
        raise StageError(f"scores under {' and '.join(sorted(modes))} cannot be compared; judge both under one mode")
    both = _counting(scores_a).join(_counting(scores_b), on="problem_id", suffix="_b")
    a, b = (pl.col(c) == "correct" for c in ("greedy_status", "greedy_status_b"))
    gained, lost = both.select((b & ~a).sum().alias("gained"), (a & ~b).sum().alias("lost")).row(0)
    return Paired(gained, lost, _sign_test(gained, lost), both.height)


def mean_pass_at_1(seeds: Sequence[pl.DataFrame], *, confidence: float = CONFIDENCE) -> Estimate:
    """pass@1 averaged over the SCORES of several seeds; the interval is over problems: Wilson's for one seed, else a
    percentile bootstrap. `correct` counts problems that every seed solves."""
    if len(seeds) == 1:
        return pass_at_1(seeds[0], confidence=confidence)
    shares = _solved(seeds)["share"].to_numpy()
    low, high = _bootstrap(shares, confidence)
    return Estimate(float(shares.mean()), low, high, len(shares), int((shares == 1).sum()), seeds[0].height - len(shares))


def difference(
    first: Sequence[pl.DataFrame], second: Sequence[pl.DataFrame], *, confidence: float = CONFIDENCE, flips: int = 10_000
) -> Difference:
    """Mean pass@1 of `second` less that of `first` (SCORES, one frame a seed), paired by problem.

    Seeds are averaged within a problem first, so problems stay the unit: percentile bootstrap over problems, and a
    sign-flipping permutation test (Fisher 1935), which for one seed each is McNemar's up to its random draws.
    """
    both = _solved(first).join(_solved(second), on="problem_id", suffix="_b").sort("problem_id")
    gains = (both["share_b"] - both["share"]).to_numpy()
    if not len(gains):
        raise StageError("the two methods were not measured on a common problem")
    moved = gains[gains != 0]
    signs = np.random.default_rng(0).integers(0, 2, size=(flips, len(moved)), dtype=np.int8) * 2.0 - 1
    beyond = int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    low, high = _bootstrap(gains, confidence)
    return Difference(float(gains.mean()), low, high, (beyond + 1) / (flips + 1) if len(moved) else 1.0, len(gains))


def _solved(seeds: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """(problem_id, share of seeds that solve it), of the problems that count in all of them."""
    each = pl.concat([_counting(s).select("problem_id", solved=pl.col("greedy_status") == "correct") for s in seeds])
    shares = each.group_by("problem_id").agg(share=pl.col("solved").mean(), seeds=pl.len())
    return shares.filter(pl.col("seeds") == len(seeds)).drop("seeds")


def _bootstrap(values: Any, confidence: float, resamples: int = 10_000) -> tuple[float, float]:
    drawn = np.random.default_rng(0).integers(0, len(values), size=(resamples, len(values)))
    means = values[drawn].mean(axis=1)
    return float(np.quantile(means, (1 - confidence) / 2)), float(np.quantile(means, (1 + confidence) / 2))


def status_mix(statuses: pl.Series) -> dict[str, int]:
    """How many of each status, in the order of STATUSES, those that did not occur included; nulls are not counted."""
    counts = dict(statuses.drop_nulls().value_counts().rows())
    return {s: counts.get(s, 0) for s in STATUSES}


def summary(scores: pl.DataFrame) -> dict[str, Any]:
    """What SCORES say, as JSON: `pass@1` and `greedy` statuses; for samples their shares, means and pass@k.

    `executable` is the share of greedy answers that ran to their end, of samples where there is no greedy one.
    """
    drawn = scores.filter(pl.col("samples") > 0)
    samples, right, ran = (int(drawn[c].sum()) for c in ("samples", "correct", "executable"))
    counting = _counting(scores)
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


def aggregate_seeds(values: Sequence[float | Estimate]) -> Seeds:
    """Mean, standard deviation and range of one number over runs that differ in their seed only."""
    numbers = [v.value if isinstance(v, Estimate) else float(v) for v in values]
    if not numbers:
        raise ValueError("no seeds to aggregate")
    sd = stdev(numbers) if len(numbers) > 1 else 0.0
    return Seeds(mean(numbers), sd, min(numbers), max(numbers), len(numbers))


def _named(drawn: pl.DataFrame, normalised: pl.DataFrame | None) -> pl.DataFrame:
    norm = collapse(pl.col("code"))
    if normalised is None:
        return drawn.with_columns(norm=norm)
    named = drawn.join(normalised, on=["problem_id", "code"], how="left")
    return named.with_columns(norm=pl.coalesce("normalised", norm))


def _counting(scores: pl.DataFrame) -> pl.DataFrame:
    return scores.filter(pl.col("greedy_status").is_not_null(), pl.col("greedy_status") != "infra_error")


def _rates(scores: pl.DataFrame, by: list[str], confidence: float) -> pl.DataFrame:
    """Estimate's columns for every value of `by`; one row where `by` is empty.

    Wilson (1927): the p for which the observed share is z standard errors away, centre (c + z²/2) / (n + z²).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    status = pl.col("greedy_status").drop_nulls()
    outages = (status == "infra_error").sum().cast(pl.Int64)
    counts = (
        status.len().cast(pl.Int64).sub(outages).alias("n"),
        (status == "correct").sum().cast(pl.Int64).alias("correct"),
        outages.alias("left_out"),
    )
    rates = scores.group_by(by, maintain_order=True).agg(counts) if by else scores.select(counts)
    n, c = pl.col("n"), pl.col("correct")
    centre = (c + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (c * (n - c) / n + z * z / 4).sqrt()
    some = n > 0
    return rates.select(
        *by,
        pl.when(some).then(c / n).otherwise(0.0).alias("value"),
        pl.when(some & (c > 0)).then(centre - half).otherwise(0.0).alias("low"),
        pl.when(some & (c < n)).then(centre + half).otherwise(1.0).alias("high"),
        "n",
        "correct",
        "left_out",
    )


def _sign_test(gained: int, lost: int) -> float:
    """P of a split at least this uneven when each of gained + lost is a fair coin."""
    n, least = gained + lost, min(gained, lost)
    tail = sum(math.comb(n, i) for i in range(least + 1))
    return min(1.0, tail / 2 ** (n - 1)) if n else 1.0
