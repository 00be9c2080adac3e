"""`suite.sample_rows` and `suite.value_hints`: what prompts tell of a database's content."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.config import RunConfig, SuiteSection
from codelutra.errors import ConfigError
from codelutra.pipeline.ask import _prompt
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.databases import read_schema
from codelutra.suites.examples import with_examples
from codelutra.suites.hints import LONGEST_CELL, MOST_VALUES, first_rows, hinted
from codelutra.suites.sql import SqlSuite

SHOP = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, district TEXT, photo BLOB);
CREATE TABLE "order" (id INTEGER PRIMARY KEY, customer_id REFERENCES customer(id), "group" TEXT);
CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS most FROM n;
INSERT INTO customer VALUES (1, 'Ann', 'Hill', x'00ff'), (2, 'O''Hara', 'Old Town', NULL), (3, 'two
lines', 'Old Town', NULL);
INSERT INTO "order" VALUES (1, 2, 'Hill');
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as made, made:
        made.executescript(SHOP)
    return tmp_path / "shop.sqlite"


def suite_of(folder: Path, *questions: str, **more: object) -> Suite:
    lines = [{"question": q, "query": f"SELECT count(*) + {n} FROM customer"} for n, q in enumerate(questions)]
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return open_suite(SuiteSection.model_validate({"name": "custom", "path": str(folder), **more}))


def test_rows_stand_below_their_table_as_sqlite_writes_them(shop: Path) -> None:
    prompt = suite_of(shop.parent, "How many?", sample_rows=2).problems()["prompt"][0]
    assert prompt.split("\n") == [
        "customer(id, name, district, photo)",
        "  (1, 'Ann', 'Hill', X'00FF')",
        "  (2, 'O''Hara', 'Old Town', NULL)",
        '"order"(id, customer_id -> customer.id, "group")',
        "  (1, 2, 'Hill')",
        "endless(most)",  # a view that never ends has no rows to show
        "",
        "How many?",
    ]


def test_a_cell_is_one_short_line(shop: Path) -> None:
    assert first_rows(shop, "customer", ("name",), 3)[2] == "  ('two lines')"
    with closing(sqlite3.connect(shop)) as made, made:
        made.execute("INSERT INTO customer VALUES (4, ?, 'a\u2028b\x1b[31m', NULL)", ("x" * 500,))
    first_rows.cache_clear()
    row = first_rows(shop, "customer", ("name", "district"), 4)[3]
    assert row == "  ('" + "x" * (LONGEST_CELL - 2) + "…, 'a b [31m')"


QUESTIONS = [
    ("Who lives in the old town?", ["customer.district = 'Old Town'"]),
    ("Orders of O'Hara", ["customer.name = 'O''Hara'"]),
    ("What is on the hill?", ["customer.district = 'Hill'", '"order"."group" = \'Hill\'']),
    ("Ann or Ann, of Hill", ["customer.name = 'Ann'", "customer.district = 'Hill'", '"order"."group" = \'Hill\'']),
    ("How many two lines?", []),  # a value with a line break is none to write
    ("How many orders?", []),
]


@pytest.mark.parametrize(("question", "expected"), QUESTIONS)
def test_values_that_a_question_names_are_told_with_their_columns(question: str, expected: list[str], shop: Path) -> None:
    context, _, asked = suite_of(shop.parent, question, value_hints=True).problems()["prompt"][0].partition("\n\n")
    assert asked == question
    assert context.removeprefix(read_schema(shop)).split("\n")[1:] == expected
    for hint in expected:
        column, _, value = hint.partition(" = ")
        table = column.rpartition(".")[0]
        with closing(sqlite3.connect(shop)) as opened:
            assert opened.execute(f"SELECT count(*) > 0 FROM {table} WHERE {column} = {value}").fetchone() == (1,)


def test_hints_are_few(shop: Path) -> None:
    with closing(sqlite3.connect(shop)) as made, made:
        made.executemany("INSERT INTO customer (name) VALUES (?)", [(f"name{n}",) for n in range(40)])
    question = " ".join(f"name{n}" for n in range(40))
    context = suite_of(shop.parent, question, value_hints=True).problems()["prompt"][0].partition("\n\n")[0]
    assert context.count(" = '") == MOST_VALUES


def test_hints_name_only_what_the_prompt_shows(shop: Path) -> None:
    more = {"shown_schema": "linked", "value_hints": True, "sample_rows": 1}
    prompt = suite_of(shop.parent, "Customers of the old town?", **more).problems()["prompt"][0]
    assert "endless" not in prompt
    assert "customer.district = 'Old Town'" in prompt
    assert "  (1, 'Ann', 'Hill', X'00FF')\n" in prompt


def test_worked_examples_come_with_their_own_hints(shop: Path) -> None:
    suite = suite_of(shop.parent, *(f"Number {n} in Hill?" for n in range(12)), "Old Town?", value_hints=True)
    (one,) = with_examples(suite.problems(), 1, 0).filter(pl.col("prompt").str.ends_with("Old Town?"))["prompt"]
    assert one.startswith(read_schema(shop) + "\n\n")
    assert one.index("customer.district = 'Hill'") < one.index("SELECT") < one.index("customer.district = 'Old Town'")


def test_both_are_part_of_what_a_suite_is(shop: Path) -> None:
    plain = suite_of(shop.parent, "How many?")
    told = suite_of(shop.parent, "How many?", sample_rows=3, value_hints=True)
    assert told.version == f"{plain.version}+3rows1+values1"
    assert told.problems().drop("prompt").equals(plain.problems().drop("prompt"))
    assert plain.problems()["prompt"][0] == f"{read_schema(shop)}\n\nHow many?"


def test_a_question_that_is_asked_gets_the_same_prompt(shop: Path) -> None:
    for shape in ({"sample_rows": 2, "value_hints": True}, {"shown_schema": "linked"}, {}):
        suite = suite_of(shop.parent, "Who lives in the old town?", "How many?", **shape)
        section = {"name": "custom", "path": str(shop.parent), **shape}
        config = RunConfig.model_validate({"name": "a", "model": "hf:b/c@d", "suite": section})
        whole = suite_of(shop.parent, "Who lives in the old town?", "How many?")
        assert isinstance(whole, SqlSuite)
        ((digest, file),) = whole.databases().items()
        asked = _prompt(config, whole, file, digest, "Who lives in the old town?")
        assert asked in suite.problems()["prompt"].to_list()


def test_a_suite_without_databases_has_nothing_to_show(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function\n")
    line = {"prompt": "Write f.", "reference": "def f(x): return x", "function": "f", "cases": [[1]]}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line))
    for shape in ({"sample_rows": 2}, {"value_hints": True}):
        with pytest.raises(ConfigError, match=rf"suite.{next(iter(shape))} .* has no databases"):
            open_suite(SuiteSection.model_validate({"name": "custom", "path": str(tmp_path), **shape}))


@settings(max_examples=30)
@given(st.text(max_size=80))
def test_no_question_is_too_odd(question: str) -> None:
    suite = open_suite(SuiteSection(name="starter-sql", train=2, dev=1, test=0))
    asked = suite.problems().head(1)
    changed = asked.with_columns(prompt=asked["prompt"].str.split("\n\n").list.first() + "\n\n" + question)
    told = hinted(changed, suite.databases(), rows=1, values=True)["prompt"][0]
    assert told.endswith("\n\n" + question)
