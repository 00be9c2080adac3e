"""Queries with one thing changed, to measure what a suite's judging tells apart. Some of them mean the same as before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

_BOUNDARY: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.GTE, exp.GTE: exp.GT, exp.LT: exp.LTE, exp.LTE: exp.LT}
_AGGREGATE: dict[type[exp.Expr], type[exp.Expr]] = {exp.Max: exp.Min, exp.Min: exp.Max, exp.Sum: exp.Avg, exp.Avg: exp.Sum}


def mutants(query: str) -> Iterator[tuple[str, str]]:
    """(kind, query) for every change that the query has a place for, all of them different texts."""
    try:
        tree = sqlglot.parse_one(query, read="sqlite")
        seen = {_text(tree)}
        count = len(list(tree.walk()))
        for place in range(count):
            for kind, change in _CHANGES:
                changed = tree.copy()
                node = next(n for i, n in enumerate(changed.walk()) if i == place)
                for variant in change(node):
                    if variant and (text := _text(changed)) not in seen:
                        seen.add(text)
                        yield kind, text
    except (SqlglotError, RecursionError, ValueError):
        return


def rendered(query: str) -> str:
    """The same query as sqlglot writes it; "" where it cannot read it. A control: it must stay right."""
    try:
        return _text(sqlglot.parse_one(query, read="sqlite"))
    except (SqlglotError, RecursionError, ValueError):
        return ""


def turned(query: str) -> str:
    """The same query with the sides of its inner joins exchanged; "" where it has none. A control: it must stay right."""
    try:
        tree = sqlglot.parse_one(query, read="sqlite")
    except (SqlglotError, RecursionError, ValueError):
        return ""
    changed = False
    for select in tree.find_all(exp.Select):
        source, joins = select.args.get("from_") or select.args.get("from"), select.args.get("joins") or []
        if source is None or len(joins) != 1 or select.find(exp.Star) in select.expressions:
            continue
        join = joins[0]
        if not join.args.get("on") or join.side or join.kind not in ("", "INNER"):
            continue
        first, second = source.this.copy(), join.this.copy()
        source.set("this", second)
        join.set("this", first)
        changed = True
    return _text(tree) if changed else ""


def _text(tree: exp.Expr) -> str:
    return str(tree.sql(dialect="sqlite"))


# Each takes a node of a copy of the tree, changes the tree, and yields True where it did.


def _condition(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.And):
        node.replace(node.expression)  # the other half stays when its own place is visited
        yield True


def _where(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.Where) and not isinstance(node.this, exp.And):
        node.pop()
        yield True


def _other_condition(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.And):
        node.replace(node.this)
        yield True


def _boundary(node: exp.Expr) -> Iterator[bool]:
    if type(node) in _BOUNDARY:
        node.replace(_BOUNDARY[type(node)](this=node.this, expression=node.expression))
        yield True


def _constant(node: exp.Expr) -> Iterator[bool]:
    if not isinstance(node, exp.Literal) or isinstance(node.parent, exp.Limit | exp.Offset | exp.Ordered):
        return
    if node.is_string:
        node.replace(exp.Literal.string(f"{node.this}x"))
        yield True
    elif node.this.isdigit():
        node.replace(exp.Literal.number(int(node.this) + 1))
        yield True


def _having(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.Having):
        node.pop()
        yield True


def _distinct(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.Select) and node.args.get("distinct"):
        node.set("distinct", None)
        yield True
    elif isinstance(node, exp.Distinct) and isinstance(node.parent, exp.Count) and len(node.expressions) == 1:
        node.replace(node.expressions[0])
        yield True


def _order(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.Order):
        node.pop()
        yield True


def _limit(node: exp.Expr) -> Iterator[bool]:
    if isinstance(node, exp.Limit):
        node.pop()
        yield True


def _aggregate(node: exp.Expr) -> Iterator[bool]:
    if type(node) in _AGGREGATE:
        node.replace(_AGGREGATE[type(node)](this=node.this))
        yield True


_CHANGES: tuple[tuple[str, Callable[[exp.Expr], Iterator[bool]]], ...] = (
    ("condition dropped", _condition),
    ("condition dropped", _other_condition),
    ("WHERE dropped", _where),
    ("boundary moved", _boundary),
    ("constant changed", _constant),
    ("HAVING dropped", _having),
    ("DISTINCT dropped", _distinct),
    ("ORDER BY dropped", _order),
    ("LIMIT dropped", _limit),
    ("aggregate changed", _aggregate),
)
