"""Conditions, noun phrases and wordings, which the query families are made of. Only `Teller` draws at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from codelutra.suites.starter_sql.build import Rows
from codelutra.suites.starter_sql.declare import Label, Number, Table, World

T = TypeVar("T")

COMPARED: dict[str, dict[str, tuple[str, ...]]] = {
    "count": {
        ">": ("more than {}", "over {}"),
        ">=": ("at least {}", "{} or more"),
        "<": ("fewer than {}", "under {}"),
        "<=": ("at most {}", "no more than {}"),
        "=": ("exactly {}",),
        "BETWEEN": ("between {} and {}",),
    },
    "amount": {
        ">": ("more than {}", "over {}"),
        ">=": ("at least {}",),
        "<": ("less than {}", "under {}"),
        "<=": ("at most {}", "no more than {}"),
        "=": ("exactly {}",),
        "BETWEEN": ("between {} and {}",),
    },
    "age": {
        ">": ("over {}",),
        ">=": ("at least {}",),
        "<": ("under {}",),
        "<=": ("at most {}",),
        "=": ("exactly {}",),
        "BETWEEN": ("between {} and {}",),
    },
    "year": {
        ">": ("after {}",),
        ">=": ("in {} or later",),
        "<": ("before {}",),
        "<=": ("in {} or earlier",),
        "=": ("in {}",),
        "BETWEEN": ("between {} and {}", "from {} to {}"),
    },
}
AGGREGATES = {"AVG": ("average", "mean"), "MAX": ("highest", "maximum"), "MIN": ("lowest", "minimum"), "SUM": ("total",)}
NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Draft:
    sql: str
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """`table.column tail`, and how to say it."""

    table: str
    column: str
    tail: str
    mods: tuple[str, ...]  # after the noun
    verbs: tuple[str, ...]  # after "which authors"
    before: str = ""  # before the noun

    def sql(self, joined: bool = False) -> str:
        return f"{self.table}.{self.column} {self.tail}" if joined else f"{self.column} {self.tail}"


class Teller:
    """Draws tables, columns, values and words."""

    def __init__(self, world: World, rows: Rows, seed: str) -> None:
        self.world, self.rows, self.rng = world, rows, random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def titled(self) -> Table:
        return self.pick([t for t in self.world.tables if t.title])

    def any_table(self) -> Table:
        return self.pick(self.world.tables)

    def value(self, table: Table, column: str, low: float = 0.0, high: float = 1.0) -> Any:
        """A value that occurs, from between two quantiles: thresholds that nothing lies on cannot tell > from >=."""
        found = sorted(row[column] for row in self.rows[table.name])
        return found[self.rng.randint(int(low * (len(found) - 1)), int(high * (len(found) - 1)))]

    def title(self, table: Table) -> str:
        return str(self.value(table, table.title))

    # -- conditions

    def condition(self, table: Table, besides: str = "") -> Condition | None:
        """One on any column but `besides`."""
        columns = [c for c in table.columns if c.column != besides]
        if not columns:
            return None
        column = self.pick(columns)
        return self.label(table, column) if isinstance(column, Label) else self.number(table, column)

    def label(self, table: Table, column: Label) -> Condition:
        value = self.pick(column.values)
        kind = self.rng.random()
        if kind < 0.15:
            others = [v for v in column.values if v != value]
            either = self.pick(others)
            return self._say(table, column, f"IN ('{value}', '{either}')", f"{value} or {either}")
        if kind < 0.27:
            mods = tuple(_negated(m.format(value)) for m in column.mods if not m.startswith("who "))
            verbs = tuple("are " + m.removeprefix("that are ") for m in mods)
            return Condition(table.name, column.column, f"!= '{value}'", mods, verbs)
        said = self._say(table, column, f"= '{value}'", value)
        before = value if column.before else ""
        return Condition(table.name, column.column, said.tail, said.mods, said.verbs, before)

    def number(
        self, table: Table, column: Number, operators: Sequence[str] = (">", "<", ">", "<", ">=", "<=", "BETWEEN", "=")
    ) -> Condition:
        op = self.pick(operators)
        if op == "=" and column.kind == "amount":
            op = ">="
        if op == "BETWEEN":
            low, high = self.value(table, column.column, 0.1, 0.5), self.value(table, column.column, 0.5, 0.9)
            tail, said = f"BETWEEN {low} AND {high}", self.pick(COMPARED[column.kind][op]).format(low, high)
        else:
            value = self.value(table, column.column, 0.15, 0.85)
            tail, said = f"{op} {value}", self.pick(COMPARED[column.kind][op]).format(value)
        condition = self._say(table, column, tail, said)
        more = {">": column.above, "<": column.below}.get(op, ())
        return Condition(
            table.name, column.column, tail, (*condition.mods, *(m.format(value) for m in more)), condition.verbs
        )

    @staticmethod
    def _say(table: Table, column: Label | Number, tail: str, said: str) -> Condition:
        mods, verbs = (tuple(p.format(said) for p in phrases) for phrases in (column.mods, column.verbs))
        return Condition(table.name, column.column, tail, mods, verbs)

    # -- noun phrases

    def noun(self, table: Table, *conditions: Condition | None, one: bool = False) -> str:
        """ "fantasy books with more than 300 pages" """
        said = [c for c in conditions if c]
        before = next((c for c in said if c.before and (not c.mods or self.rng.random() < 0.6)), None)
        after = [self.pick(c.mods) for c in said if c is not before]
        # A clause ("who …", "that are …") comes last, or what follows would belong to it.
        after.sort(key=lambda m: m.split()[0] in _CLAUSES)
        if one:
            after = [_singular(m) for m in after]
        noun = table.name if one else table.many
        link = " and " if sum(m.split()[0] in _CLAUSES for m in after) > 1 else " "
        return " ".join([*([before.before] if before else []), noun, *([link.join(after)] if after else [])])

    def which(self, table: Table, *conditions: Condition | None) -> str:
        """ "fantasy books have more than 300 pages" """
        said = [c for c in conditions if c]
        return f"{self.noun(table, *said[:-1])} {self.pick(said[-1].verbs)}"


_CLAUSES = ("who", "that")


def _singular(mod: str) -> str:
    return mod.replace("that are ", "that is ").replace("who play ", "who plays ")


def _negated(mod: str) -> str:
    return mod.replace("that are ", "that are not ") if mod.startswith("that are ") else f"not {mod}"


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(noun: str) -> str:
    return noun[:-1] + "ies" if noun.endswith("y") else noun + "s"


def where(*conditions: Condition | None, joined: bool = False) -> str:
    said = [c.sql(joined) for c in conditions if c]
    return f" WHERE {' AND '.join(said)}" if said else ""


# ---- wordings -----------------------------------------------------------------------------------------------------------


def draft(sql: str, wordings: Sequence[str], **words: Any) -> Draft:
    """The query with its wordings, in the order of `wordings.yaml`. A word given as a function is drawn anew wherever it
    stands."""
    said = {name: _Anew(word) if callable(word) else word for name, word in words.items()}
    return Draft(sql, tuple(template.format(**said) for name in wordings for template in _templates()[name]))


@cache
def _templates() -> dict[str, list[str]]:
    templates: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
    return templates


@dataclass(frozen=True)
class _Anew:
    say: Callable[[], str]

    def __format__(self, spec: str) -> str:
        return self.say()
