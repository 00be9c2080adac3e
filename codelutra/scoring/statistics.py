"""Intervals and tests of plain numbers. The unit is the problem: problems are independent, samples of one are not."""

from __future__ import annotations

import math
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


def bootstrap(values: Any) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (an array, one a problem), by drawing problems again (Efron 1979)."""
    drawn = np.random.default_rng(0).integers(0, len(values), size=(DRAWS, len(values)))
    return percentiles(values[drawn].mean(axis=1))


def percentiles(means: Any) -> tuple[float, float]:
    """The middle CONFIDENCE of an array of bootstrapped means."""
    return float(np.quantile(means, (1 - CONFIDENCE) / 2)), float(np.quantile(means, (1 + CONFIDENCE) / 2))


def mean_gain(gains: Any) -> Difference:
    """The mean of `gains` (an array: second less first, one a problem) against 0.

    The interval is the percentile bootstrap. p is a permutation test that flips the sign of each gain at random (Fisher
    1935). For gains of -1, 0 and 1 it is McNemar's test, up to the random draws.
    """
    moved = gains[gains != 0]
    signs = np.random.default_rng(0).integers(0, 2, size=(DRAWS, len(moved)), dtype=np.int8) * 2.0 - 1
    beyond = int((np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9).sum())
    low, high = bootstrap(gains)
    return Difference(float(gains.mean()), low, high, (beyond + 1) / (DRAWS + 1) if len(moved) else 1.0, len(gains))
