"""Questions about one table, nested ones included.

A family takes a `Teller` and gives a `Draft`, or None where the world has nothing to ask in this way. Whether a draft is
any good (returns rows, tells right from wrong) is for `generate` to find out.
"""

from __future__ import annotations

from codelutra.suites.starter_sql.declare import Label, Number
from codelutra.suites.starter_sql.tell import AGGREGATES, COMPARED, NUMERALS, Draft, Teller, a, of_all, plural, where

# ---- one table ----------------------------------------------------------------------------------------------------------


def filtered(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    if not one:
        return None
    sql = f"SELECT {table.title} FROM {table.name}{where(one)}"
    return Draft(
        sql,
        (
            *of_all(plural(table.title), tell.noun(table, one)),
            f"Which {tell.which(table, one)}?",
            f"Name all {tell.noun(table, one)}.",
            f"Which {tell.which(table, one)}? Give their {plural(table.title)}.",
        ),
    )


def filtered_twice(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    two = one and tell.condition(table, besides=one.column)
    if not one or not two:
        return None
    sql = f"SELECT {table.title} FROM {table.name}{where(one, two)}"
    return Draft(
        sql,
        (
            *of_all(plural(table.title), tell.noun(table, one, two)),
            f"Which {tell.which(table, one, two)}?",
            f"Which {tell.which(table, two, one)}?",
            f"Name the {tell.noun(table, one, two)}.",
        ),
    )


def columns(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick(table.columns)
    one = tell.condition(table, besides=column.column)
    if not one:
        return None
    noun = column.noun if isinstance(column, Number) else column.column
    sql = f"SELECT {table.title}, {column.column} FROM {table.name}{where(one)}"
    return Draft(
        sql,
        (
            f"Show the {table.title} and {noun} of {tell.noun(table, one)}.",
            f"What are the {table.title} and the {noun} of each of the {tell.noun(table, one)}?",
            f"List {tell.noun(table, one)} by {table.title} and {noun}.",
            f"For all {tell.noun(table, one)}, give the {table.title} and the {noun}.",
        ),
    )


def counted(tell: Teller) -> Draft | None:
    table = tell.any_table()
    one = tell.condition(table)
    two = tell.condition(table, besides=one.column) if one and tell.rng.random() < 0.4 else None
    if not one:
        return None
    sql = f"SELECT COUNT(*) FROM {table.name}{where(one, two)}"
    return Draft(
        sql,
        (
            f"How many {tell.noun(table, one, two)} are there?",
            f"Count the {tell.noun(table, one, two)}.",
            f"How many {tell.which(table, one, two)}?",
            f"What is the number of {tell.noun(table, one, two)}?",
        ),
    )


def aggregated(tell: Teller) -> Draft | None:
    table = tell.any_table()
    column = tell.pick([c for c in table.numbers if c.kind != "year"] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column)
    function = tell.pick(tuple(AGGREGATES) if column.kind != "age" else ("AVG", "MAX", "MIN"))
    word = tell.pick(AGGREGATES[function])
    noun = tell.noun(table, one) if one else f"all {table.many}"
    sql = f"SELECT {function}({column.column}) FROM {table.name}{where(one)}"
    return Draft(
        sql,
        (
            f"What is the {word} {column.noun} of {noun}?",
            f"Find the {word} {column.noun} of {noun}.",
            f"Among {noun}, what is the {word} {column.noun}?",
            f"Give the {word} {column.noun} for {noun}.",
        ),
    )


def two_aggregates(tell: Teller) -> Draft | None:
    table = tell.any_table()
    column = tell.pick(table.numbers or (None,))
    if not column:
        return None
    one = tell.condition(table, besides=column.column)
    first, second = tell.pick(
        (("MIN", "MAX"), ("MAX", "MIN"), ("AVG", "MAX"), ("MIN", "AVG")) if column.kind != "year" else (("MIN", "MAX"),)
    )
    words = {"MIN": "earliest", "MAX": "latest"} if column.kind == "year" else {f: w[-1] for f, w in AGGREGATES.items()}
    noun = tell.noun(table, one) if one else f"all {table.many}"
    said = f"{words[first]} and {words[second]} {column.noun}"
    sql = f"SELECT {first}({column.column}), {second}({column.column}) FROM {table.name}{where(one)}"
    return Draft(sql, (f"What are the {said} of {noun}?", f"Find the {said} of {noun}.", f"Show the {said} among {noun}."))


def extreme(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.most] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.5 else None
    most = tell.rng.random() < 0.6
    word, order = (column.most, " DESC") if most else (column.least, "")
    others = [c for c in table.columns if c is not column and (not one or c.column != one.column)]
    asked: Label | Number | None = tell.pick((None, None, *others))
    selected = asked.column if asked else table.title
    sql = f"SELECT {selected} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT 1"
    noun = tell.noun(table, one, one=True)
    if asked:
        what = asked.noun if isinstance(asked, Number) else asked.column
        return Draft(
            sql,
            (
                f"What is the {what} of the {word} {noun}?",
                f"Find the {what} of the {word} {noun}.",
                f"Give me the {what} of the {word} {noun}.",
            ),
        )
    return Draft(
        sql,
        (
            f"What is the {table.title} of the {word} {noun}?",
            f"Name the {word} {noun}.",
            f"Which {noun} is the {word}?",
            f"Which is the {word} {noun}?",
            f"Find the {table.title} of the {word} {noun}.",
        ),
    )


def top(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.most] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.5 else None
    word, order = (column.most, " DESC") if tell.rng.random() < 0.6 else (column.least, "")
    k = tell.rng.randint(2, 6)
    number, noun = tell.pick((str(k), NUMERALS[k])), tell.noun(table, one)
    sql = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY {column.column}{order} LIMIT {k}"
    return Draft(
        sql,
        (
            f"List the {plural(table.title)} of the {number} {word} {noun}, {word} first.",
            f"What are the {number} {word} {noun}, starting with the {word}?",
            f"Name the {number} {word} {noun} in order.",
            f"Give the {plural(table.title)} of the {number} {word} {noun} in order.",
        ),
    )


def sorted_list(tell: Teller) -> Draft | None:
    table = tell.titled()
    one = tell.condition(table)
    column = tell.pick([*(c for c in table.numbers if not one or c.column != one.column), None])
    if not one:
        return None
    noun, titles = tell.noun(table, one), plural(table.title)
    if not column:
        sql = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY {table.title}"
        return Draft(
            sql,
            (
                f"List the {titles} of {noun} in alphabetical order.",
                f"Show {noun} alphabetically by {table.title}.",
                f"What are the {titles} of {noun}, sorted by {table.title}?",
            ),
        )
    down = tell.rng.random() < 0.5
    order, way, end = (" DESC", "descending", "highest") if down else ("", "ascending", "lowest")
    sql = f"SELECT {table.title} FROM {table.name}{where(one)} ORDER BY {column.column}{order}"
    wordings = [
        f"List the {titles} of {noun} in {way} order of {column.noun}.",
        f"Show the {titles} of {noun}, {end} {column.noun} first.",
        f"What are the {titles} of {noun}, sorted by {column.noun} in {way} order?",
    ]
    if column.most:
        first, last = (column.most, column.least) if down else (column.least, column.most)
        wordings.append(f"List the {titles} of {noun} from {first} to {last}.")
    return Draft(sql, tuple(wordings))


def distinct(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    one = label and tell.condition(table, besides=label.column)
    if not label or not one:
        return None
    noun = tell.noun(table, one)
    if tell.rng.random() < 0.5:
        sql = f"SELECT COUNT(DISTINCT {label.column}) FROM {table.name}{where(one)}"
        return Draft(
            sql,
            (
                f"How many different {label.plural} are there among {noun}?",
                f"Count the distinct {label.plural} of {noun}.",
                f"How many distinct {label.plural} do {noun} cover?",
            ),
        )
    sql = f"SELECT DISTINCT {label.column} FROM {table.name}{where(one)}"
    return Draft(
        sql,
        (
            f"What are the different {label.plural} of {noun}?",
            f"List the distinct {label.plural} of {noun}.",
            f"Which different {label.plural} occur among {noun}?",
        ),
    )


def grouped(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.6 else None
    noun, column = tell.noun(table, one), label.column
    column_of = tell.pick([c for c in table.numbers if c.kind != "year" and (not one or c.column != one.column)] + [None])
    if not column_of:
        sql = f"SELECT {column}, COUNT(*) FROM {table.name}{where(one)} GROUP BY {column}"
        return Draft(
            sql,
            (
                f"How many {noun} are there for each {column}?",
                f"Show each {column} with its number of {noun}.",
                f"Count the {noun} per {column}.",
                f"For each {column}, how many {noun} are there?",
            ),
        )
    function = tell.pick(("AVG", "MAX", "MIN", "SUM") if column_of.kind != "age" else ("AVG", "MAX", "MIN"))
    word = tell.pick(AGGREGATES[function])
    sql = f"SELECT {column}, {function}({column_of.column}) FROM {table.name}{where(one)} GROUP BY {column}"
    return Draft(
        sql,
        (
            f"What is the {word} {column_of.noun} of {noun} for each {column}?",
            f"For each {column}, find the {word} {column_of.noun} of {noun}.",
            f"Show the {word} {column_of.noun} of {noun} per {column}.",
        ),
    )


def having(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.4 else None
    op = tell.pick((">", ">=", "<", "<="))
    n = tell.rng.randint(2, max(3, table.rows // (2 * len(label.values))))
    noun, said = tell.noun(table, one), tell.pick(COMPARED["count"][op]).format(n)
    sql = f"SELECT {label.column} FROM {table.name}{where(one)} GROUP BY {label.column} HAVING COUNT(*) {op} {n}"
    return Draft(
        sql,
        (
            f"Which {label.plural} have {said} {noun}?",
            f"List the {label.plural} with {said} {noun}.",
            f"Find every {label.column} with {said} {noun}.",
        ),
    )


def commonest(tell: Teller) -> Draft | None:
    table = tell.any_table()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    one = tell.condition(table, besides=label.column) if tell.rng.random() < 0.6 else None
    most = tell.rng.random() < 0.6
    word, few, order = ("most common", "most", " DESC") if most else ("least common", "fewest", "")
    noun, column = tell.noun(table, one), label.column
    sql = f"SELECT {column} FROM {table.name}{where(one)} GROUP BY {column} ORDER BY COUNT(*){order} LIMIT 1"
    return Draft(
        sql,
        (
            f"Which {column} has the {few} {noun}?",
            f"What is the {word} {column} of {noun}?",
            f"Find the {word} {column} among {noun}.",
            f"What {column} do the {few} {noun} have?",
        ),
    )


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
    noun = tell.noun(table, one)
    like = f"{where(one)} AND" if one else " WHERE"
    sql = f"SELECT {table.title} FROM {table.name}{like} {table.title} LIKE '{pattern}'"
    return Draft(
        sql,
        (
            f"Which {noun} have a {table.title} that {said}?",
            f"List the {plural(table.title)} of {noun} whose {table.title} {said}.",
            f"Find all {noun} whose {table.title} {said}.",
        ),
    )


# ---- nested -------------------------------------------------------------------------------------------------------------


def against_average(tell: Teller) -> Draft | None:
    table = tell.titled()
    column = tell.pick([c for c in table.numbers if c.kind != "year"] or [None])
    if not column:
        return None
    one = tell.condition(table, besides=column.column) if tell.rng.random() < 0.4 else None
    op, word = tell.pick(((">", "above"), ("<", "below")))
    noun, titles = tell.noun(table, one), plural(table.title)
    condition = f"{column.column} {op} (SELECT AVG({column.column}) FROM {table.name})"
    like = f"{where(one)} AND" if one else " WHERE"
    sql = f"SELECT {table.title} FROM {table.name}{like} {condition}"
    whole = f"the average of all {table.many}" if one else "average"
    return Draft(
        sql,
        (
            f"Which {noun} have {a(column.noun)} {word} {whole}?",
            f"List the {titles} of {noun} whose {column.noun} is {word} {whole}.",
            f"Find the {titles} of {noun} with {a(column.noun)} {word} {whole}.",
        ),
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
    return Draft(
        sql,
        (
            f"Which {table.many} have a {word} {column.noun} than {title}?",
            f"List the {plural(table.title)} of {table.many} whose {column.noun} is {word} than that of {title}.",
            f"Find all {table.many} with a {word} {column.noun} than {title}.",
        ),
    )


def sharing(tell: Teller) -> Draft | None:
    table = tell.titled()
    label = tell.pick(table.labels or (None,))
    if not label:
        return None
    title, column = tell.title(table), label.column
    other = f"SELECT {column} FROM {table.name} WHERE {table.title} = '{title}'"
    sql = f"SELECT {table.title} FROM {table.name} WHERE {column} = ({other})"
    return Draft(
        sql,
        (
            f"Which {table.many} have the same {column} as {title}, including {title}?",
            f"List the {plural(table.title)} of all {table.many} that share the {column} of {title}, itself included.",
        ),
    )
