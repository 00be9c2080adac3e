"""A world: tables, columns, links and bridges, and how people talk about them. `worlds/*.yaml` declares ten.

`{}` in a phrase takes a value ("from {}"), a comparison ("with {} pages" becomes "with more than 300 pages") or a noun
phrase ("written by {}" becomes "written by authors from Norway").
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import yaml

FOLDER = Path(__file__).parent / "worlds"


@dataclass(frozen=True)
class Label:
    """A text column with few values, the frequent ones first."""

    column: str
    plural: str
    values: tuple[str, ...]
    mods: tuple[str, ...]  # after the noun: "from {}"
    verbs: tuple[str, ...]  # after "which authors": "come from {}"
    before: bool = False  # the bare value may stand before the noun: "fantasy books"


@dataclass(frozen=True)
class Number:
    """A numeric column with values low, low + step, … high."""

    column: str
    noun: str
    low: float
    high: float
    step: float
    mods: tuple[str, ...]
    verbs: tuple[str, ...]
    kind: Literal["count", "amount", "age", "year"]  # chooses the words of comparisons
    most: str = ""  # superlatives of the row, "longest"; "" where there is no natural one
    least: str = ""
    above: tuple[str, ...] = ()  # further ways to say more than {}: "longer than {} pages"
    below: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    name: str
    many: str
    rows: int
    columns: tuple[Label | Number, ...]
    title: str = ""  # the column that names its rows; "" for tables that only connect others
    titles: tuple[str, ...] = ()  # its values, at least `rows` of them

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(c for c in self.columns if isinstance(c, Label))

    @property
    def numbers(self) -> tuple[Number, ...]:
        return tuple(c for c in self.columns if isinstance(c, Number))


@dataclass(frozen=True)
class Link:
    """`child.<parent>_id` points to `parent.id`."""

    child: str
    parent: str
    mods: tuple[str, ...]  # the child by its parent: "written by {}"
    verb: str  # "were written by {}"
    has: tuple[str, str]  # the parent's verb, singular and plural: ("wrote", "wrote"), ("has", "have")
    childless: int = 0  # how many parents have no child

    @property
    def column(self) -> str:
        return f"{self.parent}_id"


@dataclass(frozen=True)
class Bridge:
    """Two tables connected through a third: books, loans, members."""

    through: str
    left: str
    right: str
    mods: tuple[str, ...]  # the left by the right: "borrowed by {}"
    verb: str  # "were borrowed by {}"


@dataclass(frozen=True)
class World:
    name: str
    tables: tuple[Table, ...]
    links: tuple[Link, ...]
    bridges: tuple[Bridge, ...] = ()

    def table(self, name: str) -> Table:
        return next(t for t in self.tables if t.name == name)

    def parents(self, table: str) -> tuple[Link, ...]:
        return tuple(link for link in self.links if link.child == table)

    def columns(self, table: Table) -> list[str]:
        titled = [table.title] if table.title else []
        return ["id", *titled, *(link.column for link in self.parents(table.name)), *(c.column for c in table.columns)]


def world_names() -> list[str]:
    return sorted(p.stem for p in FOLDER.glob("*.yaml"))


def read_world(name: str) -> World:
    raw = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    tables = tuple(_table(table, **fields) for table, fields in raw["tables"].items())
    links = tuple(Link(**_tuples(link)) for link in raw["links"])
    return World(name, tables, links, tuple(Bridge(**_tuples(b)) for b in raw.get("bridges", [])))


def _table(name: str, rows: int, columns: dict[str, Any], titles: dict[str, Any] | None = None, **said: str) -> Table:
    shown = _titles(titles, rows) if titles else ()
    return Table(name, rows=rows, columns=tuple(_column(c, raw) for c, raw in columns.items()), titles=shown, **said)


def _column(name: str, raw: dict[str, Any]) -> Label | Number:
    rest = _tuples({k: v for k, v in raw.items() if k not in ("label", "number")})
    if "label" in raw:
        return Label(name, values=tuple(raw["label"]), **rest)
    return Number(name, **raw["number"], **rest)


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}


def _titles(raw: dict[str, Any], rows: int) -> tuple[str, ...]:
    """`list: [title, …]`, `mix: [pattern, words, words]`, or `people: n`, from the n-th person on."""
    if "people" in raw:
        return _mix("{} {}", FIRST_NAMES, LAST_NAMES)[raw["people"] :][:rows]
    return tuple(raw["list"]) if "list" in raw else _mix(*raw["mix"])


def _mix(pattern: str, firsts: str | list[str], seconds: str | list[str]) -> tuple[str, ...]:
    """Every first word with every second one, stepping through both so that neighbours look different."""
    a, b = (words.split() if isinstance(words, str) else words for words in (firsts, seconds))
    pairs = sorted(product(range(len(a)), range(len(b))), key=lambda p: ((p[1] - p[0]) % len(b), p[0]))
    return tuple(pattern.format(a[i], b[j]) for i, j in pairs)


FIRST_NAMES = "Anna Omar Lucy Ivan Maria Chen Pablo Greta Yusuf Nora Hugo Aisha Felix Ines Kofi Sara Emil Tara Luis Olga"
LAST_NAMES = (
    "Berg Haddad Stone Petrov Silva Wong Moreno Lind Demir Costa Weber Khan Novak Reyes Mensah Olsen Hart Rossi Vega Fox"
)
