"""What a reference's output determines, through the real sandbox."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.schema import EXPECTED, PROBLEMS
from codelutra.suites import determined
from codelutra.suites.databases import database_digest
from codelutra.suites.sql import SqlSuite, judging
from sandbox import Pool, ensure_image
from sandbox.protocol import decode
from tests.helpers.judging import judged

BUILD = """
CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, dept TEXT, pay REAL, hired TEXT, nick TEXT COLLATE NOCASE);
INSERT INTO staff VALUES (1,'Ana','sales',50,'2019-03-01','a'), (2,'Ben','sales',70,'2020-06-11','B'),
  (3,'Cleo','ops',70,'2018-01-20','A'), (4,'Dov','ops',40,NULL,'b'), (5,'Eli','lab',NULL,'2021-09-09','c'),
  (6,'Fay','lab',70,'2017-05-05','C');
CREATE VIEW recent AS SELECT name FROM staff WHERE hired > date('now', '-1 year') OR id = 1;
CREATE VIEW today AS SELECT name, date(hired) AS day FROM staff;
CREATE TABLE one (a); INSERT INTO one VALUES (1);
CREATE TABLE many (n); INSERT INTO many WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c LIMIT 3000)
  SELECT n % 2 FROM c;
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlSuite, Pool, str]]:
    path = tmp_path_factory.mktemp("determined") / "db.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(BUILD)
    digest = database_digest(path)
    suite = SqlSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), {digest: path})
    with Pool(image=ensure_image("python"), workers=1, databases=suite.databases(), run="determined") as pool:
        yield suite, pool, digest


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        (
            "SELECT name FROM staff ORDER BY pay DESC LIMIT 1",
            ["SELECT 'Ben'", "SELECT 'Cleo'", "SELECT 'Fay'"],
            ["SELECT 'Ana'", "SELECT name FROM staff WHERE pay = 70", "SELECT NULL"],
        ),
        (
            "SELECT name, pay FROM staff ORDER BY 2 DESC LIMIT 4",
            ["VALUES ('Fay', 70), ('Ben', 70), ('Cleo', 70), ('Ana', 50)"],
            ["VALUES ('Fay', 70), ('Ben', 70), ('Ana', 50), ('Cleo', 70)"],
        ),
        (
            "SELECT name FROM staff ORDER BY dept LIMIT 2 OFFSET 1",  # lab: one of two, ops: one of two
            ["VALUES ('Eli'), ('Cleo')", "VALUES ('Fay'), ('Dov')"],
            ["VALUES ('Cleo'), ('Eli')", "VALUES ('Eli'), ('Fay')", "VALUES ('Eli'), ('Ana')"],
        ),
        (
            "SELECT name FROM staff ORDER BY pay DESC LIMIT 1 + 0 OFFSET (SELECT count(*) / 6 FROM staff)",
            ["SELECT 'Ben'", "SELECT 'Cleo'", "SELECT 'Fay'"],
            ["SELECT 'Ana'"],
        ),
        (
            "SELECT name FROM staff LIMIT 2",
            ["VALUES ('Eli'), ('Ana')", "SELECT name FROM staff ORDER BY pay LIMIT 2"],
            ["VALUES ('Ana'), ('Ana')", "VALUES ('Ana'), ('Zoe')", "SELECT name FROM staff LIMIT 3"],
        ),
        (
            "SELECT name FROM (SELECT name FROM staff WHERE pay < 70 ORDER BY pay DESC) LIMIT 1",
            ["SELECT 'Ana'"],
            ["SELECT 'Dov'"],
        ),
        (
            "WITH s AS (SELECT name, dept FROM staff ORDER BY hired DESC) SELECT s.* FROM s WHERE name > 0 LIMIT 2",
            ["VALUES ('Eli', 'lab'), ('Ben', 'sales')"],
            ["VALUES ('Eli', 'lab'), ('Ana', 'sales')"],
        ),
        (
            "SELECT name FROM (SELECT name FROM staff ORDER BY hired DESC) JOIN one LIMIT 1",  # SQLite lets that order be
            ["SELECT 'Ana'", "SELECT 'Fay'"],
            ["SELECT 'Zoe'"],
        ),
        (
            "SELECT name FROM staff WHERE dept IN (SELECT dept FROM staff ORDER BY pay) LIMIT 1",  # nobody sees it
            ["SELECT 'Ana'", "SELECT 'Fay'"],
            ["SELECT 'Zoe'"],
        ),
        (
            "SELECT DISTINCT dept FROM staff ORDER BY dept = 'ops' LIMIT 1",
            ["SELECT 'lab'", "SELECT 'sales'"],
            ["SELECT 'ops'"],
        ),
        (
            "SELECT dept FROM staff UNION SELECT nick FROM staff WHERE id < 3 ORDER BY length(1) LIMIT 2",
            [],
            ["SELECT 'ops'"],
        ),
        (
            "SELECT dept, count(*) AS n FROM staff GROUP BY dept ORDER BY n DESC LIMIT 1 -- the largest",
            ["SELECT 'lab', 2", "SELECT 'ops', 2", "SELECT 'sales', 2"],
            ["SELECT 'lab', 3"],
        ),
        (
            "SELECT nick FROM staff ORDER BY nick LIMIT 1",  # the column is compared without case
            ["SELECT 'a'", "SELECT 'A'"],
            ["SELECT 'b'"],
        ),
        (
            "SELECT name FROM staff ORDER BY pay IS NULL, round(pay, -1) LIMIT 10",  # nothing is cut
            ["SELECT name FROM staff ORDER BY pay IS NULL, pay, id DESC"],
            ["SELECT name FROM staff ORDER BY pay"],
        ),
        (
            "WITH s AS (SELECT * FROM staff WHERE pay > 45) SELECT s.* FROM s ORDER BY s.pay DESC, dept LIMIT 2",
            ["SELECT * FROM staff WHERE id IN (3, 6) ORDER BY id DESC"],
            [
                "SELECT * FROM staff WHERE id IN (3, 6) ORDER BY id",
                "SELECT * FROM staff WHERE id IN (2, 6) ORDER BY id DESC",
            ],
        ),
    ],
)
def test_an_answer_needs_what_the_reference_determines(
    bench: tuple[SqlSuite, Pool, str], reference: str, right: list[str], wrong: list[str]
) -> None:
    expected, statuses = judged(*bench[:2], reference, *right, *wrong)
    if expected["status"] == "correct":
        assert statuses == ["correct"] * len(right) + ["wrong"] * len(wrong)
    else:
        assert not right


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("SELECT CURRENT_DATE", determined.CLOCK),
        ("SELECT count(*) FROM staff WHERE hired < date('now', '-1 year')", determined.CLOCK),
        ("SELECT name FROM staff WHERE strftime('%m', 'now') < strftime('%m', hired) OR id = 1", determined.CLOCK),
        ("SELECT name, (SELECT strftime('%Y') - strftime('%Y', s.hired)) FROM staff s", determined.CLOCK),
        ("WITH n AS (SELECT unixepoch() AS t) SELECT t / 86400 FROM n", determined.CLOCK),
        ("SELECT name FROM staff ORDER BY hired < datetime('now', '-6 years'), name", determined.CLOCK),
        ("SELECT time('now', 'localtime') > '12:00'", determined.CLOCK),
        ("SELECT name FROM staff WHERE strftime('%w', \"now\") <> '3'", determined.CLOCK),
        (
            "SELECT strftime('%m', coalesce(nullif(max(hired), max(hired)), 'now')) IN ('02', '06') FROM staff",
            determined.CLOCK,
        ),
        ("SELECT name FROM recent", determined.ORDER),
        ("SELECT abs(random()) % 6 + 1", determined.CHANCE),
        ("SELECT name FROM staff ORDER BY random() LIMIT 3", determined.CHANCE),
        ("SELECT hex(randomblob(4))", determined.CHANCE),
        ("SELECT name FROM staff WHERE id IN (SELECT id FROM staff ORDER BY random() LIMIT 3)", determined.CHANCE),
        ("SELECT name FROM staff WHERE id = (SELECT id FROM staff ORDER BY pay DESC LIMIT 1)", determined.ORDER),
        ("SELECT name FROM staff WHERE id IN (SELECT id FROM staff LIMIT 2)", determined.ORDER),
        ("WITH top AS (SELECT * FROM staff ORDER BY pay DESC LIMIT 2) SELECT name FROM top ORDER BY name", determined.ORDER),
        (
            "SELECT name FROM (SELECT name, row_number() OVER (ORDER BY pay DESC) AS r FROM staff) WHERE r = 1",
            determined.ORDER,
        ),
        ("SELECT name, lag(name) OVER (PARTITION BY dept ORDER BY pay > 0) FROM staff", determined.ORDER),
        ("SELECT row_number() OVER (), name FROM staff", determined.ORDER),
        (
            "SELECT name FROM (SELECT name, row_number() OVER (PARTITION BY dept) AS n FROM staff) WHERE n = 1",
            determined.ORDER,
        ),
        ("SELECT name, last_value(name) OVER w FROM staff WINDOW w AS (PARTITION BY dept)", determined.ORDER),
        ("SELECT name, sum(id) OVER (PARTITION BY dept ROWS 1 PRECEDING) FROM staff", determined.ORDER),
        ("SELECT name, sum(id) OVER (ORDER BY dept ROWS 1 PRECEDING) FROM staff", determined.ORDER),
        ("SELECT name, ntile(2) OVER w FROM staff WINDOW w AS (PARTITION BY dept ORDER BY pay > 0)", determined.ORDER),
        ("SELECT group_concat(name) FROM staff", determined.ORDER),
        ("SELECT name FROM (SELECT name FROM staff ORDER BY pay DESC) LIMIT 1", determined.ORDER),
        ("SELECT n FROM many LIMIT 5", determined.TOO_MANY),
        ("SELECT n FROM many ORDER BY n LIMIT 5 OFFSET 2", ""),
    ],
)
def test_a_reference_that_does_not_determine_its_answer_is_named_every_time(
    bench: tuple[SqlSuite, Pool, str], reference: str, why: str
) -> None:
    for _ in range(2):
        assert judged(*bench[:2], reference)[0]["error"] == why


@pytest.mark.parametrize(
    "reference",
    [
        "SELECT current_date > '2000-01-01', date('now') IS NOT NULL",
        "SELECT name FROM staff ORDER BY random() * 0, id",
        "SELECT abs(random() % 1)",
        "SELECT name, date(hired, '+1 month') FROM staff ORDER BY julianday(hired), id",
        "SELECT day FROM today WHERE day IS NOT NULL",
        "SELECT a FROM one ORDER BY random() LIMIT 1",
        "SELECT name FROM staff WHERE pay = (SELECT pay FROM staff ORDER BY pay DESC LIMIT 1)",
        "SELECT name FROM staff WHERE EXISTS (SELECT 1 FROM staff t WHERE t.pay > staff.pay LIMIT 1)",
        "SELECT rank() OVER (ORDER BY pay), name FROM staff",
        "SELECT rank() OVER w, count(*) OVER w, name FROM staff WINDOW w AS (PARTITION BY dept ORDER BY pay > 0)",
        "SELECT sum(pay) OVER (ORDER BY dept), name FROM staff",
        "SELECT row_number() OVER (ORDER BY pay, id), name FROM staff",
        "SELECT dept, row_number() OVER (PARTITION BY dept), nth_value(dept, 2) OVER (PARTITION BY dept) FROM staff",
        "SELECT name, sum(id) OVER (PARTITION BY dept), rank() OVER () FROM staff",
        "SELECT sum(pay), avg(pay), count(*) FROM staff",
        "SELECT dept, max(pay) FROM staff GROUP BY dept",
        "SELECT id, name, dept FROM staff GROUP BY id",
        "SELECT group_concat(name) FROM (SELECT name FROM staff ORDER BY name)",
        "SELECT group_concat(DISTINCT dept) FROM staff WHERE dept = 'ops'",
    ],
)
def test_a_reference_that_determines_its_answer_stays(bench: tuple[SqlSuite, Pool, str], reference: str) -> None:
    expected, statuses = judged(*bench[:2], reference, reference)
    assert (expected["status"], expected["error"]) == ("correct", "")
    assert statuses == ["correct"]


@given(st.data())
@settings(max_examples=60)
def test_ties_are_exactly_the_rows_with_equal_keys(data: Any) -> None:
    """Against the definition: rows tie when their keys are equal. Every valid choice is right, and nothing else is."""
    cell = st.sampled_from([None, 1, 1.0, 2, "a", "b"])
    table = data.draw(st.lists(st.tuples(cell, cell), min_size=1, max_size=6))
    count, skipped = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 2))
    reference = f"SELECT b FROM t ORDER BY a LIMIT {count} OFFSET {skipped}"
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", table)
        plain = [list(row) for row in connection.execute(reference)]
        if not plain:
            return
        further = [c for c in determined.checks(reference, 1, len(plain)) if c.kind == "listing"]
        listings: list[list[Any]] = [[list(row) for row in connection.execute(c.query)] for c in further]
        order = connection.execute("SELECT dense_rank() OVER (ORDER BY a), b FROM t ORDER BY 1").fetchall()
    output = {"columns": ["b"], "rows": plain, "truncated": False}
    expected, why = determined.with_ties(reference, output, skipped, listings)
    assert why == ""
    keys = [key for key, _ in order]
    by_key = {key: [b for k, b in order if k == key] for key in keys}
    suite = SqlSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), {})
    problem = {"reference": reference, "judge": judging(reference, "0" * 64)}
    answer = [[data.draw(st.sampled_from([b for _, b in order]))] for _ in plain]
    wanted = keys[skipped : skipped + count]
    valid = all(
        [a for (a,), k in zip(answer, wanted, strict=True) if k == key].count(b) <= by_key[key].count(b)
        for key in set(wanted)
        for b in [a for (a,), k in zip(answer, wanted, strict=True) if k == key]
    )
    assert suite.agrees(problem, {**output, "rows": answer}, expected) == valid
    assert json.dumps(expected)


def test_what_is_known_of_ties_is_kept_with_the_expected_output(bench: tuple[SqlSuite, Pool, str]) -> None:
    for limit, ties, choices in ((4, [[0, 3]], []), (2, [], [[0, 2, [["Ben"], ["Cleo"], ["Fay"]]]])):
        row, _ = judged(*bench[:2], f"SELECT name FROM staff ORDER BY pay DESC LIMIT {limit}")
        kept = decode(json.loads(row["expected"]))
        assert (kept["ties"], kept["choices"]) == (ties, choices)
        assert determined.tied_limits(pl.DataFrame([row], schema=EXPECTED)) == ["p"] * bool(choices)
