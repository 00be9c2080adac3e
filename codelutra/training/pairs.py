"""Outcomes → pairs of a right and a wrong answer to the same problem. Pure functions of frames, config and seed.

    outcomes ─► answers ─────────► matches ──────────────► pairs
                distinct programs  (chosen, rejected) rows  their texts

The order of rows and shards does not matter. Problems are numbered by id; the answers to one problem are ordered by a hash
of (seed, problem, sample). We write that hash out here because polars keeps its own stable within one version only.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from codelutra.config import PairsSection
from codelutra.schema import (
    ASKED,
    ENDED,
    EXECUTABLE,
    NOT_THE_MODELS_DOING,
    PAIRS,
    RIGHT_BY_LUCK,
    SETTLED,
    check,
    collapse,
    usable,
)

_WRONG = 2**63  # in `order`: right answers are below, wrong ones from here on


def make_pairs(
    outcomes: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    config: PairsSection,
    *,
    seed: int,
    normalised: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, dict[str, int | str]]:
    """Pair the OUTCOMES of train problems. Returns (PAIRS sorted by problem_id, facts); PAIRS may be empty.

    These are left out: greedy outcomes, problems that are not of the train split or not in `problems`, outages, every
    problem with a reference_error, prompts that were too long to be asked, and right answers that were cut off (training
    on one would teach the policy to stop in mid-answer). `normalised` (problem_id, code, normalised) tells which programs
    are the same, references included; a program it does not have is compared with its whitespace collapsed. Outcomes of
    several iterations may come in one frame.

    The facts count where train problems and samples were lost on the way to pairs. `samples` are those drawn at
    temperature for problems with a usable reference in `expected` (EXPECTED), without outages and prompts too long to be
    asked; the numbers below it count among these. `why` is a sentence where there are no pairs, else "".
    """
    known = _numbered(problems, seed)
    answers = _answers(_usable(outcomes, known, config), outcomes, known, normalised, config)
    matches = _MATCH[config.order](answers, _counts(answers, known, config), outcomes)
    pairs = _texts(matches, answers, outcomes, known)
    counts = funnel(outcomes, problems, expected) | {
        "paired_problems": pairs["problem_id"].n_unique(),
        "pairs": pairs.height,
        "pairs_from_references": pairs.select((pl.col("chosen_source") == "reference").sum()).item(),
    }
    why = "" if pairs.height else why_none(counts, _ALL_CORRECT, _ALL_WRONG, _NOWHERE_BOTH)
    return pairs, {**counts, "why": why}


def right_answers(
    outcomes: pl.DataFrame,
    problems: pl.DataFrame,
    expected: pl.DataFrame,
    *,
    normalised: pl.DataFrame | None = None,
    references: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, dict[str, int | str]]:
    """The distinct right samples of train problems as (problem_id, prompt, completion), sorted, and facts as `make_pairs`.

    Of equal programs the shortest completion is taken. Answers that were cut off are left out, as in `make_pairs`. With
    `references` (PROBLEMS) those join: this union is what rejection-sampling fine-tuning learns from (Yuan et al.
    2308.01825). A reference that the policy wrote itself, as a program, counts once, in the policy's words.
    """
    train = problems.filter(pl.col("split") == "train").select("problem_id", "prompt")
    right = outcomes.filter(~pl.col("greedy"), pl.col("status") == "correct", ENDED).join(train, on="problem_id")
    completion = pl.col("completion").str.strip_chars_end()
    told = right.select("problem_id", "prompt", "code", "completion", told=False)
    if references is not None:
        code = pl.col("reference")
        told = told.vstack(references.select("problem_id", "prompt", code=code, completion=code, told=True))
    distinct = (
        _with_norm(told, normalised, "problem_id")
        .with_columns(completion, length=completion.str.len_chars())
        .sort("problem_id", "norm", "told", "length", "completion")
        .unique(["problem_id", "norm"], keep="first", maintain_order=True)
    )
    counts: dict[str, int | str] = {"answers": distinct.height}
    if references is not None:
        counts["answers_from_references"] = int(distinct["told"].sum())
    why = "" if distinct.height else "no sample was right"
    kept = distinct.select("problem_id", "prompt", "completion")
    return kept, {**funnel(outcomes, problems, expected), "why": why, **counts}


def funnel(outcomes: pl.DataFrame, problems: pl.DataFrame, expected: pl.DataFrame) -> dict[str, int]:
    train = problems.filter(pl.col("split") == "train").select("problem_id")
    judged = usable(train, expected)
    counted = ~pl.col("greedy") & ~pl.col("status").is_in(NOT_THE_MODELS_DOING) & ASKED
    drawn = (
        outcomes.lazy()
        .filter(counted)
        .select("problem_id", right=pl.col("status") == "correct", status="status", ended=ENDED)
    )
    samples = drawn.join(judged.lazy(), on="problem_id", how="semi").collect()
    right, wrong = pl.col("right"), pl.col("wrong")
    by_problem = samples.group_by("problem_id").agg(right=right.any(), wrong=(~right).any())
    return {
        "problems": train.height,
        "usable_reference": judged.height,
        "samples": samples.height,
        "executable": samples.filter(pl.col("status").is_in(EXECUTABLE)).height,
        "correct": samples.filter(right).height,
        "correct_but_cut_off": samples.filter(right, ~pl.col("ended")).height,
        "all_right": by_problem.filter(right, ~wrong).height,
        "all_wrong": by_problem.filter(~right, wrong).height,
        "right_and_wrong": by_problem.filter(right, wrong).height,
    } | ({"lucky_left_out": lucky} if (lucky := outcomes.filter(~pl.col("greedy"), RIGHT_BY_LUCK).height) else {})


def mix(x: pl.Series) -> pl.Series:
    """One step of splitmix64 (Steele, Lea, Flood 2014) on UInt64: a bijection in which every bit of x reaches every bit."""
    golden, a, b = (pl.lit(c, pl.UInt64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
    frame = x.alias("x").to_frame().select(pl.col("x") + golden)
    frame = frame.select((pl.col("x") ^ pl.col("x") // 2**30) * a)
    frame = frame.select((pl.col("x") ^ pl.col("x") // 2**27) * b)
    return frame.select(pl.col("x") ^ pl.col("x") // 2**31).to_series()


_ALL_CORRECT = "every sample is correct: there is nothing to reject"
_ALL_WRONG = "every sample is wrong, and there is no reference to choose instead (see pairs.references, suite.references)"
_NOWHERE_BOTH = "no problem has both a right answer and a wrong one that differs from it"


def why_none(counts: dict[str, int], all_correct: str, all_wrong: str, nowhere_both: str) -> str:
    """Why samples that are counted so in `funnel` compare nothing."""
    if not counts["samples"]:
        return "no train problem with a usable reference has a sample"
    if counts["correct"] == counts["samples"]:
        return all_correct
    if counts["correct"] and counts["correct"] == counts["correct_but_cut_off"]:
        return "every right answer was cut off at sample.max_tokens, so none shows where an answer ends: raise it"
    return nowhere_both if counts["correct"] else all_wrong


def _numbered(problems: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Problems in the order of their ids, that number as `problem`, and a `salt` made of it and the seed."""
    known = problems.sort("problem_id").with_row_index("problem")
    start = mix(pl.Series([seed % 2**64], dtype=pl.UInt64))
    return known.with_columns(salt=mix(known["problem"].cast(pl.UInt64) + start))


def _usable(outcomes: pl.DataFrame, known: pl.DataFrame, config: PairsSection) -> pl.DataFrame:
    """Outcomes that may become answers: problem, `code` (hashed), `row` in outcomes, and `order`: the right ones first."""
    train = known.lazy().filter(pl.col("split") == "train").select("problem_id", "problem", "salt")
    right = pl.col("status") == "correct"
    rows = (
        outcomes.lazy()
        .with_row_index("row")
        .filter(~pl.col("greedy"))
        .filter(ASKED)
        .select(
            "row",
            "problem_id",
            "sample",
            "status",
            pl.col("code").hash(),
            ended=ENDED,
            blank=~pl.col("completion").str.contains(r"\S"),
        )
        .join(train, on="problem_id")
        .drop("problem_id")
        .collect()
    )
    out = NOT_THE_MODELS_DOING if config.timeouts else (*NOT_THE_MODELS_DOING, "timeout")
    broken = rows.filter(pl.col("status") == "reference_error")["problem"].unique()
    rows = rows.filter(
        ~pl.col("status").is_in(out),
        ~pl.col("problem").is_in(broken.implode()),
        ~(right & (pl.col("blank") | ~pl.col("ended"))),  # never choose an answer that is empty or was cut off
        ~pl.col("blank") | pl.col("ended"),  # cut off before it said anything: nothing to learn
    )
    state = rows["salt"] + rows["sample"].cast(pl.UInt64) + _twins(rows, outcomes)
    return rows.select("problem", "code", "row", order=mix(state) // 2 + pl.when(right).then(0).otherwise(_WRONG))


def _twins(rows: pl.DataFrame, outcomes: pl.DataFrame) -> pl.Series:
    """0, or a number that tells apart outcomes of several iterations with the same sample number, by their content."""
    names = rows["problem"].cast(pl.UInt64) * 2**32 + rows["sample"].cast(pl.UInt64)
    if names.n_unique() == rows.height:
        return pl.Series([0], dtype=pl.UInt64)
    said = rows.select(
        "problem", "sample", outcomes.select("completion", "code", "status", "finish_reason")[rows["row"]].to_struct("said")
    )
    nth = pl.col("said").rank("dense").over("problem", "sample").cast(pl.UInt64) - 1
    return said.select(nth * 2**32).to_series()


def _answers(
    rows: pl.DataFrame, outcomes: pl.DataFrame, known: pl.DataFrame, normalised: pl.DataFrame | None, config: PairsSection
) -> pl.DataFrame:
    """The distinct programs of every problem, sorted by problem and `order`; `row` is null for a reference.

    Of equal programs the first stands for all, and right ones come first: a program that was right once is not rejected.
    Programs are grouped by a 64-bit hash: two of a hundred different programs share it once in 10^15 problems.
    """
    first = pl.col("row").min_by("order"), pl.col("order").min()
    codes = rows.lazy().group_by("problem", "code").agg(*first).collect(engine="streaming")
    codes = codes.with_columns(outcomes["code"].gather(codes["row"]))
    if config.references:
        no_right = codes.group_by("problem").agg(pl.col("order").min()).filter(pl.col("order") >= _WRONG)
        references = known.join(no_right, on="problem", how="semi").filter(pl.col("reference").str.contains(r"\S"))
        mine = references.select("problem", code="reference", row=pl.lit(None, pl.UInt32), order=pl.lit(0, pl.UInt64))
        codes = pl.concat([codes, mine])
    if normalised is not None:
        normalised = normalised.join(known.select("problem_id", "problem"), on="problem_id")
    norms = _with_norm(codes, normalised, "problem").with_row_index("at")
    grouped = norms.lazy().group_by("problem", pl.col("norm").hash()).agg(*first, pl.col("at").min_by("order"))
    answers = grouped.sort("problem", "order").collect(engine="streaming")
    return answers.with_columns(norms["norm"].gather(answers["at"])).drop("at")


def _with_norm(codes: pl.DataFrame, normalised: pl.DataFrame | None, by: str) -> pl.DataFrame:
    """`codes`, in any order, with `norm`: what programs of one problem (column `by`) are compared by."""
    if normalised is None:
        return codes.with_columns(norm=collapse(pl.col("code")))
    codes = codes.join(normalised.select(by, "code", norm="normalised"), on=[by, "code"], how="left")
    parsed = pl.col("norm").is_not_null()
    return pl.concat([codes.filter(parsed), codes.filter(~parsed).with_columns(norm=collapse(pl.col("code")))])


def _counts(answers: pl.DataFrame, known: pl.DataFrame, config: PairsSection) -> pl.DataFrame:
    """Problems that can be paired: where their answers start in `answers`, how many are right and wrong, how many pairs."""
    right = pl.col("order") < _WRONG
    return (
        answers.with_row_index("start")
        .group_by("problem", maintain_order=True)
        .agg(pl.col("start").first().cast(pl.Int64), rights=right.sum().cast(pl.Int64), wrongs=(~right).sum().cast(pl.Int64))
        .filter(pl.col("rights") > 0, pl.col("wrongs") > 0)
        .with_columns(pairs=pl.min_horizontal(config.per_problem, pl.col("rights") * pl.col("wrongs")))
        .join(known.select("problem", "salt"), on="problem", maintain_order="left")
    )


def _round_robin(answers: pl.DataFrame, counts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Both sides take turns, so the uses of answers differ by at most one. After a lap (the least common multiple of both
    counts) one side shifts by one, so that no pair comes twice."""
    lap = pl.Series("lap", np.lcm(counts["rights"].to_numpy(), counts["wrongs"].to_numpy()))
    turns = counts.with_columns(lap, turn=pl.int_ranges(0, "pairs")).explode("turn")
    shifted = pl.col("turn") + pl.col("turn") // pl.col("lap")
    return _matches(turns, pl.col("turn") % pl.col("rights"), shifted % pl.col("wrongs"))


def _error_balanced(answers: pl.DataFrame, counts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Round-robin, with the rejected answers sorted so that statuses take turns."""
    status = outcomes["status"].gather(answers["row"])
    nth = pl.int_range(pl.len()).over("problem", "status")
    ranked = answers.with_row_index("at").with_columns(status.alias("status")).with_columns(nth=nth)
    sorted_at = ranked.sort("problem", pl.col("order") >= _WRONG, "nth", "order")["at"].cast(pl.Int64)
    matches = _round_robin(answers, counts, outcomes)
    return matches.with_columns(sorted_at.gather(matches["rejected"]).alias("rejected"))


def _random(answers: pl.DataFrame, counts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Any (right, wrong) combinations, drawn without replacement."""
    cells = counts.with_columns(cell=pl.int_ranges(0, pl.col("rights") * pl.col("wrongs"))).explode("cell")
    drawn = cells.with_columns(draw=mix(cells["salt"] + cells["cell"].cast(pl.UInt64) + 2**63)).sort("problem", "draw")
    drawn = drawn.filter(pl.int_range(pl.len()).over("problem") < pl.col("pairs"))
    return _matches(drawn, pl.col("cell") // pl.col("wrongs"), pl.col("cell") % pl.col("wrongs"))


def _nearest(answers: pl.DataFrame, counts: pl.DataFrame, outcomes: pl.DataFrame, *, sign: int = 1) -> pl.DataFrame:
    """Right answers take turns. Each takes, of the wrong answers used least so far, the one at the least edit distance."""
    wrongs = answers.with_row_index("rejected").filter(pl.col("order") >= _WRONG)
    wrongs = wrongs.select("problem", pl.col("rejected").cast(pl.Int64), "norm", uses=pl.lit(0, pl.Int64))
    taken = pl.DataFrame(schema={"problem": pl.UInt32, "turn": pl.Int64, "chosen": pl.Int64, "rejected": pl.Int64})
    for turn in range(counts.select(pl.col("pairs").max().fill_null(0)).item()):
        chosen = counts.filter(pl.col("pairs") > turn).select("problem", chosen=pl.col("start") + turn % pl.col("rights"))
        free = wrongs.join(chosen, on="problem").join(taken, on=["problem", "chosen", "rejected"], how="anti")
        free = free.filter(pl.col("uses") == pl.col("uses").min().over("problem"))
        distance = _edit_distance(answers["norm"].gather(free["chosen"]), free["norm"])
        best = free.with_columns(distance * sign).sort("problem", "distance", "rejected").unique("problem", keep="first")
        taken = taken.vstack(best.select("problem", pl.lit(turn, pl.Int64).alias("turn"), "chosen", "rejected"))
        wrongs = wrongs.with_columns(uses=pl.col("uses") + pl.col("rejected").is_in(best["rejected"].implode()))
    return taken.sort("problem", "turn")


def _farthest(answers: pl.DataFrame, counts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    return _nearest(answers, counts, outcomes, sign=-1)


_MATCH = {
    "round-robin": _round_robin,
    "error-balanced": _error_balanced,
    "random": _random,
    "nearest": _nearest,
    "farthest": _farthest,
}


def _edit_distance(a: pl.Series, b: pl.Series) -> pl.Series:
    """Levenshtein distance in characters, row by row."""
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    return pl.Series("distance", cpdist(a.to_list(), b.to_list(), scorer=Levenshtein.distance, workers=-1), dtype=pl.Int64)


def _matches(turns: pl.DataFrame, chosen: pl.Expr, rejected: pl.Expr) -> pl.DataFrame:
    """Indices into a problem's right and wrong answers → rows of `answers`, where a problem's right ones come first."""
    return turns.select("problem", chosen=pl.col("start") + chosen, rejected=pl.col("start") + pl.col("rights") + rejected)


def _texts(matches: pl.DataFrame, answers: pl.DataFrame, outcomes: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Matched rows of `answers` → PAIRS."""
    chosen, rejected = (answers["row"].gather(matches[side]) for side in ("chosen", "rejected"))
    asked = known.select("problem_id", "prompt", "reference").select(pl.all().gather(matches["problem"]))
    text = outcomes["completion"]
    pairs = asked.with_columns(
        chosen=pl.coalesce(text.gather(chosen), pl.col("reference").str.strip_chars_start()).str.strip_chars_end(),
        rejected=text.gather(rejected).str.strip_chars_end(),
        chosen_source=pl.when(chosen.is_null()).then(pl.lit("reference")).otherwise(pl.lit("sample")),
        rejected_status=outcomes["status"].gather(rejected).cast(SETTLED),
        chosen_sample=outcomes["sample"].gather(chosen).fill_null(-1),
        rejected_sample=outcomes["sample"].gather(rejected),
        rejected_ended=outcomes.select(ENDED).to_series().gather(rejected),
    )
    return check(pairs.filter(pl.col("chosen") != pl.col("rejected")), PAIRS)
