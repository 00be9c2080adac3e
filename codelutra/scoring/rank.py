"""Of several samples the one that a verifier prefers, as if it were the policy's one answer.

The verifier is a policy that was trained by DPO on right and wrong programs. Its reward of an answer y to x is the one that
DPO defines, log π_verifier(y | x) − log π_sampler(y | x), but for β and a term of x alone (Rafailov et al. 2305.18290, eq.
5). V-STaR (Hosseini et al. 2402.06457) ranks so. No rank looks at what is right.
"""

from __future__ import annotations

import polars as pl

from codelutra.schema import ENDED, EXECUTABLE, OUTCOMES, check


def preferred(outcomes: pl.DataFrame, scored: pl.DataFrame) -> pl.DataFrame:
    """One row a problem of the sampled OUTCOMES, marked `greedy`: of the programs that ran to their end the one with the
    highest reward. Where none did, the highest of all. `scored`: (problem_id, completion, ended, reward).

    Of equal rewards the sample drawn first wins. Infrastructure failures are left out, unless a problem has nothing else.
    """
    drawn = outcomes.filter(~pl.col("greedy")).with_columns(ended=ENDED)
    known = drawn.join(scored, on=["problem_id", "completion", "ended"], how="left", maintain_order="left")
    ranked = known.with_columns(ran=pl.col("status").is_in(EXECUTABLE), lost=pl.col("status") == "infra_error")
    best = ranked.sort(
        ["problem_id", "lost", "ran", "reward", "sample"], descending=[False, False, True, True, False], nulls_last=True
    )
    return check(best.unique("problem_id", keep="first", maintain_order=True).with_columns(greedy=True), OUTCOMES)
