"""What each comparison mode calls the same answer."""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter, OrderedDict, deque
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.suites.equality import MODES, agrees, answer_digest
from codelutra.suites.values import Undecided
from sandbox.answers import shown
from sandbox.protocol import Named, decode, encode

STRICT, BIRD, SPIDER, PYTHON, OFFICIAL, TEXT = MODES
SQL_MODES = (STRICT, BIRD, SPIDER)


def table(*rows: tuple[Any, ...], columns: int | None = None) -> dict[str, Any]:
    width = len(rows[0]) if rows else columns or 1
    return {"columns": [f"c{i}" for i in range(width)], "rows": [list(r) for r in rows], "truncated": False}


cells = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False, width=32),
    st.text(max_size=3),
    st.binary(max_size=2),
)
tables = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[cells] * width), max_size=6).map(lambda rows: table(*rows, columns=width))
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.frozensets(st.one_of(st.integers(), st.text(max_size=2)), max_size=3),
    ),
    max_leaves=8,
)


def permuted(output: dict[str, Any], seed: int) -> dict[str, Any]:
    return {**output, "rows": random.Random(seed).sample(output["rows"], len(output["rows"]))}


@pytest.mark.parametrize("mode", SQL_MODES)
@given(output=tables, seed=st.integers(0, 99))
def test_row_order_never_counts_unless_it_is_asked_for(mode: str, output: dict[str, Any], seed: int) -> None:
    other = permuted(output, seed)
    assert agrees(mode, other, output)
    assert answer_digest(mode, other) == answer_digest(mode, output)


@given(a=tables, b=tables)
def test_strict_agreement_is_symmetric_and_implied_by_equal_rows(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert agrees(STRICT, a, b) == agrees(STRICT, b, a)
    assert agrees(STRICT, a, a, ordered=True)
    if agrees(STRICT, a, b, ordered=True):
        assert agrees(STRICT, a, b)


@given(output=tables, seed=st.integers(0, 99), noise=st.floats(-4e-7, 4e-7))
def test_float_noise_within_the_tolerance_never_counts(output: dict[str, Any], seed: int, noise: float) -> None:
    rows = [[v * (1 + noise) if isinstance(v, float) else v for v in row] for row in output["rows"]]
    # A whole number stays one under noise only if it is meant to be one: leave those alone.
    rows = [
        [o if isinstance(o, float) and o.is_integer() else v for v, o in zip(row, old, strict=True)]
        for row, old in zip(rows, output["rows"], strict=True)
    ]
    assert agrees(STRICT, permuted({**output, "rows": rows}, seed), output)


@given(output=tables.filter(lambda t: t["rows"]), data=st.data())
def test_a_changed_cell_a_row_more_or_a_row_less_is_another_answer(output: dict[str, Any], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(output["rows"]) - 1))
    j = data.draw(st.integers(0, len(output["columns"]) - 1))
    rows = [list(r) for r in output["rows"]]
    rows[i][j] = "no cell is as long as this"
    assert not agrees(STRICT, {**output, "rows": rows}, output)
    assert not agrees(STRICT, {**output, "rows": output["rows"][1:]}, output)
    assert not agrees(STRICT, {**output, "rows": [*output["rows"], output["rows"][0]]}, output)
    assert answer_digest(STRICT, {**output, "rows": rows}) != answer_digest(STRICT, output)


@given(a=values, b=values)
def test_python_values_agree_with_themselves_and_symmetrically(a: Any, b: Any) -> None:
    assert agrees(PYTHON, a, a)
    assert agrees(PYTHON, a, b) == agrees(PYTHON, b, a)
    assert answer_digest(PYTHON, a) == answer_digest(PYTHON, a)
    if answer_digest(PYTHON, a) == answer_digest(PYTHON, b) and not isinstance(a, float):
        assert type(a) is type(b) or {type(a), type(b)} <= {int, float}


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ((None,), (None,), True),
        ((None,), (0,), False),
        ((None,), ("",), False),
        ((1,), (1.0,), True),
        ((1,), ("1",), False),
        ((0.1 + 0.2,), (0.3,), True),
        ((0.1 + 0.2 - 0.3,), (0,), True),
        ((1.0,), (1.00001,), False),
        ((10_000_000,), (10_000_001,), False),  # whole numbers are exact whatever the tolerance
        ((10_000_000.0,), (10_000_001.0,), False),
        ((2**62,), (2**62 + 1,), False),
        ((math.inf,), (math.inf,), True),
        ((math.inf,), (1e308,), False),
        ((b"ab",), (b"ab",), True),
        ((b"ab",), ("ab",), False),
        (("a", "b"), ("b", "a"), False),
        (("a", "a"), ("a",), False),
        (("Ab",), ("ab",), False),
    ],
)
def test_strict_cells(a: tuple[Any, ...], b: tuple[Any, ...], same: bool) -> None:
    assert agrees(STRICT, table(a), table(b)) is same
    assert (answer_digest(STRICT, table(a)) == answer_digest(STRICT, table(b))) is same


def test_duplicates_count_in_bags_but_not_in_birds_sets() -> None:
    once, twice = table(("a",), ("b",)), table(("a",), ("a",), ("b",))
    assert [agrees(m, twice, once) for m in SQL_MODES] == [False, True, False]


def test_columns_are_judged_by_position_except_where_spider_permutes_them() -> None:
    a, b = table(("x", 1), ("y", 2)), table((1, "x"), (2, "y"))
    assert [agrees(m, a, b) for m in SQL_MODES] == [False, False, True]
    crossed = table((2, "x"), (1, "y"))
    assert not agrees(SPIDER, a, crossed)  # the columns fit one by one, the rows do not
    assert agrees(SPIDER, table((1, 1, 2)), table((1, 2, 1)))  # duplicate columns
    assert not agrees(SPIDER, table((1, 1, 2)), table((1, 2, 2)))


def test_column_names_never_count() -> None:
    assert agrees(STRICT, {**table((1,)), "columns": ["COUNT(*)"]}, {**table((1,)), "columns": ["n"]})


@pytest.mark.parametrize("ordered", [False, True])
def test_many_alike_columns_are_compared_in_no_time(ordered: bool) -> None:
    """Every column has as many ones as every other: a search through permutations would not end."""
    rows = [[(i * j) % 11 % 2 for j in range(1, 25)] for i in range(1, 11)]
    asked = table(*map(tuple, rows))
    turned = table(*(tuple(row[::-1]) for row in rows))
    other = table(*((*row[1:], 1 - row[0]) for row in rows))
    began = time.process_time()
    assert agrees(SPIDER, turned, asked, ordered=ordered)
    assert not agrees(SPIDER, other, asked, ordered=ordered)
    assert time.process_time() - began < 10


def test_empty_results_agree_only_with_as_many_columns_save_for_spider() -> None:
    assert agrees(STRICT, table(columns=2), table(columns=2))
    assert not agrees(STRICT, table(columns=1), table(columns=2))
    assert agrees(SPIDER, table(columns=1), table(columns=2))
    assert not agrees(STRICT, table(columns=1), table((None,)))


def test_ordered_rows_must_come_in_order() -> None:
    up, down = table((1,), (2,)), table((2,), (1,))
    assert agrees(STRICT, down, up)
    assert not agrees(STRICT, down, up, ordered=True)
    assert not agrees(SPIDER, down, up, ordered=True)
    assert agrees(BIRD, down, up, ordered=True)
    assert answer_digest(STRICT, down, ordered=True) != answer_digest(STRICT, up, ordered=True)


def test_rows_that_tie_may_come_in_any_order_and_others_not() -> None:
    expected = {**table(("Ada",), ("Bo",), ("Cy",), ("Di",)), "ties": [[1, 3]]}
    names = ["Ada", "Cy", "Bo", "Di"]
    assert agrees(STRICT, table(*[(n,) for n in names]), expected, ordered=True)
    for wrong in (["Bo", "Ada", "Cy", "Di"], ["Ada", "Bo", "Di", "Cy"], ["Ada", "Bo", "Bo", "Di"], ["Ada", "Bo", "Cy"]):
        assert not agrees(STRICT, table(*[(n,) for n in wrong]), expected, ordered=True)
    assert agrees(BIRD, table(*[(n,) for n in names]), expected)
    assert not agrees(SPIDER, table(*[(n,) for n in names]), expected, ordered=True)


@pytest.mark.parametrize("ordered", [True, False])
def test_where_a_limit_cuts_rows_that_tie_any_of_them_are_right(ordered: bool) -> None:
    tied = [("Bo", 2.0), ("Cy", 2.0), ("Cy", 2.0), ("Di", 2.5)]
    expected = {**table(("Ada", 1), ("Bo", 2.0), ("Cy", 2.0)), "choices": [[1, 3, tied]]}
    ada = ("Ada", 1)
    for right in (tied[:2], tied[1:3], tied[2:], tied[:1] + tied[3:], [("Cy", 2 + 1e-9), ("Bo", 2)]):
        assert agrees(STRICT, table(ada, *right), expected, ordered=ordered), right
    for wrong in ([tied[0]] * 2, [tied[0], ("Eva", 2.0)], tied[:1], tied[:3], [tied[0], ("Cy", 2.1)], [("Di", 2.5)] * 2):
        assert not agrees(STRICT, table(ada, *wrong), expected, ordered=ordered), wrong
    assert not agrees(STRICT, table(*tied[:3]), expected, ordered=ordered)


def test_rows_that_a_limit_draws_are_matched_as_a_whole() -> None:
    # The first answer is near both of the allowed rows, the second near one alone.
    allowed = [(1 + 8e-7,), (1 - 5e-7,), (5.0,)]
    expected = {**table(*allowed[:2]), "choices": [[0, 2, allowed]]}
    assert agrees(STRICT, table((1.0,), (1 + 9e-7,)), expected)
    assert not agrees(STRICT, table((1 + 9e-7,), (1 + 9e-7,)), expected)


def test_too_many_rows_that_only_noise_tells_apart_are_undecided() -> None:
    allowed = [(1 + i * 1e-9,) for i in range(1000)]
    expected = {**table(*allowed[:500]), "choices": [[0, 500, allowed]]}
    with pytest.raises(Undecided):
        agrees(STRICT, table(*((1 + i * 1e-9 + 3e-10,) for i in range(500))), expected)


def test_truncated_results_agree_with_nothing() -> None:
    cut = {**table((1,)), "truncated": True}
    assert not agrees(STRICT, cut, cut)


def test_noise_that_reorders_rows_is_matched_row_by_row() -> None:
    # Sorted as they are, the rows do not line up: noise in the first column turns the order of the second around.
    a = table((1.5, 1.25), (1.5 + 1e-7, 2.25))
    b = table((1.5 + 1e-7, 1.25), (1.5, 2.25))
    assert agrees(STRICT, a, b)
    assert not agrees(STRICT, a, table((1.5 + 1e-7, 1.25), (1.5, 1.25)))


def test_a_tolerance_chain_needs_a_real_matching() -> None:
    x = [1.5 * (1 + i * 0.9e-6) for i in range(3)]
    assert agrees(STRICT, table((x[0],), (x[1],)), table((x[1],), (x[2],)))
    assert not agrees(STRICT, table((x[0],), (x[0],)), table((x[1],), (x[2],)))


def test_ten_thousand_rows_are_compared_in_well_under_a_second() -> None:
    rows = [(i, i / 7, i * 0.1) for i in range(10_000)]
    crossed = [(i, i / 7, (9_999 - i) * 0.1) for i in range(10_000)]  # every column fits, no row does
    floats = [(i / 7, i * 0.1) for i in range(10_000)]
    mixed = [(i / 7, (9_999 - i) * 0.1) for i in range(10_000)]
    start = time.process_time()
    assert agrees(STRICT, permuted(table(*rows), 1), table(*rows))
    assert not agrees(STRICT, table(*crossed), table(*rows))
    assert not agrees(STRICT, table(*mixed), table(*floats))
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (1, True, True),
        (0, False, True),
        (0.9999999999, True, False),
        (Decimal("2.00"), 2, True),
        (Decimal("0.5"), Fraction(1, 2), True),
        (Decimal("0.1"), Decimal("0.1000000001"), False),  # exact numbers have no noise
        (Fraction(1, 3), Fraction(1, 3) + Fraction(1, 10**12), False),
        (Fraction(4, 2), 2.0, True),
        (3 + 0j, 3, True),
        (2j, 2j + 1e-12, True),
        ([complex(math.nan, 1)], [complex(math.nan, 1)], True),
        (Decimal("sNaN"), Decimal("NaN"), True),
        (Decimal("sNaN"), 1, False),
        (2**53 + 0, 2.0**53 * (1 + 1e-9), False),  # integers that large have no tolerance
        (9969216677189303386214405760200, 9969216677189303386214405760200 * 1.0000005, False),
        (10**30, Decimal(10**30), True),
        (b"a", bytearray(b"a"), True),
        (range(0), range(1, 1), True),
        (range(10**40), range(10**40), True),
        (range(3), [0, 1, 2], False),
        (deque([1]), deque([1.0]), True),
        (deque([1]), [1], False),
        (OrderedDict(a=1, b=2), OrderedDict(b=2, a=1), False),
        (OrderedDict(a=1, b=2), {"b": 2, "a": 1}, True),
        (OrderedDict(a=0.1 + 0.2), OrderedDict(a=0.3), True),
        (Counter(a=1, b=0), Counter(a=1), True),
        (Counter(a=1, b=0), {"a": 1}, False),
        ({math.nan: 1, "k": 1}, {math.nan: 1, float("nan"): 1}, False),
        ({math.nan: 1, "k": 1}, {"k": 1, float("nan"): 1}, True),
        ({1: 2, "a": 3}, {True: 2, "a": 3}, True),
        (datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))), True),
        (datetime(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC), False),
        (Named("data", "P", (("x", 0.1 + 0.2),)), Named("data", "P", (("x", 0.3),)), True),
        (Named("data", "P", (("x", 1),)), Named("data", "Q", (("x", 1),)), False),
        (Named("enum", "C", "RED"), Named("enum", "C", "BLUE"), False),
        (Named("type", "", "int"), "int", False),
        ({(1, 0.1 + 0.2), (2, 0.5)}, {(1, 0.3), (2, 0.5)}, True),
        ({(1, 0.1 + 0.2), (2, 0.5)}, {(1, 0.3), (2, 0.6)}, False),
        (1, "1", False),
        ([1, 2], (1, 2), False),
        ([1, 2], [2, 1], False),
        ([1, 2], [1, 2, 3], False),
        ({1, 2}, frozenset({2, 1}), True),
        ({0.1 + 0.2}, {0.3}, True),
        ({"a": [0.1 + 0.2]}, {"a": [0.3]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({1: "x"}, {True: "x"}, True),
        (math.nan, math.nan, True),
        ([math.nan], [0.0], False),
        (-0.0, 0.0, True),
        (None, False, False),
        (b"x", "x", False),
        (10**400, 10**400 + 1, False),
        ({10**400, 0.5}, {10**400, 0.5}, True),
    ],
)
def test_python_values(a: Any, b: Any, same: bool) -> None:
    assert agrees(PYTHON, a, b) is same
    assert agrees(PYTHON, b, a) is same
    assert not same or answer_digest(PYTHON, a) == answer_digest(PYTHON, b)


@pytest.mark.parametrize(
    ("a", "b"), [(1, 1.0), (1, True), ([1, 2], [1.0, 2]), ({1}, frozenset({True})), (Decimal("1.50"), 1.5), (1j, 1j)]
)
def test_the_official_mode_is_pythons_equality(a: Any, b: Any) -> None:
    assert agrees(OFFICIAL, a, b)


@pytest.mark.parametrize(
    ("a", "b"), [(0.1 + 0.2, 0.3), ([0.1 + 0.2], [0.3]), ((1,), [1]), ({0.1 + 0.2}, {0.3}), (2j, 2j + 1e-12)]
)
def test_the_official_mode_has_no_tolerance(a: Any, b: Any) -> None:
    assert not agrees(OFFICIAL, a, b)


def nested(depth: int, inner: Any, within: type) -> Any:
    for _ in range(depth):
        inner = {1: inner} if within is dict else within([inner])
    return inner


BIG = 10**300_000
COLLIDING = [i * (2**61 - 1) for i in range(1, 3000)]  # integers that share their hash
HEAVY = {
    "nested dicts": nested(99, 1, dict),
    "nested tuples": nested(99, 1, tuple),
    "many numbers, deep": nested(90, [0.5] * 50_000, dict),
    "a huge integer": BIG,
    "huge integers in a set": {BIG, BIG + 1},
    "Decimals with huge exponents": [Decimal("1E20000")] * 20_000,
    "Decimals against integers": [Decimal("1E20000")] * 1000,
    "Fractions": [Fraction(10**9000 + i, 10**9000 + 7) for i in range(20)],
    "colliding integers": COLLIDING,
    "colliding items": dict(enumerate(COLLIDING)),
    "empty sets": [set()] * 100_000,  # type: ignore[var-annotated]
    "floats in a set of tuples": {(i, i + 0.1) for i in range(20_000)},
    "a lone surrogate": "\ud800",
    "a range without a length": range(10**40),
}


@pytest.mark.parametrize("value", HEAVY.values(), ids=HEAVY.keys())
def test_any_two_values_are_compared_in_bounded_time(value: Any) -> None:
    started = time.process_time()
    assert [name for name, other in HEAVY.items() if agrees(PYTHON, value, other) is not (value is other)] == []
    assert time.process_time() - started < 4


@pytest.mark.parametrize("value", HEAVY.values(), ids=HEAVY.keys())
def test_any_value_has_a_digest_and_a_text_and_crosses(value: Any) -> None:
    started = time.process_time()
    assert answer_digest(PYTHON, value) == answer_digest(PYTHON, decode(json.loads(json.dumps(encode(value)))))
    assert shown(value).encode()
    assert time.process_time() - started < 4


def test_members_that_only_noise_tells_apart_are_matched_or_left_undecided() -> None:
    noisy = [frozenset([i * 1e-12, f"{i % 7}"]) for i in range(500)]
    with pytest.raises(Undecided, match="comparisons"):
        agrees(PYTHON, set(noisy), {frozenset([i * 1e-12 + 1e-13, f"{i % 7}"]) for i in range(500)})
    few = {frozenset([i * 1e-12 + 1e-13, f"{i % 7}"]) for i in range(20)}
    assert agrees(PYTHON, set(noisy[:20]), few)
    assert not agrees(PYTHON, set(noisy[1:21]), few)  # another number of each text


@pytest.mark.parametrize("columns", [1, 3])
def test_rows_with_a_constant_column_of_floats_are_matched_in_bounded_time(columns: int) -> None:
    chance = random.Random(0)
    rows = [(0.1, *(chance.random() * 1000 for _ in range(columns))) for _ in range(4000)]
    noisy = [tuple(v * (1 + 1e-9 * chance.random()) for v in row) for row in rows]
    started = time.process_time()
    assert agrees(STRICT, permuted(table(*noisy), 1), table(*rows))
    wrong = [*noisy[1:], tuple(v + 1 for v in noisy[0])]
    assert not agrees(STRICT, permuted(table(*wrong), 1), table(*rows))
    assert time.process_time() - started < 3


@pytest.mark.parametrize("mode", SQL_MODES)
def test_a_result_of_1900_columns_is_compared(mode: str) -> None:
    row = tuple(range(1900))
    assert agrees(mode, table(row, row[::-1]), table(row, row[::-1]))
    assert not agrees(mode, table(row, row), table(row, (*row[1:], 7)))
    assert len(answer_digest(mode, table(row))) == 32


@pytest.mark.parametrize("mode", SQL_MODES)
def test_rows_built_to_collide_are_compared_in_bounded_time(mode: str) -> None:
    rows = [(i * (2**61 - 1) % 2**63, i) for i in range(5000)]
    started = time.process_time()
    assert agrees(mode, table(*rows), table(*rows))
    assert time.process_time() - started < 2


def test_printed_text_agrees_but_for_trailing_blanks() -> None:
    assert agrees(TEXT, "1 2 \n3\n\n", "1 2\n3")
    assert not agrees(TEXT, "1  2\n3", "1 2\n3")
    assert not agrees(TEXT, " 1", "1")
    assert not agrees(TEXT, "1\n\n2", "1\n2")
    assert agrees(TEXT, "1\r\n2\r\n", "1\n2")
    for other in "\f\v\x1c\x85\u2028\r":  # what `str.splitlines` splits at, and a terminal does not
        assert not agrees(TEXT, f"1{other}2", "1\n2"), other
    for forged in (BIG, None, ["1"], b"1"):
        assert not agrees(TEXT, forged, "1")
        assert answer_digest(TEXT, forged)
    assert answer_digest(TEXT, "a \n") == answer_digest(TEXT, "a")


@pytest.mark.parametrize(
    ("output", "expected", "right"),
    [
        ("0.3", "0.30000000000000004", True),
        ("0.3000001", "0.30000000000000004", True),
        ("0.30001", "0.30000000000000004", False),
        ("1", "0.9999999999999999", True),
        ("x = 0.333333333, 2", "x = 0.3333333333333333, 2", True),
        ("x = 0.333333333, 3", "x = 0.3333333333333333, 2", False),
        ("y = 0.333333333", "x = 0.3333333333333333", False),
        ("0.333333333 1", "0.3333333333333333", False),
        ("0.333333333\n1", "0.3333333333333333", False),
        ("1.41421356e-05", "1.4142135623730951e-05", True),
        ("-0.3333333333", "0.3333333333333333", False),
        # a format that may have been asked for
        ("0.30000000000000004", "0.3", False),
        ("1.5", "1.50", False),
        ("0.333", "0.3333", False),
        ("1e20", "100000000000000000000", False),
        ("123456789012345679", "123456789012345678", False),
        ("0.000001", "0.0000010", False),
        ("", "0.30000000000000004", False),
        ("nan", "0.30000000000000004", False),
    ],
)
def test_a_printed_float_with_all_of_its_digits_asks_for_no_format(output: str, expected: str, right: bool) -> None:
    assert agrees(TEXT, output, expected) is right
    assert not right or answer_digest(TEXT, expected) == answer_digest(TEXT, expected + "\n")
