"""What prompts show of a database's content: `suite.sample_rows` and `suite.value_hints`. For SQLite only.

Rows stand below their table (Rajkumar et al. 2022, arXiv:2204.00498, show them to a model so). Values that the question
names stand below the schema, with the column that holds them (as in BRIDGE, Lin et al. 2020, arXiv:2012.12627).
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import polars as pl

from codelutra.suites.databases import open_read_only, text_values
from codelutra.suites.linking import WORDS_OF_A_VALUE, Place, Table, parsed_table

VERSION = 1
MOST_VALUES = 8  # of a prompt; those of the longest texts
LONGEST_CELL = 40  # characters, then "…"
_STEPS = 1_000_000  # of SQLite, for the rows of one table: a view may be anything


def hinted(problems: pl.DataFrame, files: Mapping[str, Path], *, rows: int, values: bool) -> pl.DataFrame:
    """PROBLEMS whose prompts have the first `rows` of each table they show, and the `values` that the question names.

    files: the databases, by digest.
    """
    prompts = []
    for prompt, judge in problems.select("prompt", "judge").rows():
        context, blank, asked = prompt.partition("\n\n")
        file = files[json.loads(judge)["database"]]
        question = asked.rpartition("\n\n")[2]  # behind worked examples, where there are some
        lines = [line for given in context.split("\n") for line in (given, *_rows_below(file, given, rows))]
        prompts.append("\n".join([*lines, *(_named(file, context, question) if values else ())]) + blank + asked)
    return problems.with_columns(prompt=pl.Series(prompts, dtype=pl.String))


def _rows_below(file: Path, line: str, rows: int) -> Sequence[str]:
    table = parsed_table(line) if rows else None
    return first_rows(file, table.shown, tuple(c.shown for c in table.columns), rows) if table else ()


@lru_cache(4096)
def first_rows(file: Path, table: str, columns: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """A line a row, as SQLite writes values: `  (1, 'Ann', NULL)`. Empty where the table or view cannot be read.

    table, columns: as a query must write them.
    """
    with open_read_only(file, "&immutable=1") as connection:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.set_progress_handler(lambda: 1, _STEPS)  # a number that is not 0 ends the query
        try:
            query = f"SELECT {', '.join(f'quote({name})' for name in columns)} FROM {table} LIMIT {rows}"
            found = connection.execute(query).fetchall()
        except sqlite3.Error:
            return ()
    return tuple(f"  ({', '.join(map(_cell, row))})" for row in found)


def _cell(text: str) -> str:
    """On one line; long ones cut."""
    line = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
    return line if len(line) <= LONGEST_CELL else line[: LONGEST_CELL - 1] + "…"


def _named(file: Path, context: str, question: str) -> Iterator[str]:
    """`table.column = 'value'` of the values that are in the question and in a column that the context shows."""
    tables = {t.name: t for t in map(parsed_table, context.split("\n")) if t}
    held, words = _values(file), re.findall(r"\w+", question.lower())
    taken, told = set[int](), dict[str, None]()
    for n in range(min(WORDS_OF_A_VALUE, len(words)), 0, -1):
        for i in range(len(words) - n + 1):
            here = {*range(i, i + n)}
            found = [] if here & taken else _shown_places(held.get(" ".join(words[i : i + n]), ()), tables)
            taken |= here if found else set()
            told |= dict.fromkeys(found)
    yield from list(told)[:MOST_VALUES]


def _shown_places(places: Sequence[tuple[Place, str]], tables: Mapping[str, Table]) -> list[str]:
    lines = []
    for (table, column), value in places:
        names = [c.shown for c in tables[table].columns if c.name == column] if table in tables else []
        lines += [f"{tables[table].shown}.{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name in names]
    return list(dict.fromkeys(lines))


@lru_cache(256)
def _values(file: Path) -> dict[str, list[tuple[Place, str]]]:
    """Where the words of a value stand, and how it is written. A value with line breaks in it is no hint."""
    found = defaultdict[str, list[tuple[Place, str]]](list)
    for table, column, value in text_values(file):
        words = re.findall(r"\w+", value.lower())
        if 0 < len(words) <= WORDS_OF_A_VALUE and _cell(value) == value:
            found[" ".join(words)].append(((table.lower(), column.lower()), value))
    return dict(found)
