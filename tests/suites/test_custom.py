"""Your own problems: what is right loads, what is wrong is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.pipeline.check import leaks_within
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.folder import named_files
from codelutra.suites.python import PythonSuite
from codelutra.suites.shapes import FunctionLine, ProgramLine, SqlLine
from codelutra.suites.sql import SqlSuite
from sandbox.protocol import SqlJob
from tests.helpers.splits import overlaps

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


def test_a_query_beside_rows_is_a_solution_and_the_rows_judge(shop: Path) -> None:
    line = {"question": "Which?", "rows": [["it's"]], "query": "SELECT 1;", "source": "api:https://h/v1#m", "split": "train"}
    suite = opened(write(shop, SQL, line))
    problem = suite.problems().row(0, named=True)
    assert problem["reference"] == "SELECT 1"
    expected, answer = suite.expected_job(problem, "e", 1.0), suite.answer_job(problem, problem["reference"], "a", 1.0)
    assert isinstance(expected, SqlJob)
    assert isinstance(answer, SqlJob)
    assert (expected.query, answer.query) == ("VALUES ('it''s')", "SELECT 1")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({}, "give `query`, or `rows`"),
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
        ({"question": "x", "query": "PRAGMA user_version"}, r"line 2: the reference asks for PRAGMA user_version"),
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


def test_all_faults_are_said_at_once_up_to_ten(shop: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)line 1: .*c0.*line 10: .*c9.*… and 2 more"):
        opened(write(shop, SQL, *[{"question": "x", "query": f"SELECT c{n} FROM item"} for n in range(12)]))


def test_a_fault_of_many_lines_is_said_once_with_its_count(shop: Path) -> None:
    lines = [{"question": f"{n}?", "query": "SELECT 1", "qurey_id": n} for n in range(877)]
    del lines[5]["question"]
    with pytest.raises(ConfigError) as refused:
        opened(write(shop, SQL, *lines))
    first, *said = str(refused.value).splitlines()
    assert first.endswith("problems.jsonl:")
    assert len(said) == 2
    assert re.fullmatch(r"  877 lines \(1, 2, 3, …\): qurey_id: unknown key; known here: .*", said[0])
    assert re.fullmatch(r"  line 6: question: Field required", said[1])


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


@pytest.mark.parametrize("databases", ["shop.sqlite", "[shop.sqlite]", "\n- shop.sqlite", "'./shop.sqlite'"])
def test_one_database_needs_no_list(shop: Path, databases: str) -> None:
    suite = opened(write(shop, f"kind: sql\ndatabases: {databases}\n", {"question": "ok", "query": "SELECT 1"}))
    assert list(suite.databases().values()) == [shop / "shop.sqlite"]


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
    assert suite.mode == "python-value/v2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "x", "reference": "y"}, "line 1: nothing to judge by"),
        ({**FUNCTION, "cases": [1]}, r"line 1: cases\.0: give a list"),
        ({"prompt": "x", "reference": "y", "asserts": ["g() == 1"]}, "line 1: 'g\\(\\) == 1' is not one assert"),
        ({"prompt": "x", "asserts": "n = f(2)\nassert n == 4"}, "line 1: 'n = f\\(2\\)' is not one assert"),
        ({"prompt": "x", "asserts": "def g(): return f(2)\nassert g() == 4"}, "line 1: 'def g.*' is not one assert"),
        ({"prompt": "x", "asserts": "def test_f():\n    assert f(2) == 4"}, "line 1: 'def test_f.*' is not one assert"),
        ({"prompt": "x", "asserts": "import math"}, "line 1: 'import math' is not one assert"),
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


@pytest.mark.parametrize(
    "asserts",
    [
        ["assert f(1) == 1; assert f(2) == 2"],
        ["assert f(1) == 1\nassert f(2) == 2  # two\n"],
        ["assert f(1) == 1", "  assert f(2) == 2"],
        "assert f(1) == 1\n\n# two\nassert f(2) == 2",
        ["assert f(1) == 1, 'one; assert'\nassert (\n    f(2) == 2\n)"],
    ],
)
def test_asserts_may_stand_together(tmp_path: Path, asserts: Any) -> None:
    line = {"prompt": "x", "reference": "def f(x): return x", "asserts": asserts, "split": "dev"}
    suite = opened(write(tmp_path, "kind: python-function", line))
    assert suite.answer_job(suite.problems().row(0, named=True), "", "a", 1.0).calls == ("f(1)", "f(2)")


@pytest.mark.parametrize("asserts", ["assert f(1) == (", ["assert f(1) == (\nassert f(2) == 2"]])
def test_asserts_that_do_not_parse_are_named_whole(tmp_path: Path, asserts: Any) -> None:
    line = {"prompt": "x", "reference": "def f(x): return x", "asserts": asserts}
    with pytest.raises(ConfigError, match=r"line 1: 'assert f\(1\) == \(.* is not Python"):
        opened(write(tmp_path, "kind: python-function", line))


def test_programs_are_judged_by_what_they_print(tmp_path: Path) -> None:
    tests = [{"stdin": "2\n", "stdout": "4\n"}, {"stdin": "3\n", "stdout": "6\n"}]
    line = {"prompt": "Double it.", "reference": "print(int(input()) * 2)", "tests": tests, "split": "train"}
    open_tests = {**line, "prompt": "Double it too.", "tests": [{"stdin": "2"}], "split": "dev"}
    suite = opened(write(tmp_path, "kind: python-program", line, open_tests))
    given, derived = suite.problems().rows(named=True)
    assert suite.expected_job(given, "e", 1.0).calls == (repr("4\n"), repr("6\n"))
    assert suite.expected_job(derived, "e", 1.0).inputs == ("2",)
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


# ---- files as people have them ---------------------------------------------------------------------------------------

Q = {"question": "Over {n}?", "query": "SELECT name FROM item WHERE price > {n}"}


def asked(number: int, **more: Any) -> dict[str, Any]:
    return {key: text.format(n=number) for key, text in Q.items()} | {"split": "train"} | more


def as_csv(rows: list[dict[str, Any]], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({k: v if isinstance(v, str) or v is None else json.dumps(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


LINES = [asked(n, question=f'Over {n}, "at least"\nor more; so?', id=f"q{n}") for n in range(3)]
FORMS = {
    "lines.jsonl": "\n".join(map(json.dumps, LINES)).encode(),
    "crlf.jsonl": "\r\n".join(map(json.dumps, LINES)).encode("utf-8-sig") + b"\r\n\r\n",
    "utf16.txt": "\n".join(map(json.dumps, LINES)).encode("utf-16"),
    "list.json": json.dumps(LINES).encode(),
    "pretty.json": json.dumps(LINES, indent=2).encode("utf-8-sig"),
    "table.csv": as_csv(LINES).encode(),
    "excel.csv": as_csv(LINES, ";").encode("utf-8-sig"),
    "table.tsv": as_csv(LINES, "\t").encode("utf-16"),
    "packed.jsonl.gz": gzip.compress("\n".join(map(json.dumps, LINES)).encode()),
    "said.csv": ("sep=;\n" + as_csv(LINES, ";")).encode("utf-8-sig"),
    "blank-rows.csv": ("\r\n" + as_csv(LINES) + "\r\n,,,\r\n , ,,\r\n").encode(),
    "index.csv": pl.DataFrame(LINES).with_row_index("").write_csv().encode(),
    "pandas.csv": pl.DataFrame(LINES).with_row_index("Unnamed: 0").write_csv().encode(),
    "columns-without-name.csv": as_csv([{**line, "": None, " ": None} for line in LINES]).replace(" \r", "\r", 1).encode(),
    "packed.csv.gz": gzip.compress(as_csv(LINES).encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_problems_load_from_every_kind_of_file(shop: Path, name: str) -> None:
    (shop / name).write_bytes(FORMS[name])
    (shop / "suite.yaml").write_text(f"{SQL}problems: {name}\n")
    problems = opened(shop).problems()
    assert problems["problem_id"].to_list() == ["q0", "q1", "q2"]
    assert problems["prompt"][1] == 'item(id, name, price)\n\nOver 1, "at least"\nor more; so?'
    assert problems["reference"][2] == "SELECT name FROM item WHERE price > 2"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a?,SELECT 1, 2", r"line 3: 3 cells, the header has 2; a cell with ',' in it goes in quotes"),
        ('a?,"SELECT 1', r"line 3: unexpected end of data; a quote within a quoted cell is written twice"),
        ("\n\na?,SELECT nope", r"row 5: SQLite refuses the query"),
    ],
)
def test_a_row_that_is_no_row_of_its_table_is_named(shop: Path, rows: str, says: str) -> None:
    (shop / "p.csv").write_text(f"question,query\nx?,SELECT 1\n{rows}\n")
    (shop / "suite.yaml").write_text(f"{SQL}problems: p.csv\n")
    with pytest.raises(ConfigError, match=says):
        opened(shop)


@pytest.mark.parametrize("content", ["", "\n \n", "question,query\n", "sep=,\n"])
def test_a_table_without_rows_is_empty(shop: Path, content: str) -> None:
    (shop / "p.csv").write_text(content)
    (shop / "suite.yaml").write_text(f"{SQL}problems: p.csv\n")
    with pytest.raises(ConfigError, match=r"p\.csv is empty"):
        opened(shop)


def test_cells_of_a_table_may_hold_lists(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Add {n}.",
            "code": f"def f(x): return x + {n}",
            "test_list": [f"assert f(1) == {n + 1}"],
            "split": "dev",
        }
        for n in range(2)
    ]
    (tmp_path / "p.csv").write_text(as_csv(rows).replace('""assert f(1) == 1""', "'assert f(1) == 1'"))  # as pandas has it
    (tmp_path / "suite.yaml").write_text("kind: python-function\nproblems: p.csv")
    suite = opened(tmp_path)
    assert [suite.answer_job(p, "", "a", 1.0).calls for p in suite.problems().rows(named=True)] == [("f(1)",)] * 2


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("p.csv", b"question,query,query\na,SELECT 1,SELECT 2\n", "the column 'query' is there twice"),
        ("p.csv", b"question,query\na,SELECT 1\nb,SELECT 1,1,1\n", "p.csv"),
        ("p.csv", b'question,query\na,"SELECT 1\n', "p.csv"),
        ("p.csv", b"question,query\n\xe4,SELECT 1\n", "line 2 is not UTF-8 text: byte 0xe4"),
        ("p.csv", b"question,query\n", "p.csv is empty"),
        ("p.csv", b"", "p.csv"),
        ("p.csv", b"question,qurey\na,SELECT 1\n", "row 2: qurey: unknown key.*did you mean query"),
        ("p.json", b'[{"question": "a"', "not JSON: "),
        ("p.json", b"[1, 2]", r"2 entries|entry 1: 1 is not an object"),
        ("p.json", b"[]", "p.json is empty"),
        ("p.json", b'{"data": [{"question": "a"}, {"question": "b"}]}', "whose 'data' is a list of objects; give that list"),
        ("p.json", b'{\n"question": "a",\n"query": "SELECT 1"}\n{\n"question": "b"}', "one JSON object a line"),
        ("p.jsonl", b'{"question": "a", "question": "b", "query": "SELECT 1"}', "line 1: the key 'question' is there twice"),
        ("p.jsonl", b'{"question": "\\ud800", "query": "SELECT 1"}', "line 1: .*half a character"),
        ("p.jsonl", b"[" * 9999, "nested more than 100 deep"),
        ("p.jsonl", b'{"question": ' + b"[" * 9999, "line 1: nested more than 100 deep"),
        ("p.jsonl", b'{"question": "a", "query": ' + b"9" * 5000 + b"}", "line 1: a number of 5000 digits"),
        ("p.jsonl", b"null\ntrue", "line 1: None is not an object"),
        ("p.jsonl", b"question,query\na,SELECT 1", r"its first line, 'question,query', begins no JSON; .* ends in \.csv"),
        ("p.csv", b"question,query\n", "p.csv is empty; give it a row a problem below its header"),
        ("p.jsonl", b"SQLite format 3\0", "is not text: it is a SQLite database"),
    ],
)
def test_a_file_that_is_no_list_of_problems_says_so_once(shop: Path, name: str, content: bytes, says: str) -> None:
    (shop / name).write_bytes(content)
    (shop / "suite.yaml").write_text(f"{SQL}problems: {name}\n")
    with pytest.raises(ConfigError, match=says) as refused:
        opened(shop)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "line",
    [
        {"question": "a", "query": "SELECT 1", "db_id": "shop"},
        {"Question": "a", "SQL": "SELECT 1", "DB": "shop", "Hardness": "easy"},
        {"question_id": 7, "question": "a", "SQL": "SELECT 1", "db_id": "shop", "evidence": "", "difficulty": "simple"},
        {"nl": "a", "gold sql": "SELECT 1", "database-id": "shop"},
        {"instruction": "a", "answer": "SELECT 1"},
        {
            "db_id": "shop",
            "question": "a",
            "query": "SELECT 1",
            "sql": {"select": []},
            "query_toks": [],
            "question_toks": [],
        },
        {"question": "a", "query": "SELECT 1", "sql": "SELECT 1", "group": None, "difficulty": float("nan")},
        {"id": 3.0, "question": "a", "query": "SELECT 1", "group": 4},
    ],
)
def test_the_usual_names_of_keys_are_taken(shop: Path, line: dict[str, Any]) -> None:
    row = opened(write(shop, SQL, {**line, "split": "train"})).problems().row(0, named=True)
    assert (row["prompt"].split("\n")[-1], row["reference"]) == ("a", "SELECT 1")
    assert row["problem_id"] == ("3" if "id" in line else "7" if "question_id" in line else "00001")


def test_a_hint_stands_behind_its_question(shop: Path) -> None:
    problems = opened(write(shop, SQL, asked(1, evidence=" dear means price > 5 "))).problems()
    assert problems["prompt"][0].endswith("Over 1?\nHint: dear means price > 5")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"sql": "SELECT 2"}, "'query' and 'sql' both give the query, and they differ; keep one"),
        ({"db_id": "shop", "database": "shed"}, "'db_id' and 'database' both give the database"),
        ({"question": "  "}, r"question: it is blank \(got '  '\)"),
        ({"question": "\t\n\u200b\u3000\ufeff"}, "question: it is blank"),
        ({"question": None}, "question: Field required"),
        ({"question": ["a"]}, r"question: .*valid string \(got \['a'\]\)"),
        ({"id": True}, "id: .*valid string"),
        ({"querry": "x"}, "querry: unknown key; .*; did you mean query"),
        ({"hardnes": "x"}, "hardnes: unknown key; .*; did you mean hardness"),
        ({"query": "SELECT " + "(" * 5000 + "1" + ")" * 5000}, "line 1: "),
        ({"query": "SELECT 1\0"}, "line 1: "),
    ],
)
def test_a_line_that_says_nothing_or_two_things_is_refused(shop: Path, line: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(write(shop, SQL, asked(1) | line))


@pytest.mark.parametrize(
    "line",
    [
        {
            "task_id": 1,
            "text": "Write f.",
            "code": "def f(x): return x",
            "test_list": ["assert f(1) == 1"],
            "test_setup_code": "",
            "challenge_test_list": [],
        },
        {
            "source_file": "x",
            "task_id": 2,
            "prompt": "Write f.",
            "code": "def f(x): return x",
            "test_imports": ["import math"],
            "test_list": ["assert f(1) == 1"],
        },
        {"instruction": "Write f.", "solution": "def f(x): return x", "test": "assert f(1) == 1"},
        {"prompt": "Write f.", "canonical_solution": "def f(x): return x", "entry_point": "f", "inputs": [[1]]},
    ],
)
def test_the_usual_names_of_python_keys_are_taken(tmp_path: Path, line: dict[str, Any]) -> None:
    suite = opened(write(tmp_path, "kind: python-function", {**line, "split": "train"}))
    problem = suite.problems().row(0, named=True)
    assert suite.answer_job(problem, "", "a", 1.0).calls == ("f(1)",)
    assert (problem["prompt"], problem["reference"]) == ("Write f.", "def f(x): return x")


CHECK = "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n    assert candidate(4) == 5\n"
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'import math\n\n\ndef step(n):\n    """The next number."""\n',
    "canonical_solution": "    return n + 1\n",
    "entry_point": "step",
    "test": CHECK,
    "split": "train",
}


def test_lines_as_humaneval_has_them_are_taken(tmp_path: Path) -> None:
    suite = opened(write(tmp_path, "kind: python-function", HUMANEVAL))
    problem = suite.problems().row(0, named=True)
    assert problem["reference"] == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]
    job = suite.answer_job(problem, "def step(n): return 0", "a", 1.0)
    assert job.calls == ("step(1)", "step(4)")
    assert job.program.startswith("import math\n")
    with pytest.raises(ConfigError, match=r"needs `function` \(or `entry_point`\)"):
        opened(write(tmp_path, "kind: python-function", {k: v for k, v in HUMANEVAL.items() if k != "entry_point"}))


@pytest.mark.parametrize(
    ("reference", "function", "setup"),
    [
        ("import math\n@property\nclass step: ...", "step", "import math"),
        ("import math\nasync def step(n): ...", "step", "import math"),
        ("import math\nstep = lambda n: n + 1", "step", "import math"),
        ("import math\nif math:\n    def step(n): return n + 1", "step", "import math"),
        ("import math\nclass Solution:\n    def step(self, n): return n + 1", "Solution().step", "import math"),
        ("", "step", ""),
        ("import math", "math.floor", ""),
    ],
)
def test_check_calls_whatever_the_reference_defines(tmp_path: Path, reference: str, function: str, setup: str) -> None:
    line = {"prompt": "Step.", "reference": reference, "function": function, "test": "import re\n" + CHECK, "split": "train"}
    suite = opened(write(tmp_path, "kind: python-function", line))
    job = suite.answer_job(suite.problems().row(0, named=True), "x = 1", "a", 1.0)
    assert job.calls == (f"{function}(1)", f"{function}(4)")
    assert job.program == "\n".join(filter(None, [setup, "x = 1"]))


def test_an_empty_key_beside_one_that_says_it_is_no_contradiction(tmp_path: Path) -> None:
    for line in ({"test_setup_code": "", "test_imports": ["import math"]}, {"test_imports": ["import math"], "setup": ""}):
        suite = opened(write(tmp_path, "kind: python-function", {**FUNCTION, **line, "split": "train"}))
        assert suite.answer_job(suite.problems().row(0, named=True), "x", "a", 1.0).program == "import math\nx"


def test_what_a_terminal_would_act_on_is_escaped(shop: Path) -> None:
    lines = [asked(1, **{"\x1b[31mred": 1}), asked(2, query="SELECT \x1b]0;x\x07"), asked(3, database="\x1b[2J")]
    with pytest.raises(ConfigError) as refused:
        opened(write(shop, SQL, *lines))
    assert all(line.isprintable() for line in str(refused.value).splitlines())


def test_inputs_and_outputs_of_programs_may_be_numbers_under_their_usual_names(tmp_path: Path) -> None:
    line = {"problem": "Double it.", "test_cases": [{"input": 2, "output": 4}], "split": "train"}
    suite = opened(write(tmp_path, "kind: python-program", line))
    problem = suite.problems().row(0, named=True)
    assert suite.answer_job(problem, "", "a", 1.0).inputs == ("2",)
    assert suite.expected_job(problem, "e", 1.0).calls == (repr("4"),)
    both = {**line, "test_cases": [{"input": "2", "stdin": "3", "output": "4"}]}
    with pytest.raises(ConfigError, match=r"tests\.0: 'input' and 'stdin' both give the stdin"):
        opened(write(tmp_path, "kind: python-program", both))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"function": "f(); import os"}, r"function: not the name of a function \(got 'f\(\); import os'\)"),
        ({"function": "for"}, "function: not the name"),
        ({"function": "f("}, "function: not the name"),
        ({"function": "[f][0]"}, "function: not the name"),
        ({"cases": [[float("inf")]]}, "cases: inf is no value of a case"),
        ({"cases": [[{"a": [float("nan")]}]]}, "cases: nan is no value of a case"),
        ({"function": "", "cases": [], "asserts": ["assert " + "-" * 5000 + "f(1) == 1"]}, "line 1: "),
        ({"function": "", "cases": [], "asserts": ["assert f(1) == 1\0"]}, "line 1: "),
        ({"prompt": "\u00a0"}, "prompt: it is blank"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(tmp_path: Path, line: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        opened(write(tmp_path, "kind: python-function", {**FUNCTION, **line}))


@pytest.mark.parametrize("function", ["f", "math.floor", "Solution().two", "A().b.c", "größe"])
def test_what_stands_before_brackets_is_a_function(tmp_path: Path, function: str) -> None:
    suite = opened(write(tmp_path, "kind: python-function", {**FUNCTION, "function": function, "split": "train"}))
    assert suite.answer_job(suite.problems().row(0, named=True), "", "a", 1.0).calls == (
        f"{function}(1)",
        f"{function}('a')",
    )


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ("kind: sql\nshares: {}", "shares: .*at least 1 item"),
        ("kind: sql\nshares: {train: .inf}", "shares.train: .*finite"),
        ("kind: sql\nshares: {train: yes}", "shares.train: .*should be a number"),
        ("kind: sql\nshares: {train: 0}", "shares.train: .*greater than 0"),
        ("kind: sql\nkind: sql", "line 2, column 1: the key 'kind' is on line 1"),
        ("kind: sql\ndatabase: [shop.sqlite]", "database: unknown key; known here: .*; did you mean databases"),
        ('kind: sql\ndatabases: ["a\\0b"]', "not the name of a file"),
        ("kind: sql\ndatabases: ['']", "not the name of a file"),
        ("kind: sql\ndatabases: [" + "x" * 5000 + "]", "no database at .*File name too long"),
        ("kind: sql\ndatabases: [pipe]", "pipe is a pipe, not a file"),
        ("kind: sql\ndatabases: [.]", "is a folder, not a file"),
        ("kind: python-function\nproblems: pipe", "pipe is a pipe, not a file"),
        ("kind: python-function\nproblems: .", "is a folder, not a file"),
        ("kind: python-function\nproblems: " + "x" * 5000, "File name too long"),
        ("", "suite.yaml is empty"),
        ("- a", "suite.yaml holds list"),
    ],
)
def test_a_suite_yaml_that_names_nothing_usable_is_refused(shop: Path, about: str, says: str) -> None:
    os.mkfifo(shop / "pipe")
    with pytest.raises(ConfigError, match=says) as refused:
        opened(write(shop, about, asked(1)))
    assert len(str(refused.value)) < 20_000


# ---- where a suite's files may lie -----------------------------------------------------------------------------------


@pytest.fixture
def suite_beside_secrets(shop: Path) -> Path:
    """shop/suite with its own problems and database; shop/shop.sqlite is not its own."""
    folder = shop / "suite"
    folder.mkdir()
    (folder / "own.sqlite").write_bytes((shop / "shop.sqlite").read_bytes())
    write(folder, "", asked(1))
    (folder / "link.sqlite").symlink_to("../shop.sqlite")
    (folder / "linked").symlink_to("..")
    (shop / "deep").mkdir()
    (shop / "deep/shop.sqlite").write_bytes((shop / "shop.sqlite").read_bytes())
    (shop / "questions.jsonl").write_text((folder / "problems.jsonl").read_text())
    return folder


@pytest.mark.parametrize(
    "about",
    [
        "databases: [../shop.sqlite]",
        "databases: [link.sqlite]",
        "databases: [linked/shop.sqlite]",
        "databases: [own.sqlite]\nproblems: ../questions.jsonl",
        "databases: [own.sqlite]\nproblems: /etc/passwd",
        "databases: [own.sqlite]\nproblems: $SECRET/questions.jsonl",
        "databases: [../deep/shop.sqlite]\nproblems: ../questions.jsonl",
        "databases: [own.sqlite, ../../../../../../../../etc/passwd]",
    ],
)
def test_a_suite_names_no_file_outside_its_folder(
    suite_beside_secrets: Path, about: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", str(suite_beside_secrets.parent))
    (suite_beside_secrets / "suite.yaml").write_text(f"kind: sql\n{about}\n")
    with pytest.raises(ConfigError, match=r"names files outside its folder: .*suite\.outside: \["):
        opened(suite_beside_secrets)


@pytest.mark.parametrize(
    "about",
    [
        "databases: [own.sqlite]",
        "databases: [./own.sqlite]\nproblems: linked/suite/problems.jsonl",
        "databases: [../shop.sqlite]\nproblems: ../questions.jsonl",
    ],
)
def test_a_suite_names_files_in_its_folder_or_all_beside_it(suite_beside_secrets: Path, about: str) -> None:
    (suite_beside_secrets / "suite.yaml").write_text(f"kind: sql\n{about}\n")
    assert opened(suite_beside_secrets).problems().height == 1


def test_the_config_can_name_what_lies_elsewhere(suite_beside_secrets: Path) -> None:
    top = suite_beside_secrets.parent
    (suite_beside_secrets / "suite.yaml").write_text("kind: sql\ndatabases: [../deep/shop.sqlite]\n")
    for outside in (top / "deep/shop.sqlite", top / "deep", top):
        assert opened(suite_beside_secrets, outside=[str(outside)]).problems().height == 1
    with pytest.raises(ConfigError, match="outside its folder"):
        opened(suite_beside_secrets, outside=[str(top / "dee"), str(top / "suite")])


def test_a_suite_from_the_hub_reads_its_blobs_and_nothing_else(suite_beside_secrets: Path) -> None:
    repo = suite_beside_secrets.parent / "datasets--org--name"
    snapshot = repo / "snapshots/0a1b"
    (repo / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name in ("problems.jsonl", "own.sqlite"):
        (repo / "blobs" / name).write_bytes((suite_beside_secrets / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    hub = SuiteSection(name="custom", path="hf:org/name@0a1b")
    assert len(named_files(snapshot, ["problems.jsonl", "own.sqlite"], hub)) == 2
    for away in ("../../../shop.sqlite", "../../../../x", "/etc/passwd"):
        with pytest.raises(ConfigError, match="outside its folder"):
            named_files(snapshot, [away], hub)


def test_a_name_with_a_dollar_is_the_file_of_that_name(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "shop")
    write(shop, "kind: sql\ndatabases: ['$PLACE.sqlite']\n", asked(1))
    assert opened(shop).problems()["group"][0] == "shop", "there is none of that name, so the name is expanded"
    (shop / "$PLACE.sqlite").write_bytes((shop / "shop.sqlite").read_bytes())
    assert opened(shop).problems()["group"][0] == "$PLACE"


def test_a_file_of_earlier_sides_that_is_something_else_is_named(shop: Path) -> None:
    write(shop, SQL, *[{key: text.format(n=n) for key, text in Q.items()} for n in range(20)])
    os.mkfifo(shop / "pipe")
    (shop / "text.parquet").write_text("PAR1")
    known = {"prompt": ["p"], "reference": ["r"], "group": ["g"], "language": ["sql"]}
    pl.DataFrame({**known, "split": ["nowhere"]}).write_parquet(shop / "sides.parquet")
    pl.DataFrame({**known, "split": [5]}).write_parquet(shop / "numbers.parquet")
    pl.DataFrame({"a": [1]}).write_parquet(shop / "other.parquet")
    for name in (
        "pipe",
        "text.parquet",
        "sides.parquet",
        "numbers.parquet",
        "other.parquet",
        "none.parquet",
        ".",
        "x" * 5000,
    ):
        with pytest.raises(ConfigError, match=r"is no problems\.parquet of a run"):
            opened(shop, splits_of=[str(shop / name)])


# ---- anything at all -------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["SELECT 1", "assert f(1) == 1"]),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted({"x", *SqlLine.named(), *FunctionLine.named(), *ProgramLine.named()}))
KINDS = {
    "python-function": {"prompt": "p", "reference": "def f(x): return x", "function": "f", "cases": [[1]], "split": "train"},
    "python-program": {"prompt": "p", "reference": "print(1)", "tests": [{"stdin": "1"}], "split": "train"},
    "sql": {"question": "q", "query": "SELECT 1", "split": "train"},
}


def loads_or_is_refused(folder: Path, kind: str, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    databases = "databases: [any.sqlite]\n" if kind == "sql" else ""
    if databases:
        with closing(sqlite3.connect(folder / "any.sqlite")) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    (folder / "suite.yaml").write_text(f"kind: {kind}\nproblems: {name}\n{databases}")
    try:
        problems = opened(folder).problems()
    except ConfigError as e:
        refused = str(e).encode("utf-8", "surrogateescape")
        assert len(refused) < 20_000, refused
    else:
        assert problems.height
        problems.write_ndjson().encode()


@settings(max_examples=200)
@given(st.sampled_from(list(KINDS)), st.dictionaries(KEYS, VALUES, max_size=4), st.booleans())
def test_any_values_in_a_line_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, line: dict[str, Any], whole: bool
) -> None:
    lines = [KINDS[kind] | line, line]
    content = json.dumps(lines) if whole else "\n".join(map(json.dumps, lines[:1]))
    loads_or_is_refused(tmp_path_factory.getbasetemp(), kind, "any.jsonl", content.encode())


@settings(max_examples=200)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from(["any.jsonl", "any.json", "any.csv", "any.tsv", "any.jsonl.gz"]),
    st.binary(max_size=200)
    | st.text(alphabet='{}[]:,"\\n\r\t ;abcqueryquestion1', max_size=80).map(str.encode)
    | st.text(max_size=80).map(lambda t: b"question,query\n" + t.encode("utf-8", "surrogatepass")),
)
def test_any_bytes_as_problems_load_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, name: str, content: bytes
) -> None:
    loads_or_is_refused(tmp_path_factory.getbasetemp(), kind, name, content)
