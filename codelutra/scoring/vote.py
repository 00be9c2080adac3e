"""Self-consistency: of several samples the answer that most of them give, as if it were the policy's one answer.

Votes are by the result of running a program, not by its text (Wang et al. 2203.11171; for programs MBR-exec, Shi et al.
2204.11454). No vote looks at what is right: a Python program's result is what it returns for the problem's inputs. Where the
problem's own checks decide in the program's process, their verdict is all that is known of a result. There a vote is by the
program's text.
"""

from __future__ import annotations

import polars as pl

from codelutra.schema import EXECUTABLE, OUTCOMES, check, collapse


def voted(outcomes: pl.DataFrame) -> pl.DataFrame:
    """One row a problem of the sampled OUTCOMES, marked `greedy`: the first of those that gave the most frequent result.

    Only programs that ran to their end vote; where none did, the first sample stands. Of results with as many votes the one
    that was drawn first wins. Infrastructure failures are left out, unless a problem has nothing else.
    """
    given = pl.when(pl.col("verdict") == "in-process").then(collapse(pl.col("code"))).otherwise("answer")
    drawn = outcomes.filter(~pl.col("greedy")).with_columns(given=given)
    votes = pl.col("status").is_in(EXECUTABLE).sum().over("problem_id", "given")
    ran, lost = pl.col("status").is_in(EXECUTABLE), pl.col("status") == "infra_error"
    first = pl.col("sample").min().over("problem_id", "given", ran)
    ranked = drawn.with_columns(votes=pl.when(ran).then(votes).otherwise(0), first=first, lost=lost)
    best = ranked.sort(["problem_id", "lost", "votes", "first", "sample"], descending=[False, False, True, False, False])
    return check(best.unique("problem_id", keep="first", maintain_order=True).with_columns(greedy=True), OUTCOMES)
