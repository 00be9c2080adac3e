"""The SQL dialects of databases, as far as the text of a query goes: tokens, and the words that mean something."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot.errors import SqlglotError


@dataclass(frozen=True, eq=False)
class Dialect:
    """name: as sqlglot and `SqlSuite.dialect` have it. title: as people write it. image: the sandbox's."""

    name: str
    title: str
    image: str
    token: re.Pattern[str]  # groups: blank, text, quoted, number, word, sign
    heads: frozenset[str]  # the words that a query begins with
    readers: Mapping[str, int]  # functions that read the clock when they have no more than so many arguments
    clock: frozenset[str]  # bare words that are the time
    chance: frozenset[str]  # functions that draw
    samples: frozenset[str]  # words of clauses that draw
    up: str  # of a further sort key: ascending, and the same turned round, NULLs included
    down: str
    most: str  # the larger of two numbers

    @property
    def system(self) -> str:
        return f"Answer with one {self.title} query."


SQLITE = Dialect(
    name="sqlite",
    title="SQLite",
    image="python",
    token=re.compile(  # as SQLite's tokenizer; what is not closed goes to the end
        r"""(?P<blank>[ \t\n\f\r]+|--[^\n]*|/\*(?!\Z).*?(?:\*/|\Z))
        |(?P<text>[xX]?'(?:[^']|'')*+(?:'|\Z))
        |(?P<quoted>"(?:[^"]|"")*+(?:"|\Z)|`(?:[^`]|``)*+(?:`|\Z)|\[[^\]]*+(?:\]|\Z))
        |(?P<number>(?:0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)[\w$\x80-\U0010ffff]*)
        |(?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
        |(?P<sign>->>|->|\|\||<<|>>|<=|>=|<>|!=|==|.)""",
        re.VERBOSE | re.DOTALL | re.ASCII,
    ),
    heads=frozenset(("select", "with", "values")),
    readers={"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "strftime": 1, "timediff": 0},
    clock=frozenset(("current_date", "current_time", "current_timestamp")),
    chance=frozenset(("random", "randomblob")),
    samples=frozenset(),
    up=" COLLATE BINARY",
    down=" COLLATE BINARY DESC",
    most="max",
)
_NOW = """
    now today get_current_time get_current_timestamp transaction_timestamp current_localtime current_localtimestamp
    current_date current_time current_timestamp localtime localtimestamp"""
DUCKDB = Dialect(
    name="duckdb",
    title="DuckDB",
    image="duckdb",
    token=re.compile(  # as DuckDB's parser; block comments nest, here three deep, and [ ] index a list
        r"""(?P<blank>[ \t\n\f\r\v\xa0]+|--[^\n]*
            |/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*(?:[^*/]|\*(?!/)|/(?!\*)|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z))*+(?:\*/|\Z))*+(?:\*/|\Z))
        |(?P<text>[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z)|[xXbB]?'(?:[^']|'')*+(?:'|\Z)
            |\$(?P<tag>(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?)\$.*?(?:\$(?P=tag)\$|\Z))
        |(?P<quoted>"(?:[^"]|"")*+(?:"|\Z)|`(?:[^`]|``)*+(?:`|\Z))
        |(?P<number>(?:0[xX][0-9a-fA-F_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)[\w$\x80-\U0010ffff]*)
        |(?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
        |(?P<sign>->>|->|=>|:=|::|\|\||<<|>>|<=|>=|<>|!=|==|\*\*|//|!?~~?\*?|.)""",
        re.VERBOSE | re.DOTALL | re.ASCII,
    ),
    heads=frozenset(("select", "with", "values", "from", "table", "pivot", "unpivot", "summarize", "describe", "show")),
    readers={"age": 1} | dict.fromkeys(_NOW.split(), 0),
    clock=frozenset(("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp")),
    chance=frozenset(("random", "uuid", "gen_random_uuid", "uuidv4", "uuidv7", "setseed")),
    samples=frozenset(("sample", "tablesample")),
    up=" ASC NULLS LAST",
    down=" DESC NULLS FIRST",
    most="greatest",
)
DIALECTS = {dialect.name: dialect for dialect in (SQLITE, DUCKDB)}


_OTHERS = ("sqlite", "mysql", "postgres", "tsql", "bigquery", "snowflake", "oracle")
_LONGEST = 5_000  # characters of a query that is translated: sqlglot takes seconds for a long one, once a dialect


def translations(query: str, write: str) -> Iterator[tuple[str, str]]:
    """What a query is in the dialect `write`, read as each of the usual others: (the other, the translation)."""
    for dialect in _OTHERS if len(query) <= _LONGEST else ():
        try:
            translated = sqlglot.transpile(query, read=dialect, write=write)[0] if dialect != write else query
        except (SqlglotError, RecursionError, IndexError):
            continue
        if translated != query:
            yield dialect, translated
