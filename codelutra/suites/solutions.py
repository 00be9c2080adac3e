"""A custom suite's own lines, and a new suite beside it in which some of them have a solution.

The files of the suite stay as they are. The new one keeps every problem's id and side, so that numbers can be compared.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError, UserError
from codelutra.schema import PROBLEMS
from codelutra.store.files import write_atomic
from codelutra.suites.custom import Lines, lines_of, read_about, suite_of, yaml_of
from codelutra.suites.dialects import SQLITE
from codelutra.suites.duck.files import Reader
from codelutra.suites.lines import Wrong, checked, read_records, renamed
from codelutra.suites.shapes import SOURCE, About


@dataclass(frozen=True)
class OwnLines:
    """The lines of a custom suite by the ids of their problems, under the keys of their shape."""

    section: SuiteSection
    about: About
    path: Path
    lines: Lines
    records: Mapping[str, tuple[int, dict[str, Any]]]
    """Problem id → number and record; those that `suite.databases` leaves out are not among them."""
    splits: Mapping[str, str]
    """Problem id → side, of all problems, also those that the config caps away."""

    @staticmethod
    def read(section: SuiteSection) -> OwnLines:
        """Raises ConfigError for another suite, and for all that the suite itself would be refused for."""
        if section.name != "custom" or section.path is None:
            raise ConfigError(f"suite {section.name!r}: solutions are written for a suite of your own (suite.name: custom)")
        path = yaml_of(section.path)
        about = read_about(path)
        with Reader() as reader:
            lines = lines_of(about, path, section, reader)
        whole = section.model_copy(update={"train": None, "dev": None, "test": None})
        frame = suite_of(about, path, whole).problems()
        splits = dict(frame.select("problem_id", "split").rows())
        records = dict[str, tuple[int, dict[str, Any]]]()
        for number, value in read_records(lines.file).found:
            record = renamed(value, lines.shape)
            named = checked(value, lines.shape).id or f"{number:05d}"
            if value.get(SOURCE):
                record[SOURCE] = str(value[SOURCE])
            if named in splits:
                records[named] = (number, record)
        return OwnLines(section, about, path, lines, records, splits)

    @property
    def solution(self) -> str:
        """The key of a line's solution."""
        return "query" if self.about.kind == "sql" else "reference"

    def rows(self, solutions: Mapping[str, str]) -> pl.DataFrame:
        """PROBLEMS, on the train side, with these solutions (problem id → program; "" for none). What nothing can judge
        then is left out."""
        rows = []
        with Reader() as reader:
            # Of a DuckDB file rows are made only while it is read.
            lines = self.lines if self.lines.dialect is SQLITE else lines_of(self.about, self.path, self.section, reader)
            for named, program in solutions.items():
                number, record = self.records[named]
                try:
                    row = lines.row(checked(self._with(record, program), lines.shape), number)
                except (Wrong, ValueError, SyntaxError, RecursionError, MemoryError):
                    continue
                rows += [row | {"problem_id": named, "split": "train"}] if row else []
        return pl.DataFrame(rows, schema=PROBLEMS)

    def write(self, solutions: Mapping[str, str], source: str, out: Path | None) -> Path:
        """The new suite: in `out` with copies of the databases, else beside the old one. Returns its YAML; one that is there
        and says the same is taken, and no other file is touched. Raises UserError where `out` holds another suite."""
        lines = []
        for named, (_, record) in self.records.items():
            new = record | {"id": named, "split": self.splits[named]}
            if named in solutions:
                new = self._with(new, solutions[named]) | {SOURCE: source}
            lines.append(_json(new, named))
        text = "".join(line + "\n" for line in lines)
        if out:
            return self._into(out, text)
        for n in range(1, 1000):
            stem = "solved" if n == 1 else f"solved-{n}"
            made = self.path.with_name(f"{self.path.stem}-{stem}.yaml")
            if _put({made.with_name(f"problems-{made.stem}.jsonl"): text, made: self._yaml(f"problems-{made.stem}.jsonl")}):
                return made
        raise UserError(f"{self.path.parent} holds a thousand solved suites; remove some, or give --out DIR")

    def _with(self, record: Mapping[str, Any], program: str) -> dict[str, Any]:
        kept = {key: value for key, value in record.items() if key != self.solution}
        return kept | ({self.solution: program} if program else {})

    def _into(self, out: Path, text: str) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        databases = [used.path.name for used in self.lines.databases.values()]
        if not _put({out / "problems.jsonl": text, out / "suite.yaml": self._yaml("problems.jsonl", databases)}):
            raise UserError(f"{out} holds another suite already, which is kept; give another folder (--out)")
        for used in self.lines.databases.values():
            if not (out / used.path.name).exists():
                shutil.copyfile(used.path, out / used.path.name)
        return out / "suite.yaml"

    def _yaml(self, problems: str, databases: list[str] | None = None) -> str:
        said = self.about.model_dump(mode="json", exclude_defaults=True) | {"problems": problems}
        said |= {"databases": databases} if databases else {}
        return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def _json(record: Mapping[str, Any], named: str) -> str:
    try:
        return json.dumps(record, ensure_ascii=False)
    except TypeError as e:
        raise UserError(f"problem {named}: it holds a value that JSON has no word for ({e}); write it in an assert") from e


def _put(files: Mapping[Path, str]) -> bool:
    """Write the files, if each is missing or says this already; else none, and False."""
    for path, text in files.items():
        if path.exists() and (not path.is_file() or path.read_bytes() != text.encode()):
            return False
    for path, text in files.items():
        if not path.exists():
            write_atomic(path, text)
    return True
