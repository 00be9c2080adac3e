"""A suite: a data set of problems and the rule by which an answer is right.

A suite runs no code. It names the job that the sandbox runs for an answer, the job whose output is the expected one, and
says whether two outputs agree. Everything else (sampling, execution, scoring, pairs) is the same for all suites.

To add one, copy `mbpp.py` (Python) or `spider.py` (SQL): a module whose `load(section)` returns a suite, and a line in
SUITES. `PythonSuite` (python.py) and `SqlSuite` (sql.py) already have everything but the problems. Your module reads
its files, makes one row of PROBLEMS a problem (`judging…` writes the last column), and applies `cap`.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from sandbox.protocol import PythonJob, Result, SqlJob

Job = SqlJob | PythonJob

SUITES = {
    "custom": "codelutra.suites.custom",
    "starter-sql": "codelutra.suites.starter_sql.suite",
    "starter-python": "codelutra.suites.starter_python.suite",
    "spider": "codelutra.suites.spider",
    "bird": "codelutra.suites.bird",
    "mbpp": "codelutra.suites.mbpp",
    "mbpp-sanitized": "codelutra.suites.mbpp",
    "humaneval": "codelutra.suites.humaneval",
    "ds1000": "codelutra.suites.ds1000",
}


@dataclass(frozen=True)
class Suite(ABC):
    """What the stages ask of a suite. `problem` is a row of PROBLEMS; outputs are decoded sandbox values."""

    name: str
    version: str  # of prompts, splits and judging together; part of the key of every artifact made from this suite
    licence: str
    frame: pl.DataFrame
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)
    system: str = ""  # the system message of every prompt
    image: str = "python"  # kind of sandbox image its programs need: "python", "datascience"
    mode: str = ""  # the comparison mode that decides what is correct (equality.py)
    other_modes: tuple[str, ...] = ()  # further modes that greedy answers are compared under: reported, never trained on

    def problems(self) -> pl.DataFrame:
        """All problems of all splits, as PROBLEMS. Order and content depend on the section alone."""
        return self.frame

    def databases(self) -> Mapping[str, Path]:
        """The SQLite files that jobs name, by sha256 hex digest; empty for suites without any."""
        return self.files

    @property
    def takes_cases(self) -> bool:
        """Whether any problem can have generated cases: is judged by calls of a Python function."""
        return False

    @abstractmethod
    def answer_job(self, problem: Mapping[str, Any], code: str, job_id: str, timeout_seconds: float) -> Job:
        """The job whose output is compared."""

    @abstractmethod
    def expected_job(self, problem: Mapping[str, Any], job_id: str, timeout_seconds: float) -> Job:
        """The job that gives the expected output. It never sees the answer."""

    def check_jobs(self, problem: Mapping[str, Any], expected: Any, job_id: str, timeout_seconds: float) -> Sequence[Job]:
        """Further runs of a reference that gave `expected`, to see what of its output is determined."""
        return ()

    def checked(self, problem: Mapping[str, Any], expected: Any, results: Sequence[Result]) -> tuple[Any, str]:
        """The expected output with what the results of `check_jobs` say of it; and why it cannot judge answers, or ""."""
        return expected, ""

    def accepted(self, problem: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The problem once for each further program that its author accepts, as if that one were its reference."""
        return ()

    def either(self, outputs: Sequence[Any]) -> Any:
        """The expected output of a problem with several accepted programs, from what each of them gives."""
        return outputs[0]

    def changes(self, problem: Mapping[str, Any]) -> str:
        """Why two runs of a reference may differ, as far as its text shows, or ""."""
        return ""

    def in_process(self, problem: Mapping[str, Any]) -> bool:
        """Whether checks that cannot be taken apart decide in the answer's own process, where a program can cheat them."""
        return False

    @abstractmethod
    def usable(self, problem: Mapping[str, Any], expected: Any) -> str:
        """Why this expected output cannot judge answers (SQL: no rows), or "" where it can."""

    @abstractmethod
    def agrees(self, problem: Mapping[str, Any], output: Any, expected: Any) -> bool:
        """Whether two outputs are the same answer under `mode`."""

    def also(self, problem: Mapping[str, Any], output: Any, expected: Any) -> list[str]:
        """The `other_modes` under which two outputs are the same answer."""
        return []

    @abstractmethod
    def answer_digest(self, problem: Mapping[str, Any], output: Any) -> str:
        """Equal for outputs that are the same answer, except for some floats that differ within the tolerance."""

    @abstractmethod
    def normalise(self, code: str) -> str:
        """The program without what does not change its meaning, such as layout; `code` itself where it cannot be parsed."""

    def alike(self, code: str) -> str:
        """Equal for programs so alike that they must not be in two splits. It may also be equal for some that differ."""
        return self.normalise(code)


@lru_cache(maxsize=65536)
def material(judge: str) -> dict[str, Any]:
    """The judging material of a problem, which its suite wrote as JSON. Not to be changed: it is shared."""
    return dict(json.loads(judge))


def open_suite(section: SuiteSection) -> Suite:
    """The suite a config names. Raises ConfigError for an unknown name or an unusable path."""
    if section.name not in SUITES:
        raise ConfigError(f"unknown suite {section.name!r}; known: {', '.join(sorted(SUITES))}")
    suite: Suite = importlib.import_module(SUITES[section.name]).load(section)
    if section.copies and not suite.databases():
        raise ConfigError(
            f"suite.copies {section.copies}: {section.name} has no databases that could be copied; leave it at 0"
        )
    suite = _with_shown_schemas(suite, section)
    if not section.generated_cases:
        return suite
    if not suite.takes_cases:
        raise ConfigError(
            f"suite.generated_cases {section.generated_cases}: {section.name} has no problems judged by calls of a Python "
            "function; leave it at 0"
        )
    # The version it has with generated cases, which the `problems` stage makes (execution/testgen.py).
    proposed = "-proposed" if section.proposals else ""
    return replace(suite, version=f"{suite.version}+{section.generated_cases}cases{proposed}")


def _with_shown_schemas(suite: Suite, section: SuiteSection) -> Suite:
    from codelutra.suites import hints, linking

    told = {
        f"shown_schema {section.shown_schema}": f"linked{linking.VERSION}" * (section.shown_schema == "linked"),
        f"sample_rows {section.sample_rows}": f"{section.sample_rows}rows{hints.VERSION}" * (section.sample_rows > 0),
        "value_hints true": f"values{hints.VERSION}" * section.value_hints,
    }
    for key, version in told.items():
        if version and not suite.databases():
            raise ConfigError(f"suite.{key}: {suite.name} has no databases, so no schemas; leave it out")
        if version and getattr(suite, "dialect", "sqlite") != "sqlite":
            raise ConfigError(
                f"suite.{key}: values and tables are read from SQLite files, and these are DuckDB's; leave it out. Prompts "
                "that are too long get shorter with a DuckDB file of the tables that matter"
            )
    if not any(told.values()):
        return suite
    frame = shown_as(section, suite.problems(), suite.databases())
    return replace(suite, version="+".join([suite.version, *filter(None, told.values())]), frame=frame)


def shown_as(section: SuiteSection, problems: pl.DataFrame, files: Mapping[str, Path]) -> pl.DataFrame:
    """PROBLEMS whose prompts show what `section` says of whole schemas: `shown_schema`, `sample_rows`, `value_hints`.

    files: the databases, by digest.
    """
    from codelutra.suites import hints, linking

    if section.shown_schema == "linked":
        problems = linking.linked(problems, files)
    if section.sample_rows or section.value_hints:
        problems = hints.hinted(problems, files, rows=section.sample_rows, values=section.value_hints)
    return problems


WHOLE_SCHEMAS = {"shown_schema": "full", "sample_rows": 0, "value_hints": False}
"""The fields that `shown_as` reads, so that it has nothing to do."""
