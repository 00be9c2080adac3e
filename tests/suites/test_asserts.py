"""Asserts taken apart: the candidate's process gets the call alone, and lies about equality decide nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import PROBLEMS
from codelutra.suites.asserts import Rule, defined, for_more, holds, take_apart
from codelutra.suites.python import PythonSuite, judging_by_asserts
from sandbox import Pool, ensure_image
from tests.helpers.frames import samples_of

MODE = "python-value/v1"


@pytest.mark.parametrize(
    ("statement", "call", "expected", "rule"),
    [
        ("assert f(1, [2]) == {'a': 3}", "f(1, [2])", "{'a': 3}", None),
        ("assert 3 == f(1)", "f(1)", "3", None),
        ("assert 3 == RESULT", "RESULT", "3", None),
        ("assert set(f(1)) == set((4, 5))", "set(f(1))", "set((4, 5))", None),
        ("assert f(g(1)) == h(2)", "f(g(1))", "h(2)", None),
        ("assert f(1) == True", "f(1)", "True", None),
        ("assert f(1) is None, 'why'", "f(1)", "None", None),
        ("assert f(1) is False", "f(1)", "False", None),
        ("assert f(1)", "not not f(1)", "True", None),
        ("assert not f(1)", "not not f(1)", "False", None),
        ("assert not not f([1, int('2')], k=set())", "not not f([1, int('2')], k=set())", "True", None),
        ("assert bool(f(1))", "not not bool(f(1))", "True", None),
        ("assert solution.f(1)", "not not solution.f(1)", "True", None),
        ("assert math.isclose(f(1), 2.5)", "f(1)", "2.5", ["isclose", 1e-9, 0.0]),
        ("assert math.isclose(-2.5, f(1), rel_tol=1e-3)", "f(1)", "-2.5", ["isclose", 1e-3, 0.0]),
        ("assert math.isclose(f(1), 2/3, abs_tol=1, rel_tol=0)", "f(1)", "2 / 3", ["isclose", 0, 1]),
        ("assert abs(f(2) - 1.41) < 0.01", "f(2)", "1.41", ["within", 0.01, "<"]),
        ("assert abs(1.41 - f(2)) <= 1", "f(2)", "1.41", ["within", 1, "<="]),
        ("assert f(3) in (9, 27)", "f(3)", "(9, 27)", ["among"]),
        ("assert f(3) in [9, [27]]", "f(3)", "[9, [27]]", ["among"]),
        ("assert f(3) in {'a', 'b'}", "f(3)", "{'a', 'b'}", ["among"]),
    ],
)
def test_asserts_come_apart_into_a_call_its_value_and_a_rule(statement: str, call: str, expected: str, rule: Rule) -> None:
    found = take_apart(statement)
    assert ast.unparse(ast.parse(found.call)) == call
    assert (found.expected if rule else ast.unparse(ast.parse(found.expected)), found.rule) == (expected, rule)
    assert not found.in_process


@pytest.mark.parametrize(
    "statement",
    [
        "assert f(1) != 2",
        "assert f(1) > 2",
        "assert 1 < f(1) < 3",
        "assert f(1) == 2 and f(2) == 3",
        "assert f(3) not in (9, 27)",
        "assert f(3) in ALLOWED",
        "assert 3 in f(3)",
        "assert f(3) in (g(1), 27)",
        "assert (f(1) == 2) in (True,)",
        "assert (f(1) == 2) == True",
        "assert (f(1) == 2) == 1",
        "assert isinstance(f(1), int)",
        "assert isinstance(f(1), int) == True",
        "assert all(f(x) == x for x in (1, 2))",
        "assert check(f(1), 2)",
        "assert check(f(1), 2) is True",
        "assert f('a').startswith('a')",
        "assert np.isclose(f(1), 2.5)",
        "assert math.isclose(f(1), 2.5, rel_tol=EPS)",
        "assert math.isclose(f(1), 2.5, 0.001)",
        "assert math.isclose(f(1), 2.5, rel_tol=-1.0)",
        "assert abs(f(1) - 2.5) < EPS",
        "assert abs(f(1) - 2.5) > 0.01",
        "assert abs(f(1) + 2.5) < 0.01",
        "assert not f(1) - 2",
        "assert (lambda v: v == 2)(f(1))",
    ],
)
def test_an_assert_that_holds_what_is_right_in_its_own_text_is_marked(statement: str) -> None:
    assert take_apart(statement).in_process


@pytest.mark.parametrize(
    ("statement", "call", "rule"),
    [
        ("assert set([1, 2]) == f(1)", "f(1)", None),
        ("assert sorted([3, 1]) == sorted(f(1))", "sorted(f(1))", None),
        ("assert datetime.date(2020, 1, 1) == f('x')", "f('x')", None),
        ("assert date(2020, 1, 1) == f('x')", "f('x')", None),
        ("assert date(2020, 1, 1) == Solution().g('x')", "Solution().g('x')", None),
        ("assert math.sqrt(2) == Solution.g(2)", "Solution.g(2)", None),
        ("assert math.isclose(math.sqrt(2), f(2))", "f(2)", ["isclose", 1e-9, 0.0]),
        ("assert abs(math.sqrt(2) - f(2)) < 0.01", "f(2)", ["within", 0.01, "<"]),
        ("assert 3 == LIMIT", "LIMIT", None),
    ],
)
def test_the_programs_side_is_the_one_that_uses_what_it_defines(statement: str, call: str, rule: Rule) -> None:
    names = defined("from datetime import date\nLIMIT: int = 3\nclass Solution: ...\ndef f(x): return x")
    assert names == {"LIMIT", "Solution", "f"}
    found = take_apart(statement, names)
    assert (found.call, found.rule, found.in_process) == (call, rule, False)


def test_where_either_side_may_be_the_programs_the_whole_is_decided_in_its_process() -> None:
    assert take_apart("assert math.sqrt(2) == solution.f(2)").in_process


def test_an_assert_that_any_program_would_pass_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uses nothing that the reference defines \(f\): any answer passes"):
        judging_by_asserts(["assert sorted([2, 1]) == [1, 2]"], reference="def f(x): return x")


@pytest.mark.parametrize("statement", ["f(1) == 2", "assert f(1) ==", "assert a == 1; assert b == 2", ""])
def test_what_is_no_single_assert_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        take_apart(statement)


@pytest.mark.parametrize(
    ("rule", "got", "expected", "right"),
    [
        (["isclose", 1e-3, 0.0], 1000.9, 1000.0, True),
        (["isclose", 1e-3, 0.0], 1002, 1000.0, False),
        (["isclose", 0.0, 0.5], 1, 1.5, True),
        (["isclose", 1.0, 1.0], True, 1.0, False),
        (["isclose", 1.0, 1.0], "1", 1.0, False),
        (["isclose", 1.0, 1.0], None, 1.0, False),
        (["isclose", 1.0, 1.0], [1.0], 1.0, False),
        (["isclose", 1.0, 1.0], float("nan"), 1.0, False),
        (["isclose", 1.0, 1.0], 10**400, 1.0, False),
        (["within", 1, "<"], 6, 5, False),
        (["within", 1, "<="], 6, 5, True),
        (["within", 1, "<="], 10**400, 5.0, False),
        (["within", 1, "<"], float("inf"), float("inf"), False),
        (["within", 2, "<"], True, 1, False),
        (["among"], 27, (9, 27), True),
        (["among"], 27.0, [9, 27], True),
        (["among"], "27", (9, 27), False),
        (["among"], True, {1, 2}, False),
        (["among"], (9, 27), (9, 27), False),
        (["among"], 9, (), False),
    ],
)
def test_the_host_decides_by_the_rule_and_by_strict_types(rule: Rule, got: Any, expected: Any, right: bool) -> None:
    assert holds(rule, MODE, got, expected) is right


def test_further_calls_get_the_widest_tolerance_and_never_less_than_the_modes() -> None:
    assert for_more([None, ["among"]]) is None
    assert for_more([["isclose", 1e-9, 0.0]]) == ["isclose", 1e-6, 1e-9]
    assert for_more([["isclose", 1e-3, 0.1], None, ["within", 0.5, "<"]]) == ["isclose", 1e-3, 0.5]


# ---- in the sandbox ---------------------------------------------------------------------------------------------------

ASSERTS = {
    "isclose": "assert math.isclose(f(10), 4188.79, rel_tol=0.001)",
    "within": "assert abs(f(2) - 1.41) < 0.01",
    "among": "assert f(3) in (9, 27)",
    "not": "assert not f(10)",
}
REFERENCES = {
    "isclose": "def f(x):\n    return 4 / 3 * math.pi * x ** 3",
    "within": "def f(x):\n    return x ** 0.5",
    "among": "def f(x):\n    return x ** 3",
    "not": "def f(x):\n    return x < 5",
}
PATCHED = "math.isclose = lambda *a, **k: True\nimport builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 0.0"
LIAR = """
class Liar(int):
    __sub__ = __rsub__ = __abs__ = lambda self, *other: self
    __lt__ = __le__ = __eq__ = lambda self, other: True
    __hash__ = int.__hash__
def f(x):
    return Liar(1)
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(image=ensure_image("python"), workers=1, run="test-asserts") as opened:
        yield opened


def test_programs_that_lie_about_equality_are_not_correct_and_the_host_says_so(pool: Pool) -> None:
    rows = [
        {
            "problem_id": name,
            "split": "train",
            "prompt": "",
            "reference": REFERENCES[name],
            "language": "python",
            "group": "",
            "difficulty": "",
            "judge": judging_by_asserts([text], setup="import math"),
        }
        for name, text in ASSERTS.items()
    ]
    problems = pl.DataFrame(rows, schema=PROBLEMS)
    suite = PythonSuite("s", "1", "", problems)
    expected, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    assert expected["status"].to_list() == ["correct"] * 4
    near = [("isclose", "def f(x): return 4189"), ("within", "def f(x): return 1.405"), ("among", "def f(x): return 9")]
    lies = [(name, program) for name in ("isclose", "within", "among") for program in (PATCHED, LIAR)]
    judged, _ = execute(samples_of(near + lies), problems, expected, suite, pool, timeout_seconds=5)
    assert judged["status"].to_list() == ["correct"] * 3 + ["wrong", "runtime_error"] * 3  # a Liar is no value
    assert set(judged["verdict"]) == {"host"}
