"""Your own problems: what is right loads, what is wrong is named with its line."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.pipeline.check import leaks_within
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.python import PythonSuite
from codelutra.suites.splits import overlaps
from codelutra.suites.sql import SqlSuite
from sandbox.protocol import SqlJob

FUNCTION = {"prompt": "Write f.", "reference": "def f(x): return x", "function": "f", "cases": [[1], ["a"]]}


def write(folder: Path, about: str, *lines: Any) -> Path:
    (folder / "suite.yaml").write_text(about)
    (folder / "problems.jsonl").write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return folder


def opened(folder: Path, **more: Any) -> Suite:
    return open_suite(SuiteSection(name="custom", path=str(folder), **more))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.executescript("CREATE TABLE item (id, name, price); INSERT INTO item VALUES (1, 'cup', 3), (2, 'jug', 9)")
    connection.close()
    return tmp_path


SQL = "kind: sql\ndatabases: [shop.sqlite]\n"


def test_sql_lines_become_problems_over_the_database(shop: Path) -> None:
    lines = [{"question": f"Over {n}?", "query": f"SELECT name FROM item WHERE price > {n};"} for n in range(40)]
    suite = opened(write(shop, SQL, *lines))
    assert isinstance(suite, SqlSuite)
    problems = suite.problems()
    assert problems["prompt"][0] == "item(id, name, price)\n\nOver 0?"
    assert problems["reference"][0] == "SELECT name FROM item WHERE price > 0"
    assert Counter(problems["split"].to_list()) == {"train": 24, "dev": 6, "test": 10}
    job = suite.answer_job(problems.row(0, named=True), "SELECT 1", "a", 1.0)
    assert suite.databases()[job.database] == shop / "shop.sqlite"


def test_a_system_message_replaces_the_usual_one_and_an_empty_one_is_none(shop: Path) -> None:
    line, usual = {"question": "Which?", "query": "SELECT 1"}, SqlSuite.system
    assert usual
    for said, system in (("", usual), ('system: ""\n', ""), ("system:\n", usual), ("system: One query.\n", "One query.")):
        assert opened(write(shop, SQL + said, line)).system == system


def test_rows_may_stand_for_the_query(shop: Path) -> None:
    line = {"question": "Which?", "rows": [["it's", 3], [None, 2.5]], "ordered": True, "split": "train"}
    suite = opened(write(shop, SQL, line))
    problem = suite.problems().row(0, named=True)
    assert problem["reference"] == ""
    job = suite.expected_job(problem, "e", 1.0)
    assert isinstance(job, SqlJob)
    assert job.query == "VALUES ('it''s', 3), (NULL, 2.5)"
    right: dict[str, Any] = {"columns": ["a", "b"], "truncated": False, "rows": [["it's", 3], [None, 2.5]]}
    assert suite.agrees(problem, right, right)
    assert not suite.agrees(problem, right | {"rows": right["rows"][::-1]}, right), "ordered"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({}, "give `query`, or `rows`"),
        ({"query": "SELECT 1", "rows": [[1]]}, "one of them"),
        ({"query": ";"}, "SQLite refuses the query: incomplete input"),
        ({"rows": [[1], [1, 2]]}, "rows differ in length"),
        ({"rows": [[]]}, "have no cells"),
        ({"rows": [[[1]]]}, r"rows\.0\.0"),
        ({"rows": [[float("inf")]]}, r"rows\.0\.0\.\S+: Input should be a finite number"),
        ({"rows": [[n] for n in range(501)]}, "501 rows; at most 500"),
        ({"query": "SELECT 1", "ordered": True}, "`ordered` goes with `rows`"),
    ],
)
def test_a_line_that_says_its_answer_twice_or_badly_is_refused(shop: Path, line: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"line 1: .*{said}"):
        opened(write(shop, SQL, {"question": "Which?", **line}))


def test_the_same_query_asked_twice_stays_on_one_side(shop: Path) -> None:
    lines = [
        {"question": f"{word} {n}?", "query": f"{select} name FROM item WHERE price > {n}"}
        for n in range(20)
        for word, select in (("Over", "SELECT"), ("Above", "select"))
    ]
    suite = opened(write(shop, SQL, *lines))
    assert overlaps(suite.problems(), pl.Series([suite.normalise(r) for r in suite.problems()["reference"]])) == []


def test_the_same_program_stays_on_one_side_whatever_its_group_is(shop: Path) -> None:
    lines = [
        {"question": f"{word} {n}?", "query": f"SELECT name FROM item WHERE price > {n}", "group": group}
        for n in range(30)
        for word, group in (("Over", "easy"), ("Above", "hard"))
    ]
    suite = opened(write(shop, SQL, *lines))
    assert overlaps(suite.problems(), suite.problems()["reference"]) == []
    assert leaks_within(suite.problems(), suite) == []
    functions = [
        {**FUNCTION, "prompt": f"{group} {n}", "reference": f"def f(x): return x + {n}", "group": group}
        for n in range(30)
        for group in ("easy", "hard")
    ]
    suite = opened(write(shop, "kind: python-function", *functions))
    assert overlaps(suite.problems(), suite.problems()["reference"]) == []


def test_the_same_query_over_two_databases_is_two_problems(shop: Path) -> None:
    with closing(sqlite3.connect(shop / "shed.sqlite")) as connection, connection:
        connection.executescript(
            "CREATE TABLE item (id, name, price, place); INSERT INTO item VALUES (1, 'saw', 30, 'wall')"
        )
    lines = [
        {"question": f"Over {n}?", "query": f"SELECT name FROM item WHERE price > {n}", "database": stem, "group": "all"}
        for n in range(30)
        for stem in ("shop", "shed")
    ]
    suite = opened(write(shop, "kind: sql\ndatabases: [shop.sqlite, shed.sqlite]\n", *lines))
    assert len(overlaps(suite.problems(), suite.problems()["reference"])) > 5
    assert leaks_within(suite.problems(), suite) == []


def test_given_splits_are_kept_and_half_given_ones_refused(shop: Path) -> None:
    lines = [{"question": f"{n}?", "query": f"SELECT {n}", "split": s} for n, s in enumerate(("train", "train", "dev"))]
    assert opened(write(shop, SQL, *lines)).problems()["split"].to_list() == ["train", "train", "dev"]
    del lines[0]["split"]
    with pytest.raises(ConfigError, match="2 of 3 lines have a split; give it to all or to none"):
        opened(write(shop, SQL, *lines))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"question": "x", ', r"line 2: not JSON"),
        ({"question": "x"}, r"line 2: give `query`, or `rows`"),
        ({"question": "", "query": "SELECT 1"}, r"line 2: question: .*at least 1 character"),
        ({"question": "x", "query": "SELECT 1", "querry": ""}, r"line 2: querry: unknown key; known here: .*\bquery\b"),
        ({"id": "00001", "question": "x", "query": "SELECT 1"}, r"line 2: id '00001' is on line 1 already"),
        ({"question": "x", "query": "SELECT nam FROM item"}, r"line 2: SQLite refuses the query: no such column: nam"),
        ({"question": "x", "query": "SELECT 1", "database": "shed"}, r"line 2: database 'shed' is none of shop"),
        ({"question": "x", "query": "PRAGMA user_version"}, r"line 2: the reference writes \(PRAGMA …\); it may only read"),
        ({"question": "x", "query": "DELETE FROM item"}, r"line 2: the reference writes \(DELETE …\)"),
        ({"question": "x", "query": "WITH x AS (SELECT 1) DELETE FROM item"}, r"line 2: the reference writes \(WITH …\)"),
        (
            {"question": "x", "query": "SELECT TOP 1 name FROM item"},
            r"line 2: not SQLite's dialect .*reads as tsql, in SQLite it would be: SELECT name FROM item LIMIT 1",
        ),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(shop: Path, line: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(write(shop, SQL, {"question": "ok", "query": "SELECT name FROM item"}, line))


def test_all_broken_lines_are_said_at_once_up_to_ten(shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)line 1: .*line 10: .*… and 2 more"):
        opened(write(shop, SQL, *[{"question": "x"}] * 12))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("kind: rust", "kind: Input should be 'sql', 'python-function' or 'python-program'"),
        ("kind: [", "is not YAML"),
        ("kind: sql", "kind sql needs databases"),
        ("kind: sql\ndatabases: [gone.sqlite]", r"no database at .*gone\.sqlite"),
        ("kind: sql\ndatabases: [a/shop.sqlite, shop.sqlite]", "two databases have the same name"),
        ("kind: python-function\nproblems: none.jsonl", r"no none\.jsonl in "),
    ],
)
def test_a_broken_yaml_is_refused_with_the_rule(shop: Path, about: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(write(shop, about, {"question": "ok", "query": "SELECT 1"}))


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set suite\.path"):
        open_suite(SuiteSection(name="custom"))
    with pytest.raises(ConfigError, match=r"no .*suite\.yaml: No such file"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match=r"problems\.jsonl is empty"):
        opened(write(tmp_path, "kind: python-function"))


def test_a_database_with_a_live_write_ahead_log_is_refused(shop: Path) -> None:
    connection = sqlite3.connect(shop / "shop.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("INSERT INTO item VALUES (3, 'mug', 4)")
    connection.commit()
    with pytest.raises(ConfigError, match=r"shop\.sqlite-wal that are not in the file yet"):
        opened(write(shop, SQL, {"question": "ok", "query": "SELECT 1"}))
    connection.close()


def test_a_locked_database_is_refused_while_it_is_locked(shop: Path) -> None:
    write(shop, SQL, *[{"question": f"{n}?", "query": f"SELECT {n}"} for n in range(9)])
    with closing(sqlite3.connect(shop / "shop.sqlite")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"shop\.sqlite is locked by another program \(database is locked\)"):
            opened(shop)
        connection.execute("ROLLBACK")
        assert opened(shop).problems().height == 9


def test_a_database_with_an_unfinished_transaction_is_refused(shop: Path) -> None:
    (shop / "shop.sqlite-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))
    with pytest.raises(ConfigError, match=r"unfinished transaction in shop\.sqlite-journal"):
        opened(write(shop, SQL, {"question": "ok", "query": "SELECT 1"}))


def test_a_database_too_large_for_the_sandbox_is_refused_before_it_is_read(shop: Path) -> None:
    with (shop / "shop.sqlite").open("r+b") as file:
        file.truncate(20 * 2**30)
    with pytest.raises(ConfigError, match=r"20\.0 GiB; the sandbox takes 1 GiB at most"):
        opened(write(shop, SQL, {"question": "ok", "query": "SELECT 1"}))


def test_functions_are_judged_by_cases_or_by_asserts(tmp_path: Path) -> None:
    by_assert = {
        "prompt": "Write g.",
        "reference": "def g(): return 1",
        "asserts": ["assert g() == 1"],
        "setup": "import math",
    }
    suite = opened(write(tmp_path, "kind: python-function", {**FUNCTION, "split": "train"}, {**by_assert, "split": "dev"}))
    assert isinstance(suite, PythonSuite)
    first, second = suite.problems().rows(named=True)
    assert suite.expected_job(first, "e", 1.0).calls == ("f(1)", "f('a')")
    assert suite.answer_job(second, "def g(): return 2", "a", 1.0).calls == ("g()",)
    assert suite.expected_job(second, "e", 1.0).calls == ("1",)
    assert suite.mode == "python-value/v1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "x", "reference": "y"}, "line 1: nothing to judge by"),
        ({**FUNCTION, "cases": [1]}, r"line 1: cases\.0: Input should be a valid (tuple|list)"),
        ({"prompt": "x", "reference": "y", "asserts": ["g() == 1"]}, "line 1: 'g\\(\\) == 1' is not one assert"),
        ({**FUNCTION, "reference": " "}, "line 1: no reference, so the cases have no expected values"),
        ({"prompt": "x", "asserts": ["assert len('a') == 1"]}, "line 1: .* uses nothing that an answer could define"),
        ({"prompt": "x", "setup": "import math as m", "asserts": ["assert m.floor(2.5) == 2"]}, "line 1: .* could define"),
        ({"prompt": "x", "setup": "def g(): return 1", "asserts": ["assert g() == 1"]}, "line 1: .* could define"),
        ({"prompt": "x", "asserts": ["assert [x for x in [1]] == [1]"]}, "line 1: .* could define"),
    ],
)
def test_functions_without_a_judge_are_refused(tmp_path: Path, line: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(write(tmp_path, "kind: python-function", line))


def test_programs_are_judged_by_what_they_print(tmp_path: Path) -> None:
    tests = [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "3\n", "stdout": "6\n"}]
    line = {"prompt": "Double it.", "reference": "print(int(input()) * 2)", "tests": tests, "split": "train"}
    open_tests = {**line, "prompt": "Double it too.", "tests": [{"stdin": "2"}], "split": "dev"}
    suite = opened(write(tmp_path, "kind: python-program", line, open_tests))
    given, derived = suite.problems().rows(named=True)
    assert suite.expected_job(given, "e", 1.0).calls == (repr("4\n"), repr("6\n"))
    assert suite.expected_job(derived, "e", 1.0).calls == ("_printed('2')",)
    assert "4\\n" not in suite.answer_job(given, "x", "a", 1.0).program
    assert suite.agrees(given, [{"value": "4"}, {"value": "6 \n"}], [{"value": "4\n"}, {"value": "6\n"}])
    with pytest.raises(ConfigError, match="line 1: no reference, so the tests have no expected output"):
        opened(write(tmp_path, "kind: python-program", {**open_tests, "reference": ""}))
    with pytest.raises(ConfigError, match="line 1: some tests have a stdout and some do not"):
        opened(write(tmp_path, "kind: python-program", {**line, "tests": [tests[0], {"stdin": "1"}]}))


def test_problems_without_a_reference_are_dealt_one_by_one_and_are_no_leak(tmp_path: Path) -> None:
    lines = [{"prompt": f"Add {n}.", "asserts": [f"assert f(1) == {n + 1}"]} for n in range(40)]
    suite = opened(write(tmp_path, "kind: python-function", *lines))
    problems = suite.problems()
    assert Counter(problems["split"].to_list()) == {"train": 24, "dev": 6, "test": 10}
    assert leaks_within(problems, suite) == []
    problems.write_parquet(tmp_path / "before.parquet")
    held = opened(write(tmp_path, "kind: python-function", *lines), splits_of=[str(tmp_path / "before.parquet")], seed=1)
    assert held.problems().equals(problems), "each is known by its prompt, none by the reference that it lacks"


def test_a_change_in_any_problem_is_another_version(tmp_path: Path) -> None:
    versions = []
    for prompt in ("one", "two", "one"):
        write(tmp_path, "kind: python-function", {**FUNCTION, "prompt": prompt}, FUNCTION)
        versions.append(opened(tmp_path).version)
    assert versions[0] == versions[2] != versions[1]
