"""Conditions, noun phrases and wordings, which the query families are made of. Only `Teller` draws at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from codelutra.suites.starter_sql.build import Rows
from codelutra.suites.starter_sql.declare import Label, Number, Table, World

T = TypeVar("T")


class NothingToAsk(Exception):
    """The world has nothing that a family could ask about."""


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

    def one_of(self, options: Sequence[T]) -> T:
        """As `pick`. Raises NothingToAsk where there are no options."""
        found = self.pick(options or (None,))
        if found is None:
            raise NothingToAsk
        return found

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

    # -- columns, and words for what is asked of them

    def label(self, table: Table) -> Label:
        return self.one_of(table.labels)

    def measure(self, table: Table) -> Number:
        """A number that has a meaningful average."""
        return self.one_of([c for c in table.numbers if c.kind != "year"])

    def ranking(self, table: Table) -> Number:
        """A number that rows have superlatives for."""
        return self.one_of([c for c in table.numbers if c.most])

    def aggregate(self, column: Number) -> tuple[str, str]:
        """An aggregate function of the column, and a word for it."""
        function = self.pick([f for f in words("aggregates") if f != "SUM" or column.kind != "age"])
        return function, self.pick(words("aggregates")[function])

    def end(self, column: Number) -> tuple[str, str]:
        """A superlative of the column, and the order that puts it first."""
        return (column.most, " DESC") if self.rng.random() < 0.6 else (column.least, "")

    def compared(self, kind: str, operator: str, *values: Any) -> str:
        """ "more than 300", "between 1990 and 2000" """
        return self.pick(words("comparisons")[kind][operator]).format(*values)

    # -- conditions

    def condition(self, table: Table, besides: str = "") -> Condition:
        """One on any column but `besides`. Raises NothingToAsk where there is no such column."""
        column = self.one_of([c for c in table.columns if c.column != besides])
        return self._on_label(table, column) if isinstance(column, Label) else self._on_number(table, column)

    def maybe(self, table: Table, besides: str = "", *, chance: float = 1.0) -> Condition | None:
        """A condition with this chance; none where no column is left for one."""
        if chance < 1 and self.rng.random() >= chance:
            return None
        return self.condition(table, besides) if any(c.column != besides for c in table.columns) else None

    def _on_label(self, table: Table, column: Label) -> Condition:
        value = self.pick(column.values)
        kind = self.rng.random()
        if kind < 0.15:
            either = self.pick([v for v in column.values if v != value])
            return _condition(table, column, f"IN ('{value}', '{either}')", f"{value} or {either}")
        if kind < 0.27:
            mods = tuple(_negated(m.format(value)) for m in column.mods if not m.startswith("who "))
            verbs = tuple("are " + m.removeprefix("that are ") for m in mods)
            return Condition(table.name, column.column, f"!= '{value}'", mods, verbs)
        return replace(_condition(table, column, f"= '{value}'", value), before=value if column.before else "")

    def _on_number(self, table: Table, column: Number) -> Condition:
        operator = self.pick((">", "<", ">", "<", ">=", "<=", "BETWEEN", "="))
        if operator == "=" and column.kind == "amount":
            operator = ">="
        quantiles = [(0.1, 0.5), (0.5, 0.9)] if operator == "BETWEEN" else [(0.15, 0.85)]
        values = [self.value(table, column.column, low, high) for low, high in quantiles]
        said = self.compared(column.kind, operator, *values)
        condition = _condition(table, column, f"{operator} {' AND '.join(map(str, values))}", said)
        further = {">": column.above, "<": column.below}.get(operator, ())
        return replace(condition, mods=(*condition.mods, *(m.format(*values) for m in further)))

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
        return " ".join(filter(None, (before.before if before else "", noun, link.join(after))))

    def which(self, table: Table, *conditions: Condition | None) -> str:
        """ "fantasy books have more than 300 pages" """
        said = [c for c in conditions if c]
        return f"{self.noun(table, *said[:-1])} {self.pick(said[-1].verbs)}"


_CLAUSES = ("who", "that")


def _condition(table: Table, column: Label | Number, tail: str, said: str) -> Condition:
    mods, verbs = (tuple(phrase.format(said) for phrase in phrases) for phrases in (column.mods, column.verbs))
    return Condition(table.name, column.column, tail, mods, verbs)


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


def words(table: str) -> Any:
    """A table of `words.yaml`."""
    return _read("words")[table]


@cache
def _read(name: str) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    return raw


# ---- wordings -----------------------------------------------------------------------------------------------------------


def draft(sql: str, *wordings: str, **words: Any) -> Draft:
    """The query with its wordings, in the order of `wordings.yaml`. A word given as a function is drawn anew wherever it
    stands."""
    said = {name: _Anew(word) if callable(word) else word for name, word in words.items()}
    return Draft(sql, tuple(template.format(**said) for name in wordings for template in _read("wordings")[name]))


@dataclass(frozen=True)
class _Anew:
    say: Callable[[], str]

    def __format__(self, spec: str) -> str:
        return self.say()
