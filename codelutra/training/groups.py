"""Outcomes → groups: all answers of a problem, each with its advantage over the problem's others. Pure functions of frames.

    outcomes ─► answers ──────────────────────► groups
                distinct completions, counted   with a signal, and what each answer weighs

A completion that several samples share is one row with a `count`: training computes it once. The order of rows and shards
does not matter: sums are of whole numbers, and rows are sorted.
"""

from __future__ import annotations

import polars as pl

from codelutra.config import GrpoSection
from codelutra.schema import ASKED, ENDED, GROUPS, NOT_THE_MODELS_DOING, SETTLED, check
from codelutra.training.pairs import funnel, why_none

STD_OFFSET = 1e-4  # TRL's, in the denominator
_WHY_NONE = (
    "every sample is correct: no answer is better than the others of its problem",
    "every sample is wrong: no answer is better than the others of its problem",
    "no problem has both a right answer and a wrong one (see grpo.filter_groups)",
)


def make_groups(
    outcomes: pl.DataFrame, problems: pl.DataFrame, expected: pl.DataFrame, config: GrpoSection
) -> tuple[pl.DataFrame, dict[str, int | str]]:
    """Group the OUTCOMES of train problems. Returns (GROUPS sorted by problem_id, facts); GROUPS may be empty.

    Left out, also of the means, are those that `make_pairs` leaves out: greedy outcomes, outages, problems with a
    reference_error, prompts too long to be asked, and right answers that were cut off or are blank (a right answer is not
    taught as wrong, nor how not to end). Answers that were cut off before they said anything have no token to learn from.

    The advantage of a sample with reward r in a group of mean m and standard deviation s (n - 1 in its denominator) is
    (r - m) / (s + 1e-4) for `grpo` (Shao et al. 2402.03300), r - m for `dr_grpo` (Liu et al. 2503.20783) and r - (m - δ) for
    `asymre` (Arnal et al. 2506.20520). The facts are the funnel of `make_pairs`, then `groups` (problems), `answers` (rows
    of GROUPS) and `why`.
    """
    rows = _with_advantages(_answers(outcomes, problems), config)
    if config.filter_groups:
        differs = (pl.col("reward") - pl.col("mean")).abs() > 1e-9  # not where one completion alone is now right, now wrong
        rows = rows.filter(differs.any().over("problem_id"))
    groups = check(rows.sort("problem_id", "completion", "ended"), GROUPS)
    counts = funnel(outcomes, problems, expected) | {"groups": groups["problem_id"].n_unique(), "answers": groups.height}
    why = "" if groups.height else why_none(counts, *_WHY_NONE)
    return groups, {**counts, "why": why}


def _answers(outcomes: pl.DataFrame, problems: pl.DataFrame) -> pl.DataFrame:
    """The distinct completions of every train problem: GROUPS without `advantage`, with `rights`, of `count`."""
    train = problems.filter(pl.col("split") == "train").select("problem_id", "prompt")
    broken = outcomes.filter(pl.col("status") == "reference_error").select("problem_id").unique()
    right, says = pl.col("status") == "correct", pl.col("completion").str.contains(r"\S")
    usable = (
        outcomes.filter(~pl.col("greedy"), ASKED, ~pl.col("status").is_in(NOT_THE_MODELS_DOING))
        .filter(pl.when(right).then(says & ENDED).otherwise(says | ENDED))
        .join(broken, on="problem_id", how="anti")
        .join(train, on="problem_id")
        .with_columns(completion=pl.col("completion").str.strip_chars_end(), ended=ENDED, right=right)
    )
    return usable.group_by("problem_id", "prompt", "completion", "ended").agg(
        count=pl.len().cast(pl.Int32),
        rights=pl.col("right").sum().cast(pl.Int32),
        status=pl.col("status").min().cast(SETTLED),
        reward=pl.col("right").sum() / pl.len(),
    )


def _with_advantages(answers: pl.DataFrame, config: GrpoSection) -> pl.DataFrame:
    """`answers` with the `mean` reward of each problem's samples, and each answer's `advantage`."""
    n, rights = (pl.col(c).sum().over("problem_id").cast(pl.Float64) for c in ("count", "rights"))
    rows = answers.with_columns(n=n, mean=rights / n)
    over_mean, p = pl.col("reward") - pl.col("mean"), pl.col("mean")
    match config.advantage:
        case "grpo":  # rewards are 0 and 1, so their variance is that of a proportion
            std = (pl.col("n") / (pl.col("n") - 1).clip(1) * p * (1 - p)).sqrt()
            advantage = over_mean / (std + STD_OFFSET)
        case "dr_grpo":
            advantage = over_mean
        case "asymre":
            advantage = over_mean + config.baseline_shift
    return rows.with_columns(advantage=advantage)
