"""What looks like a program, and what its grammar takes."""

from __future__ import annotations

import ast
import re
import sqlite3
import warnings
from contextlib import closing

LONGEST = 20_000  # characters: in a longer text no prose is looked for
TRIES = 8  # how often a closing fence, or where a program begins or ends, is looked for in vain

_GAP = r"(?:\s|;|\(|--[^\n]*+|/\*.*?(?:\*/|\Z))*+"
READS = (
    r"SELECT\b|WITH\s+(?:RECURSIVE\s+)?(?:\w++|\"[^\"]*+\"|`[^`]*+`|\[[^\]]*+\])\s*+(?:\([^()]*+\)\s*+)?AS\b|VALUES\s*+\(|"
    # DuckDB's
    r"(?-i:FROM|from)\s+(?:\"[^\"]*+\"|[\w.]++)(?:\s+(?:AS\s+)?\w++)?\s+(?:SELECT|WHERE|(?:GROUP|ORDER)\s+BY|LIMIT|JOIN|QUALIFY)\b|"
    r"FROM\s*+\(\s*+(?:SELECT|FROM)\b|(?-i:FROM)\s+[\w.]++[ \t]*+(?:;|`|\n\n|\s*+\Z)|PIVOT\s+\S++\s+ON\b"
)
_WRITES = (
    r"(?:INSERT|UPDATE|DELETE|REPLACE|EXPLAIN|(?:CREATE|DROP|ALTER)\s+(?:TEMP\w*|UNIQUE|VIRTUAL|TABLE|INDEX|VIEW|TRIGGER))\b"
)
_REST = (
    r"PRAGMA\s+\w+\s*(?:[.=(;]|\Z)|ATTACH\b[^;]*\bAS\b|DETACH\s+(?:DATABASE\s+)?\w+\s*(?:;|\Z)|"
    r"(?:BEGIN|COMMIT|END|ROLLBACK)(?:\s+(?:DEFERRED|IMMEDIATE|EXCLUSIVE|TRANSACTION|TO(?:\s+SAVEPOINT)?\s+\w+))*\s*(?:;|\Z)|"
    r"(?:SAVEPOINT|RELEASE(?:\s+SAVEPOINT)?)\s+\w+\s*(?:;|\Z)|(?:ANALYZE|REINDEX|VACUUM)(?:\s+\w+)?\s*(?:;|\Z)"
)
STATEMENT = re.compile(rf"{_GAP}(?:(?P<parsed>{READS}|{_WRITES})|{_REST}|\Z)", re.DOTALL | re.IGNORECASE)
HEAD = re.compile(rf"{_GAP}(?:(?P<reads>{READS})|{_WRITES}|{_REST})", re.DOTALL | re.IGNORECASE)
# As SQLite reads them: a semicolon outside quotes and comments.
_SEMICOLON = re.compile(
    r"""'[^']*+'?|"[^"]*+"?|`[^`]*+`?|\[[^\]]*+\]?|--[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?|(;)""", re.DOTALL
)

DEFINES = re.compile(r"^[ \t]*(?:(?:async[ \t]+)?def[ \t]+(?!test_)|class[ \t]+(?!Test))\w", re.MULTILINE)
CODE = re.compile(
    r"^[ \t]*(?:import |from \S+ import |(?:for|while|if|with|try)\b[^\n]*:|(?:print|exit)\(|"
    r"[A-Za-z_][\w.\[\], ]*?[-+*/]?=[^=])",
    re.MULTILINE,
)


def worth(body: str, language: str) -> int:
    """2: a query, or it defines something other than tests; 1: other code; 0: anything."""
    if language == "sql":
        head = HEAD.match(body)
        return 2 if head and head["reads"] else 1 if head else 0
    return 2 if DEFINES.search(body) else 1 if CODE.search(body) else 0


def fault(program: str) -> int:
    """The line, from 1, at which Python's parser gives a program up; 0 where it takes it all."""
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(program)
    except SyntaxError as problem:
        return problem.lineno or 1
    except (ValueError, RecursionError, MemoryError):  # NUL; deep nesting
        return 1
    return 0


def end_of_statement(text: str) -> int:
    """Where the first statement ends: behind its semicolon outside quotes and comments, or with the text."""
    return next((found.end() for found in _SEMICOLON.finditer(text) if found[1]), len(text))


def parses(statement: str, *, whole: bool = False) -> bool:
    """Whether SQLite's grammar takes it, or, unless it must be whole, would take it with more behind it. Nothing is run, and
    no table is known."""
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)
            connection.execute(f"EXPLAIN {statement}")
    except (sqlite3.Error, sqlite3.Warning) as e:
        return not re.search(
            rf"syntax error|unrecognized token|stack overflow{'|incomplete input' if whole else ''}", str(e)
        )
    except ValueError:  # NUL, lone surrogates
        return False
    return True
