"""spider: text-to-SQL over many databases (Yu et al., 2018, arXiv 1809.08887; CC BY-SA 4.0), from its official layout.

    <suite.path>/train_spider.json  dev.json  tables.json  database/<db_id>/<db_id>.sqlite

cross-domain: `dev.json` is the *test* split, since its true test set was hidden for years and results are quoted on it;
a seeded tenth of the *databases* of `train_spider.json` is held out whole as dev; the rest trains.

in-domain: only the questions of `suite.databases`, from both files, dealt 60 : 15 : 25 within each database so that no
normalised query and no normalised question is on two sides. This is how a model is specialised to databases one has.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.schema import PROBLEMS
from codelutra.suites.folder import find, read_json
from codelutra.suites.splits import cap, divide, draw, normalise_prompt
from codelutra.suites.sql import SqlSuite, chosen_databases, database_digest, judging, normalise, schema_text

VERSION = "1"
LICENCE = "CC-BY-SA-4.0"
SHARES = {"train": 0.6, "test": 0.25, "dev": 0.15}  # of the in-domain protocol
HELD_OUT = 0.1  # share of train_spider's databases that are dev in the cross-domain protocol
FILES = {"train": "train_spider.json", "dev": "dev.json"}


def load(section: SuiteSection) -> SqlSuite:
    folder = find(section, "spider")
    tables = {t["db_id"]: t for t in read_json(folder / "tables.json")}
    asked = {file: read_json(folder / name) for file, name in FILES.items()}
    names = sorted({q["db_id"] for questions in asked.values() for q in questions})
    names = chosen_databases(section, names, f"{folder}/{FILES['train']} and {FILES['dev']}")
    without = [n for n in names if n not in tables]
    if without:
        raise ConfigError(f"{folder}/tables.json lacks {', '.join(without)}; take all files from one release of Spider")

    paths = {name: folder / "database" / name / f"{name}.sqlite" for name in names}
    digests = {name: database_digest(path) for name, path in paths.items()}
    schemas = {name: schema(tables[name]) for name in names}
    rows = [
        {
            "problem_id": f"{file}-{number:05d}",
            "split": _side(section.seed, file, q["db_id"]),
            "prompt": f"{schemas[q['db_id']]}\n\n{_one_line(q['question'])}",
            "reference": _one_line(q["query"]),
            "language": "sql",
            "group": q["db_id"],
            "difficulty": "",
            "judge": judging(_one_line(q["query"]), digests[q["db_id"]]),
        }
        for file, questions in asked.items()
        for number, q in enumerate(questions)
        if q["db_id"] in digests
    ]
    frame = pl.DataFrame(rows, schema=PROBLEMS)
    if section.protocol == "in-domain":
        frame = _in_domain(frame, section)
    for split in ("train", "dev"):
        if not frame["split"].eq(split).any():
            raise ConfigError(
                f"suite spider, protocol {section.protocol}: no {split} problem among the chosen databases; "
                "choose more databases, or protocol in-domain"
            )
    files = {digests[name]: paths[name] for name in names}
    return SqlSuite("spider", f"{VERSION}-{section.protocol}", LICENCE, cap(frame, section), files)


def schema(tables: dict[str, Any]) -> str:
    """An entry of `tables.json` as prompts show it. Keys that only repeat a name (`x_id -> x`) cost few tokens."""
    columns, names = tables["column_names_original"], tables["table_names_original"]
    links = {child: (names[columns[parent][0]], columns[parent][1]) for child, parent in tables["foreign_keys"]}
    return schema_text(
        [
            (
                name,
                [column for t, column in columns if t == number],
                {columns[i][1]: link for i, link in links.items() if columns[i][0] == number},
            )
            for number, name in enumerate(names)
        ]
    )


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip("; ")


def _side(seed: int, file: str, database: str) -> str:
    if file == "dev":
        return "test"
    return "dev" if draw(seed, "held out", database) < HELD_OUT else "train"


def _in_domain(frame: pl.DataFrame, section: SuiteSection) -> pl.DataFrame:
    if not section.databases:
        raise ConfigError(
            "suite.protocol in-domain needs suite.databases, e.g. [college_2, hr_1]; take those with many questions"
        )
    same = [
        ((group, normalise(reference)), normalise_prompt(prompt))
        for group, reference, prompt in frame.select("group", "reference", "prompt").rows()
    ]
    return divide(frame, same, SHARES, section.seed)
