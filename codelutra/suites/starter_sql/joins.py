"""Families of questions about linked tables, as in `single`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from codelutra.suites.starter_sql.declare import Link, Table
from codelutra.suites.starter_sql.tell import Condition, Draft, Teller, a, draft, plural, where


@dataclass(frozen=True)
class Joined:
    link: Link
    child: Table
    parent: Table

    @property
    def sql(self) -> str:
        return f"{self.child.name} JOIN {self.parent.name} ON {self.parent.name}.id = {self.child.name}.{self.link.column}"

    @property
    def title(self) -> str:
        """The parent's title, with its table."""
        return f"{self.parent.name}.{self.parent.title}"

    def draft(self, sql: str, *wordings: str, **words: Any) -> Draft:
        return draft(sql, *wordings, link=self.link, child=self.child, parent=self.parent, **words)


def _join(tell: Teller, links: Sequence[Link] | None = None) -> Joined:
    """One of the links, of all links of the world where none are given. Raises NothingToAsk."""
    link = tell.one_of(tell.world.links if links is None else links)
    return Joined(link, tell.world.table(link.child), tell.world.table(link.parent))


def _titled(tell: Teller) -> list[Link]:
    """The links whose child has titles."""
    return [link for link in tell.world.links if tell.world.table(link.child).title]


def _parent(tell: Teller, j: Joined) -> tuple[Condition, str]:
    """A condition on the parent and how to call it: by its title or as a kind."""
    if tell.rng.random() < 0.45:
        title = tell.title(j.parent)
        return Condition(j.parent.name, j.parent.title, f"= '{title}'", (), ()), title
    one = tell.condition(j.parent)
    return one, tell.noun(j.parent, one)


def _child_noun(tell: Teller, j: Joined, called: str, own: Condition | None = None) -> str:
    """The children of a parent that is `called` so, with a condition of their own."""
    before = own.before if own else ""
    after = tell.pick(own.mods) if own and not before else ""
    link = "and" if after and called.count(" ") > 2 else ""
    return " ".join(filter(None, (before, j.child.many, tell.pick(j.link.mods).format(called), link, after)))


def joined(tell: Teller) -> Draft:
    j = _join(tell, _titled(tell))
    condition, called = _parent(tell, j)
    own = tell.maybe(j.child, chance=0.35) if condition.column == j.parent.title else None
    noun = _child_noun(tell, j, called, own)
    sql = f"SELECT {j.child.name}.{j.child.title} FROM {j.sql}{where(condition, own, joined=True)}"
    wordings = ("of_all",) if own else ("of_all", "joined")
    return j.draft(sql, *wordings, titles=plural(j.child.title), nouns=noun, verb=j.link.verb.format(called))


def joined_both(tell: Teller) -> Draft:
    j = _join(tell, _titled(tell))
    one = tell.condition(j.child)
    sql = f"SELECT {j.child.name}.{j.child.title}, {j.title} FROM {j.sql}{where(one, joined=True)}"
    return j.draft(sql, "joined_both", noun=tell.noun(j.child, one))


def joined_count(tell: Teller) -> Draft:
    j = _join(tell)
    condition, called = _parent(tell, j)
    sql = f"SELECT COUNT(*) FROM {j.sql}{where(condition, joined=True)}"
    return j.draft(sql, "joined_count", noun=_child_noun(tell, j, called), verb=j.link.verb.format(called))


def joined_aggregate(tell: Teller) -> Draft:
    j = _join(tell)
    condition, called = _parent(tell, j)
    column = tell.measure(j.child)
    function, word = tell.aggregate(column)
    sql = f"SELECT {function}({j.child.name}.{column.column}) FROM {j.sql}{where(condition, joined=True)}"
    return j.draft(sql, "joined_aggregate", word=word, noun=_child_noun(tell, j, called), column=column)


def per_parent(tell: Teller) -> Draft:
    j = _join(tell)
    one = tell.maybe(j.child, chance=0.5)
    sql = f"SELECT {j.title}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {j.title}"
    return j.draft(sql, "per_parent", noun=tell.noun(j.child, one))


def parent_having(tell: Teller) -> Draft:
    j = _join(tell)
    op = tell.pick((">", ">="))
    n = tell.rng.randint(2, max(3, 2 * j.child.rows // j.parent.rows))
    sql = f"SELECT {j.title} FROM {j.sql} GROUP BY {j.title} HAVING COUNT(*) {op} {n}"
    return j.draft(sql, "parent_having", titles=plural(j.parent.title), count=tell.compared("count", op, n))


def parent_most(tell: Teller) -> Draft:
    j = _join(tell)
    one = tell.maybe(j.child, chance=0.6)
    sql = f"SELECT {j.title} FROM {j.sql}{where(one, joined=True)} GROUP BY {j.title} ORDER BY COUNT(*) DESC LIMIT 1"
    return j.draft(sql, "parent_most", noun=tell.noun(j.child, one))


def extreme_childs_parent(tell: Teller) -> Draft:
    j = _join(tell)
    column = tell.ranking(j.child)
    one = tell.maybe(j.child, besides=column.column, chance=0.5)
    word, order = tell.end(column)
    by = f"{j.child.name}.{column.column}{order}"
    sql = f"SELECT {j.title} FROM {j.sql}{where(one, joined=True)} ORDER BY {by} LIMIT 1"
    return j.draft(sql, "extreme_childs_parent", noun=f"{word} {tell.noun(j.child, one, one=True)}")


def grouped_by_parent(tell: Teller) -> Draft:
    j = _join(tell)
    label = tell.label(j.parent)
    one = tell.maybe(j.child, chance=0.5)
    by = f"{j.parent.name}.{label.column}"
    sql = f"SELECT {by}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {by}"
    return j.draft(sql, "grouped_by_parent", label=label, noun=tell.noun(j.child, one))


def childless(tell: Teller) -> Draft:
    j = _join(tell, [link for link in tell.world.links if link.childless])
    one = tell.maybe(j.child, chance=0.7)
    inner = f"SELECT {j.link.column} FROM {j.child.name}{where(one)}"
    sql = f"SELECT {j.parent.title} FROM {j.parent.name} WHERE id NOT IN ({inner})"
    return j.draft(sql, "childless", titles=plural(j.parent.title), noun=tell.noun(j.child, one))


def having_child(tell: Teller) -> Draft:
    j = _join(tell)
    one = tell.condition(j.child)
    inner = f"SELECT {j.link.column} FROM {j.child.name}{where(one)}"
    sql = f"SELECT {j.parent.title} FROM {j.parent.name} WHERE id IN ({inner})"
    return j.draft(sql, "having_child", titles=plural(j.parent.title), noun=a(tell.noun(j.child, one, one=True)))


def bridged(tell: Teller) -> Draft:
    bridge = tell.one_of(tell.world.bridges)
    left, right = tell.world.table(bridge.left), tell.world.table(bridge.right)
    title = tell.title(right)
    join = f"{bridge.through} JOIN {right.name} ON {right.name}.id = {right.name}_id"
    inner = f"SELECT {left.name}_id FROM {join} WHERE {right.title} = '{title}'"
    sql = f"SELECT {left.title} FROM {left.name} WHERE id IN ({inner})"
    nouns, verb = f"{left.many} {tell.pick(bridge.mods).format(title)}", bridge.verb.format(title)
    return draft(sql, "of_all", "bridged", left=left, titles=plural(left.title), nouns=nouns, verb=verb)
