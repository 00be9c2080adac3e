"""Groups are all usable answers of a problem, each with its advantage over the others, whatever order they come in."""

from __future__ import annotations

from collections import Counter, defaultdict
from fractions import Fraction
from statistics import stdev
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from codelutra import schema
from codelutra.config import GrpoSection
from codelutra.training.groups import make_groups
from tests.training.test_pairs import PROBLEMS, ROWS, bytes_of, expected_of, outcomes_of, problems_of

ADVANTAGES = ["grpo", "dr_grpo", "asymre"]
CONFIGS = st.builds(
    GrpoSection, advantage=st.sampled_from(ADVANTAGES), filter_groups=st.booleans(), baseline_shift=st.just(0.25)
)
quick = settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])


def grouped(outcomes: pl.DataFrame, problems: pl.DataFrame, config: GrpoSection) -> pl.DataFrame:
    return make_groups(outcomes, problems, expected_of(problems), config)[0]


def usable(rows: list[tuple[Any, ...]], problems: pl.DataFrame) -> dict[str, list[tuple[str, bool, bool]]]:
    """Problem → (completion, whether it ended, whether it is right) of the samples that count, by a slow reading."""
    train = set(problems.filter(pl.col("split") == "train")["problem_id"])
    broken = {row[0] for row in rows if row[2] == "reference_error"}
    found = defaultdict(list)
    for problem, _, status, _, completion, greedy, finish in rows:
        if problem not in train - broken or greedy or finish == "dropped" or status in schema.NOT_THE_MODELS_DOING:
            continue
        ended, right, blank = finish == "stop", status == "correct", not completion.strip()
        if not (right and (blank or not ended)) and not (blank and not ended):
            found[problem].append((completion.rstrip(), ended, right))
    return found


def shares(said: list[tuple[str, bool, bool]]) -> set[Fraction]:
    """How much of each distinct answer is right: one alone may be now right, now wrong."""
    counts = Counter(answer[:2] for answer in said)
    return {Fraction(sum(right for *same, right in said if tuple(same) == a), n) for a, n in counts.items()}


@quick
@given(PROBLEMS, ROWS, CONFIGS)
@example(
    problems_of(("p0", "train", "a")),
    [("p0", n, s, "a", "a", False, "stop") for n, s in enumerate(("correct", "wrong"))],
    GrpoSection(advantage="grpo"),
)
def test_groups_are_what_a_slow_reading_of_the_rules_allows(problems, rows, config):
    groups = grouped(outcomes_of(*rows), problems, config)
    wanted = usable(rows, problems)
    if config.filter_groups:
        wanted = {p: said for p, said in wanted.items() if len(shares(said)) > 1}
    assert set(groups["problem_id"]) == set(wanted)
    for problem, said in wanted.items():
        mine = groups.filter(pl.col("problem_id") == problem)
        counts = Counter((completion, ended) for completion, ended, _ in said)
        assert {(r["completion"], r["ended"]): r["count"] for r in mine.rows(named=True)} == counts
        rewards = [float(right) for *_, right in said]
        mean, std = sum(rewards) / len(rewards), stdev(rewards) if len(rewards) > 1 else 0.0
        for r in mine.rows(named=True):
            same = [
                float(right) for completion, ended, right in said if (completion, ended) == (r["completion"], r["ended"])
            ]
            assert r["reward"] == pytest.approx(sum(same) / len(same))
            advantage = r["reward"] - mean + (0.25 if config.advantage == "asymre" else 0)
            assert r["advantage"] == pytest.approx(advantage / (std + 1e-4) if config.advantage == "grpo" else advantage)
            assert (r["status"] == "correct") == (r["reward"] > 0)


@quick
@given(PROBLEMS, ROWS, st.randoms(use_true_random=False), CONFIGS)
def test_the_order_of_rows_does_not_matter(problems, rows, shuffle, config):
    mixed = shuffle.sample(rows, len(rows))
    assert bytes_of(grouped(outcomes_of(*mixed), problems.reverse(), config)) == bytes_of(
        grouped(outcomes_of(*rows), problems, config)
    )


@quick
@given(PROBLEMS, ROWS, st.sampled_from(["grpo", "dr_grpo"]))
def test_the_advantages_of_a_problem_s_samples_cancel(problems, rows, advantage):
    groups = grouped(outcomes_of(*rows), problems, GrpoSection(advantage=advantage))
    for _, mine in groups.group_by("problem_id"):
        assert (mine["count"] * mine["advantage"]).sum() == pytest.approx(0, abs=1e-9)
        assert (mine["count"] * mine["advantage"].clip(lower_bound=0)).sum() > 0


def test_hard_and_easy_problems_weigh_as_the_advantage_says():
    """The sum of |advantages| a sample, at 1 and at 4 of 8 right: level for grpo, as p (1 - p) for dr_grpo."""
    rows = [(p, i, "correct" if i < n else "wrong", f"{i}") for p, n in (("hard", 1), ("half", 4)) for i in range(8)]
    problems, pull = problems_of(("hard", "train", ""), ("half", "train", "")), {}
    for advantage in ("grpo", "dr_grpo"):
        groups = grouped(outcomes_of(*rows), problems, GrpoSection(advantage=advantage))
        pull[advantage] = {p: mine["advantage"].abs().sum() / 8 for (p,), mine in groups.group_by("problem_id")}
    assert pull["dr_grpo"] == pytest.approx({"hard": 2 * 1 / 8 * 7 / 8, "half": 0.5})
    assert (
        pull["grpo"]["hard"] / pull["grpo"]["half"]
        == pytest.approx((7 / 16) ** 0.5 / 0.5 / 2, rel=1e-3)
        == pytest.approx(0.66, abs=0.01)
    )


def test_asymre_holds_wrong_answers_less_against_the_policy_and_can_imitate_solved_problems():
    rows = [("p", i, "correct" if i < 2 else "wrong", f"{i}") for i in range(4)]
    rows += [("solved", i, "correct", "x") for i in range(4)]
    problems = problems_of(("p", "train", ""), ("solved", "train", ""))
    shifted = {"advantage": "asymre", "baseline_shift": 0.2}
    groups = grouped(outcomes_of(*rows), problems, GrpoSection(**shifted))
    assert groups["problem_id"].unique().to_list() == ["p"]
    assert groups["advantage"].to_list() == pytest.approx([0.7, 0.7, -0.3, -0.3])
    groups = grouped(outcomes_of(*rows), problems, GrpoSection(**shifted, filter_groups=False))
    assert groups.filter(pl.col("problem_id") == "solved").select("count", "advantage").rows() == [(4, pytest.approx(0.2))]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "no train problem with a usable reference has a sample"),
        ([("p", 0, "infra_error", "a")], "no train problem with a usable reference has a sample"),
        ([("p", 0, "correct", "a"), ("p", 1, "correct", "b")], "every sample is correct"),
        ([("p", 0, "wrong", "a"), ("p", 1, "timeout", "b")], "every sample is wrong"),
        ([("p", 0, "correct", "a", "a", False, "length"), ("p", 1, "wrong", "b")], "every right answer was cut off"),
        ([("p", 0, "correct", "a"), ("q", 0, "wrong", "b")], "no problem has both"),
    ],
)
def test_without_groups_the_frame_is_empty_and_says_why(rows, why):
    problems = problems_of(("p", "train", "r"), ("q", "train", "r"))
    groups, facts = make_groups(outcomes_of(*rows), problems, expected_of(problems), GrpoSection())
    assert groups.is_empty()
    assert groups.schema == schema.GROUPS
    assert why in facts["why"]


def test_the_facts_count_what_became_of_the_samples():
    rows = [("p", i, "correct" if i < 2 else "wrong", "x" if i < 4 else "y") for i in range(6)]
    rows = [(p, i, s, "r" if s == "correct" else c) for p, i, s, c in rows]
    rows += [("q", 0, "wrong", "z"), ("p", 6, "correct", "cut", "cut", False, "length")]
    problems = problems_of(("p", "train", "r"), ("q", "train", "r"), ("dev", "dev", "r"))
    groups, facts = make_groups(outcomes_of(*rows), problems, expected_of(problems), GrpoSection())
    assert groups.select("completion", "count").rows() == [("r", 2), ("x", 2), ("y", 2)]
    kept = {
        k: facts[k]
        for k in ("problems", "samples", "correct", "correct_but_cut_off", "all_wrong", "groups", "answers", "why")
    }
    assert kept == {
        "problems": 2,
        "samples": 8,
        "correct": 3,
        "correct_but_cut_off": 1,
        "all_wrong": 1,
        "groups": 1,
        "answers": 3,
        "why": "",
    }
