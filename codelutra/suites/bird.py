"""bird: text-to-SQL over large databases (Li et al., 2023, arXiv 2305.03111; CC BY-SA 4.0), from its official layout.

    <suite.path>/[train/]train.json   [train/]train_databases/<db_id>/<db_id>.sqlite
                 [dev/]dev.json       [dev/]dev_databases/<db_id>/<db_id>.sqlite
                                      …/<db_id>/database_description/<table>.csv

A folder's name may include a release (`dev_20240627`), and that of a part of a file may say which (`dev_superhero.json`).
Schemas are read from the databases. `suite.evidence` puts each question's hint into the prompt, as most published
numbers do. `suite.descriptions` adds what the CSV files say about columns. `text_to_sql` has the protocols and splits;
without the train files (9 GB) the cross-domain protocol has a test split only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.suites.databases import chosen_databases, read_schema
from codelutra.suites.folder import find, read_entries
from codelutra.suites.sql import SqlSuite
from codelutra.suites.sql_text import bare
from codelutra.suites.text_to_sql import Asked, Database, Official, suite

VERSION = "3"
LICENCE = "CC-BY-SA-4.0"
SIDES: tuple[Official, ...] = ("train", "dev")
_NOT_QUESTIONS = ("tables", "tied_append")  # other JSON files of a release whose names begin like the questions'


def load(section: SuiteSection) -> SqlSuite:
    folder = find(section, "bird")
    files = {side: file for side in SIDES if (file := _questions(folder, side))}
    if not files:
        raise ConfigError(f"neither dev.json nor train.json in {folder}; check suite.path, or unpack BIRD's release there")
    entries = [(side, n, _entry(q, file, n)) for side, file in files.items() for n, q in enumerate(read_entries(file))]
    if not entries:
        raise ConfigError(f"{' and '.join(map(str, files.values()))} hold no question; take the file of an official release")
    where = {q["db_id"]: files[side].parent / f"{side}_databases" / q["db_id"] for side, _, q in entries}
    names = chosen_databases(section, sorted(where), " and ".join(map(str, files.values())))
    databases = {name: _database(where[name] / f"{name}.sqlite", section.descriptions) for name in names}
    asked = [_asked(side, number, q, section.evidence) for side, number, q in entries]
    shown = [what for what in ("evidence", "descriptions") if getattr(section, what)]
    version = "-".join([VERSION, section.protocol, *shown])
    needed = ("train", "dev") if "train" in files or section.protocol == "in-domain" else ()
    return suite(section, asked, databases, version, LICENCE, needed)


def _questions(folder: Path, side: str) -> Path | None:
    """The official file of questions, in the folder or in one below it."""
    for pattern in (f"{side}.json", f"{side}*/{side}.json", f"{side}_*.json"):
        found = [p for p in sorted(folder.glob(pattern)) if not any(other in p.stem for other in _NOT_QUESTIONS)]
        if len(found) > 1:
            raise ConfigError(f"{folder} holds {' and '.join(p.name for p in found)}; keep one, or rename it {side}.json")
        if found:
            return found[0]
    return None


def _entry(question: dict[str, Any], file: Path, number: int) -> dict[str, Any]:
    missing = [key for key in ("db_id", "question", "SQL") if not (question.get(key) and isinstance(question[key], str))]
    texts = {key: question.get(key) or "" for key in ("evidence", "difficulty")}
    missing += [key for key, text in texts.items() if not isinstance(text, str)]
    if missing:
        raise ConfigError(f"{file}, entry {number}: no {', '.join(missing)}; take the file of an official release")
    return (
        question | texts | {"question_id": question["question_id"] if type(question.get("question_id")) is int else number}
    )


def _asked(side: Official, number: int, question: dict[str, Any], evidence: bool) -> Asked:
    hint = question.get("evidence", "").strip() if evidence else ""
    return Asked(
        side,
        question.get("question_id", number),
        question["db_id"],
        question["question"].strip(),
        bare(question["SQL"]),
        hint=f"\nHint: {hint}" if hint else "",
        difficulty=question.get("difficulty", ""),
    )


def _database(path: Path, descriptions: bool) -> Database:
    if not path.is_file():
        raise ConfigError(f"no database at {path}; check suite.path and suite.databases")
    files = sorted((path.parent / "database_description").glob("*.csv")) if descriptions else []
    return Database(path, "\n".join([read_schema(path), *(line for file in files for line in _described(file))]))


def _described(file: Path) -> Iterator[str]:
    """A line `table.column: what it is; what its values mean` for each column whose description says more than its name."""
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # some of the release's files are in Windows' encoding
        text = raw.decode("cp1252", errors="replace")
    for row in csv.DictReader(io.StringIO(text)):
        row = {(key or "").strip(): " ".join((value or "").split()) for key, value in row.items() if isinstance(key, str)}
        column = row.get("original_column_name", "")
        said = [row.get(key, "") for key in ("column_description", "value_description")]
        said = [text for text in said if _letters(text) not in ("", _letters(column))]
        if column and said:
            yield f"{file.stem}.{column}: {'; '.join(said)}"


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
