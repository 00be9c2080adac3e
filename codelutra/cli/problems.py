"""Reads the problems that `codelutra init` is given, and finds out which column holds what.

A file whose columns have the names that suites know is used where it is. From any other, `problems.jsonl` is written into
the suite's folder.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from codelutra.errors import ConfigError, UserError
from codelutra.suites.columns import Fitted, cell_of, fitted, parse_columns
from codelutra.suites.lines import Record, Records, Shape, Wrong, checked, folded, renamed
from codelutra.suites.shapes import FunctionLine, ProgramLine, SqlLine, runs_of
from codelutra.suites.sources import Source, read_source

NAME = "problems.jsonl"
Kind = Literal["sql", "python-function", "python-program"]
_JUDGING = ("asserts", "cases", "tests")
SHAPES: dict[Kind, type[Shape]] = {"sql": SqlLine, "python-function": FunctionLine, "python-program": ProgramLine}


class Problems(NamedTuple):
    kind: Kind
    file: Path | None
    """The file, where suites can read it as it lies."""
    where: str
    fit: Fitted

    @property
    def records(self) -> Records | None:
        """What suites are to read instead of the file."""
        return None if self.file else self.fit.records

    def renumbered(self) -> Records | None:
        """The same as they are numbered once they are written."""
        if self.file:
            return None
        return Records("line", [Record(n, value) for n, (_, value) in enumerate(self.fit.records.found, 1)], self.where)

    def text(self) -> str:
        """The lines of NAME; every record has been checked. Raises UserError for what JSON cannot hold."""
        shape = SHAPES[self.kind]
        return "".join(_line(value, shape, self.where, number) + "\n" for number, value in self.fit.records.found)


def sql_problems(given: str, columns: Sequence[str]) -> Problems:
    """Raises UserError where they cannot be read, or their columns cannot be told. columns: `--columns`."""
    return _fitted(read_source(given), "sql", columns)


def python_problems(given: str, columns: Sequence[str]) -> Problems:
    """Programs where lines have `tests` that are objects, else functions. Raises UserError as `sql_problems` does."""
    source = read_source(given)
    if _asks_for_queries(source.records):
        command = f"codelutra init sql DATABASE {shlex.quote(given)}"
        raise UserError(f"{given} holds questions and queries; give the database, too: {command}")
    return _fitted(source, _python_kind(source, columns), columns)


def _fitted(source: Source, kind: Kind, columns: Sequence[str]) -> Problems:
    shape = SHAPES[kind]
    fit = fitted(source.records, shape, parse_columns(columns, shape), source.where)
    return Problems(kind, source.file if fit.as_named else None, source.where, fit)


def _python_kind(source: Source, columns: Sequence[str]) -> Kind:
    """What is wrong with a line is said when the lines are read for good."""
    try:
        chosen = parse_columns(columns, ProgramLine).get("tests", [])
    except ConfigError:  # a key that programs do not have
        return "python-function"
    for _, value in source.records.found:
        with contextlib.suppress(Wrong):
            row = value if isinstance(value, dict) else {}
            row = {"tests": cell_of(row, chosen[0])} if chosen else row
            try:
                tests = runs_of(renamed(row, ProgramLine).get("tests"))
            except ValueError:  # inputs and outputs that do not fit
                return "python-program"
            if isinstance(tests, list) and tests:
                return "python-program" if isinstance(tests[0], dict) else "python-function"
    return "python-function"


def _asks_for_queries(records: Records) -> bool:
    names = {folded(name) for _, value in records.found if isinstance(value, dict) for name in value}
    judging = {name for shape in (FunctionLine, ProgramLine) for name, key in shape.named().items() if key in _JUDGING}
    return bool(names & {"query", "sql", "sql_query", "gold_sql"}) and not names & judging


def _line(value: dict[str, Any], shape: type[Shape], where: str, number: int) -> str:
    line = renamed(value, shape)
    if isinstance(line.get("cases"), list) and json.loads(json.dumps(line["cases"], default=repr)) != line["cases"]:
        line["cases"] = repr(line["cases"])  # JSON has no tuples
    text = json.dumps(line, ensure_ascii=False, default=repr)
    if repr(checked(json.loads(text), shape)) != repr(checked(value, shape)):
        raise UserError(
            f"{where}, row {number} holds a value that JSON lines cannot hold as it is; write it as JSONL yourself"
        )
    return text
