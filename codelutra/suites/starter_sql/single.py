"""Families of questions about one table, nested ones included. Each has its wordings in `wordings.yaml`.

A family takes a `Teller` and returns a `Draft`. It raises NothingToAsk where the world has nothing to ask in this way.
`generate` then checks the draft: it must return rows and tell right queries from wrong ones.
"""

from __future__ import annotations

from codelutra.suites.starter_sql.declare import Label, Number, Table
from codelutra.suites.starter_sql.tell import Condition, Draft, Teller, a, draft, plural, where, words


def filtered(tell: Teller) -> Draft:
    table = tell.titled()
    one = tell.condition(table)
    return draft(
        f"SELECT {table.title} FROM {table.name}{where(one)}",
        "of_all",
        "filtered",
        titles=plural(table.title),
        nouns=tell.noun(table, one),
        noun=lambda: tell.noun(table, one),
        which=lambda: tell.which(table, one),
    )


def filtered_twice(tell: Teller) -> Draft:
    table = tell.titled()
    one = tell.condition(table)
    two = tell.condition(table, besides=one.column)
    return draft(
        f"SELECT {table.title} FROM {table.name}{where(one, two)}",
        "of_all",
        "filtered_twice",
        titles=plural(table.title),
        nouns=tell.noun(table, one, two),
        noun=lambda: tell.noun(table, one, two),
        which=lambda: tell.which(table, one, two),
        which_twice=lambda: tell.which(table, two, one),
    )


def columns(tell: Teller) -> Draft:
    table = tell.titled()
    column = tell.pick(table.columns)
    one = tell.condition(table, besides=column.column)
    sql = f"SELECT {table.title}, {column.column} FROM {table.name}{where(one)}"
    return draft(sql, "columns", table=table, what=_called(column), noun=lambda: tell.noun(table, one))


def counted(tell: Teller) -> Draft:
    table = tell.any_table()
    one = tell.condition(table)
    two = tell.maybe(table, besides=one.column, chance=0.4)
    sql = f"SELECT COUNT(*) FROM {table.name}{where(one, two)}"
    return draft(sql, "counted", noun=lambda: tell.noun(table, one, two), which=lambda: tell.which(table, one, two))


def aggregated(tell: Teller) -> Draft:
    table = tell.any_table()
    column = tell.measure(table)
    one = tell.maybe(table, besides=column.column)
    function, word = tell.aggregate(column)
    sql = f"SELECT {function}({column.column}) FROM {table.name}{where(one)}"
    return draft(sql, "aggregated", column=column, word=word, noun=_or_all(tell, table, one))


def two_aggregates(tell: Teller) -> Draft:
    table = tell.any_table()
    column = tell.one_of(table.numbers)
    one = tell.maybe(table, besides=column.column)
    if column.kind == "year":
        both, said = [("MIN", "MAX")], {"MIN": "earliest", "MAX": "latest"}
    else:
        both = [("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG")]
        said = {function: names[-1] for function, names in words("aggregates").items()}
    first, second = tell.pick(both)
    sql = f"SELECT {first}({column.column}), {second}({column.column}) FROM {table.name}{where(one)}"
    noun = _or_all(tell, table, one)
    return draft(sql, "two_aggregates", column=column, words=f"{said[first]} and {said[second]}", noun=noun)


def extreme(tell: Teller) -> Draft:
    table = tell.titled()
    column = tell.ranking(table)
    one = tell.maybe(table, besides=column.column, chance=0.5)
    word, order = tell.end(column)
    others = [c for c in table.columns if c is not column and (not one or c.column != one.column)]
    asked: Label | Number | None = tell.pick((None, None, *others))
    selected = asked.column if asked else table.title
    sql = f"SELECT {selected} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT 1"
    wordings, what = ("extreme_column", _called(asked)) if asked else ("extreme", "")
    return draft(sql, wordings, table=table, word=word, what=what, noun=tell.noun(table, one, one=True))


def top(tell: Teller) -> Draft:
    table = tell.titled()
    column = tell.ranking(table)
    one = tell.maybe(table, besides=column.column, chance=0.5)
    word, order = tell.end(column)
    k = tell.rng.randint(2, 6)
    number = tell.pick((str(k), words("numerals")[k]))
    sql = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT {k}"
    return draft(sql, "top", titles=plural(table.title), number=number, word=word, noun=tell.noun(table, one))


def sorted_list(tell: Teller) -> Draft:
    table = tell.titled()
    one = tell.condition(table)
    column = tell.pick([*(c for c in table.numbers if c.column != one.column), None])
    noun, titles = tell.noun(table, one), plural(table.title)
    select = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY"
    if not column:
        return draft(f"{select} {table.title}", "alphabetical", table=table, titles=titles, noun=noun)
    down = tell.rng.random() < 0.5
    order, way, end = (" DESC", "descending", "highest") if down else ("", "ascending", "lowest")
    first, last = (column.most, column.least) if down else (column.least, column.most)
    wordings = ("sorted_list", "sorted_from_to") if column.most else ("sorted_list",)
    said = {"titles": titles, "noun": noun, "way": way, "end": end, "first": first, "last": last}
    return draft(f"{select} {column.column}{order}", *wordings, column=column, **said)


def distinct(tell: Teller) -> Draft:
    table = tell.any_table()
    label = tell.label(table)
    one = tell.condition(table, besides=label.column)
    noun = tell.noun(table, one)
    if tell.rng.random() < 0.5:
        wordings, selected = "distinct_count", f"COUNT(DISTINCT {label.column})"
    else:
        wordings, selected = "distinct", f"DISTINCT {label.column}"
    return draft(f"SELECT {selected} FROM {table.name}{where(one)}", wordings, label=label, noun=noun)


def grouped(tell: Teller) -> Draft:
    table = tell.any_table()
    label = tell.label(table)
    one = tell.maybe(table, besides=label.column, chance=0.6)
    noun = tell.noun(table, one)
    column = tell.pick([c for c in table.numbers if c.kind != "year" and (not one or c.column != one.column)] + [None])
    rest = f"FROM {table.name}{where(one)} GROUP BY {label.column}"
    if not column:
        return draft(f"SELECT {label.column}, COUNT(*) {rest}", "grouped_count", label=label, noun=noun)
    function, word = tell.aggregate(column)
    sql = f"SELECT {label.column}, {function}({column.column}) {rest}"
    return draft(sql, "grouped", label=label, column=column, word=word, noun=noun)


def having(tell: Teller) -> Draft:
    table = tell.any_table()
    label = tell.label(table)
    one = tell.maybe(table, besides=label.column, chance=0.4)
    op = tell.pick((">", ">=", "<", "<="))
    n = tell.rng.randint(2, max(3, table.rows // (2 * len(label.values))))
    sql = f"SELECT {label.column} FROM {table.name}{where(one)} GROUP BY {label.column} HAVING COUNT(*) {op} {n}"
    noun = tell.noun(table, one)
    return draft(sql, "having", label=label, noun=noun, count=tell.compared("count", op, n))


def commonest(tell: Teller) -> Draft:
    table = tell.any_table()
    label = tell.label(table)
    one = tell.maybe(table, besides=label.column, chance=0.6)
    most = tell.rng.random() < 0.6
    word, few, order = ("most common", "most", " DESC") if most else ("least common", "fewest", "")
    rest = f"GROUP BY {label.column} ORDER BY COUNT(*){order} LIMIT 1"
    sql = f"SELECT {label.column} FROM {table.name}{where(one)} {rest}"
    return draft(sql, "commonest", label=label, word=word, few=few, noun=tell.noun(table, one))


def starting(tell: Teller) -> Draft:
    table = tell.titled()
    title = tell.title(table)
    one = tell.maybe(table, chance=0.3)
    word = tell.pick([w for w in title.split() if len(w) > 2] or [title])
    ways = (
        (f"{title[0]}%", f"starts with {title[0]}"),
        (f"%{word}%", f"contains {word}"),
        (f"%{title[-1]}", f"ends in {title[-1]}"),
    )
    pattern, said = tell.pick(ways)
    sql = f"SELECT {table.title} FROM {table.name}{_where_and(one)} {table.title} LIKE '{pattern}'"
    return draft(sql, "starting", table=table, titles=plural(table.title), said=said, noun=tell.noun(table, one))


# ---- nested -------------------------------------------------------------------------------------------------------------


def against_average(tell: Teller) -> Draft:
    table = tell.titled()
    column = tell.measure(table)
    one = tell.maybe(table, besides=column.column, chance=0.4)
    op, word = tell.pick(((">", "above"), ("<", "below")))
    average = f"{column.column} {op} (SELECT AVG({column.column}) FROM {table.name})"
    return draft(
        f"SELECT {table.title} FROM {table.name}{_where_and(one)} {average}",
        "against_average",
        column=column,
        a_column=a(column.noun),
        titles=plural(table.title),
        word=word,
        average=f"the average of all {table.many}" if one else "average",
        noun=tell.noun(table, one),
    )


def against_other(tell: Teller) -> Draft:
    table = tell.titled()
    column = tell.measure(table)
    op, word = tell.pick(((">", "higher"), ("<", "lower")))
    title = tell.title(table)
    other = f"SELECT {column.column} FROM {table.name} WHERE {table.title} = '{title}'"
    sql = f"SELECT {table.title} FROM {table.name} WHERE {column.column} {op} ({other})"
    return draft(sql, "against_other", table=table, column=column, titles=plural(table.title), word=word, title=title)


def sharing(tell: Teller) -> Draft:
    table = tell.titled()
    label = tell.label(table)
    title = tell.title(table)
    other = f"SELECT {label.column} FROM {table.name} WHERE {table.title} = '{title}'"
    sql = f"SELECT {table.title} FROM {table.name} WHERE {label.column} = ({other})"
    return draft(sql, "sharing", table=table, label=label, titles=plural(table.title), title=title)


def _called(column: Label | Number) -> str:
    return column.noun if isinstance(column, Number) else column.column


def _or_all(tell: Teller, table: Table, condition: Condition | None) -> str:
    return tell.noun(table, condition) if condition else f"all {table.many}"


def _where_and(condition: Condition | None) -> str:
    return f"{where(condition)} AND" if condition else " WHERE"
