"""Families of questions about one table, nested ones included. Each has its wordings in `wordings.yaml`.

A family takes a `Teller` and returns a `Draft`, or None where the world has nothing to ask in this way. `generate` then
checks the draft: it must return rows and tell right queries from wrong ones.
"""

from __future__ import annotations

from codelutra.suites.starter_sql.declare import Label, Number, Table
from codelutra.suites.starter_sql.tell import (
    AGGREGATES,
    COMPARED,
    NUMERALS,
    Condition,
    Draft,
    Teller,
    a,
    draft,
    plural,
    where,
)


def filtered(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    if not one:
        return None
    return draft(
        f"SELECT {table.title} FROM {table.name}{where(one)}",
        ("of_all", "filtered"),
        titles=plural(table.title),
        nouns=tell.noun(table, one),
        noun=lambda: tell.noun(table, one),
        which=lambda: tell.which(table, one),
    )


def filtered_twice(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    two = one and tell.condition(table, besides=one.column)
    if not one or not two:
        return None
    return draft(
        f"SELECT {table.title} FROM {table.name}{where(one, two)}",
        ("of_all", "filtered_twice"),
        titles=plural(table.title),
        nouns=tell.noun(table, one, two),
        noun=lambda: tell.noun(table, one, two),
        which=lambda: tell.which(table, one, two),
        which_twice=lambda: tell.which(table, two, one),
    )


def columns(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick(table.columns)
    one = tell.condition(table, besides=column.column)
    if not one:
        return None
    sql = f"SELECT {table.title}, {column.column} FROM {table.name}{where(one)}"
    return draft(sql, ("columns",), table=table, what=_called(column), noun=lambda: tell.noun(table, one))


def counted(tell: Teller) -> Draft | None:
    table = tell.any_table()
    one = tell.condition(table)
    two = tell.condition(table, besides=one.column) if one and tell.rng.random() < 0.4 else None
    if not one:
        return None
    return draft(
        f"SELECT COUNT(*) FROM {table.name}{where(one, two)}",
        ("counted",),
        noun=lambda: tell.noun(table, one, two),
        which=lambda: tell.which(table, one, two),
    )


def aggregated(tell: Teller) -> Draft | None:
    table = tell.any_table()
    column = tell.pick([c for c in table.numbers if c.kind != "year"] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column)
    function = tell.pick(tuple(AGGREGATES) if column.kind != "age" else ("AVG", "MAX", "MIN"))
    sql = f"SELECT {function}({column.column}) FROM {table.name}{where(one)}"
    return draft(sql, ("aggregated",), column=column, word=tell.pick(AGGREGATES[function]), noun=_or_all(tell, table, one))


def two_aggregates(tell: Teller) -> Draft | None:
    table = tell.any_table()
    column = tell.pick(table.numbers or (None,))
    if not column:
        return None
    one = tell.condition(table, besides=column.column)
    both = (("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG")) if column.kind != "year" else (("MIN", "MAX"),)
    first, second = tell.pick(both)
    words = {"MIN": "earliest", "MAX": "latest"} if column.kind == "year" else {f: w[-1] for f, w in AGGREGATES.items()}
    sql = f"SELECT {first}({column.column}), {second}({column.column}) FROM {table.name}{where(one)}"
    said = f"{words[first]} and {words[second]}"
    return draft(sql, ("two_aggregates",), column=column, words=said, noun=_or_all(tell, table, one))


def extreme(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.most] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.5 else None
    word, order = _end(tell, column)
    others = [c for c in table.columns if c is not column and (not one or c.column != one.column)]
    asked: Label | Number | None = tell.pick((None, None, *others))
    selected = asked.column if asked else table.title
    sql = f"SELECT {selected} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT 1"
    wordings, what = ("extreme_column", _called(asked)) if asked else ("extreme", "")
    return draft(sql, (wordings,), table=table, word=word, what=what, noun=tell.noun(table, one, one=True))


def top(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.most] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.5 else None
    word, order = _end(tell, column)
    k = tell.rng.randint(2, 6)
    number = tell.pick((str(k), NUMERALS[k]))
    sql = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT {k}"
    return draft(sql, ("top",), titles=plural(table.title), number=number, word=word, noun=tell.noun(table, one))


def sorted_list(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    column = tell.pick([*(c for c in table.numbers if not one or c.column != one.column), None])
    if not one:
        return None
    noun, titles = tell.noun(table, one), plural(table.title)
    select = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY"
    if not column:
        return draft(f"{select} {table.title}", ("alphabetical",), table=table, titles=titles, noun=noun)
    down = tell.rng.random() < 0.5
    order, way, end = (" DESC", "descending", "highest") if down else ("", "ascending", "lowest")
    first, last = (column.most, column.least) if down else (column.least, column.most)
    wordings = ("sorted_list", "sorted_from_to") if column.most else ("sorted_list",)
    words = {"titles": titles, "noun": noun, "way": way, "end": end, "first": first, "last": last}
    return draft(f"{select} {column.column}{order}", wordings, column=column, **words)


def distinct(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    one = label and tell.condition(table, besides=label.column)
    if not label or not one:
        return None
    noun = tell.noun(table, one)
    if tell.rng.random() < 0.5:
        wordings, selected = "distinct_count", f"COUNT(DISTINCT {label.column})"
    else:
        wordings, selected = "distinct", f"DISTINCT {label.column}"
    return draft(f"SELECT {selected} FROM {table.name}{where(one)}", (wordings,), label=label, noun=noun)


def grouped(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.6 else None
    noun = tell.noun(table, one)
    column = tell.pick([c for c in table.numbers if c.kind != "year" and (not one or c.column != one.column)] + [None])
    rest = f"FROM {table.name}{where(one)} GROUP BY {label.column}"
    if not column:
        return draft(f"SELECT {label.column}, COUNT(*) {rest}", ("grouped_count",), label=label, noun=noun)
    function = tell.pick(("AVG", "MAX", "MIN", "SUM") if column.kind != "age" else ("AVG", "MAX", "MIN"))
    sql, word = f"SELECT {label.column}, {function}({column.column}) {rest}", tell.pick(AGGREGATES[function])
    return draft(sql, ("grouped",), label=label, column=column, word=word, noun=noun)


def having(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.4 else None
    op = tell.pick((">", ">=", "<", "<="))
    n = tell.rng.randint(2, max(3, table.rows // (2 * len(label.values))))
    sql = f"SELECT {label.column} FROM {table.name}{where(one)} GROUP BY {label.column} HAVING COUNT(*) {op} {n}"
    noun = tell.noun(table, one)
    return draft(sql, ("having",), label=label, noun=noun, count=tell.pick(COMPARED["count"][op]).format(n))


def commonest(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.6 else None
    most = tell.rng.random() < 0.6
    word, few, order = ("most common", "most", " DESC") if most else ("least common", "fewest", "")
    rest = f"GROUP BY {label.column} ORDER BY COUNT(*){order} LIMIT 1"
    sql = f"SELECT {label.column} FROM {table.name}{where(one)} {rest}"
    return draft(sql, ("commonest",), label=label, word=word, few=few, noun=tell.noun(table, one))


def starting(tell: Teller) -> Draft | None:
    table = tell.titled()
    title = tell.title(table)
    one = tell.condition(table) if tell.rng.random() < 0.3 else None
    word = tell.pick([w for w in title.split() if len(w) > 2] or [title])
    pattern, said = tell.pick(
        (
            (f"{title[0]}%", f"starts with {title[0]}"),
            (f"%{word}%", f"contains {word}"),
            (f"%{title[-1]}", f"ends in {title[-1]}"),
        )
    )
    sql = f"SELECT {table.title} FROM {table.name}{_where_and(one)} {table.title} LIKE '{pattern}'"
    return draft(sql, ("starting",), table=table, titles=plural(table.title), said=said, noun=tell.noun(table, one))


# ---- nested -------------------------------------------------------------------------------------------------------------


def against_average(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.kind != "year"] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.4 else None
    op, word = tell.pick(((">", "above"), ("<", "below")))
    average = f"{column.column} {op} (SELECT AVG({column.column}) FROM {table.name})"
    return draft(
        f"SELECT {table.title} FROM {table.name}{_where_and(one)} {average}",
        ("against_average",),
        column=column,
        a_column=a(column.noun),
        titles=plural(table.title),
        word=word,
        average=f"the average of all {table.many}" if one else "average",
        noun=tell.noun(table, one),
    )


def against_other(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.kind != "year"] or [None])
    if not column:
        return None
    op, word = tell.pick(((">", "higher"), ("<", "lower")))
    title = tell.title(table)
    other = f"SELECT {column.column} FROM {table.name} WHERE {table.title} = '{title}'"
    sql = f"SELECT {table.title} FROM {table.name} WHERE {column.column} {op} ({other})"
    return draft(sql, ("against_other",), table=table, column=column, titles=plural(table.title), word=word, title=title)


def sharing(tell: Teller) -> Draft | None:
    table = tell.titled()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    title = tell.title(table)
    other = f"SELECT {label.column} FROM {table.name} WHERE {table.title} = '{title}'"
    sql = f"SELECT {table.title} FROM {table.name} WHERE {label.column} = ({other})"
    return draft(sql, ("sharing",), table=table, label=label, titles=plural(table.title), title=title)


def _called(column: Label | Number) -> str:
    return column.noun if isinstance(column, Number) else column.column


def _or_all(tell: Teller, table: Table, condition: Condition | None) -> str:
    return tell.noun(table, condition) if condition else f"all {table.many}"


def _end(tell: Teller, column: Number) -> tuple[str, str]:
    """A superlative of the column, and the order that puts it first."""
    return (column.most, " DESC") if tell.rng.random() < 0.6 else (column.least, "")


def _where_and(condition: Condition | None) -> str:
    return f"{where(condition)} AND" if condition else " WHERE"
