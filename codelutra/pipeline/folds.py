"""Folds: in the first iteration nobody samples a problem whose reference it was taught (`sample.folds`).

After a warm start policy 0 knows the references by heart. Its rare mistakes at those problems are not the ones it makes at
new problems. So the references are dealt into folds, for each fold a further warm start leaves its references out, and the
policy that this makes samples the fold (cross-fitting, Chernozhukov et al. 1608.00060).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from codelutra.config import RunConfig
from codelutra.pipeline.run import Policy
from codelutra.pipeline.usable import to_imitate
from codelutra.sampling.shards import Shard


def dealt(problems: pl.DataFrame, expected: pl.DataFrame, config: RunConfig) -> pl.DataFrame:
    """(problem_id, fold from 1 on) of the references that the model is shown. Every group is dealt over all folds."""
    known = to_imitate(problems, expected, config.suite).sort("group", "problem_id")
    return known.select("problem_id", fold=pl.int_range(pl.len()) % config.sample.folds + 1)


def by_folds(
    rows: pl.DataFrame,
    fold_of: pl.DataFrame,
    policy: Policy,
    folds: Sequence[Policy],
    plan: Callable[[pl.DataFrame], list[Shard]],
) -> tuple[list[Shard], list[Policy]]:
    """The shards that `plan` cuts rows of PROBLEMS into, and who samples each: `folds` what each of them was not taught,
    `policy` the rest. `fold_of`: as `dealt`."""
    known = rows.join(fold_of, on="problem_id", how="left", maintain_order="left").with_columns(pl.col("fold").fill_null(0))
    shards, policies = list[Shard](), list[Policy]()
    for number, who in enumerate([policy, *folds]):
        for shard in plan(known.filter(pl.col("fold") == number).drop("fold")):
            name = shard.name.replace("-", f"-fold{number}-", 1) if number else shard.name
            shards.append(replace(shard, index=len(shards), name=name))
            policies.append(who)
    return shards, policies
