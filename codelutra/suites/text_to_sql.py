"""What Spider and BIRD share: official files of questions over many databases, and two protocols to split them.

cross-domain: the official dev file is the *test* split, because published results use it (the true test sets were hidden
for years). A seeded tenth of the *databases* of the official train file is held out as dev; the rest trains.

in-domain: only the questions of `suite.databases`, from both files, dealt 60 : 15 : 25 within each database. No normalised
query and no normalised question is in two splits. Use it to specialise a model to databases you have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.databases import database_digest
from codelutra.suites.splits import cap, divide, draw, normalise_prompt
from codelutra.suites.sql import SqlSuite, alike, judging

SHARES = {"train": 0.6, "test": 0.25, "dev": 0.15}  # of the in-domain protocol
HELD_OUT = 0.1  # share of the train file's databases that are dev in the cross-domain protocol
Official = Literal["train", "dev"]


class Asked(NamedTuple):
    """A question of an official file."""

    file: Official
    number: int  # its place in the file, or the file's own id
    database: str
    question: str
    query: str
    hint: str = ""  # stands behind the question in the prompt
    difficulty: str = ""


class Database(NamedTuple):
    path: Path
    context: str  # how prompts begin: its schema, and what else helps


def suite(
    section: SuiteSection,
    asked: Sequence[Asked],
    databases: Mapping[str, Database],
    version: str,
    licence: str,
    needed: Sequence[str] = ("train", "dev"),
) -> SqlSuite:
    """The suite of those questions that are over `databases`, split by `section.protocol`.

    Raises ConfigError where the protocol leaves one of the `needed` splits without a problem.
    """
    digests = {name: database_digest(database.path) for name, database in databases.items()}
    asked = [a for a in asked if a.database in databases]
    rows = [
        {
            "problem_id": f"{a.file}-{a.number:05d}",
            "split": _side(section.seed, a),
            "prompt": f"{databases[a.database].context}\n\n{a.question}{a.hint}",
            "reference": a.query,
            "language": "sql",
            "group": a.database,
            "difficulty": a.difficulty,
            "judge": judging(a.query, digests[a.database]),
        }
        for a in asked
    ]
    frame = pl.DataFrame(rows, schema=PROBLEMS)
    if section.protocol == "in-domain":
        frame = _in_domain(frame, asked, section)
    for split in needed:
        if not frame["split"].eq(split).any():
            raise ConfigError(
                f"suite {section.name}, protocol {section.protocol}: no {split} problem among the chosen databases; "
                "choose more databases, or protocol in-domain"
            )
    files = {digests[name]: database.path for name, database in databases.items()}
    return SqlSuite(section.name, version, licence, cap(frame, section), files)


def _side(seed: int, asked: Asked) -> str:
    if asked.file == "dev":
        return "test"
    return "dev" if draw(seed, "held out", asked.database) < HELD_OUT else "train"


def _in_domain(frame: pl.DataFrame, asked: Sequence[Asked], section: SuiteSection) -> pl.DataFrame:
    if not section.databases:
        raise ConfigError(
            "suite.protocol in-domain needs suite.databases, e.g. [college_2, hr_1]; take those with many questions"
        )
    same = [
        ((a.database, alike(a.query)), (a.database, normalise_prompt(a.question)), normalise_prompt(prompt))
        for a, prompt in zip(asked, frame["prompt"], strict=True)
    ]
    return divide(frame, same, SHARES, section.seed)
