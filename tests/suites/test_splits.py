"""Splits: what must stay together does, shares are met, caps are fair."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.config import SuiteSection
from codelutra.schema import PROBLEMS
from codelutra.suites.splits import cap, divide, draw, normalise_prompt, same_prompt, shown
from tests.helpers.splits import overlaps

SHARES = {"train": 0.6, "dev": 0.15, "test": 0.25}


def problems(groups: list[str], split: str = "train") -> pl.DataFrame:
    rows = [
        {
            "problem_id": f"p{i:04d}",
            "split": split,
            "prompt": "",
            "reference": "",
            "language": "sql",
            "group": g,
            "difficulty": "",
            "judge": "",
        }
        for i, g in enumerate(groups)
    ]
    return pl.DataFrame(rows, schema=PROBLEMS)


@given(keys=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60), seed=st.integers(0, 5))
def test_problems_that_share_anything_are_never_on_two_sides(keys: list[tuple[int, int]], seed: int) -> None:
    dealt = divide(problems(["db"] * len(keys)), keys, SHARES, seed)
    for part in (0, 1):
        assert overlaps(dealt, pl.Series([k[part] for k in keys])) == []
    assert dealt.equals(divide(problems(["db"] * len(keys)), keys, SHARES, seed))


def test_every_group_is_dealt_by_the_shares() -> None:
    groups = ["a"] * 100 + ["b"] * 40
    dealt = divide(problems(groups), [(i,) for i in range(140)], SHARES, 0)
    for group, size in Counter(groups).items():
        counts = Counter(dealt.filter(pl.col("group") == group)["split"].to_list())
        assert all(abs(counts[s] - share * size) <= 1 for s, share in SHARES.items())


@pytest.mark.parametrize(
    "shares", [SHARES, {"train": 0.5, "dev": 0.3, "test": 0.2}, {"train": 0.7, "dev": 0.15, "test": 0.15}]
)
@pytest.mark.parametrize(("size", "many"), [(1, 40), (2, 20), (3, 20), (5, 30), (10, 30), (13, 20), (14, 40)])
def test_small_groups_together_give_every_split_its_share(shares: dict[str, float], size: int, many: int) -> None:
    groups = [f"g{i % many}" for i in range(size * many)]
    dealt = divide(problems(groups), [(i,) for i in range(len(groups))], shares, 0)
    counts = Counter(dealt["split"].to_list())
    for split, share in shares.items():
        assert counts[split] == pytest.approx(share * len(groups), abs=1, rel=0.2), counts
    assert dealt.equals(divide(problems(groups), [(i,) for i in range(len(groups))], shares, 0))


def test_small_groups_are_still_spread_over_the_splits() -> None:
    groups = [f"g{i % 20}" for i in range(200)]
    dealt = divide(problems(groups), [(i,) for i in range(200)], SHARES, 0)
    for group in set(groups):
        counts = Counter(dealt.filter(pl.col("group") == group)["split"].to_list())
        assert all(abs(counts[s] - 10 * share) <= 2 for s, share in SHARES.items()), counts


def test_a_large_group_is_dealt_the_same_whatever_small_ones_are_beside_it() -> None:
    groups = ["big"] * 60 + [f"g{i}" for i in range(9)]
    alone, beside = (divide(problems(groups[:n]), [(i,) for i in range(n)], SHARES, 0) for n in (60, 69))
    assert beside.head(60).equals(alone)


def test_another_seed_deals_otherwise() -> None:
    keys = [(i,) for i in range(60)]
    one, two = (divide(problems(["a"] * 60), keys, SHARES, seed)["split"].to_list() for seed in (0, 1))
    assert one != two


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), limit=st.integers(2, 60), seed=st.integers(0, 3))
def test_caps_hold_keep_order_and_take_from_every_group_alike(sizes: list[int], limit: int, seed: int) -> None:
    groups = [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]
    kept = cap(problems(groups), SuiteSection(name="x", train=limit, seed=seed))
    assert kept.height == min(limit, len(groups))
    assert kept["problem_id"].is_sorted()
    counts = Counter(kept["group"].to_list())
    for i, n in enumerate(sizes):
        assert abs(counts[f"g{i}"] - n * kept.height / len(groups)) <= len(sizes)


@given(limit=st.integers(0, 40), seed=st.integers(0, 3))
def test_the_references_shown_are_those_of_the_train_problems_that_a_cap_would_keep(limit: int, seed: int) -> None:
    train = problems(["a"] * 20 + ["b"] * 10).with_columns(reference=pl.lit("SELECT 1"))
    dev = train.with_columns(pl.lit("dev").cast(train.schema["split"]).alias("split"), pl.col("problem_id") + "d")
    section = SuiteSection(name="x", references=limit, seed=seed)
    seen = shown(pl.concat([train, dev]), section)
    assert seen.drop("reference").equals(pl.concat([train, dev]).drop("reference"))
    has = seen.filter(pl.col("reference") != "")
    assert has.filter(pl.col("split") == "dev").height == 30
    kept = cap(train, SuiteSection(name="x", train=max(2, limit), seed=seed))["problem_id"].to_list()
    taught = has.filter(pl.col("split") == "train")["problem_id"].to_list()
    assert taught == kept if limit >= 2 else (len(taught) == limit and set(taught) <= set(kept))
    assert shown(train, SuiteSection(name="x")).equals(train)
    some = train.with_columns(reference=pl.when(pl.int_range(pl.len()) % 3 == 0).then("reference").otherwise(pl.lit("")))
    assert (shown(some, section)["reference"] != "").sum() == min(limit, 10), "of those that there are"


def test_draws_depend_on_nothing_but_their_arguments() -> None:
    assert round(draw(0, "cap", "library-001"), 6) == 0.008483  # on every machine, in every release
    assert draw(1, "cap", "library-001") != draw(0, "cap", "library-001")


def test_prompts_are_equal_when_their_words_are() -> None:
    assert normalise_prompt("How many  heads?\n") == normalise_prompt("how many heads")
    assert normalise_prompt("How many heads") != normalise_prompt("How many head")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Urls with n > 3?", "Urls with n <= 3?"),
        ("x != 3", "x = 3"),
        ("n ≥ 3", "n > 3"),
        ("below -3", "below 3"),
        ("below −3", "below 3"),
        ("3.5", "3 5"),
        ("1e-5", "1e5"),
        ("a - b", "a b"),
        ("n-1", "n 1"),
        ("f(-x)", "f(x)"),
        ("2*3", "2+3"),
        ("2 ** 3", "2 * 3"),
        ("C++ or C#", "C or C"),
        ("5 %", "5"),
        ("$5", "€5"),
        ("!done", "done"),
        ("a|b", "a&b"),
    ],
)
def test_prompts_that_differ_in_a_number_a_sign_or_an_operator_ask_another_thing(one: str, other: str) -> None:
    assert same_prompt(one) != same_prompt(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How many  heads?\n", "how MANY heads"),
        ("the **best** well-known 'bar'.", "The best well known bar"),
        ("Names: all!", "names, all"),
        ("`f` (twice)", "f twice"),
    ],
)
def test_prompts_that_differ_in_layout_and_punctuation_ask_the_same(one: str, other: str) -> None:
    assert same_prompt(one) == same_prompt(other)


@given(st.text(), st.text())
def test_prompts_that_ask_the_same_are_dealt_together(one: str, other: str) -> None:
    """The rule that deals is the coarser one: what a leak report compares never decides a split."""
    assert same_prompt(one) != same_prompt(other) or normalise_prompt(one) == normalise_prompt(other)
