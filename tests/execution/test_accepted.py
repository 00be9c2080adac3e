"""Several accepted queries for one question: what agrees with any of them is right, wherever answers are judged."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.execution.lucky import confirm, expected_on_copies
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.pipeline.check import contradictions, leaks_within, reference_failures
from codelutra.suites.base import Suite, material, open_suite
from codelutra.suites.copies.make import make_copies, queries_by_database
from codelutra.suites.determined import tied_limits
from codelutra.suites.sql import judging
from sandbox import Pool, ensure_image
from tests.helpers.frames import samples_of

SHOP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price INTEGER, stock INTEGER);
INSERT INTO item VALUES (1, 'cup', 3, 5), (2, 'jug', 9, 5), (3, 'mug', 4, 1), (4, 'pot', 9, 7);
"""
NAMES, IDS = "SELECT name FROM item WHERE price > 3", "SELECT id FROM item WHERE price > 3"
DEAREST = "SELECT id FROM item ORDER BY price DESC LIMIT 1"
BY_PRICE = "SELECT name FROM item ORDER BY price, id"
LINES: list[dict[str, Any]] = [
    {"id": "two", "question": "Which items cost more than 3?", "query": [NAMES, f"{IDS};"]},
    {"id": "one", "question": "Which items cost more than 3 now?", "query": NAMES},
    {"id": "mixed", "question": "All items?", "query": [BY_PRICE, "SELECT name, price FROM item"]},
    {"id": "tie", "question": "Dearest?", "query": ["SELECT max(price) FROM item", DEAREST]},
    {"id": "broken", "question": "None?", "query": ["SELECT 1", "SELECT name FROM item WHERE price > 99"]},
]
TRIED = [
    ("two", NAMES, "correct"),
    ("two", IDS, "correct"),
    ("two", "SELECT name, id FROM item WHERE price > 3", "wrong"),
    ("two", "SELECT name FROM item", "wrong"),
    ("one", NAMES, "correct"),
    ("one", IDS, "wrong"),
    ("mixed", BY_PRICE, "correct"),
    ("mixed", "SELECT name FROM item ORDER BY price DESC", "wrong"),
    ("mixed", "SELECT name, price FROM item ORDER BY price DESC", "correct"),
    ("tie", "SELECT 9", "correct"),
    ("tie", "SELECT 2", "correct"),
    ("tie", "SELECT 4", "correct"),
    ("tie", "SELECT 3", "wrong"),
    ("broken", "SELECT 1", "reference_error"),
]
SECONDS = {"timeout_seconds": 2.0}


class Shop(NamedTuple):
    suite: Suite
    pool: Pool
    expected: pl.DataFrame
    copies: pl.DataFrame


def suite_in(folder: Path, lines: list[dict[str, Any]]) -> Suite:
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.executescript(f"DROP TABLE IF EXISTS item; {SHOP}")
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    split = [{"split": "train"} | line for line in lines]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, split)))
    return open_suite(SuiteSection(name="custom", path=str(folder)))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("accepted")
    suite = suite_in(folder, LINES)
    (folder / "out").mkdir()
    copies, _ = make_copies(suite.databases(), queries_by_database(suite.problems()), 4, 0, folder / "out")
    files = {digest: folder / "out" / f"{digest}.sqlite" for digest in copies["digest"]}
    databases = {**suite.databases(), **files}
    with Pool(image=ensure_image("python"), workers=1, databases=databases, run="test-accepted") as pool:
        yield Shop(suite, pool, judge_references(suite.problems(), suite, pool, **SECONDS)[0], copies)


def test_what_agrees_with_any_accepted_query_is_right(shop: Shop) -> None:
    drawn = samples_of([(problem, code) for problem, code, _ in TRIED])
    outcomes, facts = execute(drawn, shop.suite.problems(), shop.expected, shop.suite, shop.pool, **SECONDS)
    assert outcomes.select("problem_id", "code", "status").rows() == TRIED
    digests = dict(outcomes.select("code", "answer").rows())
    assert digests[NAMES] != digests[IDS], "right answers that differ are counted as different"
    assert set(facts["other_modes"]) == set(shop.suite.other_modes)


def test_an_accepted_query_that_cannot_judge_is_named_and_makes_the_problem_useless(shop: Shop) -> None:
    failures = reference_failures(shop.suite.problems(), shop.expected, shop.expected, shop.suite)
    assert [(f["problem_id"], f["why"]) for f in failures] == [("broken", "accepted query 2: the reference returns no rows")]
    assert tied_limits(shop.expected) == ["tie"], "a cut tie of any accepted query is seen"


def test_copies_accept_what_the_database_accepts_and_catch_what_is_lucky(shop: Shop) -> None:
    problems = shop.suite.problems()
    there, _ = expected_on_copies(shop.copies, problems, shop.expected, shop.suite, shop.pool, **SECONDS)
    assert {"two", "one"} <= set(there["problem_id"])
    right, lucky = [("two", NAMES), ("two", IDS)], [("two", "SELECT id FROM item WHERE id > 1")]
    drawn = samples_of([*right, *lucky])
    outcomes, _ = execute(drawn, problems, shop.expected, shop.suite, shop.pool, **SECONDS)
    assert set(outcomes["status"]) == {"correct"}
    after, _, _ = confirm(outcomes, shop.copies, problems, there, shop.suite, shop.pool, **SECONDS)
    assert after["status"].to_list() == ["correct", "correct", "undecided"]


def test_the_first_is_the_reference_and_one_query_is_judged_as_it_always_was(shop: Shop) -> None:
    problems = {row["problem_id"]: row for row in shop.suite.problems().rows(named=True)}
    assert problems["two"]["reference"] == NAMES
    digest = material(problems["one"]["judge"])["database"]
    assert problems["one"]["judge"] == judging(NAMES, digest)
    assert problems["one"]["judge"] == json.dumps({"database": digest, "order_by": False, "ordered": False})
    assert "others" not in dict(shop.expected.select("problem_id", "expected").rows())["one"]


def test_a_shared_accepted_query_is_a_leak_and_keeps_problems_together(tmp_path: Path) -> None:
    lines = [{"question": "A?", "query": [NAMES, IDS]}, {"question": "B?", "query": IDS, "split": "dev"}]
    suite = suite_in(tmp_path, lines)
    assert [(leak["shares"], leak["problem_id"]) for leak in leaks_within(suite.problems(), suite)] == [("program", "00002")]
    further = [{"question": f"{n}?", "query": f"SELECT id FROM item WHERE price > {n}"} for n in range(30, 60)]
    undealt = [{**line, "split": None} for line in (*lines, *further)]
    dealt = suite_in(tmp_path, undealt).problems()
    assert dealt["split"][0] == dealt["split"][1]


def test_the_order_of_accepted_queries_is_no_contradiction_and_another_set_is(shop: Shop, tmp_path: Path) -> None:
    lines = [{"question": "A?", "query": q} for q in ([NAMES, IDS], [IDS, NAMES], NAMES)]
    suite = suite_in(tmp_path, lines)
    expected, _ = judge_references(suite.problems(), suite, shop.pool, **SECONDS)
    assert [c["problem_id"] for c in contradictions(suite.problems(), expected, suite)] == ["00003"]


WAYS: list[dict[str, Any]] = [
    {"query": [NAMES, IDS]},
    {"query": json.dumps([NAMES, IDS])},
    {"SQL": [NAMES, None, " ", IDS]},
    {"query": NAMES, "query_2": IDS},
    {"query_1": NAMES, "query 2": IDS, "query_3": None},
    {"sql2": IDS, "sql": NAMES},
    {"queries": (NAMES, IDS, NAMES)},
]


@pytest.mark.parametrize("way", WAYS)
def test_they_are_written_as_a_list_or_with_numbers(way: dict[str, Any], tmp_path: Path) -> None:
    problem = suite_in(tmp_path, [{"question": "A?", **way}]).problems().row(0, named=True)
    assert problem["reference"] == NAMES
    assert material(problem["judge"])["also"] == [{"query": IDS, "ordered": False, "order_by": False}]


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ({"query": []}, "give `query`, or `rows`"),
        ({"query": [NAMES, "SELECT nope FROM item"]}, "query 2: SQLite refuses the query: no such column: nope"),
        ({"query": [NAMES, "DROP TABLE item"]}, "query 2: the reference writes"),
        ({"query": [NAMES, 5]}, "query.1: Input should be a valid string"),
        ({"query": {"a": 1}}, "query: Input should be a query, or a list of queries"),
        ({"query": [f"SELECT {n}" for n in range(21)]}, "at most 20 items"),
    ],
)
def test_a_list_that_is_none_is_refused(way: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        suite_in(tmp_path, [{"question": "A?", **way}])
