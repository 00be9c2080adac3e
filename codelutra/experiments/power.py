"""How large a difference must be for a comparison to show it; said before the comparison starts."""

from __future__ import annotations

import polars as pl

from codelutra.config import RunConfig
from codelutra.results import text
from codelutra.scoring.statistics import smallest_difference
from codelutra.suites.base import open_suite

DIFFERING = 0.2  # share of test problems that one of two methods solves alone: 18 to 24 % between SFT, pairs and the base


def foresight(config: RunConfig, seeds: int) -> str:
    """A sentence: the difference between two methods that the test split is likely to show."""
    n = open_suite(config.suite).problems().filter(pl.col("split") == "test").height
    if not n or not config.select.test:
        return "no test split is scored, so no method is compared with another"
    of = f"{n} test problems and {seeds} seed{'s' if seeds > 1 else ''}"
    found = smallest_difference(n, seeds, differing=DIFFERING)
    if found is None:
        return f"{of} are too few to tell two methods apart at p < 0.05; take more problems (suite.test) or seeds (--seeds)"
    return (
        f"{of} show a difference of {text.signed(100 * found).lstrip('+')} points or more at p < 0.05 in four of five "
        f"comparisons (if two methods disagree on {DIFFERING:.0%} of the problems); more problems or seeds show smaller ones"
    )
