"""Take an assert apart: what the answer's process evaluates, what is expected, and the rule by which the host decides.

    assert f(1) == 2, assert f(1) is None              f(1)         the same value under the suite's mode
    assert f(1) is True                                f(1)         ["is"]: that very value
    assert f(1), assert not f(1)                       not not f(1) True, False
    assert math.isclose(f(1), 2.5, rel_tol=1e-3)       f(1)         ["isclose", rel_tol, abs_tol]
    assert abs(f(1) - 2.5) < 0.01                      f(1)         ["within", 0.01, "<"]
    assert f(1) in (2, 3)                              f(1)         ["among"]: the same value as one of these

The answer's side is the one that uses a name which the program defines. The host decides where that side is a call of the
program by itself, or inside functions of Python that keep what it gave (`sorted(f(1))`, `_is_plain`). Everything else is
decided in the answer's process, where a program can cheat, and is marked so (`in_process`): an assert whose text holds what
is right (`f(1) - 2 == 0`, `!=`, `and`), a check of the setup's own, and a relation between two calls (`f(1) == f(2)`).
Rules are JSON: they are judging material.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from codelutra.suites import equality
from codelutra.suites.parsing import Unparsable, statements, top_level
from codelutra.suites.values import ABS_TOL, REL_TOL, Near, comparable

Rule = list[Any] | None  # None: the same value
_BUILTINS = frozenset(dir(builtins))
# Functions of one value that keep what is right or wrong about it, and of these those that may have a number more.
_KEEPING = {
    *("abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "chr", "complex", "dict", "enumerate", "float"),
    *("frozenset", "hex", "int", "iter", "len", "list", "max", "min", "next", "oct", "ord", "repr", "reversed", "round"),
    *("set", "sorted", "str", "sum", "tuple", "type"),
}
_WITH_NUMBER = frozenset(["int", "round"])
# Methods of texts and sets that compare with an argument.
_COMPARING = {
    *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "replace", "removeprefix", "removesuffix"),
    *("isdisjoint", "issubset", "issuperset", "difference", "symmetric_difference", "intersection", "union"),
}


@dataclass(frozen=True)
class Check:
    """An assert: an expression for the answer's process, one for the expected value, and the rule that compares them.

    in_process: `call` itself decides, in the answer's process.
    """

    call: str
    expected: str
    rule: Rule = None
    in_process: bool = False


@dataclass(frozen=True)
class Names:
    """What a program's text brings into its module: by a definition or an assignment, by an import; and which are classes.

    All are empty where the text does not parse.
    """

    made: frozenset[str] = frozenset()
    imported: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()


def names_of(program: str) -> Names:
    try:
        body = list(top_level(statements(program)))
    except Unparsable:
        return Names()
    made = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    bound = [n.id for s in body for n in ast.iter_child_nodes(s) for n in _stored(n)]
    brought = [a for s in body if isinstance(s, ast.Import | ast.ImportFrom) for a in s.names]
    return Names(
        frozenset([*made, *bound]),
        frozenset((a.asname or a.name).partition(".")[0] for a in brought),
        frozenset(n.name for n in body if isinstance(n, ast.ClassDef)),
    )


def free_names(tree: ast.AST) -> frozenset[str]:
    """The names that a tree reads and binds nowhere."""
    nodes = list(ast.walk(tree))
    read = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(read - bound - {n.arg for n in nodes if isinstance(n, ast.arg)})


def _stored(node: ast.AST) -> list[ast.Name]:
    """The names that an expression, a target or an import binds; nothing of statements below it."""
    if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
        return []
    return [n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def own_names(statement: str, reference: Names | None, given: Set[str]) -> frozenset[str]:
    """The names by which an assert asks a program for something.

    What the reference defines, else what it imports; else, and without a reference (None), the names that the assert
    uses and that neither it, nor `given` (the setup), nor Python defines.

    Raises ValueError where there are none, so that every program would pass.
    """
    test = _test(statement)
    used = {n.id for n in ast.walk(test) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    unknown = free_names(test) - given - _BUILTINS
    known = reference or Names()
    for names in (known.made - given, known.made, known.imported - given, unknown):
        if used & names:
            return frozenset(names)
    if reference is None:
        raise ValueError(f"{statement!r} uses nothing that an answer could define: any answer passes")
    defines = ", ".join(sorted(known.made))
    raise ValueError(f"{statement!r} uses nothing that the reference defines ({defines}): any answer passes")


def take_apart(statement: str, names: Set[str], classes: Set[str] = frozenset(), given: Set[str] = frozenset()) -> Check:
    """The parts of an assert statement.

    names: those by which it asks the program for something (`own_names`); classes: the classes among them; given: what
    the setup defines.

    Raises ValueError where it is not a single assert.
    """
    test = _test(statement)
    try:
        return _Taker(frozenset(names), frozenset(classes), frozenset(_KEEPING - given)).check(test)
    except RecursionError as e:
        raise ValueError(f"{statement[:60]!r}… is nested too deep") from e


def _test(statement: str) -> ast.expr:
    try:
        body = statements(statement.strip())
    except Unparsable as e:
        raise ValueError(f"{statement[:300]!r} is not Python: {e}") from e
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        raise ValueError(
            f"{statement!r} is not one assert statement; what asserts need before them goes into `setup`. Checks of several "
            "steps go into one text, `def check(candidate): …`, and `function` names what it is called with"
        )
    if _is_always_true(body[0].test):
        raise ValueError(f"{statement!r} is always true: any answer passes; write `assert f(1) == 2, 'message'`, or all(…)")
    return body[0].test


def _is_always_true(test: ast.expr) -> bool:
    """Whether it is a tuple or the like that has a member, as in `assert (f(1) == 2, 'message')`, or a generator."""
    match test:
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return not all(isinstance(part, ast.Starred) for part in parts)
        case ast.Dict(keys=keys):
            return any(keys)  # the key of `**more` is None
    return isinstance(test, ast.Lambda | ast.GeneratorExp)


def holds(rule: Rule, mode: str, got: Any, expected: Any) -> bool:
    """Whether a value is right by the rule, as the assert's own text would have it."""
    match rule:
        case None:
            return equality.agrees(mode, got, expected)
        case ["is"]:
            return got is expected  # None, True or False
        case ["among"]:
            return any(equality.agrees(mode, got, one) for one in expected)
        case ["near", relative, absolute]:
            return Near(relative, absolute).same(got, expected)
    try:
        if not comparable(got, expected):
            return False
        match rule:
            case ["isclose", relative, absolute]:
                return math.isclose(got, expected, rel_tol=relative, abs_tol=absolute)
            case ["within", near, "<"]:
                return bool(abs(got - expected) < near)
            case ["within", near, "<="]:
                return bool(abs(got - expected) <= near)
    except (TypeError, ValueError, ArithmeticError):  # the assert itself would raise: a text, an integer beyond the floats
        return False
    raise ValueError(f"{rule} is no rule of judging")


def for_more(rules: list[Rule]) -> Rule:
    """The rule for generated calls of a function whose known calls have these: the widest tolerance of all.

    The reference gives their expected values, which may be of any size and depth. The author's tolerance fits the author's
    values.
    """
    relative = [rule[1] for rule in rules if rule and rule[0] == "isclose"]
    absolute = [rule[2 if rule[0] == "isclose" else 1] for rule in rules if rule and rule[0] in ("isclose", "within")]
    return ["near", max([REL_TOL, *relative]), max([ABS_TOL, *absolute])]


@dataclass(frozen=True)
class _Taker:
    names: frozenset[str]
    classes: frozenset[str]
    keeping: frozenset[str]  # of _KEEPING, what is Python's own here

    def check(self, test: ast.expr) -> Check:
        match test:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                return self.sides(test, left, right)
            case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=None) as right]):
                return self.sides(test, left, right)
            case ast.Compare(left=left, ops=[ast.Is()], comparators=[ast.Constant(value=True | False) as right]):
                return self.sides(test, left, right, ["is"])
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.Tuple() | ast.List() | ast.Set() as right]) if (
                self.uses(left) and not self.uses(right)
            ):
                return self.sides(test, left, right, ["among"])
            case ast.Compare(
                left=ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]),
                ops=[ast.Lt() | ast.LtE() as below],
                comparators=[near],
            ) if _is_tolerance(near):
                rule = ["within", ast.literal_eval(near), "<" if isinstance(below, ast.Lt) else "<="]
                return self.sides(test, left, right, rule)
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="math"), attr="isclose"), args=[left, right], keywords=named
            ) if all(k.arg in ("rel_tol", "abs_tol") and _is_tolerance(k.value) for k in named):
                given = {k.arg: ast.literal_eval(k.value) for k in named}
                return self.sides(test, left, right, ["isclose", given.get("rel_tol", 1e-9), given.get("abs_tol", 0.0)])
        return self.truth(test)

    def sides(self, test: ast.expr, left: ast.expr, right: ast.expr, rule: Rule = None) -> Check:
        if self.uses(left) == self.uses(right):
            return self.truth(test)
        call, expected = (left, right) if self.uses(left) else (right, left)
        return Check(ast.unparse(call), ast.unparse(expected), rule, in_process=not self.is_plain(call))

    def truth(self, test: ast.expr) -> Check:
        """Whether a test is true. The `not`s before it stay on the host, where they say what is expected."""
        wanted, inner = True, test
        while isinstance(inner, ast.UnaryOp) and isinstance(inner.op, ast.Not):
            wanted, inner = not wanted, inner.operand
        return Check(f"not not ({ast.unparse(inner)})", str(wanted), in_process=not self.is_plain(inner))

    def uses(self, node: ast.AST) -> bool:
        return any(isinstance(n, ast.Name) and n.id in self.names for n in ast.walk(node))

    def is_plain(self, node: ast.AST) -> bool:
        """Whether an expression gives what the program gives and holds nothing of what is right beside its arguments."""
        match node:
            case ast.Name(id=name):
                return name in self.names
            case ast.Attribute(value=value) | ast.UnaryOp(operand=value) | ast.Starred(value=value):
                return self.is_plain(value)
            case ast.Subscript(value=value, slice=index):
                return self.is_plain(value) and not self.uses(index)
            case ast.BinOp(left=left, right=right):
                return self.is_plain(left) and self.is_plain(right)
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return bool(parts) and all(map(self.is_plain, parts))
            case ast.ListComp(elt=made, generators=loops) | ast.SetComp(elt=made, generators=loops):
                return self.is_plain(made) and not any(map(self.uses, loops))
            case ast.GeneratorExp(elt=made, generators=loops):
                return self.is_plain(made) and not any(map(self.uses, loops))
            case ast.Call():
                return self.is_plain_call(node)
        return False

    def is_plain_call(self, node: ast.Call) -> bool:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in self.names:
                return self.takes_inputs(node)
            case ast.Call(func=ast.Name(id="map"), args=[ast.Name(id=first), *values], keywords=[]):
                return first in self.keeping | self.names and all(map(self.is_plain, values))
            case ast.Call(func=ast.Name(id=name), args=[value, *more], keywords=named) if name in self.keeping:
                numbers = all(isinstance(n, ast.Constant) for n in more) and (not more or name in _WITH_NUMBER)
                ways = name in ("sorted", "min", "max") and all(map(self.is_way, named))
                return self.is_plain(value) and numbers and (not named or ways)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="asyncio"), attr="run"), args=[value], keywords=[]):
                return self.is_plain(value)
            case ast.Call(func=ast.Attribute(value=value, attr=name)) if self.is_plain(value) and not name.startswith("__"):
                root = next((n.id for n in _roots(value)), "")
                # A method of a value that the program gave may compare with an argument; one of its class gets inputs.
                of_class = (root in self.classes or root[:1].isupper()) and (_is_made(value) or name not in _COMPARING)
                is_object = isinstance(value, ast.Name) or of_class
                return not (node.args or node.keywords) or (is_object and self.takes_inputs(node))
        return False

    def is_way(self, given: ast.keyword) -> bool:
        """Whether it says how to sort: backwards, or by a function that holds nothing of what is right."""
        key = given.value.id if isinstance(given.value, ast.Name) else ""
        return given.arg == "reverse" or key in self.keeping | self.names

    def takes_inputs(self, node: ast.Call) -> bool:
        return all(map(self.is_input, [*node.args, *(k.value for k in node.keywords)]))

    def is_input(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return all(map(self.is_input, node.elts))
        return not self.uses(node) or self.is_plain(node)


def _roots(node: ast.AST) -> list[ast.Name]:
    """The name that a chain of calls, attributes and indices begins with."""
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return [node] if isinstance(node, ast.Name) else []


def _is_made(node: ast.AST) -> bool:
    """Whether it is an object that its class has just made: `Stack(1)`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def _is_tolerance(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and math.isfinite(node.value)
