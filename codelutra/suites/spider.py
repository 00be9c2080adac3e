"""spider: text-to-SQL over many databases (Yu et al., 2018, arXiv 1809.08887; CC BY-SA 4.0), from its official layout.

    <suite.path>/train_spider.json  dev.json  tables.json  database/<db_id>/<db_id>.sqlite

Protocols and splits are `text_to_sql`'s.
"""

from __future__ import annotations

from typing import Any

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.suites.databases import chosen_databases, table_text
from codelutra.suites.folder import find, read_entries
from codelutra.suites.sql import SqlSuite
from codelutra.suites.sql_text import one_line as _one_line
from codelutra.suites.text_to_sql import Asked, Database, Official, suite

VERSION = "2"
LICENCE = "CC-BY-SA-4.0"
FILES: dict[Official, str] = {"train": "train_spider.json", "dev": "dev.json"}


def load(section: SuiteSection) -> SqlSuite:
    folder = find(section, "spider")
    parts = dict.fromkeys(("table_names_original", "column_names_original", "foreign_keys"), list)
    tables = {t["db_id"]: t for t in read_entries(folder / "tables.json", db_id=str, **parts)}
    questions = {f: read_entries(folder / name, db_id=str, question=str, query=str) for f, name in FILES.items()}
    names = sorted({q["db_id"] for entries in questions.values() for q in entries})
    names = chosen_databases(section, names, f"{folder}/{FILES['train']} and {FILES['dev']}")
    without = [n for n in names if n not in tables]
    if without:
        raise ConfigError(f"{folder}/tables.json lacks {', '.join(without)}; take all files from one release of Spider")
    try:
        databases = {n: Database(folder / "database" / n / f"{n}.sqlite", schema(tables[n])) for n in names}
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise ConfigError(f"{folder}/tables.json does not fit together ({e}); take the file of the official release") from e
    asked = [
        Asked(file, number, q["db_id"], " ".join(q["question"].split()), _one_line(q["query"]))
        for file, entries in questions.items()
        for number, q in enumerate(entries)
    ]
    return suite(section, asked, databases, f"{VERSION}-{section.protocol}", LICENCE)


def schema(tables: dict[str, Any]) -> str:
    """An entry of `tables.json` as prompts show it. Keys that only repeat a name (`x_id -> x`) cost few tokens."""
    columns, names = tables["column_names_original"], tables["table_names_original"]
    links = {child: (names[columns[parent][0]], columns[parent][1]) for child, parent in tables["foreign_keys"]}
    lines = []
    for number, name in enumerate(names):
        own = {columns[i][1]: link for i, link in links.items() if columns[i][0] == number}
        lines.append(table_text(name, [column for table, column in columns if table == number], own))
    return "\n".join(lines)
