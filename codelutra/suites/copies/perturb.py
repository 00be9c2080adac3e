"""Rows → perturbed rows, in the spirit of test suites for SQL (Zhong et al., 2010.02840) and of constant-aware fuzzing.

    rows are dropped, and cloned with new keys     counts, LIMIT and outer joins move
    columns are shuffled among rows                what goes together by chance goes apart
    links are drawn anew among their parents       groups get other sizes, some of them those that HAVING compares with
    rows are written for what queries ask          some fulfil all conditions of a SELECT over its joins, some just miss one

Keys stay keys, links lead to rows that are there, and NULL comes only where the original has one or a query asks for one.
In every other copy, columns without duplicates have none either: so no order becomes a tie everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codelutra.suites.copies.asks import LARGEST, Asked, Asks, Cell, Condition, neighbours, number
from codelutra.suites.copies.tables import Column, Place, Row, Table, column_of

SMALL = 30  # rows that a smaller table grows to
WRITTEN = 1000  # rows that are written into one table for what queries ask


def perturbed(tables: Mapping[str, Table], asks: Asks, chance: random.Random, *, distinct: bool) -> dict[str, Table]:
    """The same tables with other rows. distinct: columns without duplicates in the original keep none."""
    made = {n: Table(t.name, t.columns, [list(row) for row in t.rows]) for n, t in tables.items()}
    copy = _Copy(made, chance, {n: [_pool(t, i) for i in range(len(t.columns))] for n, t in tables.items()})
    for name, table in made.items():
        if table.rows:
            copy.resize(name)
    for name, table in made.items():
        for i, column in enumerate(table.columns):
            if table.rows and not column.fixed:
                copy.redraw(name, i, column, sorted({k + d for a in asks.selects for k in a.counts for d in (0, 1)}))
    written = copy.write_all(asks)
    meant = {(a.tables[c.alias], c.column) for a in asks.selects for c in a.conditions}
    for name, table in made.items():
        table.rows.sort(key=lambda row: id(row) not in written.get(name, ()))  # stable: what was written comes first
        count = len(written.get(name, ()))
        for i, column in enumerate(table.columns):
            if column.unique and not (column.key and column.parent):
                if distinct or column.key:
                    _told_apart(table.rows, i)
                elif (name, column.name.lower()) not in meant:
                    _told_apart([*table.rows[count:], *table.rows[:count]], i, count)
        copy.drop_doubles(name, tables[name].rows, count)
        chance.shuffle(table.rows)
    copy.tie_up()
    for place in sorted(asks.compared_with_average):
        if chance.random() < 0.5:
            copy.meet_average(place)
    return made


def _pool(table: Table, i: int) -> list[Cell]:
    """The values that a column has in the original."""
    return list(dict.fromkeys(row[i] for row in table.rows if row[i] is not None))


class _Copy:
    """The tables of one copy while they are changed."""

    def __init__(self, tables: dict[str, Table], chance: random.Random, pools: Mapping[str, list[list[Cell]]]) -> None:
        self.tables, self.chance, self.pools = tables, chance, pools
        self.added = dict.fromkeys(tables, 0)

    def resize(self, name: str) -> None:
        """Drop some rows, then clone others."""
        table, chance = self.tables[name], self.chance
        kept = [row for row in table.rows if chance.random() > chance.choice((0.0, 0.1, 0.3))] or table.rows
        before, table.rows = len(table.rows), kept
        if any(column.key and not column.parent and not column.fixed for column in table.columns) or not any(
            column.key for column in table.columns
        ):
            wanted = max(0, SMALL - len(kept)) if before < SMALL else before // 10
            table.rows += [self.clone(name) for _ in range(wanted)]
        else:  # every key is a link: other combinations, of which the double ones are left out when they are written
            table.rows += [list(chance.choice(kept)) for _ in range(max(10, len(kept) // 2))]

    def clone(self, name: str) -> Row:
        """A new row like one of the table's, with a key of its own."""
        table = self.tables[name]
        row = list(self.chance.choice(table.rows))
        self.added[name] += 1
        for i, column in enumerate(table.columns):
            if column.key and not column.parent and not column.fixed:
                row[i] = _fresh(self.pools[name][i], row[i], self.added[name])
        return row

    def redraw(self, name: str, i: int, column: Column, sizes: Sequence[int]) -> None:
        """Change a column of all rows: a link is drawn anew, another column is shuffled and gets some near values."""
        rows, chance = self.tables[name].rows, self.chance
        if column.parent:
            if chance.random() < 0.8:
                parents = [v for row in self.parent_rows(column) if (v := row[self.at(column.parent)]) is not None]
                for row, value in zip(rows, _grouped(parents, sizes, chance, len(rows), column.unique), strict=False):
                    row[i] = value
        elif not column.key:
            if chance.random() < 0.7:
                values = [row[i] for row in rows]
                chance.shuffle(values)
                for row, value in zip(rows, values, strict=True):
                    row[i] = value
            for row in rows:
                if chance.random() < 0.05 and row[i] is not None:
                    row[i] = chance.choice([*neighbours(row[i]), row[i]])
        if column.nulls and not column.key:
            for row in rows:
                row[i] = None if chance.random() < 0.1 else row[i]

    def fulfilled(self, asked: Asked) -> list[tuple[str, Row]]:
        """Rows that fulfil all conditions of a SELECT, as often as its HAVING counts."""
        most = max(asked.counts, default=0)
        times = self.chance.choice([1, *asked.counts, most + 1]) if asked.counts else 1
        found: list[tuple[str, Row]] = []
        for _ in range(max(1, times)):
            kept = dict(found[: len(asked.tables)]) if asked.groups else {}
            grouped = {alias for alias, _ in asked.groups} if len(asked.tables) > 1 else set[str]()
            found += self.written(asked, {a: row for a, row in kept.items() if a in grouped})
            if asked.groups and len(asked.tables) == 1 and kept:
                (alias, column), row = asked.groups[0], found[-1][1]
                self.set(asked, alias, column, row, kept[alias][self.at((asked.tables[alias], column))])
        return found

    def write_all(self, asks: Asks) -> dict[str, set[int]]:
        """Write rows for every SELECT: some that fulfil it, some that just miss one of its conditions.

        Returns the ids of these rows by table.
        """
        written: dict[str, set[int]] = {}
        selects = [a for a in asks.selects if a.conditions or a.joins or a.counts]
        self.chance.shuffle(selects)
        for asked in selects:
            for alias, row in (pair for found in self.near(asked) for pair in found):
                written.setdefault(asked.tables[alias], set()).add(id(row))
        return written

    def near(self, asked: Asked) -> Iterator[list[tuple[str, Row]]]:
        yield self.fulfilled(asked)
        for c in asked.conditions:
            yield self.written(asked, {}, c, c.misses[:1])
            yield self.written(asked, {}, c, c.misses[1:])
            if asked.either:
                yield self.written(asked, {}, c, c.hits, alone=True)
                yield self.written(asked, {}, c, c.misses[:1], alone=True)

    def written(
        self,
        asked: Asked,
        kept: Mapping[str, Row],
        about: Condition | None = None,
        values: Sequence[Cell] = (),
        *,
        alone: bool = False,
    ) -> list[tuple[str, Row]]:
        """A row of each of the SELECT's tables, joined, that fulfils its conditions (if `alone`, misses them all).

        about: a condition whose column gets one of `values` instead.
        """
        rows = dict(kept)
        for alias, name in asked.tables.items():
            if alias not in rows and self.tables[name].rows and self.added[name] < WRITTEN:
                rows[alias] = self.clone(name)
                self.tables[name].rows.append(rows[alias])
        for one, other in asked.joins:
            if one[0] in rows and other[0] in rows:
                self.join(asked, rows, one, other)
        # The condition in question comes last: others may be about the same column.
        for c in (*(c for c in asked.conditions if c is not about), *([about] if about else [])):
            chosen = values if c is about else c.misses if alone else c.hits
            if c.alias in rows and c.alias not in kept and chosen:
                self.set(asked, c.alias, c.column, rows[c.alias], self.chance.choice(chosen))
                if c.over:
                    self.set_group(asked, c, rows[c.alias])
        return list(rows.items())

    def set_group(self, asked: Asked, c: Condition, row: Row) -> None:
        """Give the other rows of a row's group its value, so that their average is it; or 0, so that their sum is."""
        place = next((p for p in asked.groups if p[0] == c.alias), None)
        if place:
            at, i = self.at((asked.tables[c.alias], place[1])), self.at((asked.tables[c.alias], c.column))
            for other in self.tables[asked.tables[c.alias]].rows:
                if other[at] == row[at] and other is not row:
                    other[i] = row[i] if c.over == "avg" else 0

    def meet_average(self, place: Place) -> None:
        """Make one row of a column of whole numbers equal to the average of the column."""
        i, rows = self.at(place), self.tables[place[0]].rows
        column = column_of(self.tables, place)
        numbered = [row for row in rows if isinstance(row[i], int)]
        if column is None or column.key or column.parent or len(numbered) < 3 or len(numbered) < len(rows):
            return
        one, other = self.chance.sample(numbered, 2)
        left = sum(int(row[i] or 0) for row in numbered if row is not one)
        other[i] = int(other[i] or 0) - left % (len(numbered) - 1)
        one[i] = left // (len(numbered) - 1)

    def drop_doubles(self, name: str, original: Sequence[Row], written: int) -> None:
        """Drop rows that differ from an earlier one in their key alone, if the original has none of that kind.

        The first `written` rows are needed: they are told apart by a column without duplicates, where there is one.
        """
        table = self.tables[name]
        plain = [i for i, c in enumerate(table.columns) if not c.key or c.parent]
        telling = next((i for i in plain if table.columns[i].unique and not table.columns[i].parent), None)
        seen, kept = set[tuple[Cell, ...]](), list[Row]()
        if not plain or len({tuple(row[i] for i in plain) for row in original}) < len(original):
            return
        for place, row in enumerate(table.rows):
            content, step = tuple(row[i] for i in plain), 0
            while content in seen and place < written and telling is not None and step < 100:
                step += 1
                row[telling] = _apart(row[telling], step)
                content = tuple(row[i] for i in plain)
            if content not in seen:
                kept.append(row)
            seen.add(content)
        table.rows = kept

    def join(self, asked: Asked, rows: Mapping[str, Row], one: Place, other: Place) -> None:
        """Make two rows meet: the side that is no key takes the other's value."""
        places = [(asked.tables[alias], column) for alias, column in (one, other)]
        columns = [column_of(self.tables, place) for place in places]
        first, second = rows[one[0]], rows[other[0]]
        if columns[0] and columns[1] and columns[0].key and not columns[0].parent:
            second[self.at(places[1])] = first[self.at(places[0])]
        else:
            first[self.at(places[0])] = second[self.at(places[1])]

    def set(self, asked: Asked, alias: str, column: str, row: Row, value: Cell) -> None:
        """Put a value into a row, as the kind of value that the column has. A key keeps its value where it is taken."""
        name = asked.tables[alias]
        i, found = self.at((name, column)), column_of(self.tables, (name, column))
        value = _like(value, self.pools[name][i])
        if found and (not found.key or all(other[i] != value for other in self.tables[name].rows if other is not row)):
            row[i] = value

    def tie_up(self) -> None:
        """Let every link lead to a row that is there."""
        for table in self.tables.values():
            for i, column in enumerate(table.columns):
                if not column.parent or column.fixed:
                    continue
                there = [row[self.at(column.parent)] for row in self.parent_rows(column)]
                known, choices = set(there), [v for v in there if v is not None]
                for row in table.rows:
                    if row[i] is not None and row[i] not in known and choices:
                        row[i] = self.chance.choice(choices)

    def parent_rows(self, column: Column) -> list[Row]:
        assert column.parent
        return self.tables[column.parent[0]].rows

    def at(self, place: Place) -> int:
        return self.tables[place[0]].names.index(place[1])


def _grouped(
    parents: Sequence[Cell], sizes: Sequence[int], chance: random.Random, count: int, unique: bool
) -> Iterator[Cell]:
    """`count` values of the parents, in groups of different sizes; each at most once if `unique`."""
    if not parents or (unique and count > len(parents)):
        return
    order = list(parents)
    chance.shuffle(order)
    left = order[: max(1, round(len(order) * chance.choice((0.4, 0.7, 0.9))))] if not unique else order
    values = list[Cell]()
    while len(values) < count:
        for value in left:
            values += [value] * (1 if unique else chance.choice((1, 1, 2, 3, *sizes)) or 1)
            if len(values) >= count:
                break
    values = values[:count]
    chance.shuffle(values)
    yield from values


def _fresh(pool: Sequence[Cell], like: Cell, nth: int) -> Cell:
    """A key that no row has."""
    numbers = [v for v in pool if isinstance(v, int)]
    if isinstance(like, int) and numbers:
        return max(numbers) + nth if max(numbers) < LARGEST else min(numbers) - nth
    if isinstance(like, float):
        return max(v for v in pool if isinstance(v, int | float)) + nth
    if isinstance(like, str):
        digits = [int(v) for v in pool if isinstance(v, str) and v.isascii() and v.isdigit() and len(v) < 18]
        return str(max(digits) + nth) if digits and like.isdigit() else f"{like}-{nth}"
    return like + nth.to_bytes(4, "big") if isinstance(like, bytes) else like


def _like(value: Cell, pool: Sequence[Cell]) -> Cell:
    """The value as the kind that most values of the column are."""
    texts = sum(isinstance(v, str) for v in pool[:50])
    if isinstance(value, str) and pool and texts * 2 < min(len(pool), 50):
        found = number(value)
        return value if found is None else found
    return str(value) if isinstance(value, int | float) and texts * 2 > min(len(pool), 50) else value


def _told_apart(rows: Sequence[Row], i: int, last: int | None = None) -> None:
    """Change values that occur a second time, by little; if `last`, of the last rows alone."""
    seen = set[Any]()
    for place, row in enumerate(rows):
        value, step = row[i], 0
        while row[i] is not None and row[i] in seen and (last is None or place >= len(rows) - last):
            step += 1
            row[i] = _apart(value, step)
        seen.add(row[i])


def _apart(value: Cell, step: int) -> Cell:
    if isinstance(value, int | float):
        return value + step if abs(value) < LARGEST else step
    return (value or b"") + bytes([step % 256]) if isinstance(value, bytes) else f"{value or ''}{step}"
