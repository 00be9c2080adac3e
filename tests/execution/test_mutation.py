"""New arguments are like the known ones: same types, same habits, never the same twice."""

from __future__ import annotations

import random
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codelutra.execution.mutation import habits, kinds, literal, mutated, new_arguments

LEAF = st.none() | st.booleans() | st.integers(-50, 50) | st.floats(-9, 9) | st.text("abcXYZ 019", max_size=5)
VALUE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
        | st.sets(st.integers(0, 9), max_size=4)
    ),
    max_leaves=6,
)


def made(known: list[tuple[Any, ...]], n: int = 40, seed: int = 0) -> list[tuple[Any, ...]]:
    return list(islice(new_arguments(known, random.Random(seed)), n))


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(VALUE, VALUE), min_size=1, max_size=3), st.integers(0, 3))
def test_whatever_is_known_the_new_ones_have_its_habits_and_differ(known: list[tuple[Any, ...]], seed: int) -> None:
    new = made(known, 15, seed)
    texts = [literal(args) for args in new]
    assert len({*texts, *(literal(args) for args in known)}) == len(texts) + len({literal(args) for args in known})
    common = habits(known)
    assert all(habit.holds(args) for habit in common for args in [*known, *new])
    for args in new:
        for i in range(2):
            assert kinds(args[i]) <= set().union(*(kinds(k[i]) for k in known))
    assert texts == [literal(args) for args in made(known, 15, seed)], "the same for the same seed"


@given(VALUE, st.integers(0, 99))
def test_a_mutated_value_keeps_its_type(value: Any, seed: int) -> None:
    assert type(mutated(value, random.Random(seed))) is type(value)


@given(VALUE)
def test_a_literal_is_the_value_again(value: Any) -> None:
    assert eval(literal(value)) == value


def test_members_of_a_set_are_written_in_one_order() -> None:
    words = ["pear", "fig", "apple", "kiwi", "plum"]
    assert literal(set(words)) == "{'apple', 'fig', 'kiwi', 'pear', 'plum'}"


def test_a_length_beside_its_list_stays_its_length_and_sorted_lists_stay_sorted() -> None:
    new = made([([1, 3, 9], 3), ([2, 4, 5, 6], 4)])
    assert len(new) > 20
    assert all(n == len(items) and items == sorted(items) for items, n in new)


def test_what_is_never_negative_or_empty_stays_so_and_what_is_sometimes_may_be() -> None:
    assert all(n > 0 and items for n, items in made([(3, [1]), (5, [2, 7])]))
    assert any(n < 0 for n, _ in made([(3, [1]), (-5, [])]))
    assert any(not items for _, items in made([(3, [1]), (-5, [])]))


def test_boundaries_come_first() -> None:
    assert {args[0] for args in made([(40,), (-3,), (0,)], 5)} >= {1, -1, 2}


@pytest.mark.parametrize("known", [[()], [(None,)], [(True,)]])
def test_arguments_with_no_room_end_early_instead_of_for_ever(known: list[tuple[Any, ...]]) -> None:
    assert len(made(known)) <= 1
