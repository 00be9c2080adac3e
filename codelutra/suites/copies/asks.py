"""What a query asks of the rows: constants that columns are compared with, columns that are joined, counts of groups.

Copies of a database are made by these (perturb.py): rows that just fulfil a condition and rows that just miss it. What
cannot be read here is left out; it only makes the copies less telling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

Cell = int | float | str | bytes | None
Names = Mapping[str, Sequence[str]]  # table → columns, all in lower case
LARGEST = 2**62  # numbers up to here have neighbours that SQLite can hold


@dataclass(frozen=True)
class Condition:
    """A comparison of a column of the table `alias`: values that fulfil it, values near them that do not."""

    alias: str
    column: str
    hits: tuple[Cell, ...]
    misses: tuple[Cell, ...]
    over: str = ""  # "avg", "sum": it is about that of a group


@dataclass(frozen=True)
class Asked:
    """One SELECT: its tables by alias; what it compares, joins and groups; the counts that HAVING compares with."""

    tables: Mapping[str, str]
    conditions: tuple[Condition, ...] = ()
    joins: tuple[tuple[tuple[str, str], tuple[str, str]], ...] = ()  # ((alias, column), (alias, column))
    groups: tuple[tuple[str, str], ...] = ()
    counts: tuple[int, ...] = ()
    either: bool = False  # it says OR


@dataclass
class Asks:
    """All SELECTs of many queries, and the pairs of (table, column) that are joined or looked up in each other.

    Two SELECTs whose rows meet (INTERSECT, EXCEPT, UNION, a look-up by IN) are there a further time as one.
    """

    selects: list[Asked] = field(default_factory=list)
    links: set[frozenset[tuple[str, str]]] = field(default_factory=set)
    compared_with_null: set[tuple[str, str]] = field(default_factory=set)
    compared_with_average: set[tuple[str, str]] = field(default_factory=set)


def read_asks(queries: Sequence[str], names: Names) -> Asks:
    """What the queries ask of a database with these tables and columns. A query that sqlglot cannot read asks nothing."""
    asks = Asks()
    for query in queries:
        try:
            scopes = traverse_scope(sqlglot.parse_one(query, read="sqlite"))
        except (SqlglotError, RecursionError, ValueError):
            continue
        read = {id(scope.expression): _read(scope, names, asks) for scope in scopes}
        for scope in scopes:
            asks.selects += _together(scope, read)
    asks.selects = [a for a in dict.fromkeys(asks.selects) if a.tables]
    return asks


Read = tuple["_Here", Asked]


def _read(scope: Scope, names: Names, asks: Asks) -> Read:
    tables = {a.lower(): s.name.lower() for a, s in scope.sources.items() if isinstance(s, exp.Table)}
    tables = {alias: table for alias, table in tables.items() if table in names}
    here = _Here(tables, names)
    conditions, joins, counts = list[Condition](), list[Any](), list[int]()
    for node in scope.find_all(exp.Predicate):
        both = [here.place(side) for side in (node.this, node.args.get("expression"))]
        if isinstance(node, exp.EQ) and both[0] and both[1]:
            joins.append((both[0], both[1]))
            asks.links.add(frozenset({here.named(both[0]), here.named(both[1])}))
        elif isinstance(node, exp.Is) and both[0]:
            asks.compared_with_null.add(here.named(both[0]))
        elif isinstance(node, exp.Binary) and both[0] and (average := _average(node.expression, names)):
            asks.compared_with_average.add(average)
        else:
            conditions += here.conditions(node)
            counts += here.counts(node)
    group = scope.expression.args.get("group") if isinstance(scope.expression, exp.Select) else None
    groups = [p for g in (group.expressions if group else ()) if (p := here.place(g))]
    either = scope.find(exp.Or) is not None
    asked = Asked(_Frozen(tables), tuple(conditions), tuple(joins), tuple(groups), tuple(counts), either)
    asks.selects.append(asked)
    for node in scope.find_all(exp.In):
        place, inner = here.place(node.this), _looked_up(node, names)
        if place and inner:
            asks.links.add(frozenset({here.named(place), inner}))
    return here, asked


def _together(scope: Scope, read: Mapping[int, Read]) -> Iterator[Asked]:
    """The SELECTs of this scope whose rows meet, two as one."""
    if isinstance(scope.expression, exp.SetOperation):
        sides = [side.unnest() for side in (scope.expression.left, scope.expression.right)]
        if all(id(side) in read and isinstance(side, exp.Select) for side in sides):
            yield from _met([(*read[id(side)], side.expressions[0]) for side in sides])
    for node in scope.find_all(exp.In):
        inner = node.args["query"].unnest() if node.args.get("query") is not None else None
        if isinstance(inner, exp.Select) and id(inner) in read:
            yield from _met([(*read[id(scope.expression)], node.this), (*read[id(inner)], inner.expressions[0])])


def _met(sides: Sequence[tuple[_Here, Asked, Any]]) -> Iterator[Asked]:
    places = [here.place(column.unalias()) for here, _, column in sides]
    if not places[0] or not places[1]:
        return
    one, other = (_renamed(asked, f"{i} ") for i, (_, asked, _) in enumerate(sides))
    meeting = ((f"0 {places[0][0]}", places[0][1]), (f"1 {places[1][0]}", places[1][1]))
    yield Asked(
        _Frozen({**one.tables, **other.tables}),
        one.conditions + other.conditions,
        (*one.joins, *other.joins, meeting),
        one.groups + other.groups,
        one.counts + other.counts,
    )


def _renamed(asked: Asked, mark: str) -> Asked:
    """The same with the mark before every alias."""
    return replace(
        asked,
        tables={mark + alias: table for alias, table in asked.tables.items()},
        conditions=tuple(replace(c, alias=mark + c.alias) for c in asked.conditions),
        joins=tuple(((mark + a, c), (mark + b, d)) for (a, c), (b, d) in asked.joins),
        groups=tuple((mark + a, c) for a, c in asked.groups),
    )


def _average(node: exp.Expr, names: Names) -> tuple[str, str] | None:
    """(table, column) where the node is (SELECT avg(column) FROM table)."""
    select = node.unnest() if isinstance(node, exp.Subquery) else None
    if not isinstance(select, exp.Select) or len(select.expressions) != 1 or select.args.get("where"):
        return None
    average, table = select.expressions[0], select.find(exp.Table)
    if not isinstance(average, exp.Avg) or not isinstance(average.this, exp.Column) or table is None:
        return None
    place = table.name.lower(), average.this.name.lower()
    return place if place[1] in names.get(place[0], ()) else None


class _Frozen(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


@dataclass(frozen=True)
class _Here:
    """The names that one SELECT sees."""

    tables: Mapping[str, str]
    names: Names

    def place(self, node: Any) -> tuple[str, str] | None:
        """(alias, column) where the node is a column of a table of this SELECT."""
        if not isinstance(node, exp.Column):
            return None
        name, table = node.name.lower(), node.table.lower()
        if table:
            return (table, name) if name in self.names.get(self.tables.get(table, ""), ()) else None
        return next(((alias, name) for alias, t in self.tables.items() if name in self.names[t]), None)

    def named(self, place: tuple[str, str]) -> tuple[str, str]:
        return self.tables[place[0]], place[1]

    def constant(self, node: Any) -> Cell:
        """The value of a literal; of "France" too, where no column has that name. None where it is none."""
        if isinstance(node, exp.Neg):
            value = self.constant(node.this)
            return -value if isinstance(value, int | float) else None
        if isinstance(node, exp.Column) and not node.table and node.this.args.get("quoted") and not self.place(node):
            return str(node.name)
        if not isinstance(node, exp.Literal):
            return None
        return str(node.this) if node.is_string else number(str(node.this))

    def conditions(self, node: exp.Predicate) -> Iterator[Condition]:
        if isinstance(node, exp.In | exp.Between):
            place = self.place(node.this)
            given = node.expressions if isinstance(node, exp.In) else [node.args["low"], node.args["high"]]
            values = [v for v in map(self.constant, given) if v is not None]
            if not place or not values:
                return
            near = [n for v in values for n in neighbours(v)]
            yield Condition(*place, tuple(values), tuple(n for n in near if n not in values))
        elif isinstance(node, exp.Binary):
            for column, other, turned in ((node.this, node.expression, False), (node.expression, node.this, True)):
                place, value = self.place(_inner(column)), self.constant(other)
                if place and value is not None:
                    over = "sum" if isinstance(column, exp.Sum) else "avg" if isinstance(column, exp.AggFunc) else ""
                    yield Condition(*place, *_sides(type(node), value, turned), over)

    def counts(self, node: exp.Predicate) -> Iterator[int]:
        """What a number of rows is compared with."""
        if isinstance(node, exp.Binary) and any(isinstance(n, exp.Count) for n in (node.this, node.expression)):
            for side in (node.this, node.expression):
                value = self.constant(side)
                if isinstance(value, int) and 0 <= value <= 30:
                    yield value


def _inner(node: Any) -> Any:
    """The column inside sum(), avg(), lower() and the like; a condition on those is met most easily near the constant."""
    if isinstance(node, exp.Func) and not isinstance(node, exp.Count):
        columns = list(node.find_all(exp.Column))
        return columns[0] if len(columns) == 1 else node
    return node


def _looked_up(node: exp.In, names: Names) -> tuple[str, str] | None:
    """(table, column) that a subquery behind IN gives."""
    query = node.args.get("query")
    select = query.find(exp.Select) if query is not None else None
    if select is None or not select.expressions:
        return None
    column = select.expressions[0].find(exp.Column)
    found = select.find(exp.Table) if column is not None else None
    table = found.name.lower() if found is not None else ""
    return (table, column.name.lower()) if column is not None and column.name.lower() in names.get(table, ()) else None


def _sides(kind: type, value: Cell, turned: bool) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """Values that fulfil `column kind value` and values that miss it, the nearest first."""
    near = tuple(neighbours(value))
    if kind is exp.NEQ:
        return near, (value,)
    if kind in (exp.Like, exp.ILike, exp.Glob):
        return _fitting(str(value)), tuple(neighbours(_fitting(str(value))[0]))
    if kind not in (exp.GT, exp.GTE, exp.LT, exp.LTE) or value is None or isinstance(value, bytes):
        return (value,), near
    more, less = (tuple(n for n in near if _after(n, value) is way) for way in (True, False))
    upward = (kind in (exp.GT, exp.GTE)) is not turned
    hits, misses = (more, less) if upward else (less, more)
    equal = (value,)
    return (equal + hits, misses) if kind in (exp.GTE, exp.LTE) else (hits, equal + misses)


def _after(one: Cell, other: Cell) -> bool:
    return one > other  # type: ignore[operator]  # both are numbers, or both are texts


def _fitting(pattern: str) -> tuple[Cell, ...]:
    """Texts that a LIKE pattern takes."""
    return tuple(pattern.replace("_", "a").replace("*", "%").replace("%", filling) for filling in ("", "xy"))


def neighbours(value: Cell) -> Iterator[Cell]:
    """Values so near to one that a slightly wrong condition takes them for it."""
    if isinstance(value, int) and abs(value) < LARGEST:
        yield from (value + 1, value - 1)
    elif isinstance(value, float) and abs(value) < 1e15:
        yield from (value + 1, value - 1, round(value * 1.01 + 0.01, 6), round(value * 0.99 - 0.01, 6))
    elif isinstance(value, str):
        if isinstance(found := number(value), int) and str(found) == value and abs(found) < LARGEST:
            yield from (str(found + 1), str(found - 1))  # as an identifier, or a year
            return
        if value and value[-1].isdigit():  # a date, a code
            yield from (value[:-1] + str((int(value[-1]) + step) % 10) for step in (1, 9) if value[-1] in "0123456789")
        yield from (v for v in dict.fromkeys((f"{value}x", value.swapcase(), value[:-1])) if v != value)


def number(text: str) -> int | float | None:
    """The number that a text writes, or None."""
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        return found if abs(found) < 1e300 else None
    return None
