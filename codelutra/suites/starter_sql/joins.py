"""Families of questions about linked tables, as in `single`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codelutra.suites.starter_sql.declare import Link, Table
from codelutra.suites.starter_sql.tell import AGGREGATES, COMPARED, Condition, Draft, Teller, a, draft, plural, where


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
        return draft(sql, wordings, link=self.link, child=self.child, parent=self.parent, **words)


def _join(tell: Teller, child_titled: bool = False) -> Joined | None:
    links = [k for k in tell.world.links if not child_titled or tell.world.table(k.child).title]
    if not links:
        return None
    link = tell.pick(links)
    return Joined(link, tell.world.table(link.child), tell.world.table(link.parent))


def _parent(tell: Teller, j: Joined) -> tuple[Condition, str] | None:
    """A condition on the parent and how to call it: by its title or as a kind."""
    if tell.rng.random() < 0.45:
        title = tell.title(j.parent)
        return Condition(j.parent.name, j.parent.title, f"= '{title}'", (), ()), title
    one = tell.condition(j.parent)
    return (one, tell.noun(j.parent, one)) if one else None


def _child_noun(tell: Teller, j: Joined, called: str, *conditions: Condition | None) -> str:
    said = [c for c in conditions if c]
    before = next((c for c in said if c.before), None)
    after = [tell.pick(c.mods) for c in said if c is not before]
    head = f"{before.before} {j.child.many}" if before else j.child.many
    return " ".join(
        [head, tell.pick(j.link.mods).format(called), *(("and", *after) if after and called.count(" ") > 2 else after)]
    )


def joined(tell: Teller) -> Draft | None:
    j = _join(tell, child_titled=True)
    found = j and _parent(tell, j)
    if not j or not found:
        return None
    condition, called = found
    own = tell.condition(j.child) if condition.column == j.parent.title and tell.rng.random() < 0.35 else None
    noun = _child_noun(tell, j, called, own)
    sql = f"SELECT {j.child.name}.{j.child.title} FROM {j.sql}{where(condition, own, joined=True)}"
    wordings = ("of_all",) if own else ("of_all", "joined")
    return j.draft(sql, *wordings, titles=plural(j.child.title), nouns=noun, verb=j.link.verb.format(called))


def joined_both(tell: Teller) -> Draft | None:
    j = _join(tell, child_titled=True)
    one = j and tell.condition(j.child)
    if not j or not one:
        return None
    sql = f"SELECT {j.child.name}.{j.child.title}, {j.title} FROM {j.sql}{where(one, joined=True)}"
    return j.draft(sql, "joined_both", noun=tell.noun(j.child, one))


def joined_count(tell: Teller) -> Draft | None:
    j = _join(tell)
    found = j and _parent(tell, j)
    if not j or not found:
        return None
    condition, called = found
    sql = f"SELECT COUNT(*) FROM {j.sql}{where(condition, joined=True)}"
    return j.draft(sql, "joined_count", noun=_child_noun(tell, j, called), verb=j.link.verb.format(called))


def joined_aggregate(tell: Teller) -> Draft | None:
    j = _join(tell)
    found = j and _parent(tell, j)
    column = j and tell.pick([c for c in j.child.numbers if c.kind != "year"] or [None])
    if not j or not found or not column:
        return None
    condition, called = found
    function = tell.pick(tuple(AGGREGATES) if column.kind != "age" else ("AVG", "MAX", "MIN"))
    word, noun = tell.pick(AGGREGATES[function]), _child_noun(tell, j, called)
    sql = f"SELECT {function}({j.child.name}.{column.column}) FROM {j.sql}{where(condition, joined=True)}"
    return j.draft(sql, "joined_aggregate", word=word, noun=noun, column=column)


def per_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    one = tell.condition(j.child) if tell.rng.random() < 0.5 else None
    sql = f"SELECT {j.title}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {j.title}"
    return j.draft(sql, "per_parent", noun=tell.noun(j.child, one))


def parent_having(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    op = tell.pick((">", ">="))
    n = tell.rng.randint(2, max(3, 2 * j.child.rows // j.parent.rows))
    sql = f"SELECT {j.title} FROM {j.sql} GROUP BY {j.title} HAVING COUNT(*) {op} {n}"
    count = tell.pick(COMPARED["count"][op]).format(n)
    return j.draft(sql, "parent_having", titles=plural(j.parent.title), count=count)


def parent_most(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    one = tell.condition(j.child) if tell.rng.random() < 0.6 else None
    sql = f"SELECT {j.title} FROM {j.sql}{where(one, joined=True)} GROUP BY {j.title} ORDER BY COUNT(*) DESC LIMIT 1"
    return j.draft(sql, "parent_most", noun=tell.noun(j.child, one))


def extreme_childs_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    column = j and tell.pick([c for c in j.child.numbers if c.most] or [None])
    if not j or not column:
        return None
    one = tell.condition(j.child, besides=column.column) if tell.rng.random() < 0.5 else None
    word, order = (column.most, " DESC") if tell.rng.random() < 0.6 else (column.least, "")
    by = f"{j.child.name}.{column.column}{order}"
    sql = f"SELECT {j.title} FROM {j.sql}{where(one, joined=True)} ORDER BY {by} LIMIT 1"
    return j.draft(sql, "extreme_childs_parent", noun=f"{word} {tell.noun(j.child, one, one=True)}")


def grouped_by_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    label = j and tell.pick(j.parent.labels or (None,))
    if not j or not label:
        return None
    one = tell.condition(j.child) if tell.rng.random() < 0.5 else None
    by = f"{j.parent.name}.{label.column}"
    sql = f"SELECT {by}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {by}"
    return j.draft(sql, "grouped_by_parent", label=label, noun=tell.noun(j.child, one))


def childless(tell: Teller) -> Draft | None:
    links = [k for k in tell.world.links if k.childless]
    if not links:
        return None
    link = tell.pick(links)
    child, parent = tell.world.table(link.child), tell.world.table(link.parent)
    one = tell.condition(child) if tell.rng.random() < 0.7 else None
    inner = f"SELECT {link.column} FROM {child.name}{where(one)}"
    sql = f"SELECT {parent.title} FROM {parent.name} WHERE id NOT IN ({inner})"
    noun = tell.noun(child, one)
    return draft(sql, ("childless",), link=link, parent=parent, titles=plural(parent.title), noun=noun)


def having_child(tell: Teller) -> Draft | None:
    j = _join(tell)
    one = j and tell.condition(j.child)
    if not j or not one:
        return None
    inner = f"SELECT {j.link.column} FROM {j.child.name}{where(one)}"
    sql = f"SELECT {j.parent.title} FROM {j.parent.name} WHERE id IN ({inner})"
    noun = a(tell.noun(j.child, one, one=True))
    return j.draft(sql, "having_child", titles=plural(j.parent.title), noun=noun)


def bridged(tell: Teller) -> Draft | None:
    if not tell.world.bridges:
        return None
    bridge = tell.pick(tell.world.bridges)
    left, right = tell.world.table(bridge.left), tell.world.table(bridge.right)
    title = tell.title(right)
    inner = (
        f"SELECT {left.name}_id FROM {bridge.through} "
        f"JOIN {right.name} ON {right.name}.id = {right.name}_id WHERE {right.title} = '{title}'"
    )
    return draft(
        f"SELECT {left.title} FROM {left.name} WHERE id IN ({inner})",
        ("of_all", "bridged"),
        left=left,
        titles=plural(left.title),
        nouns=f"{left.many} {tell.pick(bridge.mods).format(title)}",
        verb=bridge.verb.format(title),
    )
