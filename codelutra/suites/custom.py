"""custom: your own problems, as `codelutra init` takes them, and a small YAML. `suite.path` is the YAML, or its folder.

    suite.yaml                              kind: sql | python-function | python-program
                                            problems: problems.jsonl
                                            databases: [shop.sqlite]        # sql only; a line names its own by stem;
                                                                            # SQLite files, or DuckDB files
                                            shares: {train: 0.6, dev: 0.15, test: 0.25}
                                            system: "…"                     # the system message, if not the usual one
                                            licence: "…"

    problems.jsonl, a line a problem        sql: question, query (or a list) and/or rows + [ordered], [database], [evidence]
                                            python-function: prompt, [reference], asserts | function + cases, [setup]
                                            python-program: prompt, [reference], tests: [{stdin, stdout?}, …]
                                            each: [id], [split], [group], [difficulty]

The usual other names of these keys are taken as well (`db_id`, `sql`, `code`, `test_list`, …: shapes.py). The expected
output is what the reference gives. A line with rows, asserts or stdouts of its own needs no reference; the model then learns
from its attempts alone. Where a line of SQL has both, the rows judge and the query is a solution. Lines without a split are
dealt by `shares`, and problems with the same normalised program or prompt stay in one split. Which files a suite may name:
`folder.named_files`.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.reading.plain_yaml import read_mapping
from codelutra.reading.text import Unreadable, require_file
from codelutra.suites import python as py
from codelutra.suites import sql
from codelutra.suites.asserts import free_names, names_of
from codelutra.suites.base import Suite, material
from codelutra.suites.databases import chosen_databases, database_digest, not_answerable, read_schema, require_settled
from codelutra.suites.dialects import DUCKDB, SQLITE, Dialect
from codelutra.suites.duck.files import Reader, duckdb_digest, is_duckdb, require_whole
from codelutra.suites.folder import located, named_files
from codelutra.suites.humaneval import before, judging_by_check
from codelutra.suites.lines import Records, read_problems, said
from codelutra.suites.parsing import statements
from codelutra.suites.python import PRINTED, PythonSuite
from codelutra.suites.shapes import About, FunctionLine, Line, ProgramLine, SqlLine
from codelutra.suites.splits import cap, divide, earlier_sides, normalise_prompt
from codelutra.suites.sql import SqlSuite
from codelutra.suites.sql_text import bare


def load(section: SuiteSection) -> Suite:
    if section.path is None:
        raise ConfigError("suite custom: set suite.path to your suite.yaml; docs/your-own-task.md shows one")
    path = yaml_of(section.path)
    return suite_of(read_about(path), path, section)


def yaml_of(path: str) -> Path:
    """The YAML that a `suite.path` means."""
    where = located(path)
    return where / "suite.yaml" if os.path.isdir(where) else where


def suite_of(about: About, path: Path, section: SuiteSection, given: Records | None = None) -> Suite:
    """The suite that `about`, the content of a `suite.yaml` at `path`, describes; `path` itself is not read.

    given: records to take instead of reading the file of problems.

    Raises ConfigError with every fault of the problems, up to a number.
    """
    suite: Suite
    name = f"custom-{path.absolute().parent.name}"
    with Reader() as reader:
        lines = lines_of(about, path, section, reader)
        frame = read_problems(lines.file, lines.shape, lines.row, given)
    if about.kind == "sql":
        held = {used.digest: used.path for used in lines.databases.values() if used.digest}
        d = lines.dialect
        suite = SqlSuite(name, "", about.licence, frame, held, system=d.system, image=d.image, dialect=d.name)
    else:
        suite = PythonSuite(name, "", about.licence, frame)
        suite = replace(suite, mode=PRINTED) if about.kind == "python-program" else suite
    frame = _dealt(suite, about, section)
    # The version changes with anything in the problems.
    version = "2-" + hashlib.sha256(frame.drop("split").write_ndjson().encode()).hexdigest()[:12]
    return replace(suite, version=version, frame=frame, system=suite.system if about.system is None else about.system)


class Lines(NamedTuple):
    """Where a suite's problems are, and how a line of them becomes a row of PROBLEMS."""

    file: Path
    shape: type[Line]
    row: Callable[[Any, int], dict[str, Any] | None]
    """Of a checked line and its number; None for one that is left out. Raises ValueError for a wrong one."""
    databases: Mapping[str, Used]
    dialect: Dialect


def lines_of(about: About, path: Path, section: SuiteSection, reader: Reader) -> Lines:
    """reader: reads DuckDB files; rows over them are made only while it is open."""
    file, *databases = named_files(path.parent, [about.problems, *about.databases], section)
    if about.kind == "sql":
        dialect, files = _databases(databases, path, section, reader)
        return Lines(file, SqlLine, partial(_query, files, path, dialect), files, dialect)
    shape: type[Line] = FunctionLine if about.kind == "python-function" else ProgramLine
    return Lines(file, shape, _function if about.kind == "python-function" else _program, {}, SQLITE)


def read_about(path: Path) -> About:
    if not os.path.lexists(path):
        raise ConfigError(f"suite custom: no {path}: No such file or directory; docs/your-own-task.md shows one")
    try:
        return About.model_validate(read_mapping(path))
    except Unreadable as e:
        raise ConfigError(str(e)) from e
    except ValidationError as e:
        raise ConfigError("\n".join(f"{path}: {said(error, About)}" for error in e.errors())) from e


def _dealt(suite: Suite, about: About, section: SuiteSection) -> pl.DataFrame:
    """The suite's problems with splits as given, or dealt by `shares`, then capped."""
    frame = suite.frame
    given = frame["split"].is_not_null()
    if given.all():
        return cap(frame, section)
    if given.any():
        raise ConfigError(f"{about.problems}: {given.sum()} of {frame.height} lines have a split; give it to all or to none")
    rows = [[row, *suite.accepted(row)] for row in frame.rows(named=True)]
    # Programs over different databases differ; a problem without a reference has the same program as no other.
    programs = [frozenset(_program_of(suite, each) for each in row) for row in rows]
    same = list(zip(programs, map(normalise_prompt, frame["prompt"]), strict=True))
    shares = {str(side): share / sum(about.shares.values()) for side, share in about.shares.items()}
    return cap(divide(frame, same, shares, section.seed, earlier_sides(frame, section.splits_of)), section)


def _program_of(suite: Suite, row: Mapping[str, Any]) -> tuple[str | None, ...]:
    program = suite.alike(row["reference"])
    return (material(row["judge"]).get("database"), program) if program else (row["problem_id"],)


# ---- Python -------------------------------------------------------------------------------------------------------------


def _function(line: FunctionLine, number: int) -> dict[str, Any]:
    if line.continues:
        line = line.model_copy(update={"reference": line.prompt + line.reference})
    line = _prepared(line)
    if line.check:
        root, known = re.split(r"\W", line.function)[0], names_of(line.reference).made
        setup = line.setup or (before(line.reference, root) if root in known else "")
        stands, alone = line.reference if root in known else f"{root} = 0", not line.reference.strip()
        judge = judging_by_check(line.check, line.function, setup, stands, alone=alone)
    elif line.asserts:
        judge = py.judging_by_asserts(line.asserts, reference=line.reference, setup=line.setup)
    else:
        judge = py.judging([f"{line.function}({', '.join(map(repr, case))})" for case in line.cases], setup=line.setup)
    return _python_row(line, number, judge)


def _prepared(line: FunctionLine) -> FunctionLine:
    """The line with the imports, values and functions that stand before its asserts in its setup."""
    if line.check:
        return line
    known = names_of(line.setup)
    has, moved = {*dir(builtins), *known.made, *known.imported}, list[str]()
    for text in line.asserts:
        names = names_of(text)
        binds = names.made | names.imported
        if (
            not binds
            or text.lstrip().startswith("assert")
            or any(free_names(statement) - has - binds for statement in statements(text))
        ):
            break
        has |= binds
        moved.append(text)
    if len(moved) in (0, len(line.asserts)):
        return line
    setup = "\n".join([*filter(None, [line.setup]), *moved])
    return line.model_copy(update={"setup": setup, "asserts": line.asserts[len(moved) :]})


def _program(line: ProgramLine, number: int) -> dict[str, Any]:
    printed = [repr(run.stdout) for run in line.tests if run.stdout is not None]
    if printed and len(printed) < len(line.tests):
        raise ValueError(
            "some tests have a stdout and some do not; give it to all, or to none (then the reference's output is expected)"
        )
    return _python_row(line, number, py.judging([run.stdin for run in line.tests], printed or None, wrap=py.WHOLE))


def _python_row(line: FunctionLine | ProgramLine, number: int, judge: str) -> dict[str, Any]:
    reference = line.reference if line.reference.strip() else ""
    return _row(line, number, prompt=line.prompt, reference=reference, language="python", group=line.group, judge=judge)


def _row(line: Line, number: int, **own: str) -> dict[str, Any]:
    return {"problem_id": line.id or f"{number:05d}", "split": line.split, "difficulty": line.difficulty, **own}


# ---- SQL ----------------------------------------------------------------------------------------------------------------


class Used(NamedTuple):
    """A database; without digest and schema where `suite.databases` leaves it out."""

    path: Path
    digest: str = ""
    schema: str = ""
    wrong: Callable[[str], str] = lambda query: ""  # why a reference cannot be asked of it, or ""


def _query(files: Mapping[str, Used], about: Path, dialect: Dialect, line: SqlLine, number: int) -> dict[str, Any] | None:
    stem = line.database or (next(iter(files)) if len(files) == 1 else "")
    if stem not in files:
        raise ValueError(f"database {line.database!r} is none of {', '.join(sorted(files))} ({about.name})")
    _, digest, schema, not_asked = files[stem]
    if not digest:
        return None
    reference, *also = list(dict.fromkeys(bare(query, dialect) for query in line.query)) or [""]
    if line.rows:
        judge = sql.judging_by_rows(line.rows, digest, ordered=line.ordered, dialect=dialect)
    else:
        for place, query in enumerate((reference, *also), 1):
            if wrong := not_asked(query):
                raise ValueError(f"query {place}: {wrong}" if also else wrong)
        judge = sql.judging(reference, digest, also, dialect)
    prompt = f"{schema}\n\n{line.question}" + (f"\nHint: {line.evidence.strip()}" if line.evidence.strip() else "")
    return _row(line, number, prompt=prompt, reference=reference, language="sql", group=line.group or stem, judge=judge)


def _databases(paths: Sequence[Path], about: Path, section: SuiteSection, reader: Reader) -> tuple[Dialect, dict[str, Used]]:
    """The databases by their stems, and their dialect. Raises ConfigError for one that cannot be used."""
    if not paths:
        raise ConfigError(f"{about}: kind sql needs databases, e.g. [shop.sqlite]")
    files = {path.stem: path for path in paths}
    if unwritable := [path.name for path in paths if path.stem.encode(errors="ignore").decode() != path.stem]:
        raise ConfigError(f"{about}: the name {unwritable[0]!r} is not UTF-8, so no problem can hold it; rename it")
    if len(files) < len(paths):
        raise ConfigError(f"{about}: two databases have the same name without folder and ending; rename one")
    for file in files.values():
        if os.path.isdir(file):
            raise ConfigError(
                f"{about}: {file} is a folder, not a file; `codelutra init sql {shlex.quote(str(file))} QUESTIONS` makes "
                "one DuckDB file of its CSV and parquet files"
            )
        try:
            require_file(file)
        except Unreadable as e:
            raise ConfigError(f"no database at {file}: {e}") from e
    ducks = [stem for stem, file in files.items() if is_duckdb(file)]
    if ducks and len(ducks) < len(files):
        raise ConfigError(f"{about}: {', '.join(ducks)} are DuckDB files and the others are not; a suite has one dialect")
    if ducks and section.copies:
        raise ConfigError(
            f"suite.copies {section.copies}: copies are made of SQLite files, and these are DuckDB's; leave it at 0. "
            "Several accepted queries, or `rows`, in a line say more exactly what is right"
        )
    for file in files.values():
        require_whole(file) if ducks else require_settled(file)
    used = {stem: Used(file) for stem, file in files.items()}
    for stem in chosen_databases(section, sorted(files), str(about)):
        file = files[stem]
        if ducks:
            used[stem] = Used(file, duckdb_digest(file), reader.schema(file), partial(reader.not_answerable, file))
        else:
            wrong = partial(not_answerable, database=file)
            used[stem] = Used(file, database_digest(file), read_schema(file), wrong)
    return DUCKDB if ducks else SQLITE, used
