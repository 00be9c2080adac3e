"""Asserts taken apart: the candidate's process gets the call alone, and lies about equality decide nothing."""

from __future__ import annotations

import ast
from decimal import Decimal
from fractions import Fraction
from typing import Any

import polars as pl
import pytest

from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import PROBLEMS
from codelutra.suites.asserts import Names, Rule, for_more, holds, names_of, own_names, take_apart
from codelutra.suites.base import material
from codelutra.suites.python import PythonSuite, judging_by_asserts
from sandbox import Pool
from tests.helpers.frames import samples_of

MODE = "python-value/v2"
NAMES = frozenset({"f", "g", "h", "RESULT", "solution", "Stack"})


@pytest.mark.parametrize(
    ("statement", "call", "expected", "rule"),
    [
        ("assert f(1, [2]) == {'a': 3}", "f(1, [2])", "{'a': 3}", None),
        ("assert 3 == f(1)", "f(1)", "3", None),
        ("assert 3 == RESULT", "RESULT", "3", None),
        ("assert set(f(1)) == set((4, 5))", "set(f(1))", "set((4, 5))", None),
        ("assert f(g(1)) == 2", "f(g(1))", "2", None),
        ("assert f([g(1), 2], k=(g(2),)) == 2", "f([g(1), 2], k=(g(2),))", "2", None),
        ("assert (f(1), g(2)) == (1, 2)", "(f(1), g(2))", "(1, 2)", None),
        ("assert [f(i) for i in range(3)] == [0, 1, 2]", "[f(i) for i in range(3)]", "[0, 1, 2]", None),
        ("assert sorted(f(1), key=len, reverse=True) == []", "sorted(f(1), key=len, reverse=True)", "[]", None),
        ("assert list(map(list, f(1))) == [[1]]", "list(map(list, f(1)))", "[[1]]", None),
        ("assert round(f(1), 2) == 1.25", "round(f(1), 2)", "1.25", None),
        ("assert f(1)[0]['a'].b == 1", "f(1)[0]['a'].b", "1", None),
        ("assert f(1).strip().split() == ['a']", "f(1).strip().split()", "['a']", None),
        ("assert asyncio.run(f(1)) == 3", "asyncio.run(f(1))", "3", None),
        ("assert Stack(1).push(2).total == 3", "Stack(1).push(2).total", "3", None),
        ("assert -f(1) == 3", "-f(1)", "3", None),
        ("assert f(1) + g(1) == 3", "f(1) + g(1)", "3", None),
        ("assert f(1) == True", "f(1)", "True", None),
        ("assert f(1) is None, 'why'", "f(1)", "None", None),
        ("assert f(1) is False", "f(1)", "False", ["is"]),
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
    found = take_apart(statement, NAMES)
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
        "assert f(3) - 24 == 0",
        "assert max(abs(f(i) - (7 * i + 3)) for i in range(9)) == 0",
        "assert [f(3) == 24, f(4) == 31] == [True, True]",
        "assert ('ok' if f(3) == 24 else 'bad') == 'ok'",
        "assert {24: 'ok'}.get(f(3)) == 'ok'",
        "assert check(f)",
        "assert check(f) == 'ok'",
        "assert min(f(3), 24) == 24",
        "assert next(f(3), 24) == 24",
        "assert f(3).__sub__(24) == 0",
        "assert f(3).count(24) == 1",
        "assert (f(3), 24) == (24, 24)",
        "assert f'{f(3) == 24}' == 'True'",
        "assert f(f(3) == 24) == 1",
        "assert sorted(f(3), key=lambda v: v == 24) == []",
        "assert sum(1 for i in range(3) if f(i) == i) == 3",
        "assert dict(a=f(3) == 24) == {'a': True}",
        "assert f(1) == f(2)",
        "assert f(g(1)) == h(2)",
        "assert f(1) == 1 == g(1)",
        "assert all(map(is_24, f(3)))",
        "assert list(map(is_24, f(3))) == [True]",
        "assert sorted(f(3), key=distance_from_24)[0] == 0",
        "assert max(f(3), key=is_24, default=0)",
        "assert Stack().g(3).startswith('24')",
        "assert not Stack(3).total.difference({24})",
        "assert Stack.g(3).issubset({24})",
    ],
)
def test_an_assert_that_holds_what_is_right_in_its_own_text_is_marked(statement: str) -> None:
    assert take_apart(statement, NAMES, {"Stack"}).in_process


@pytest.mark.parametrize(
    ("setup", "statement"),
    [
        ("def is_24(v): return v == 24", "assert all(map(is_24, f(3)))"),
        ("distance = lambda v: abs(v - 24)", "assert min(f(3), key=distance)"),
        ("def sum(v): return v == 24", "assert sum(f(3))"),
        ("def sorted(v): return v == [24]", "assert sorted(f(3)) == True"),
        ("from checks import str", "assert list(map(str, f(3))) == ['24']"),
    ],
)
def test_a_function_of_the_setup_is_no_function_of_python(setup: str, statement: str) -> None:
    """It stands in the answer's process, where the answer may define another."""
    assert material(judging_by_asserts([statement], reference="def f(x): ...", setup=setup))["in_process"]
    assert "in_process" not in material(
        judging_by_asserts(["assert sorted(f(3), key=abs) == [3]"], reference="def f(x): ...")
    )


def test_names_are_found_however_long_a_chain_of_elif_is() -> None:
    chain = "".join(f"elif x == {i}: RESULT = {i}\n" for i in range(1300))
    assert names_of("def f(x): return x\nif x: pass\n" + chain).made == {"f", "RESULT"}


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
    known = names_of("from datetime import date\nLIMIT: int = 3\nclass Solution: ...\ndef f(x): return x")
    assert known == Names(frozenset({"LIMIT", "Solution", "f"}), frozenset({"date"}), frozenset({"Solution"}))
    found = take_apart(statement, own_names(statement, known, set()), known.classes)
    assert (found.call, found.rule, found.in_process) == (call, rule, False)


def test_where_either_side_may_be_the_programs_the_whole_is_decided_in_its_process() -> None:
    statement = "assert module.sqrt(2) == solution.f(2)"
    assert take_apart(statement, own_names(statement, None, set())).in_process


@pytest.mark.parametrize(
    ("program", "statement", "names"),
    [
        (
            "try:\n    from math import nope as comb\nexcept ImportError:\n    def comb(n, k): ...",
            "assert comb(4, 2) == 6",
            {"comb"},
        ),
        ("if True:\n    def hi(): ...\nelse:\n    def hi(): ...", "assert hi() == 'hi'", {"hi"}),
        ("with open('x') as source:\n    TABLE = 1", "assert TABLE == 1", {"source", "TABLE"}),
        ("match 1:\n    case 1:\n        def f(): ...", "assert f() == 1", {"f"}),
        ("for f in (min, max):\n    pass", "assert f(1, 2) == 2", {"f"}),
        ("def f():\n    def inner(): ...", "assert f() == 1", {"f"}),
        ("from math import gcd\nX = 1", "assert gcd(4, 6) == 2", {"gcd"}),
        ("globals()['one'] = lambda: 1\ndef two(): ...", "assert one() == 1", {"one"}),
        ("def area(r): ...\nimport math", "assert area(1) == math.pi", {"area"}),
    ],
)
def test_what_a_program_defines_is_seen_wherever_it_stands(program: str, statement: str, names: set[str]) -> None:
    assert own_names(statement, names_of(program), set()) == names


def test_what_the_setup_gives_is_not_the_programs() -> None:
    reference, setup = names_of("class Node: ...\ndef f(x): ..."), {"Node"}
    statement = "assert f(Node(1)) == Node(2)"
    names = own_names(statement, reference, setup)
    assert (names, take_apart(statement, names).in_process) == ({"f"}, False)


@pytest.mark.parametrize(
    "deep", ["f(1) == " + "+".join("1" * 900), "f(" + "-" * 900 + "1) == 1", "f(1)" + ".a" * 900 + " == 1"]
)
def test_an_assert_nested_too_deep_is_refused_in_one_sentence(deep: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deep|is not Python"):
        take_apart(f"assert {deep}", NAMES)


def test_an_assert_that_any_program_would_pass_is_refused() -> None:
    with pytest.raises(ValueError, match=r"uses nothing that the reference defines \(f\): any answer passes"):
        judging_by_asserts(["assert sorted([2, 1]) == [1, 2]"], reference="def f(x): return x")


@pytest.mark.parametrize(
    "test", ["(f(1) == 2, 'two')", "[f(1) == 2]", "{f(1): 2}", "(f(i) == i for i in (1, 2))", "lambda: f(1)"]
)
def test_an_assert_that_is_always_true_is_refused(test: str) -> None:
    with pytest.raises(ValueError, match="is always true: any answer passes"):
        judging_by_asserts([f"assert {test}"], reference="def f(x): return 2")


@pytest.mark.parametrize("test", ["[*f(1)]", "{**f(1)}", "{*f(1)}", "f(1), (2, 'two')", "(f(1) == 2), 'two'", "[f(1)][0]"])
def test_an_assert_that_may_fail_is_taken(test: str) -> None:
    assert judging_by_asserts([f"assert {test}"], reference="def f(x): return 2")


@pytest.mark.parametrize("statement", ["f(1) == 2", "assert f(1) ==", "assert a == 1; assert b == 2", ""])
def test_what_is_no_single_assert_is_refused(statement: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        take_apart(statement, NAMES)


@pytest.mark.parametrize(
    ("rule", "got", "expected", "right"),
    [
        (["isclose", 1e-3, 0.0], 1000.9, 1000.0, True),
        (["isclose", 1e-3, 0.0], 1002, 1000.0, False),
        (["isclose", 0.0, 0.5], 1, 1.5, True),
        (["isclose", 1.0, 1.0], True, 1.0, True),
        (["isclose", 1e-3, 0.0], Decimal("0.1"), 0.1, True),
        (["isclose", 1e-3, 0.0], Fraction(1, 3), 0.3333, True),
        (["isclose", 1e-3, 0.0], 1j, 1j, False),  # math.isclose refuses it
        (["isclose", 1.0, 1.0], Fraction(10**400, 3), 1.0, False),
        (["isclose", 1.0, 1.0], Decimal("sNaN"), 1.0, False),
        (["within", 1e-9, "<"], 1 + 2j, 1 + 2j + 1e-12, True),
        (["within", 0.001, "<"], Fraction(1, 3), 0.3333, True),
        (["within", 0.001, "<"], Decimal("0.1"), Decimal("0.1001"), True),
        (["within", 0.001, "<"], Decimal("0.1"), 0.1, False),  # Decimal - float is no number
        (["within", 1, "<"], {1}, {1}, False),
        (["is"], True, True, True),
        (["is"], 1, True, False),
        (["near", 1e-6, 1e-9], [0.1 + 0.2], [0.3], True),
        (["near", 1e-3, 0.5], 10**30, 10**30 + 1, False),  # an integer that large has no tolerance
        (["isclose", 1.0, 1.0], "1", 1.0, False),
        (["isclose", 1.0, 1.0], None, 1.0, False),
        (["isclose", 1.0, 1.0], [1.0], 1.0, False),
        (["isclose", 1.0, 1.0], float("nan"), 1.0, False),
        (["isclose", 1.0, 1.0], 10**400, 1.0, False),
        (["within", 1, "<"], 6, 5, False),
        (["within", 1, "<="], 6, 5, True),
        (["within", 1, "<="], 10**400, 5.0, False),
        (["within", 1, "<"], float("inf"), float("inf"), False),
        (["within", 2, "<"], True, 1, True),
        (["among"], 27, (9, 27), True),
        (["among"], 27.0, [9, 27], True),
        (["among"], "27", (9, 27), False),
        (["among"], True, {1, 2}, True),
        (["among"], (9, 27), (9, 27), False),
        (["among"], 9, (), False),
    ],
)
def test_the_host_decides_by_the_rule_as_python_would(rule: Rule, got: Any, expected: Any, right: bool) -> None:
    assert holds(rule, MODE, got, expected) is right


def test_further_calls_get_the_widest_tolerance_and_never_less_than_the_modes() -> None:
    assert for_more([None, ["among"]]) == ["near", 1e-6, 1e-9]
    assert for_more([["isclose", 1e-9, 0.0]]) == ["near", 1e-6, 1e-9]
    assert for_more([["isclose", 1e-3, 0.1], None, ["within", 0.5, "<"]]) == ["near", 1e-3, 0.5]


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


# Looks for what is right in the memory of the runner, and gives an object that passes every test.
FORGER = """
import gc, re
texts = [d["calls"] for d in gc.get_objects() if isinstance(d, dict) and isinstance(d.get("calls"), (list, tuple))]
numbers = [int(n) for calls in texts for call in calls for n in re.findall(r"\\d+", str(call)) if int(n) > 20]
class Yes(int):
    __eq__ = __lt__ = __le__ = __ge__ = __gt__ = lambda self, other: True
    __ne__ = lambda self, other: False
    __sub__ = __rsub__ = __add__ = __abs__ = lambda self, *other: 0
    __hash__ = int.__hash__
    count = get = __getitem__ = lambda self, *other: 1
def solve(x):
    return numbers[0] if numbers else Yes(0)
check = lambda *a: True
"""
FORMS = [
    "assert solve(3) == 24",
    "assert 24 == solve(3)",
    "assert solve(3) is 24 or solve(3) == 24",
    "assert solve(3) - 24 == 0",
    "assert abs(solve(3) - 24) < 1",
    "assert max(abs(solve(i) - (7 * i + 3)) for i in range(3, 4)) == 0",
    "assert [solve(3) == 24, solve(3) == 24] == [True, True]",
    "assert ('ok' if solve(3) == 24 else 'bad') == 'ok'",
    "assert {24: 'ok'}.get(solve(3)) == 'ok'",
    "assert check(solve)",
    "assert solve(3) in (24, 25)",
    "assert [solve(3)] == [24]",
    "assert str(solve(3)) == '24'",
    "assert sum([solve(3), solve(3)]) == 48",
    "assert min(solve(3), 24) == 24",
    "assert not solve(3) != 24",
    "assert math.isclose(solve(3), 24)",
]


def test_a_forged_verdict_never_says_that_the_host_decided(pool: Pool) -> None:
    reference, setup = "def solve(x): return 7 * x + 3", "import math\ndef check(f): return f(3) == 24"
    row = {"split": "train", "prompt": "", "reference": reference, "language": "python", "group": "", "difficulty": ""}
    judges = [judging_by_asserts([form], reference=reference, setup=setup) for form in FORMS]
    rows = [row | {"problem_id": form, "judge": judge} for form, judge in zip(FORMS, judges, strict=True)]
    problems = pl.DataFrame(rows, schema=PROBLEMS)
    suite = PythonSuite("s", "1", "", problems)
    expected, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    assert expected["error"].to_list() == [""] * len(FORMS)
    judged, _ = execute(samples_of([(form, FORGER) for form in FORMS]), problems, expected, suite, pool, timeout_seconds=5)
    by_host = judged.filter(pl.col("verdict") == "host")
    assert by_host.filter(pl.col("status") == "correct").is_empty()
    assert by_host["problem_id"].to_list() == [FORMS[i] for i in (0, 1, 4, 10, 11, 12, 13, 16)]
    assert judged.filter(pl.col("status") == "correct").height > 5  # the forger is able
