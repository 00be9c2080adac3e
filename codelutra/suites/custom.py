"""custom: your own problems, as a JSONL file and a small YAML beside it. `suite.path` is the YAML, or its folder.

    suite.yaml                              kind: sql | python-function | python-program
                                            problems: problems.jsonl
                                            databases: [shop.sqlite]        # sql only; a line names its own by stem
                                            shares: {train: 0.6, dev: 0.15, test: 0.25}
                                            system: "…"                     # the system message, if not the usual one
                                            licence: "…"

    problems.jsonl, a line a problem        sql: question, query | rows + [ordered], [database]
                                            python-function: prompt, [reference], asserts | function + cases, [setup]
                                            python-program: prompt, [reference], tests: [{stdin, stdout?}, …]
                                            each: [id], [split], [group], [difficulty]

The expected output is what the reference gives. A line with rows, asserts or stdouts of its own needs no reference; the
model then learns from its attempts alone. Lines without a split are dealt by `shares`, and problems with the same
normalised program or prompt stay in one split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites import python as py
from codelutra.suites import sql
from codelutra.suites.base import Suite, material
from codelutra.suites.databases import chosen_databases, database_digest, not_answerable, read_schema, require_settled
from codelutra.suites.folder import expand, located, numbered
from codelutra.suites.python import PythonSuite
from codelutra.suites.splits import cap, divide, earlier_sides, normalise_prompt
from codelutra.suites.sql import SqlSuite

SHOWN = 10  # broken lines in one message
MAX_ROWS = 500  # expected rows of a line
Split = Literal["train", "dev", "test"]
L = TypeVar("L", bound="Line")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class About(Strict):
    """suite.yaml"""

    kind: Literal["sql", "python-function", "python-program"]
    problems: str = "problems.jsonl"
    databases: tuple[str, ...] = ()
    shares: dict[Split, Annotated[float, Field(gt=0)]] = {"train": 0.6, "test": 0.25, "dev": 0.15}
    system: str | None = None
    licence: str = ""


class Line(Strict):
    id: str = ""
    split: Split | None = None
    group: str = ""
    difficulty: str = ""


class SqlLine(Line):
    question: str = Field(min_length=1)
    query: str = ""
    rows: tuple[tuple[str | int | FiniteFloat | None, ...], ...] = ()
    ordered: bool = False
    database: str = ""

    @model_validator(mode="after")
    def _judged(self) -> SqlLine:
        if bool(self.query.strip()) == bool(self.rows):
            raise ValueError("give `query`, or `rows` (what a right query returns): one of them")
        if len({len(row) for row in self.rows}) > 1 or not all(self.rows):
            raise ValueError("rows differ in length, or have no cells; each is a list of one cell a column")
        if len(self.rows) > MAX_ROWS:
            raise ValueError(f"{len(self.rows)} rows; at most {MAX_ROWS} can be given, above that give a `query`")
        if self.ordered and not self.rows:
            raise ValueError("`ordered` goes with `rows`; a query says so itself, by an outermost ORDER BY")
        return self


class FunctionLine(Line):
    prompt: str = Field(min_length=1)
    reference: str = ""
    setup: str = ""
    asserts: tuple[str, ...] = ()
    function: str = ""
    cases: tuple[tuple[Any, ...], ...] = ()

    @model_validator(mode="after")
    def _judged(self) -> FunctionLine:
        if not self.asserts and not (self.function and self.cases):
            raise ValueError("nothing to judge by: give `asserts`, or `function` and `cases` (a list of argument lists)")
        if not self.asserts and not self.reference.strip():
            raise ValueError("no reference, so the cases have no expected values: give a reference, or `asserts` instead")
        return self


class Run(Strict):
    stdin: str = ""
    stdout: str | None = None


class ProgramLine(Line):
    prompt: str = Field(min_length=1)
    reference: str = ""
    tests: tuple[Run, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _judged(self) -> ProgramLine:
        if not self.reference.strip() and any(run.stdout is None for run in self.tests):
            raise ValueError("no reference, so the tests have no expected output: give a reference, or each test a stdout")
        return self


def load(section: SuiteSection) -> Suite:
    if section.path is None:
        raise ConfigError("suite custom: set suite.path to your suite.yaml; docs/your-own-task.md shows one")
    path = located(section.path)
    path = path / "suite.yaml" if path.is_dir() else path
    return suite_of(_about(path), path, section)


def suite_of(about: About, path: Path, section: SuiteSection) -> Suite:
    """The suite that `about`, the content of a `suite.yaml` at `path`, describes; `path` itself is not read.

    Raises ConfigError with every broken line, up to SHOWN.
    """
    suite: Suite
    name, lines = f"custom-{path.absolute().parent.name}", path.parent / about.problems
    if about.kind == "sql":
        files = _databases(about, path, section)
        frame = _problems(lines, SqlLine, partial(_query, files, path))
        suite = SqlSuite(name, "", about.licence, frame, {used.digest: used.path for used in files.values() if used.digest})
    elif about.kind == "python-function":
        suite = PythonSuite(name, "", about.licence, _problems(lines, FunctionLine, _function))
    else:
        suite = PythonSuite(name, "", about.licence, _problems(lines, ProgramLine, _program), mode="text/v1")
    frame = _dealt(suite, about, section)
    # The version changes with anything in the problems.
    version = "1-" + hashlib.sha256(frame.drop("split").write_ndjson().encode()).hexdigest()[:12]
    return replace(suite, version=version, frame=frame, system=suite.system if about.system is None else about.system)


# ---- reading ------------------------------------------------------------------------------------------------------------


def _about(path: Path) -> About:
    try:
        return About.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise ConfigError(f"suite custom: no {path}: {e.strerror}; docs/your-own-task.md shows one") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{path} is not YAML: {e}") from e
    except ValidationError as e:
        raise ConfigError("\n".join(f"{path}: {_said(error, About)}" for error in e.errors())) from e


def _problems(path: Path, shape: type[L], make: Callable[[L], dict[str, Any] | None]) -> pl.DataFrame:
    """The lines as PROBLEMS. `make` gives a line's row, or None to leave it out; it raises ValueError for a wrong line.

    Raises ConfigError with every broken line, up to SHOWN, in their order.
    """
    rows, broken, seen = list[dict[str, Any]](), list[tuple[int, str]](), dict[str, int]()
    for number, text in numbered(path):
        try:
            line = shape.model_validate(json.loads(text))
            line = line if line.id else line.model_copy(update={"id": f"{number:05d}"})
            if line.id in seen:
                broken.append((number, f"id {line.id!r} is on line {seen[line.id]} already; ids must differ"))
            seen[line.id] = number
            if row := make(line):
                rows.append(row)
        except json.JSONDecodeError as e:
            broken.append((number, f"not JSON: {e}"))
        except ValidationError as e:
            broken += [(number, _said(error, shape)) for error in e.errors()]
        except ValueError as e:
            broken.append((number, str(e)))
    if broken:
        shown = [f"line {number}: {why}" for number, why in sorted(broken)[:SHOWN]]
        more = [f"… and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in [*shown, *more]))
    if not seen:
        raise ConfigError(f"{path} is empty; give it one JSON object a line, see docs/your-own-task.md")
    return pl.DataFrame(rows, schema=PROBLEMS)


def _said(error: Any, shape: type[BaseModel]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key" + (f"; known here: {', '.join(shape.model_fields)}" if len(error["loc"]) == 1 else "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _dealt(suite: Suite, about: About, section: SuiteSection) -> pl.DataFrame:
    """The suite's problems with splits as given, or dealt by `shares`, then capped."""
    frame = suite.frame
    given = frame["split"].is_not_null()
    if given.all():
        return cap(frame, section)
    if given.any():
        raise ConfigError(f"{about.problems}: {given.sum()} of {frame.height} lines have a split; give it to all or to none")
    rows = frame.select("problem_id", "reference", "judge").rows()
    # Programs over different databases differ; a problem without a reference has the same program as no other.
    programs = [(material(judge).get("database"), p) if (p := suite.normalise(r)) else (i,) for i, r, judge in rows]
    same = list(zip(programs, map(normalise_prompt, frame["prompt"]), strict=True))
    shares = {str(side): share / sum(about.shares.values()) for side, share in about.shares.items()}
    return cap(divide(frame, same, shares, section.seed, earlier_sides(frame, section.splits_of)), section)


# ---- Python -------------------------------------------------------------------------------------------------------------


def _function(line: FunctionLine) -> dict[str, Any]:
    if line.asserts:
        judge = py.judging_by_asserts(line.asserts, reference=line.reference, setup=line.setup)
    else:
        judge = py.judging([f"{line.function}({', '.join(map(repr, case))})" for case in line.cases], setup=line.setup)
    return _python_row(line, judge)


def _program(line: ProgramLine) -> dict[str, Any]:
    printed = [repr(run.stdout) for run in line.tests if run.stdout is not None]
    if printed and len(printed) < len(line.tests):
        raise ValueError(
            "some tests have a stdout and some do not; give it to all, or to none (then the reference's output is expected)"
        )
    calls = [f"_printed({run.stdin!r})" for run in line.tests]
    return _python_row(line, py.judging(calls, printed or None, wrap=py.STDIN_WRAP))


def _python_row(line: FunctionLine | ProgramLine, judge: str) -> dict[str, Any]:
    reference = line.reference if line.reference.strip() else ""
    return _row(line, prompt=line.prompt, reference=reference, language="python", group=line.group, judge=judge)


def _row(line: Line, **own: str) -> dict[str, Any]:
    return {"problem_id": line.id, "split": line.split, "difficulty": line.difficulty, **own}


# ---- SQL ----------------------------------------------------------------------------------------------------------------


class Used(NamedTuple):
    """A database; without digest and schema where `suite.databases` leaves it out."""

    path: Path
    digest: str = ""
    schema: str = ""


def _query(files: Mapping[str, Used], about: Path, line: SqlLine) -> dict[str, Any] | None:
    stem = line.database or (next(iter(files)) if len(files) == 1 else "")
    if stem not in files:
        raise ValueError(f"database {line.database!r} is none of {', '.join(sorted(files))} ({about.name})")
    path, digest, schema = files[stem]
    if not digest:
        return None
    reference = line.query.strip().rstrip("; \n")
    if line.rows:
        judge = sql.judging_by_rows(line.rows, digest, ordered=line.ordered)
    elif wrong := not_answerable(reference, path):
        raise ValueError(wrong)
    else:
        judge = sql.judging(reference, digest)
    prompt = f"{schema}\n\n{line.question}"
    return _row(line, prompt=prompt, reference=reference, language="sql", group=line.group or stem, judge=judge)


def _databases(about: About, path: Path, section: SuiteSection) -> dict[str, Used]:
    """The databases by their stems. Raises ConfigError for one that cannot be used."""
    if not about.databases:
        raise ConfigError(f"{path}: kind sql needs databases, e.g. [shop.sqlite]")
    files = {Path(d).stem: path.parent / expand(d) for d in about.databases}
    if len(files) < len(about.databases):
        raise ConfigError(f"{path}: two databases have the same name without folder and ending; rename one")
    for file in files.values():
        require_settled(file)
    chosen = chosen_databases(section, sorted(files), str(path))
    left_out = {stem: Used(file) for stem, file in files.items()}
    return left_out | {stem: Used(files[stem], database_digest(files[stem]), read_schema(files[stem])) for stem in chosen}
