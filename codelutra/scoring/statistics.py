"""Intervals and tests of plain numbers. The unit is the problem: problems are independent, samples of one are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

CONFIDENCE = 0.95
DRAWS = 10_000  # bootstrap resamples, and sign flips


@dataclass(frozen=True)
class Estimate:
    """A share of problems in [0, 1] with its interval; without any problem 0 in [0, 1] with n = 0."""

    value: float
    low: float
    high: float
    n: int  # problems
    correct: int  # of those: solved (pass@1), or solved by any sample (pass@k)
    left_out: int = 0  # problems that could not count: infra_error (pass@1), fewer than k samples (pass@k)


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
    p: float  # two-sided permutation test
    n: int  # problems that all seeds of both were asked


def wilson(correct: int, n: int, left_out: int = 0, *, confidence: float = CONFIDENCE) -> Estimate:
    """correct / n with Wilson's score interval (Wilson 1927).

    Its bounds are the p for which the observed share is z standard errors away:
    (c + z²/2 ± z √(c (n - c) / n + z²/4)) / (n + z²), c = correct.
    """
    if not n:
        return Estimate(0.0, 0.0, 1.0, 0, 0, left_out)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (correct + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(correct * (n - correct) / n + z * z / 4)
    low, high = centre - half if correct else 0.0, centre + half if correct < n else 1.0
    return Estimate(correct / n, low, high, n, correct, left_out)


def exact_mcnemar(gained: int, lost: int, n: int) -> Paired:
    """McNemar's test (1947) with its exact two-sided p value.

    Under the null hypothesis each of the gained + lost problems is a fair coin: p is the binomial probability of a split
    at least this uneven. `n` problems were compared.
    """
    moved = gained + lost
    tail = sum(math.comb(moved, i) for i in range(min(gained, lost) + 1))
    return Paired(gained, lost, min(1.0, tail / 2 ** (moved - 1)) if moved else 1.0, n)


def smallest_difference(n: int, seeds: int = 1, *, differing: float = 0.2, power: float = 0.8) -> float | None:
    """The difference of two methods' pass@1 that a paired test at p < 0.05 finds with this `power`, as a share of problems.

    δ solves z_0.975 √d + z_power √(d - δ²) = δ √N (Connor 1987, Biometrics 43:207, for McNemar's test), where `differing`
    d is the share of problems that one of the two solves alone, and N = problems · seeds: seeds count like further problems
    where they disagree independently. What seeds differ by as such comes on top, and no number of problems helps against
    it. None where N is too small even if all differing problems were solved by one method.
    """
    if not n * seeds:
        return None
    alpha, beta = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), NormalDist().inv_cdf(power)
    found = 0.0
    for _ in range(100):  # a contraction: the difference lowers the variance a little
        found = (alpha * math.sqrt(differing) + beta * math.sqrt(max(0.0, differing - found**2))) / math.sqrt(n * seeds)
    return found if found <= differing else None


def bootstrap(values: Any) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (problems, seeds), by drawing problems and seeds again (Efron 1979).

    Two or three seeds, drawn again, vary by a half or a third less than further seeds would: the interval is still narrow.
    """
    (means,) = _resampled([values])
    return percentiles(means.mean(axis=1))


def _resampled(sides: Sequence[Any], seed: int = 0) -> list[Any]:
    """Of each side (problems, seeds) the means over problems drawn again, by seeds drawn again: (draws, seeds). All sides
    draw the same problems. Those with as many seeds draw the same seeds: they are paired by seed."""
    draw, n = np.random.default_rng(seed), len(sides[0])
    problems = draw.integers(0, n, size=(DRAWS, n))
    parts, seeds = [], dict[int, Any]()
    for values in sides:
        count = values.shape[1]
        if count not in seeds:
            seeds[count] = draw.integers(0, count, size=(DRAWS, count))
        by_seed = np.stack([values[:, s][problems].mean(axis=1) for s in range(count)], axis=1)
        parts.append(np.take_along_axis(by_seed, seeds[count], axis=1))
    return parts


def percentiles(means: Any) -> tuple[float, float]:
    """The middle CONFIDENCE of an array of bootstrapped means."""
    return float(np.quantile(means, (1 - CONFIDENCE) / 2)), float(np.quantile(means, (1 + CONFIDENCE) / 2))


def pooled_gain(suites: Sequence[tuple[Any, Any]], *, alike: bool = False) -> Difference:
    """How much larger the mean of `second` (problems, its seeds) is than that of `first` (the same problems, its seeds).

    Of several suites, each its (first, second): the mean over all problems, or with `alike` over suites. The interval is
    the percentile bootstrap over problems and seeds within each suite. The suites are not drawn again: it says nothing of
    other suites. p is a permutation test over problems, of these seeds: seeds are averaged within a problem, and the sign
    of each problem's gain is flipped at random (Fisher 1935). For one suite and one seed each it is McNemar's test, up to
    the random draws.
    """
    problems = sum(len(first) for first, _ in suites)
    shares = [1 / len(suites) if alike else len(first) / problems for first, _ in suites]
    gains, spread = [], np.zeros(DRAWS)
    for i, (share, (first, second)) in enumerate(zip(shares, suites, strict=True)):
        gains.append((second.mean(axis=1) - first.mean(axis=1)) * (share * problems / len(first)))
        before, after = _resampled([first, second], seed=i)
        spread += share * (after.mean(axis=1) - before.mean(axis=1))
    every = np.concatenate(gains)
    moved = every[every != 0]
    signs = np.random.default_rng(0).integers(0, 2, size=(DRAWS, len(moved)), dtype=np.int8) * 2.0 - 1
    beyond = int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    p = (beyond + 1) / (DRAWS + 1) if len(moved) else 1.0
    return Difference(float(every.mean()), *percentiles(spread), p, problems)
