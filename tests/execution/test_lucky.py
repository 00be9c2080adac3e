"""Answers right by luck: copies tell them from right ones, and they are neither chosen nor rejected."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from codelutra.config import PairsSection, SuiteSection
from codelutra.errors import StageError
from codelutra.execution.discern import discern
from codelutra.execution.lucky import asked_of, confirm, expected_on_copies
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.schema import NOT_THE_MODELS_DOING, PROBLEMS, RIGHT_BY_LUCK
from codelutra.store.files import sha256_file
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.copies.make import make_copies, queries_by_database
from codelutra.suites.sql import judging, judging_by_rows
from codelutra.training.pairs import make_pairs, right_answers
from sandbox import Pool, ensure_image
from tests.execution.test_outcomes import Scripted
from tests.helpers.frames import samples_of

SHOP = """
CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, pay INTEGER, city INTEGER REFERENCES city(id));
INSERT INTO city VALUES (1, 'Rome'), (2, 'Bonn'), (3, 'Lima');
INSERT INTO person VALUES (1, 'Ann', 30, 9, 1), (2, 'Bob', 41, 7, 2), (3, 'Cy', 25, 8, 1), (4, 'Di', 60, 3, 3);
"""
OLD, RICH, MANY = "old", "rich", "many"
QUERIES = {
    OLD: "SELECT name FROM person WHERE age > 40 AND pay < 8",
    RICH: "SELECT name FROM person ORDER BY pay DESC LIMIT 1",
    MANY: "SELECT c.name FROM city AS c JOIN person AS p ON p.city = c.id GROUP BY c.id HAVING count(*) >= 2",
}
RIGHT_ELSEWHERE_TOO = {
    OLD: [
        "SELECT name FROM person WHERE pay < 8 AND age > 40",
        "SELECT p.name FROM person AS p WHERE NOT (age <= 40 OR pay >= 8)",
    ],
    RICH: ["SELECT name FROM (SELECT * FROM person ORDER BY pay DESC) LIMIT 1"],
    MANY: ["SELECT name FROM city WHERE id IN (SELECT city FROM person GROUP BY city HAVING count(id) > 1)"],
}
LUCKY_HERE = {
    OLD: [
        "SELECT name FROM person WHERE age >= 40 AND pay < 8",
        "SELECT name FROM person WHERE age > 40",
        "SELECT name FROM person WHERE pay <= 7",
    ],
    RICH: ["SELECT name FROM person LIMIT 1", "SELECT name FROM person WHERE pay = 9", "SELECT min(name) FROM person"],
    MANY: ["SELECT name FROM city WHERE id = 1", "SELECT name FROM city WHERE id IN (SELECT city FROM person) LIMIT 1"],
}
SECONDS = {"timeout_seconds": 2.0}


class Shop(NamedTuple):
    suite: Suite
    problems: pl.DataFrame
    expected: pl.DataFrame
    copies: pl.DataFrame
    there: pl.DataFrame
    facts: dict[str, int]
    pool: Pool


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("lucky")
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.executescript(SHOP)
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    lines = [{"id": i, "split": "train", "question": f"{i}?", "query": q} for i, q in QUERIES.items()]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    suite = open_suite(SuiteSection(name="custom", path=str(folder), copies=6))
    problems = suite.problems()
    (folder / "out").mkdir()
    copies, fewer = make_copies(suite.databases(), queries_by_database(problems), 6, 0, folder / "out")
    assert fewer == {}
    files = {digest: folder / "out" / f"{digest}.sqlite" for digest in copies["digest"]}
    with Pool(image=ensure_image("python"), workers=1, databases={**suite.databases(), **files}, run="test-lucky") as pool:
        expected, _ = judge_references(problems, suite, pool, **SECONDS)
        there, facts = expected_on_copies(copies, problems, expected, suite, pool, **SECONDS)
        yield Shop(suite, problems, expected, copies, there, facts, pool)


@pytest.fixture(scope="module")
def outcomes(shop: Shop) -> pl.DataFrame:
    asked = [(p, code) for told in (RIGHT_ELSEWHERE_TOO, LUCKY_HERE) for p, codes in told.items() for code in codes]
    drawn = samples_of([*asked, (OLD, "SELECT name FROM person"), (OLD, "SELEC")])
    return execute(drawn, shop.problems, shop.expected, shop.suite, shop.pool, **SECONDS)[0]


@pytest.fixture(scope="module")
def confirmed(shop: Shop, outcomes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    return confirm(outcomes, shop.copies, shop.problems, shop.there, shop.suite, shop.pool, **SECONDS)


def test_copies_tell_lucky_answers_from_right_ones(outcomes: pl.DataFrame, confirmed: tuple[pl.DataFrame, ...]) -> None:
    frame = confirmed[0]
    right = [code for codes in RIGHT_ELSEWHERE_TOO.values() for code in codes]
    by_luck = [code for codes in LUCKY_HERE.values() for code in codes]
    assert set(outcomes.filter(pl.col("status") == "correct")["code"]) == {*right, *by_luck}
    assert frame.filter(pl.col("status") == "correct")["code"].to_list() == right
    assert frame.filter(RIGHT_BY_LUCK)["code"].to_list() == by_luck
    assert frame.filter(RIGHT_BY_LUCK)["status"].unique().to_list() == ["undecided"]
    assert all(e.startswith("right on the database, on ") for e in frame.filter(RIGHT_BY_LUCK)["error"])


def test_all_else_of_the_outcomes_stays_and_the_counts_say_why(
    outcomes: pl.DataFrame, confirmed: tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]
) -> None:
    frame, lucky, facts = confirmed
    changed = ["status", "verdict", "error"]
    assert frame.drop(changed).equals(outcomes.drop(changed))
    assert frame.filter(~RIGHT_BY_LUCK).equals(outcomes.filter(~frame["verdict"].eq("copies")))
    failed = frame.filter(RIGHT_BY_LUCK)["sample"].to_list()
    assert lucky.filter(pl.col("copies_agreed") < pl.col("copies_run"))["sample"].to_list() == failed
    assert (lucky["copies_run"] >= 1).all()
    assert facts == {"rows": 14, "right": 12, "right_compared": 12, "lucky": 8}


def test_a_lucky_answer_is_neither_chosen_nor_rejected_nor_learned_from(
    shop: Shop, confirmed: tuple[pl.DataFrame, ...]
) -> None:
    frame = confirmed[0]
    pairs, facts = make_pairs(frame, shop.problems, shop.expected, PairsSection(per_problem=99), seed=0)
    by_luck = set(frame.filter(RIGHT_BY_LUCK)["code"])
    assert pairs.height == 4
    assert not by_luck & {*pairs["chosen"], *pairs["rejected"]}
    assert (facts["samples"], facts["correct"], facts["lucky_left_out"]) == (6, 4, 8)
    answers, facts = right_answers(frame, shop.problems, shop.expected)
    assert not by_luck & set(answers["completion"])
    assert facts["lucky_left_out"] == 8


def test_where_all_right_answers_are_lucky_the_reference_is_chosen(shop: Shop, confirmed: tuple[pl.DataFrame, ...]) -> None:
    frame = confirmed[0].filter(~pl.col("code").is_in(RIGHT_ELSEWHERE_TOO[OLD]))
    pairs, _ = make_pairs(frame, shop.problems, shop.expected, PairsSection(), seed=0)
    assert set(pairs.filter(pl.col("problem_id") == OLD)["chosen"]) == {QUERIES[OLD]}


def test_a_copy_whose_reference_cannot_judge_does_not_count(shop: Shop, tmp_path: Path) -> None:
    """Of three copies one has no such row and one a tie at the LIMIT; there remains one, so all depends on that."""
    contents = ["DELETE FROM person", "UPDATE person SET pay = 9", "UPDATE person SET pay = 10 WHERE id = 2"]
    (original,) = shop.suite.databases().values()
    files = {}
    for change in contents:
        path = tmp_path / f"{len(files)}.sqlite"
        path.write_bytes(original.read_bytes())
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(change)
        files[sha256_file(path)] = path
    shop.pool.announce(files)
    database = shop.copies["database"][0]
    rows = [{"database": database, "copy": i, "digest": d, "rows": 4} for i, d in enumerate(files)]
    copies = pl.DataFrame(rows, schema=shop.copies.schema)
    there, facts = expected_on_copies(copies, shop.problems, shop.expected, shop.suite, shop.pool, **SECONDS)
    assert there.filter(pl.col("problem_id") == RICH)["copy"].to_list() == [2]
    assert facts["problems_with_copies"] == 3
    drawn = samples_of([(RICH, "SELECT name FROM person WHERE pay = 9"), (RICH, QUERIES[RICH])])
    outcomes, _ = execute(drawn, shop.problems, shop.expected, shop.suite, shop.pool, **SECONDS)
    _, lucky, _ = confirm(outcomes, copies, shop.problems, there, shop.suite, shop.pool, **SECONDS)
    assert lucky.select("copies_run", "copies_agreed").rows() == [(1, 0), (1, 1)]


def test_answers_without_a_copy_to_run_on_stay_right(shop: Shop, outcomes: pl.DataFrame) -> None:
    nothing = shop.there.clear()
    frame, lucky, facts = confirm(outcomes, shop.copies, shop.problems, nothing, shop.suite, shop.pool, **SECONDS)
    assert frame.equals(outcomes)
    assert lucky["copies_run"].to_list() == [0] * 12
    assert facts["right_compared"] == facts["lucky"] == 0


def test_an_answer_that_ran_out_of_time_on_a_copy_is_not_lucky(shop: Shop, outcomes: pl.DataFrame) -> None:
    for status in ("timeout", "resource_limit"):
        frame, _, facts = confirm(outcomes, shop.copies, shop.problems, shop.there, shop.suite, Scripted(status), **SECONDS)
        assert frame.equals(outcomes)
        assert facts["right_compared"] == 0


def test_an_outage_on_copies_stops_the_stage_and_marks_nobody(shop: Shop, outcomes: pl.DataFrame) -> None:
    with pytest.raises(StageError, match=r"100\.0% of 12 runs on copies"):
        confirm(outcomes, shop.copies, shop.problems, shop.there, shop.suite, Scripted("infra_error"), **SECONDS)


def test_problems_of_other_splits_and_without_a_reference_are_asked_of_no_copy(shop: Shop) -> None:
    database = shop.copies["database"][0]
    by_query, by_rows = judging("SELECT 1", database), judging_by_rows([[1]], database, ordered=False)
    asked = [
        ("a", "train", "SELECT 1", by_query),
        ("b", "dev", "SELECT 1", by_query),
        ("c", "train", "", by_rows),
        ("d", "train", "SELECT 1", judging("SELECT 1", "other")),
        ("e", "train", "SELECT 1", by_rows),
    ]
    row = {"prompt": "?", "language": "sql", "group": "", "difficulty": ""}
    names = ("problem_id", "split", "reference", "judge")
    rows = [row | dict(zip(names, values, strict=True)) for values in asked]
    numbered = list(asked_of(shop.copies, pl.DataFrame(rows, schema=PROBLEMS)))
    assert [(number, asked["problem_id"].to_list()) for number, asked in numbered] == [(i, ["a"]) for i in range(6)]
    assert queries_by_database(pl.DataFrame(rows[1:3], schema=PROBLEMS)) == {}


def test_changed_references_that_pass_are_counted_and_caught(shop: Shop) -> None:
    found = discern(shop.problems, shop.expected, shop.copies, shop.there, shop.suite, shop.pool, **SECONDS)
    assert found["by_kind"]["condition dropped"] == {"changed": 2, "right": 2, "caught": 2}
    assert found["changed"] == sum(kind["changed"] for kind in found["by_kind"].values())
    assert found["right"] >= found["caught"] >= 4


def test_undecided_answers_are_nobodys_doing() -> None:
    """What all consumers of outcomes leave out: the mark of a lucky answer is no further status."""
    assert "undecided" in NOT_THE_MODELS_DOING
