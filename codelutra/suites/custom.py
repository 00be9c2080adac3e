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
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites import python as py
from codelutra.suites import sql
from codelutra.suites.databases import chosen_databases, database_digest, not_answerable, read_schema, require_settled
from codelutra.suites.folder import expand, located, numbered
from codelutra.suites.splits import cap, divide, earlier_sides, normalise_prompt

SHOWN = 10  # broken lines in one message
MAX_ROWS = 500  # expected rows of a line
Split = Literal["train", "dev", "test"]
Broken = tuple[int, str]  # a line's number, and what is wrong with it
L = TypeVar("L", bound="Line")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class About(Strict):
    """suite.yaml"""

    kind: Literal["sql", "python-function", "python-program"]
    problems: str = "problems.jsonl"
    databases: tuple[str, ...] = ()
    shares: dict[Split, Annotated[float, Field(gt=0)]] = {"train": 0.6, "test": 0.25, "dev": 0.15}
    system: str = ""
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


def load(section: SuiteSection) -> sql.SqlSuite | py.PythonSuite:
    if section.path is None:
        raise ConfigError("suite custom: set suite.path to your suite.yaml; docs/your-own-task.md shows one")
    path = located(section.path)
    path = path / "suite.yaml" if path.is_dir() else path
    return suite_of(_about(path), path, section)


def suite_of(about: About, path: Path, section: SuiteSection) -> sql.SqlSuite | py.PythonSuite:
    """The suite that `about`, the content of a `suite.yaml` at `path`, describes; `path` itself is not read.

    Raises ConfigError with every broken line, up to SHOWN.
    """
    name = f"custom-{path.absolute().parent.name}"
    if about.kind == "sql":
        return _sql(about, path, section, name)
    shape, judging, mode = (
        (FunctionLine, _function, "python-value/v1")
        if about.kind == "python-function"
        else (ProgramLine, _program, "text/v1")
    )
    frame = _python_rows(path.parent / about.problems, shape, judging)
    programs = [
        py.normalise(r) or (i,) for i, r in frame.select("problem_id", "reference").rows()
    ]  # no reference: equal to no other
    frame = _dealt(frame, about, section, programs)
    return py.PythonSuite(name, _version(frame), about.licence, frame, about.system or py.SYSTEM, mode=mode)


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


def _lines(path: Path, shape: type[L]) -> tuple[list[tuple[int, L]], list[Broken]]:
    """The valid lines with their numbers, ids filled in; and what is wrong with the others."""
    found, broken, seen = list[tuple[int, L]](), list[Broken](), dict[str, int]()
    for number, text in numbered(path):
        try:
            line = shape.model_validate(json.loads(text))
        except json.JSONDecodeError as e:
            broken.append((number, f"not JSON: {e}"))
            continue
        except ValidationError as e:
            broken += [(number, _said(error, shape)) for error in e.errors()]
            continue
        line = line if line.id else line.model_copy(update={"id": f"{number:05d}"})
        if line.id in seen:
            broken.append((number, f"id {line.id!r} is on line {seen[line.id]} already; ids must differ"))
        seen[line.id] = number
        found.append((number, line))
    if not found and not broken:
        raise ConfigError(f"{path} is empty; give it one JSON object a line, see docs/your-own-task.md")
    return found, broken


def _refuse(path: Path, broken: list[Broken]) -> None:
    """Raise ConfigError with all broken lines, up to SHOWN, in their order."""
    if broken:
        shown = [f"line {number}: {why}" for number, why in sorted(broken)[:SHOWN]]
        more = [f"… and {len(broken) - SHOWN} more"] if len(broken) > SHOWN else []
        raise ConfigError(f"{path}:\n" + "\n".join(f"  {line}" for line in [*shown, *more]))


def _said(error: Any, shape: type[BaseModel]) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key" + (f"; known here: {', '.join(shape.model_fields)}" if len(error["loc"]) == 1 else "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _dealt(frame: pl.DataFrame, about: About, section: SuiteSection, programs: Sequence[Hashable]) -> pl.DataFrame:
    """Splits as given, or dealt by `shares`, then capped. `programs`: equal for problems with the same program."""
    given = frame["split"].is_not_null()
    if given.all():
        return cap(frame, section)
    if given.any():
        raise ConfigError(f"{about.problems}: {given.sum()} of {frame.height} lines have a split; give it to all or to none")
    same = list(zip(programs, map(normalise_prompt, frame["prompt"]), strict=True))
    shares = {str(side): share / sum(about.shares.values()) for side, share in about.shares.items()}
    return cap(divide(frame, same, shares, section.seed, earlier_sides(frame, section.splits_of)), section)


def _version(frame: pl.DataFrame) -> str:
    """Changes with anything in the problems."""
    return "1-" + hashlib.sha256(frame.drop("split").write_ndjson().encode()).hexdigest()[:12]


# ---- Python -------------------------------------------------------------------------------------------------------------


def _python_rows(path: Path, shape: type[Any], judging: Callable[[Any], str]) -> pl.DataFrame:
    lines, broken = _lines(path, shape)
    rows = []
    for number, line in lines:
        try:
            reference = line.reference if line.reference.strip() else ""
            rows.append(_row(line, line.prompt, reference, "python", line.group, judging(line)))
        except ValueError as e:
            broken.append((number, str(e)))
    _refuse(path, broken)
    return pl.DataFrame(rows, schema=PROBLEMS)


def _function(line: FunctionLine) -> str:
    if line.asserts:
        return py.judging_by_asserts(line.asserts, reference=line.reference, setup=line.setup)
    return py.judging([f"{line.function}({', '.join(map(repr, case))})" for case in line.cases], setup=line.setup)


def _program(line: ProgramLine) -> str:
    printed = [repr(run.stdout) for run in line.tests if run.stdout is not None]
    if printed and len(printed) < len(line.tests):
        raise ValueError(
            "some tests have a stdout and some do not; give it to all, or to none (then the reference's output is expected)"
        )
    return py.judging([f"_printed({run.stdin!r})" for run in line.tests], printed or None, wrap=py.STDIN_WRAP)


def _row(line: Line, prompt: str, reference: str, language: str, group: str, judging: str) -> dict[str, Any]:
    return {
        "problem_id": line.id,
        "split": line.split,
        "prompt": prompt,
        "reference": reference,
        "language": language,
        "group": group,
        "difficulty": line.difficulty,
        "judge": judging,
    }


# ---- SQL ----------------------------------------------------------------------------------------------------------------


def _sql(about: About, path: Path, section: SuiteSection, name: str) -> sql.SqlSuite:
    files = _databases(about, path)
    chosen = chosen_databases(section, sorted(files), str(path))
    digests = {stem: database_digest(files[stem]) for stem in chosen}
    schemas = {stem: read_schema(files[stem]) for stem in chosen}
    lines, broken = _lines(path.parent / about.problems, SqlLine)
    rows, programs = [], []
    for number, line in lines:
        stem = line.database or (next(iter(files)) if len(files) == 1 else "")
        if stem not in files:
            broken.append((number, f"database {line.database!r} is none of {', '.join(sorted(files))} ({path.name})"))
        elif stem in digests:
            reference = line.query.strip().rstrip("; \n")
            if not line.rows and (wrong := not_answerable(reference, files[stem])):
                broken.append((number, wrong))
            judging = (
                sql.judging_by_rows(line.rows, digests[stem], ordered=line.ordered)
                if line.rows
                else sql.judging(reference, digests[stem])
            )
            prompt = f"{schemas[stem]}\n\n{line.question}"
            rows.append(_row(line, prompt, reference, "sql", line.group or stem, judging))
            programs.append((digests[stem], sql.normalise(reference)) if reference else (line.id,))
    _refuse(path.parent / about.problems, broken)
    frame = _dealt(pl.DataFrame(rows, schema=PROBLEMS), about, section, programs)
    return sql.SqlSuite(
        name, _version(frame), about.licence, frame, {digests[s]: files[s] for s in chosen}, about.system or sql.SYSTEM
    )


def _databases(about: About, path: Path) -> dict[str, Path]:
    """The files by their stems. Raises ConfigError for one that cannot be used."""
    if not about.databases:
        raise ConfigError(f"{path}: kind sql needs databases, e.g. [shop.sqlite]")
    files = {Path(d).stem: path.parent / expand(d) for d in about.databases}
    if len(files) < len(about.databases):
        raise ConfigError(f"{path}: two databases have the same name without folder and ending; rename one")
    for file in files.values():
        require_settled(file)
    return files
