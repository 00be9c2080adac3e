"""`suite.shown_schema: linked`: the part of a schema that a question needs, and how much of what references read it has."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codelutra.config import RunConfig, SuiteSection
from codelutra.errors import ConfigError
from codelutra.pipeline.check import _schema_note, _schema_shown
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.databases import read_schema, reads_of, table_text, text_values
from codelutra.suites.linking import _lines, _places, _stem, _tables, linked, needed, recall

WIDE = ", ".join(f"extra_{n} REAL" for n in range(12))
SHOP = f"""
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, district TEXT, {WIDE}, allergytype TEXT);
CREATE TABLE product (id INTEGER PRIMARY KEY, title TEXT, price REAL);
CREATE TABLE "order" (id INTEGER PRIMARY KEY, customer_id REFERENCES customer(id), "group" TEXT, day TEXT);
CREATE TABLE line (order_id REFERENCES "order"(id), product_id REFERENCES product, amount INTEGER);
CREATE TABLE weather (day TEXT, degrees REAL);
CREATE VIEW dear AS SELECT title AS label, price AS cost FROM product WHERE price > 9;
INSERT INTO customer (id, name, district) VALUES (1, 'Ann', 'Hill'), (2, 'Bob', 'Old Town');
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as made, made:
        made.executescript(SHOP)
    return tmp_path / "shop.sqlite"


def suite_of(folder: Path, *lines: dict[str, str], **more: object) -> Suite:
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return open_suite(SuiteSection.model_validate({"name": "custom", "path": str(folder), **more}))


PRODUCT, CUSTOMER = "product(id, title, price)", "customer(id, name, district)"
QUESTIONS = [
    ("What do the products cost on average?", [PRODUCT], ["weather(day, degrees)"]),
    ("Which customers live in Old Town?", [CUSTOMER], ["extra_3", "weather"]),
    ("Who lives in hill?", [CUSTOMER], ["extra_3"]),
    (
        "Which customers bought which products?",
        ["customer(id, name)", "line(order_id", '"order"(id, customer_id'],
        ["weather"],
    ),
    ("What allergies do customers have?", ["allergytype"], ["extra_3"]),
    ("What is the extra 3?", ["extra_3"], []),
    ("How warm was it?", ["weather(day, degrees)", PRODUCT, "extra_3"], []),
]


@pytest.mark.parametrize(("question", "there", "absent"), QUESTIONS)
def test_a_question_keeps_what_it_names_and_what_joins_it(
    question: str, there: list[str], absent: list[str], shop: Path
) -> None:
    suite = suite_of(shop.parent, {"question": question, "query": "SELECT 1"}, shown_schema="linked")
    schema, _, asked = suite.problems()["prompt"][0].partition("\n\n")
    assert asked == question
    assert [part for part in there if part not in schema] == []
    assert [part for part in absent if part in schema] == []


def test_full_is_what_it_always_was_and_linked_is_another_version(shop: Path) -> None:
    line = {"question": "What do the products cost?", "query": "SELECT price FROM product"}
    full, cut = suite_of(shop.parent, line), suite_of(shop.parent, line, shown_schema="linked")
    assert full.problems()["prompt"][0] == f"{read_schema(shop)}\n\n{line['question']}"
    assert cut.version == f"{full.version}+linked1"
    assert cut.problems().drop("prompt").equals(full.problems().drop("prompt"))
    assert (
        "shown_schema" not in RunConfig.model_validate({"name": "a", "model": "b", "suite": {"name": "c"}}).model_fields_set
    )


NAMES = st.text(st.sampled_from("ab,(\"-> )'ä.1"), min_size=1, max_size=8)
TABLES = st.tuples(NAMES, st.lists(NAMES, min_size=1, max_size=4, unique_by=str.lower))


@given(st.lists(TABLES, min_size=1, unique_by=lambda table: table[0].lower()))
def test_any_names_are_read_back_from_the_schema_that_shows_them(tables: list[tuple[str, list[str]]]) -> None:
    links = [{columns[0]: (tables[0][0], tables[0][1][0])} for _, columns in tables]
    context = "\n".join(table_text(name, columns, link) for (name, columns), link in zip(tables, links, strict=True))
    assert [(t.name, [c.name for c in t.columns]) for t in _tables(context)] == [
        (name.lower(), [c.lower() for c in columns]) for name, columns in tables
    ]
    assert "\n".join(_lines(context, _places(context))) == context


@given(st.text(max_size=80), st.text(max_size=40))
def test_no_schema_and_no_question_is_too_odd(context: str, question: str) -> None:
    assert needed(_tables(context), question, {}) <= _places(context)


def test_what_is_beside_the_schema_stays_with_its_column() -> None:
    context = "a(id, x)\nb(id, y)\nb.y: what it is; 1 is yes\nExamples: of all"
    assert list(_lines(context, {("a", "id"), ("a", "x")})) == ["a(id, x)", "Examples: of all"]
    assert "b.y: what it is; 1 is yes" in list(_lines(context, {("b", "y")}))


@pytest.mark.parametrize(
    ("one", "other"),
    [("cities", "city"), ("prices", "price"), ("classes", "class"), ("listed", "listing"), ("names", "name")],
)
def test_forms_of_a_word_have_one_stem(one: str, other: str) -> None:
    assert _stem(one) == _stem(other)


def test_sqlite_says_what_a_query_reads(shop: Path) -> None:
    assert reads_of(shop, "SELECT p.title FROM product AS p JOIN line ON product_id = p.id") == {
        ("product", "title"),
        ("product", "id"),
        ("line", "product_id"),
    }
    assert reads_of(shop, "SELECT label FROM dear") == {("dear", "label")}
    assert reads_of(shop, "SELECT nope FROM product") == set()
    assert reads_of(shop, "DROP TABLE product") == set()
    assert ("customer", "district", "Old Town") in text_values(shop)


def test_recall_counts_what_references_read(shop: Path) -> None:
    lines = [
        {"question": "What do the products cost?", "query": "SELECT price FROM product"},
        {"question": "What do the products weigh?", "query": "SELECT degrees, price FROM weather, product"},
        {"question": "Which products?", "query": "SELECT count(*) FROM product"},
    ]
    full, cut = suite_of(shop.parent, *lines), suite_of(shop.parent, *lines, shown_schema="linked")
    found = recall(full.problems(), cut.problems(), full.databases())
    assert (found["tables"], found["columns"]) == (3 / 4, 2 / 3)
    assert (found["whole"], found["references"]) == (2, 3)
    assert 0 < found["shown"] < 1
    section = SuiteSection(name="custom", path=str(shop.parent), shown_schema="linked")
    assert _schema_shown(section, cut.problems(), cut) == found
    assert "75.0% of the tables and 66.7% of the columns; all of it in 2 of 3 prompts" in _schema_note(found)
    assert _schema_shown(section.model_copy(update={"shown_schema": "full"}), full.problems(), full) == {}


def test_a_suite_without_databases_has_no_schema_to_cut(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function\n")
    line = {"prompt": "Write f.", "reference": "def f(x): return x", "function": "f", "cases": [[1]]}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line))
    with pytest.raises(ConfigError, match=r"shown_schema linked: custom-.* has no databases, so no schemas"):
        open_suite(SuiteSection(name="custom", path=str(tmp_path), shown_schema="linked"))


@pytest.mark.parametrize("name", ["starter-sql", "spider"])
def test_most_of_what_references_read_is_shown(name: str) -> None:
    if name == "spider" and not os.environ.get("CODELUTRA_DATA"):
        pytest.skip("needs Spider: set CODELUTRA_DATA")
    suite = open_suite(SuiteSection(name=name, train=300, dev=50, test=300))
    found = recall(suite.problems(), linked(suite.problems(), suite.databases()), suite.databases())
    assert found["tables"] > 0.98
    assert found["columns"] > 0.95
    assert found["shown"] < 0.85
