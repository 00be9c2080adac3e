"""What tests of suites ask of how problems are dealt."""

from __future__ import annotations

import polars as pl


def overlaps(problems: pl.DataFrame, key: pl.Series) -> list[str]:
    """Values of `key` (one a problem) that occur in two splits, sorted."""
    sides = problems.select("split").with_columns(key=key).group_by("key").agg(pl.col("split").n_unique())
    return sides.filter(pl.col("split") > 1)["key"].sort().to_list()
