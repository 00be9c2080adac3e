from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra import schema
from codelutra.errors import StageError
from codelutra.scoring.scores import (
    breakdown,
    difference,
    mcnemar,
    mean_of_samples,
    mean_pass_at_1,
    other_modes,
    pass_at_1,
    pass_at_k,
    score_problems,
    status_mix,
    summary,
)
from codelutra.scoring.statistics import Estimate, Paired, exact_mcnemar, smallest_difference, wilson


def scores_of(*rows: tuple[Any, ...], mode: str = "sql-strict/v1") -> pl.DataFrame:
    """SCORES from (greedy_status, samples, correct[, group])."""
    filled = [
        {
            "problem_id": f"p{i}",
            "split": "dev",
            "group": r[3] if len(r) > 3 else "g",
            "difficulty": "",
            "mode": mode,
            "greedy_status": r[0],
            "samples": r[1],
            "correct": r[2],
            "executable": r[2],
            "unique_answers": 0,
            "unique_correct": 0,
        }
        for i, r in enumerate(rows)
    ]
    return pl.DataFrame(filled, schema=schema.SCORES)


def greedy(correct: int, n: int) -> pl.DataFrame:
    return scores_of(*([("correct", 0, 0)] * correct + [("wrong", 0, 0)] * (n - correct)))


# From statsmodels 0.15.0, proportion_confint(correct, n, method="wilson").
WILSON = [
    (0, 10, 0.0, 0.27753279986288926),
    (10, 10, 0.7224672001371106, 1.0),
    (3, 10, 0.10779126740630104, 0.6032218525388546),
    (1, 1, 0.2065493143772374, 1.0),
    (28, 300, 0.06536421957889091, 0.1315853970170732),
    (101, 272, 0.31606986879673105, 0.4301611716738668),
]


@pytest.mark.parametrize(("correct", "n", "low", "high"), WILSON)
def test_pass_at_1_has_the_wilson_interval_of_statsmodels(correct, n, low, high):
    got = pass_at_1(greedy(correct, n))
    assert (got.value, got.n, got.correct) == (correct / n, n, correct)
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-12)


def test_another_confidence_gives_another_interval():
    got = wilson(101, 272, confidence=0.9)
    assert (got.low, got.high) == pytest.approx((0.3246246815698233, 0.4205570169141853), abs=1e-12)


@given(st.integers(1, 400), st.data())
@settings(max_examples=50)
def test_wilson_bounds_solve_the_score_equation(n, data):
    c = data.draw(st.integers(0, n))
    got = pass_at_1(greedy(c, n))
    assert 0 <= got.low <= got.value <= got.high <= 1
    z = 1.959963984540054
    for p in {got.low, got.high} - {0.0, 1.0}:
        assert (c / n - p) ** 2 == pytest.approx(z * z * p * (1 - p) / n, abs=1e-12)


def test_outages_leave_the_denominator_and_broken_references_stay_in_it():
    scores = scores_of(("correct", 0, 0), ("infra_error", 0, 0), ("reference_error", 0, 0), ("no_code", 0, 0), (None, 8, 2))
    got = pass_at_1(scores)
    assert (got.correct, got.n, got.left_out) == (1, 3, 1)


def test_without_problems_nothing_is_known():
    assert pass_at_1(scores_of()) == Estimate(0.0, 0.0, 1.0, 0, 0, 0)
    assert pass_at_k(scores_of((None, 3, 1)), 4) == Estimate(0.0, 0.0, 1.0, 0, 0, 1)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 4), (7, 3, 5), (8, 1, 8)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n, c, k):
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(scores_of((None, n, c)), k).value == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_leaves_out_problems_with_too_few_samples():
    got = pass_at_k(scores_of((None, 4, 4), (None, 4, 0), (None, 1, 1), ("correct", 0, 0)), 2)
    assert (got.value, got.n, got.correct, got.left_out) == (0.5, 2, 1, 1)


def test_the_bootstrap_is_seeded_and_agrees_with_the_normal_interval_on_many_problems():
    scores = scores_of(*[(None, 4, i % 5) for i in range(2000)])
    got = pass_at_k(scores, 1)
    assert got == pass_at_k(scores.reverse(), 1)
    assert got != pass_at_k(scores, 1, seed=1)
    sd = math.sqrt(sum((c / 4 - 0.5) ** 2 for c in range(5)) / 5)
    half = 1.96 * sd / math.sqrt(2000)
    assert (got.low, got.high) == pytest.approx((0.5 - half, 0.5 + half), abs=half * 0.1)


# From statsmodels 0.15.0, mcnemar(exact=True), and scipy 1.17.1, binomtest.
MCNEMAR = [
    (0, 0, 1.0),
    (3, 8, 0.2265625),
    (10, 2, 0.03857421875),
    (1, 0, 1.0),
    (5, 5, 1.0),
    (50, 20, 0.00044028500651396835),
    (1200, 1000, 2.1817026407914194e-05),
]


@pytest.mark.parametrize(("gained", "lost", "p"), MCNEMAR)
def test_mcnemar_is_the_exact_test_of_statsmodels(gained, lost, p):
    before = scores_of(*[("wrong", 0, 0)] * gained, *[("correct", 0, 0)] * lost, ("correct", 0, 0), ("infra_error", 0, 0))
    after = scores_of(*[("correct", 0, 0)] * gained, *[("wrong", 0, 0)] * lost, ("correct", 0, 0), ("correct", 0, 0))
    got = mcnemar(before, after.sample(fraction=1, shuffle=True, seed=0))
    assert (got.gained, got.lost, got.n) == (gained, lost, gained + lost + 1), "an outage on one side pairs with nothing"
    assert got.p == pytest.approx(p, rel=1e-9)
    assert mcnemar(after, before) == Paired(lost, gained, got.p, got.n)


def test_two_comparison_modes_are_never_mixed():
    with pytest.raises(StageError, match=r"bird-ex/official and sql-strict/v1"):
        mcnemar(greedy(1, 2), scores_of(("correct", 0, 0), mode="bird-ex/official"))


PROBLEMS = pl.DataFrame(
    [(p, "dev", "", "", "sql", group, "", "") for p, group in zip("abcd", "xxyy", strict=True)],
    schema=schema.PROBLEMS,
    orient="row",
)
EXPECTED = pl.DataFrame(
    [(p, "reference_error" if p == "c" else "correct", "", "") for p in "abcd"], schema=schema.EXPECTED, orient="row"
)


def outcomes_of(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """OUTCOMES from (problem_id, sample, greedy, status, code, answer)."""
    filled = [
        {
            "problem_id": p,
            "sample": s,
            "greedy": g,
            "status": status,
            "code": code,
            "answer": answer,
            "completion": code,
            "finish_reason": "stop",
            "mode": "sql-strict/v1",
            "verdict": "host",
            "output": "",
            "seconds": 0.0,
            "error": "",
        }
        for p, s, g, status, code, answer in rows
    ]
    return pl.DataFrame(filled, schema=schema.OUTCOMES)


OUTCOMES = outcomes_of(
    ("a", 0, True, "correct", "good", "1"),
    ("a", 0, False, "correct", "good", "1"),
    ("a", 1, False, "correct", " good ", "1"),
    ("a", 2, False, "correct", "GOOD", "1"),
    ("a", 3, False, "wrong", "bad", "2"),
    ("a", 4, False, "timeout", "slow", ""),
    ("a", 5, False, "infra_error", "lost", ""),
    ("b", 0, True, "syntax_error", "(", ""),
    ("c", 0, True, "correct", "good", "1"),
    ("z", 0, True, "correct", "of another suite", "1"),
)


def test_scores_have_a_row_a_problem_whatever_was_sampled():
    scores, _ = score_problems(OUTCOMES, PROBLEMS, EXPECTED, "dev")
    assert scores.schema == schema.SCORES
    counts = ("problem_id", "greedy_status", "samples", "correct", "executable", "unique_answers", "unique_correct")
    assert scores.select(counts).rows() == [
        ("a", "correct", 5, 3, 4, 2, 2),
        ("b", "syntax_error", 0, 0, 0, 0, 0),
        ("c", "reference_error", 0, 0, 0, 0, 0),
        ("d", None, 0, 0, 0, 0, 0),
    ]


def test_only_the_problems_of_the_split_are_scored_and_the_facts_are_of_them():
    problems = PROBLEMS.with_columns(split=pl.Series(["dev", "train", "dev", "dev"], dtype=schema.SPLIT))
    shards = [{"bird-ex/official": 1}, {"bird-ex/official": 0}]
    scores, facts = score_problems(OUTCOMES, problems, EXPECTED, "dev", shards)
    assert scores["problem_id"].to_list() == ["a", "c", "d"]
    assert facts == {
        "split": "dev",
        **summary(scores),
        "other_modes": {"bird-ex/official": {"value": 0.5, "n": 2, "correct": 1}},
        "statuses": {
            "greedy": {"correct": 3, "syntax_error": 1},
            "sampled": {"correct": 3, "wrong": 1, "timeout": 1, "infra_error": 1},
        },
    }


def test_outcomes_under_two_modes_are_refused():
    other = OUTCOMES.with_columns(mode=pl.lit("bird-ex/official"))
    with pytest.raises(StageError, match=r"bird-ex/official and sql-strict/v1"):
        score_problems(pl.concat([OUTCOMES, other]), PROBLEMS, EXPECTED, "dev")


def test_scores_do_not_depend_on_the_order_of_outcomes():
    scores, _ = score_problems(OUTCOMES, PROBLEMS, EXPECTED, "dev")
    assert scores.equals(score_problems(OUTCOMES.reverse(), PROBLEMS, EXPECTED, "dev")[0])


def test_a_breakdown_adds_up_to_the_whole():
    scores = scores_of(("correct", 0, 0, "x"), ("wrong", 0, 0, "x"), ("infra_error", 0, 0, "x"), ("correct", 0, 0, "y"))
    by_group = breakdown(scores)
    assert by_group.select("group", "correct", "n", "left_out").rows() == [("x", 1, 2, 1), ("y", 1, 1, 0)]
    x = scores.filter(pl.col("group") == "x")
    assert Estimate(**by_group.drop("group").row(0, named=True)) == pass_at_1(x)


def test_the_status_mix_counts_every_status():
    mix = status_mix(OUTCOMES["status"])
    assert list(mix) == list(schema.STATUSES)
    assert (mix["correct"], mix["timeout"], mix["blocked"], sum(mix.values())) == (6, 1, 0, OUTCOMES.height)


def test_a_summary_survives_json_and_says_the_same_as_its_parts():
    scores, _ = score_problems(OUTCOMES, PROBLEMS, EXPECTED, "dev")
    said = json.loads(json.dumps(summary(scores)))
    assert Estimate(**said["pass@1"]) == pass_at_1(scores)
    assert said["executable"] == pytest.approx(1 / 3)
    assert (said["samples"], said["correct_share"], said["executable_share"]) == (5, 0.6, 0.8)
    assert set(said["pass@k"]) == {"1", "2", "4"}
    json.dumps(summary(scores.clear()), allow_nan=False)


def test_other_modes_are_summed_over_shards_and_left_out_where_a_shard_did_not_count_them() -> None:
    shards = [{"bird-ex/official": 3, "spider-testsuite/v1": 2}, {"bird-ex/official": 1, "spider-testsuite/v1": 0}]
    found = other_modes(shards, {"n": 8})
    assert found["bird-ex/official"] == {"value": 0.5, "n": 8, "correct": 4}
    assert found["spider-testsuite/v1"]["correct"] == 2
    assert other_modes([*shards, {}], {"n": 8}) == other_modes(shards, None) == other_modes([], {"n": 8}) == {}


def test_other_seeds_widen_the_interval_and_leave_the_test_of_these_as_it_was():
    """Three seeds whose policies differ: what they differ by is in the interval of the mean and of a difference."""
    n = 400
    alike, apart = (
        [
            scores_of(*[("correct" if (7 * i + 13 * s) % 100 < share else "wrong", 0, 0) for i in range(n)])
            for s, share in seeds
        ]
        for seeds in ([(0, 50), (1, 50), (2, 50)], [(0, 30), (1, 50), (2, 70)])
    )
    near, far = mean_pass_at_1(alike), mean_pass_at_1(apart)
    assert near.value == far.value == 0.5
    assert far.high - far.low > 2 * (near.high - near.low)
    zero = [scores_of(*[("wrong", 0, 0)] * n)] * 3
    gained = difference(zero, apart)
    assert gained.high - gained.low == pytest.approx(far.high - far.low, rel=0.1)


@given(st.lists(st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3), max_size=12), st.integers(1, 3))
def test_samples_are_averaged_within_a_problem_and_problems_without_any_are_left_out(drawn, seeds):
    """Each problem counts once, however many samples it has, and only where every seed has some."""
    rows = [[(n, min(c, n)) for n, c in problem[:seeds]] for problem in drawn]
    frames = [scores_of(*(("wrong", *problem[s]) for problem in rows)) for s in range(seeds)]
    whole = [problem for problem in rows if all(n for n, _ in problem)]
    found = mean_of_samples(frames)
    assert found.n == len(whole)
    assert found.n + found.left_out == sum(any(n for n, _ in problem) for problem in rows)
    assert found.correct == sum(all(c for _, c in problem) for problem in whole)
    shares = [[c / n for n, c in problem] for problem in whole]
    assert found.value == pytest.approx(np.mean(shares) if shares else 0.0)
    assert found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high


def test_seeds_that_differ_widen_the_interval_of_a_mean_of_samples():
    """The mean of their intervals would be as narrow as that of one seed."""
    alike, apart = ([scores_of(*[("wrong", 8, c)] * 200) for c in seeds] for seeds in ((4, 4, 4), (2, 4, 6)))
    near, far = mean_of_samples(alike), mean_of_samples(apart)
    assert (near.value, near.low, near.high) == (0.5, 0.5, 0.5)
    assert far.value == 0.5
    assert far.high - far.low > 0.2


@pytest.mark.parametrize("mean", [mean_pass_at_1, mean_of_samples])
def test_seeds_without_a_common_problem_have_no_mean(mean):
    seeds = [scores_of(*(("wrong", 2, 1) if i in range(s, s + 3) else (None, 0, 0) for i in range(9))) for s in (0, 3, 6)]
    found = mean(seeds)
    assert (found.n, found.low, found.high, found.left_out) == (0, 0.0, 1.0, 9)


def test_seeds_are_paired_where_both_sides_have_as_many():
    """A seed that is good for both says nothing about their difference."""
    before = [scores_of(*[("correct" if i < share else "wrong", 0, 0) for i in range(100)]) for share in (20, 50, 80)]
    after = [scores_of(*[("correct" if i < share + 10 else "wrong", 0, 0) for i in range(100)]) for share in (20, 50, 80)]
    paired, unpaired = difference(before, after), difference(before[:2], after)
    assert paired.value == pytest.approx(0.1)
    assert paired.high - paired.low < 0.15 < unpaired.high - unpaired.low


def test_the_smallest_difference_is_found_in_four_of_five_simulated_comparisons():
    n, differing, draw = 300, 0.2, np.random.default_rng(0)
    found = smallest_difference(n, differing=differing)
    moved = draw.binomial(n, differing, size=4000)
    gained = draw.binomial(moved, (1 + found / differing) / 2)
    ps = [exact_mcnemar(int(g), int(m - g), n).p for g, m in zip(gained, moved, strict=True)]
    power = sum(p < 0.05 for p in ps) / len(ps)
    assert 0.74 < power < 0.83, "the exact test finds a little less than the formula's"
    assert smallest_difference(4 * n, differing=differing) == pytest.approx(found / 2, rel=0.02)
    assert smallest_difference(n, 4, differing=differing) == smallest_difference(4 * n, differing=differing)
    assert smallest_difference(20) is None
    assert smallest_difference(0) is None
