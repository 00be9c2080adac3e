"""Take an assert apart: what the answer's process evaluates, what is expected, and the rule by which the host decides.

    assert f(1) == 2, assert f(1) is None              f(1)         the same value under the suite's mode
    assert f(1), assert not f(1)                       not not f(1) True, False
    assert math.isclose(f(1), 2.5, rel_tol=1e-3)       f(1)         ["isclose", rel_tol, abs_tol]
    assert abs(f(1) - 2.5) < 0.01                      f(1)         ["within", 0.01, "<"]
    assert f(1) in (2, 3)                              f(1)         ["among"]: the same value as one of these

Any other assert (`!=`, `and`, `all(…)`, a check of its own on what a call gave) has the right answer in its own text. It can
only be decided in the answer's process, and is marked so (`in_process`). Rules are JSON: they are judging material.

Of the two sides of an `==`, the answer's is the one that uses a name which a program of the problem defines.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from codelutra.suites import equality

Rule = list[Any] | None  # None: the same value
_BUILTINS = frozenset(dir(builtins))


@dataclass(frozen=True)
class Check:
    """An assert: an expression for the answer's process, one for the expected value, and the rule that compares them.

    in_process: `call` itself decides, in the answer's process.
    """

    call: str
    expected: str
    rule: Rule = None
    in_process: bool = False


def defined(program: str, *, imports: bool = False) -> frozenset[str]:
    """Names that a program defines at its top level; with `imports`, those it imports too. None where it does not parse."""
    try:
        body = ast.parse(program).body
    except (SyntaxError, ValueError):
        return frozenset()
    brought = [a for s in body if imports and isinstance(s, ast.Import | ast.ImportFrom) for a in s.names]
    made = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    assigned = [n for s in body if isinstance(s, ast.Assign | ast.AnnAssign) for n in ast.walk(s) if isinstance(n, ast.Name)]
    imported = [(a.asname or a.name).partition(".")[0] for a in brought]
    return frozenset([*made, *imported, *(n.id for n in assigned if isinstance(n.ctx, ast.Store))])


def names_to_define(statement: str, given: Set[str] = frozenset()) -> frozenset[str]:
    """Names that a statement uses and that neither it, nor `given`, nor Python defines. None where it does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(statement.strip())))
    except SyntaxError:
        return frozenset()
    used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    own = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(used - own - {n.arg for n in nodes if isinstance(n, ast.arg)} - given - _BUILTINS)


def take_apart(statement: str, names: Set[str] = frozenset(), *, beside_reference: bool = True) -> Check:
    """The parts of an assert statement.

    names: what a program of the problem defines; where they are unknown, all that is called and is no builtin.
    beside_reference: there is a reference, so the expected side may use `names` too. Without one, such an assert decides
    in the answer's process.

    Raises ValueError where it is not a single assert, or uses none of `names`, so that every program would pass.
    """
    check, test = _taken_apart(statement, names)
    return check if beside_reference or not _uses(ast.parse(check.expected), names) else _truth(test)


def _taken_apart(statement: str, names: Set[str]) -> tuple[Check, ast.expr]:
    try:
        body = ast.parse(statement.strip()).body
    except SyntaxError as e:
        raise ValueError(f"{statement!r} is not Python: {e.msg}") from e
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(f"{statement!r} is not one assert statement")
    test = body[0].test
    if names and not _uses(test, names):
        raise ValueError(
            f"{statement!r} uses nothing that the reference defines ({', '.join(sorted(names))}): any answer passes"
        )
    return _by_form(test, names), test


def _by_form(test: ast.expr, names: Set[str]) -> Check:
    match test:
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
            return _check(test, names, left, right)
        case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None | True | False) as right]):
            return _check(test, names, left, right)
        case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.Tuple() | ast.List() | ast.Set() as right]) if _calls(
            left
        ) and not _calls(right):
            return _check(test, names, left, right, ["among"])
        case ast.Compare(
            left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]),
            ops=[ast.Lt() | ast.LtE() as below],
            comparators=[near],
        ) if _is_tolerance(near):
            rule = ["within", ast.literal_eval(near), "<" if isinstance(below, ast.Lt) else "<="]
            return _check(test, names, left, right, rule)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="math"), attr="isclose"), args=[left, right], keywords=named) if (
            all(k.arg in ("rel_tol", "abs_tol") and _is_tolerance(k.value) for k in named)
        ):
            given = {k.arg: ast.literal_eval(k.value) for k in named}
            return _check(test, names, left, right, ["isclose", given.get("rel_tol", 1e-9), given.get("abs_tol", 0.0)])
    return _truth(test)


def holds(rule: Rule, mode: str, got: Any, expected: Any) -> bool:
    """Whether a value is right by the rule. Tolerances apply to int and float alone."""
    match rule:
        case None:
            return equality.agrees(mode, got, expected)
        case ["among"]:
            return any(equality.agrees(mode, got, one) for one in expected)
    if type(got) not in (int, float) or type(expected) not in (int, float):
        return False
    try:
        match rule:
            case ["isclose", relative, absolute]:
                return math.isclose(got, expected, rel_tol=relative, abs_tol=absolute)
            case ["within", near, "<"]:
                return bool(abs(got - expected) < near)
            case ["within", near, "<="]:
                return bool(abs(got - expected) <= near)
    except OverflowError:  # an integer beyond the floats
        return False
    raise ValueError(f"{rule} is no rule of judging")


def for_more(rules: list[Rule]) -> Rule:
    """The rule for generated calls of a function whose known calls have these: the widest tolerance of all, the mode's
    included.

    The reference gives their expected values, which may be of any size. The author's tolerance fits the author's values.
    """
    relative = [rule[1] for rule in rules if rule and rule[0] == "isclose"]
    absolute = [rule[2 if rule[0] == "isclose" else 1] for rule in rules if rule and rule[0] in ("isclose", "within")]
    if not absolute:
        return None
    return ["isclose", max([equality.REL_TOL, *relative]), max([equality.ABS_TOL, *absolute])]


def _check(test: ast.expr, names: Set[str], left: ast.expr, right: ast.expr, rule: Rule = None) -> Check:
    mine, other = _uses(left, names), _uses(right, names)
    if mine == other and not mine and _calls(left) and _calls(right):
        return _truth(test)  # either side may be the answer's
    # Where neither uses such a name, it is the side that calls something; where neither calls, the one with a name.
    nameless = not any(isinstance(n, ast.Name) for n in ast.walk(left))
    is_right = other if mine != other else not mine and (not _calls(left) if _calls(right) else nameless)
    call, expected = (right, left) if is_right else (left, right)
    is_truth = isinstance(expected, ast.Constant) and isinstance(expected.value, bool)
    decides = isinstance(call, ast.Compare | ast.BoolOp) or (is_truth and _decides(call))
    return Check(ast.unparse(call), ast.unparse(expected), rule, in_process=decides)


def _truth(test: ast.expr) -> Check:
    """Whether a test is true. The `not`s before it stay on the host, where they say what is expected."""
    wanted, inner = True, test
    while isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
        wanted, inner = not wanted, inner.operand
    return Check(f"not not ({ast.unparse(inner)})", str(wanted), in_process=_decides(inner))


def _decides(node: ast.expr) -> bool:
    """Whether an expression may contain the right answer: anything except a name, or a call of one function whose
    arguments call no function of the problem."""
    match node:
        case ast.Name():
            return False
        case ast.Call(func=ast.Name(id="bool"), args=[inner], keywords=[]):
            return _decides(inner)
        case ast.Call(func=ast.Name(id=name)):
            return name in _BUILTINS or any(map(_calls_own, [*node.args, *node.keywords]))
        case ast.Call(func=ast.Attribute(value=ast.Name())):
            return any(map(_calls_own, [*node.args, *node.keywords]))
    return True


def _uses(node: ast.AST, names: Set[str]) -> bool:
    """Whether a node uses one of `names`; where there are none, whether it calls a function that is no builtin."""
    if names:
        return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))
    return any(isinstance(func, ast.Name) and func.id not in _BUILTINS for func in _calls(node))


def _calls(node: ast.AST) -> list[ast.expr]:
    """What is called in a node."""
    return [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]


def _calls_own(node: ast.AST) -> bool:
    """Whether a function that is no builtin is called."""
    return any(not (isinstance(func, ast.Name) and func.id in _BUILTINS) for func in _calls(node))


def _is_tolerance(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and math.isfinite(node.value)
