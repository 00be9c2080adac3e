"""Questions about linked tables; families as in `single`."""

from __future__ import annotations

from dataclasses import dataclass

from codelutra.suites.starter_sql.declare import Link, Table
from codelutra.suites.starter_sql.tell import AGGREGATES, COMPARED, Condition, Draft, Teller, a, of_all, plural, where

# ---- joins --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined:
    link: Link
    child: Table
    parent: Table

    @property
    def sql(self) -> str:
        return f"{self.child.name} JOIN {self.parent.name} ON {self.parent.name}.id = {self.child.name}.{self.link.column}"


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
    wordings = of_all(plural(j.child.title), noun)
    if not own:
        wordings = (
            *wordings,
            f"Which {j.child.many} {j.link.verb.format(called)}?",
            f"Which {j.child.many} {j.link.verb.format(called)}?",
        )
    return Draft(sql, wordings)


def joined_both(tell: Teller) -> Draft | None:
    j = _join(tell, child_titled=True)
    one = j and tell.condition(j.child)
    if not j or not one:
        return None
    noun = tell.noun(j.child, one)
    sql = f"SELECT {j.child.name}.{j.child.title}, {j.parent.name}.{j.parent.title} FROM {j.sql}{where(one, joined=True)}"
    return Draft(
        sql,
        (
            f"Show the {j.child.title} of {noun} together with the {j.parent.title} of their {j.parent.name}.",
            f"List {noun} with their {j.child.title} and the {j.parent.title} of the {j.parent.name}.",
            f"For all {noun}, give the {j.child.title} and the {j.parent.name}'s {j.parent.title}.",
        ),
    )


def joined_count(tell: Teller) -> Draft | None:
    j = _join(tell)
    found = j and _parent(tell, j)
    if not j or not found:
        return None
    condition, called = found
    noun = _child_noun(tell, j, called)
    sql = f"SELECT COUNT(*) FROM {j.sql}{where(condition, joined=True)}"
    return Draft(
        sql,
        (
            f"How many {noun} are there?",
            f"Count the {noun}.",
            f"What is the number of {noun}?",
            f"How many {j.child.many} {j.link.verb.format(called)}?",
        ),
    )


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
    return Draft(
        sql,
        (
            f"What is the {word} {column.noun} of {noun}?",
            f"Find the {word} {column.noun} of the {noun}.",
            f"Among {noun}, what is the {word} {column.noun}?",
        ),
    )


def per_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    title = f"{j.parent.name}.{j.parent.title}"
    one = tell.condition(j.child) if tell.rng.random() < 0.5 else None
    noun = tell.noun(j.child, one)
    sql = f"SELECT {title}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {title}"
    return Draft(
        sql,
        (
            f"For each {j.parent.name} that has any, show the {j.parent.title} and the number of {noun}.",
            f"Count the {noun} per {j.parent.name}, by {j.parent.title}.",
            f"Show every {j.parent.name} {j.parent.title} that {j.link.has[0]} {noun}, and how many.",
        ),
    )


def parent_having(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    title, titles = f"{j.parent.name}.{j.parent.title}", plural(j.parent.title)
    op = tell.pick((">", ">="))
    n = tell.rng.randint(2, max(3, 2 * j.child.rows // j.parent.rows))
    said = tell.pick(COMPARED["count"][op]).format(n)
    sql = f"SELECT {title} FROM {j.sql} GROUP BY {title} HAVING COUNT(*) {op} {n}"
    return Draft(
        sql,
        (
            f"Which {j.parent.many} {j.link.has[1]} {said} {j.child.many}?",
            f"List the {titles} of {j.parent.many} with {said} {j.child.many}.",
            f"Find the {j.parent.many} that {j.link.has[1]} {said} {j.child.many}.",
        ),
    )


def parent_most(tell: Teller) -> Draft | None:
    j = _join(tell)
    if not j:
        return None
    one = tell.condition(j.child) if tell.rng.random() < 0.6 else None
    title, noun = f"{j.parent.name}.{j.parent.title}", tell.noun(j.child, one)
    sql = f"SELECT {title} FROM {j.sql}{where(one, joined=True)} GROUP BY {title} ORDER BY COUNT(*) DESC LIMIT 1"
    return Draft(
        sql,
        (
            f"Which {j.parent.name} {j.link.has[0]} the most {noun}?",
            f"Find the {j.parent.title} of the {j.parent.name} with the most {noun}.",
            f"What is the {j.parent.title} of the {j.parent.name} that {j.link.has[0]} the most {noun}?",
        ),
    )


def extreme_childs_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    column = j and tell.pick([c for c in j.child.numbers if c.most] or [None])
    if not j or not column:
        return None
    one = tell.condition(j.child, besides=column.column) if tell.rng.random() < 0.5 else None
    word, order = (column.most, " DESC") if tell.rng.random() < 0.6 else (column.least, "")
    noun = f"{word} {tell.noun(j.child, one, one=True)}"
    by = f"{j.child.name}.{column.column}{order}"
    sql = f"SELECT {j.parent.name}.{j.parent.title} FROM {j.sql}{where(one, joined=True)} ORDER BY {by} LIMIT 1"
    return Draft(
        sql,
        (
            f"Which {j.parent.name} {j.link.has[0]} the {noun}?",
            f"What is the {j.parent.title} of the {j.parent.name} that {j.link.has[0]} the {noun}?",
            f"Find the {j.parent.title} of the {j.parent.name} of the {noun}.",
        ),
    )


def grouped_by_parent(tell: Teller) -> Draft | None:
    j = _join(tell)
    label = j and tell.pick(j.parent.labels or (None,))
    if not j or not label:
        return None
    one = tell.condition(j.child) if tell.rng.random() < 0.5 else None
    by, noun = f"{j.parent.name}.{label.column}", tell.noun(j.child, one)
    sql = f"SELECT {by}, COUNT(*) FROM {j.sql}{where(one, joined=True)} GROUP BY {by}"
    return Draft(
        sql,
        (
            f"For each {j.parent.name} {label.column}, count the {noun}.",
            f"How many {noun} are there per {j.parent.name} {label.column}?",
            f"Show each {label.column} of {j.parent.many} with its number of {noun}.",
        ),
    )


def childless(tell: Teller) -> Draft | None:
    links = [k for k in tell.world.links if k.childless]
    if not links:
        return None
    link = tell.pick(links)
    child, parent = tell.world.table(link.child), tell.world.table(link.parent)
    one = tell.condition(child) if tell.rng.random() < 0.7 else None
    noun = tell.noun(child, one)
    sql = f"SELECT {parent.title} FROM {parent.name} WHERE id NOT IN (SELECT {link.column} FROM {child.name}{where(one)})"
    return Draft(
        sql,
        (
            f"Which {parent.many} {link.has[1]} no {noun}?",
            f"List the {plural(parent.title)} of {parent.many} without any {noun}.",
            f"Find the {parent.many} that {link.has[1]} no {noun}.",
        ),
    )


def having_child(tell: Teller) -> Draft | None:
    j = _join(tell)
    one = j and tell.condition(j.child)
    if not j or not one:
        return None
    noun = a(tell.noun(j.child, one, one=True))
    sql = (
        f"SELECT {j.parent.title} FROM {j.parent.name} WHERE id IN (SELECT {j.link.column} FROM {j.child.name}{where(one)})"
    )
    return Draft(
        sql,
        (
            f"Which {j.parent.many} {j.link.has[1]} {noun}?",
            f"List the {plural(j.parent.title)} of {j.parent.many} that {j.link.has[1]} {noun}.",
            f"Find every {j.parent.name} that {j.link.has[0]} {noun}.",
        ),
    )


def bridged(tell: Teller) -> Draft | None:
    if not tell.world.bridges:
        return None
    bridge = tell.pick(tell.world.bridges)
    left, right = tell.world.table(bridge.left), tell.world.table(bridge.right)
    title = tell.title(right)
    sql = (
        f"SELECT {left.title} FROM {left.name} WHERE id IN (SELECT {left.name}_id FROM {bridge.through} "
        f"JOIN {right.name} ON {right.name}.id = {right.name}_id WHERE {right.title} = '{title}')"
    )
    return Draft(
        sql,
        (
            *of_all(plural(left.title), f"{left.many} {tell.pick(bridge.mods).format(title)}"),
            *[f"Which {left.many} {bridge.verb.format(title)}?"] * 4,
        ),
    )
