"""Suites over DuckDB files: read on the host with care, judged in the sandbox with the same rules as SQLite's."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codelutra.cli.init import init_sql
from codelutra.config import RunConfig, SuiteSection, parse_config
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline.check import check
from codelutra.schema import EXPECTED, PROBLEMS
from codelutra.suites import determined
from codelutra.suites.base import Suite, open_suite
from codelutra.suites.dialects import DUCKDB
from codelutra.suites.duck.files import Reader, duckdb_digest, is_duckdb, tables_in
from codelutra.suites.solutions import OwnLines
from codelutra.suites.sql import SqlSuite, judging_by_rows
from sandbox import Pool, SandboxError, ensure_daemon_reachable, ensure_image
from sandbox.probe import duckdb_database
from sandbox.protocol import decode
from tests.helpers.judging import judged
from tests.helpers.tiny_model import write_tiny_model

BUILD = """
CREATE TABLE dept (name VARCHAR PRIMARY KEY, "order" INTEGER);
INSERT INTO dept VALUES ('sales', 1), ('ops', 2), ('lab', 3);
CREATE TABLE staff (id INTEGER PRIMARY KEY, name VARCHAR, dept VARCHAR REFERENCES dept(name), pay DECIMAL(8,2), hired DATE,
  skills VARCHAR[]);
INSERT INTO staff VALUES (1,'Ana','sales',50,'2019-03-01',['a']), (2,'Ben','sales',70,'2020-06-11',['b','a']),
  (3,'Cleo','ops',70,'2018-01-20',[]), (4,'Dov','ops',40,NULL,NULL), (5,'Eli','lab',NULL,'2021-09-09',['c']),
  (6,'Fay','lab',70,'2017-05-05',['a','c']);
CREATE VIEW recent AS SELECT name FROM staff WHERE hired > current_date - INTERVAL 1 YEAR OR id = 1;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE SCHEMA extra;
CREATE TABLE extra.note (staff INTEGER, "the text" mood);
INSERT INTO extra.note VALUES (1, 'sad');
CREATE TABLE many AS SELECT i % 2 AS n FROM range(3000) r(i);
"""
needs_duckdb = pytest.mark.skipif(importlib.util.find_spec("duckdb") is None, reason="the package duckdb is not installed")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    try:
        ensure_daemon_reachable()
    except SandboxError as error:
        pytest.skip(str(error))
    with Pool(image=ensure_image("duckdb"), workers=1, run="test-duck") as opened:
        yield opened


@pytest.fixture(scope="module")
def built(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = duckdb_database(pool, tmp_path_factory.mktemp("duck"), BUILD).values()
    return path.rename(path.with_name("firm.duckdb"))


@pytest.fixture(scope="module")
def suite(pool: Pool, built: Path) -> SqlSuite:
    digest = duckdb_digest(built)
    pool.announce({digest: built})
    return SqlSuite("s", "1", "", pl.DataFrame(schema=PROBLEMS), {digest: built}, image="duckdb", dialect="duckdb")


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        (
            "SELECT name FROM staff ORDER BY pay DESC LIMIT 1",
            ["SELECT 'Ben'", "SELECT 'Cleo'", "SELECT 'Fay'"],
            ["SELECT 'Ana'", "SELECT 'Eli'", "FROM staff SELECT name WHERE pay = 70"],
        ),
        (
            "SELECT name, pay FROM staff ORDER BY pay DESC NULLS FIRST OFFSET 1 LIMIT 3",
            ["VALUES ('Fay', 70), ('Ben', 70), ('Cleo', 70)", "VALUES ('Ben', 70.0), ('Fay', 70), ('Cleo', 70)"],
            ["VALUES ('Eli', NULL), ('Ben', 70), ('Cleo', 70)"],
        ),
        (
            "SELECT dept, nullif(name, 'Ana') FROM staff WHERE dept = 'sales' ORDER BY dept",  # one of two is NULL
            ["VALUES ('sales', NULL), ('sales', 'Ben')", "VALUES ('sales', 'Ben'), ('sales', NULL)"],
            ["VALUES ('sales', 'Ana'), ('sales', 'Ben')"],
        ),
        (
            "((SELECT name FROM staff ORDER BY pay DESC NULLS FIRST OFFSET 1 ROWS FETCH NEXT 1 ROW ONLY));",
            ["SELECT 'Ben'", "(SELECT 'Cleo')", "SELECT 'Fay'"],
            ["SELECT 'Ana'", "SELECT 'Eli'"],
        ),
        (
            "FROM staff SELECT name ORDER BY ALL LIMIT 2",
            ["SELECT name FROM staff ORDER BY name LIMIT 2", "VALUES ('Ana'), ('Ben')"],
            ["VALUES ('Ben'), ('Ana')"],
        ),
        (
            "SELECT name FROM staff LIMIT 2",
            ["VALUES ('Fay'), ('Dov')", "SELECT name FROM staff ORDER BY pay LIMIT 2"],
            ["VALUES ('Fay'), ('Fay')", "SELECT 'Ana'"],
        ),
        (
            "SELECT date_trunc('year', hired) y, count(*) FROM staff GROUP BY y",
            ["SELECT make_date(year(hired), 1, 1), count(*) FROM staff GROUP BY ALL"],
            ["SELECT year(hired), count(*) FROM staff GROUP BY ALL"],
        ),
        (
            "SELECT avg(pay) FROM staff",
            ["SELECT sum(pay)::DOUBLE / count(pay) FROM staff", "SELECT 60"],
            ["SELECT sum(pay) / count(*) FROM staff"],
        ),
        (
            "SELECT list(name ORDER BY name) FROM staff GROUP BY dept",
            ["SELECT array_agg(name ORDER BY id) FROM staff GROUP BY dept"],
            ["SELECT array_agg(name ORDER BY name DESC) FROM staff GROUP BY dept"],
        ),
        ("SELECT max(hired) FROM staff", ["SELECT '2021-09-09'", "SELECT TIMESTAMP '2021-09-09'"], ["SELECT '2021-09-9'"]),
    ],
)
def test_what_a_reference_determines_is_what_answers_must_have(
    suite: SqlSuite, pool: Pool, reference: str, right: list[str], wrong: list[str]
) -> None:
    expected, statuses = judged(suite, pool, reference, reference, *right, *wrong)
    assert expected["error"] == "", expected
    assert statuses == ["correct"] * (1 + len(right)) + ["wrong"] * len(wrong)


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("SELECT name, now() FROM staff", determined.CLOCK),
        ("SELECT name FROM staff WHERE hired < current_date - INTERVAL 5 YEAR", determined.CLOCK),
        ("SELECT age(hired) FROM staff", determined.CLOCK),
        ("SELECT name FROM staff ORDER BY random() LIMIT 1", determined.CHANCE),
        ("SELECT name FROM staff USING SAMPLE 2 ROWS", determined.CHANCE),
        ("SELECT uuid()", determined.CHANCE),
        ("SELECT name FROM recent", determined.ORDER),  # the view reads the clock
        ("SELECT dept, first(name) FROM staff GROUP BY dept", determined.ORDER),
        ("SELECT list(name) FROM staff", determined.ORDER),
        ("SELECT pay FROM (FROM staff ORDER BY dept LIMIT 1)", determined.ORDER),
        ("SELECT name FROM staff QUALIFY row_number() OVER (PARTITION BY dept ORDER BY pay > 0) = 1", determined.ORDER),
        ("SELECT name FROM staff QUALIFY row_number() OVER (PARTITION BY dept) = 1", determined.ORDER),
        ("SELECT max(name) FROM (FROM staff ORDER BY dept FETCH FIRST 1 ROW ONLY)", determined.ORDER),
        ("SELECT n FROM many ORDER BY 1 = 1 LIMIT 5", determined.TOO_MANY),
        ("SELECT name FROM staff WHERE false", "the reference returns no rows"),
    ],
)
def test_a_reference_that_does_not_determine_its_answer_is_refused(
    suite: SqlSuite, pool: Pool, reference: str, why: str
) -> None:
    expected, _ = judged(suite, pool, reference)
    assert expected["error"] == why


def test_a_clock_that_changes_nothing_is_no_fault(suite: SqlSuite, pool: Pool) -> None:
    reference = "SELECT count(*) FROM staff WHERE current_date > DATE '1999-01-01'"
    assert judged(suite, pool, reference, "SELECT 6")[1] == ["correct"]


def test_rows_of_one_s_own_are_asked_in_duckdb_s_dialect(suite: SqlSuite, pool: Pool) -> None:
    rows = [["it's \\ $$", 1, 2.5, None]]
    judge = judging_by_rows(rows, next(iter(suite.files)), ordered=False, dialect=DUCKDB)
    _, statuses = judged(suite, pool, "", "SELECT 'it''s \\ $$', 1.0, 5 / 2, NULL", "SELECT 'it', 1, 2.5, NULL", judge=judge)
    assert statuses == ["correct", "wrong"]


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(["pay", "dept", "hired", "name", "length(name)", "skills"]), min_size=1, max_size=2),
    st.sampled_from(["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]),
    st.integers(1, 7),
    st.integers(0, 3),
)
def test_any_order_among_ties_is_right(
    suite: SqlSuite, pool: Pool, keys: list[str], way: str, limit: int, offset: int
) -> None:
    """The same query over the table shuffled is right, whatever its ties."""
    body = f"ORDER BY {', '.join(k + way for k in keys)} LIMIT {limit} OFFSET {offset}"
    shuffled = f"SELECT name, pay FROM (SELECT * FROM staff ORDER BY hash(name)) {body}"
    expected, statuses = judged(suite, pool, f"SELECT name, pay FROM staff {body}", shuffled)
    assert expected["error"] == ""
    assert statuses == ["correct"]


# ---- on the host --------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader() -> Iterator[Reader]:
    with Reader() as opened:
        yield opened


@needs_duckdb
def test_a_schema_is_shown_as_a_query_must_write_it(built: Path, reader: Reader) -> None:
    assert reader.schema(built).splitlines() == [
        'dept(name VARCHAR, "order" INTEGER)',
        "many(n BIGINT)",
        "staff(id INTEGER, name VARCHAR, dept VARCHAR -> dept.name, pay DECIMAL(8,2), hired DATE, skills VARCHAR[])",
        "extra.note(staff INTEGER, \"the text\" ENUM('sad', 'glad'))",
        "recent(name VARCHAR)",
    ]


@needs_duckdb
@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT name FROM staff", ""),
        ("FROM staff SELECT name ORDER BY ALL", ""),
        ("PIVOT staff ON dept USING count(*)", ""),
        ("WITH x AS (SELECT 1) FROM x", ""),
        ("SELECT nme FROM staff", "DuckDB refuses the query: Binder Error: Referenced column"),
        ("SELECT TOP 1 name FROM staff", "it reads as tsql, in DuckDB it would be: SELECT name FROM staff LIMIT 1"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("DELETE FROM staff", "the sandbox does not run it: only queries are allowed, not DELETE"),
        ("WITH x AS (DELETE FROM staff RETURNING *) FROM x", "read"),
        ("PRAGMA database_list", "the sandbox does not run it: only queries are allowed, not PRAGMA"),
        ("SELECT * FROM read_csv('/etc/passwd')", "the sandbox does not run it: Permission Error"),
        ("SELECT * FROM glob('*')", "the sandbox does not run it"),
        ("COPY staff TO 'x.csv'", "only queries are allowed, not COPY"),
        ("EXPLAIN SELECT 1", "only queries are allowed"),
        ("SELECT name FROM firm.staff", "it names the database file (firm.…)"),
        ("SELECT name FROM firm.main.staff", "it names the database file (firm.…)"),
        ("", "no statement"),
        ("SELECT '\udcff'", "surrogates"),
    ],
)
def test_a_reference_that_the_sandbox_would_not_answer_is_refused_at_once(
    built: Path, reader: Reader, query: str, why: str
) -> None:
    said = reader.not_answerable(built, query)
    assert why in said
    assert bool(said) is bool(why)


@needs_duckdb
@settings(max_examples=10)
@given(start=st.integers(0, 60_000), length=st.integers(1, 30_000), byte=st.integers(0, 255))
def test_damage_is_one_message_or_none(tmp_path_factory: Any, built: Path, start: int, length: int, byte: int) -> None:
    content = bytearray(built.read_bytes())
    content[start : start + length] = bytes([byte]) * len(content[start : start + length])
    damaged = tmp_path_factory.mktemp("damaged") / "x.duckdb"
    damaged.write_bytes(content)
    with Reader() as reader:
        try:
            reader.schema(damaged)
            reader.scan(damaged)
            said = str(damaged)
        except ConfigError as e:
            said = str(e)
    assert str(damaged) in said
    assert "\n" not in said


def write(folder: Path, database: Path, *lines: Any, about: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / database.name).write_bytes(database.read_bytes())
    (folder / "suite.yaml").write_text(f"kind: sql\ndatabases: [{database.name}]\n{about}")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def opened(folder: Path, **more: Any) -> Suite:
    return open_suite(SuiteSection(name="custom", path=str(folder), **more))


LINES = [
    {"question": f"Above {n}?", "query": f"FROM staff SELECT name WHERE pay > {n} ORDER BY ALL;"} for n in range(0, 60, 3)
]


@needs_duckdb
def test_a_custom_suite_over_a_duckdb_file_says_so_in_prompts_and_judging(built: Path, tmp_path: Path) -> None:
    suite = opened(write(tmp_path, built, *LINES))
    assert isinstance(suite, SqlSuite)
    assert (suite.dialect, suite.image, suite.system) == ("duckdb", "duckdb", "Answer with one DuckDB query.")
    problem = suite.problems().row(0, named=True)
    assert problem["prompt"].startswith('dept(name VARCHAR, "order" INTEGER)\nmany(n BIGINT)\nstaff(id INTEGER, name')
    assert problem["reference"] == "FROM staff SELECT name WHERE pay > 0 ORDER BY ALL"
    assert json.loads(problem["judge"])["ordered"] is True


@needs_duckdb
def test_a_solution_is_written_for_a_problem_that_has_rows_alone(built: Path, tmp_path: Path) -> None:
    bare = {"question": "Who earns 40?", "rows": [["Dov"]]}
    folder = write(tmp_path, built, *LINES, bare)
    section = SuiteSection(name="custom", path=str(folder))
    own = OwnLines.read(section)
    (named,) = open_suite(section).problems().filter(pl.col("reference") == "")["problem_id"]
    query = "FROM staff SELECT name WHERE pay = 40"
    assert own.rows({named: query})["reference"].to_list() == [query]
    made = own.write({named: query}, "api:teacher", tmp_path / "out")
    solved = open_suite(SuiteSection(name="custom", path=str(made))).problems()
    assert solved.filter(pl.col("problem_id") == named)["reference"].to_list() == [query]


@needs_duckdb
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("wal", "changes in firm.duckdb.wal"),
        ("cut", "cannot be read as a DuckDB database"),
        ("two", "a suite has one dialect"),
        ("copies", "copies are made of SQLite files, and these are DuckDB's; leave it at 0"),
        ("folder", "is a folder, not a file; `codelutra init sql"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_message(built: Path, tmp_path: Path, change: str, says: str) -> None:
    folder = write(tmp_path, built, *LINES)
    file = folder / built.name
    if change == "wal":
        file.with_name(file.name + ".wal").write_bytes(b"x")
    elif change == "cut":
        file.write_bytes(file.read_bytes()[:13_000])
    elif change == "two":
        (folder / "other.sqlite").write_bytes(b"SQLite format 3\0" + bytes(84))
        (folder / "suite.yaml").write_text(f"kind: sql\ndatabases: [{built.name}, other.sqlite]\n")
    elif change == "folder":
        (folder / "tables").mkdir()
        (folder / "suite.yaml").write_text("kind: sql\ndatabases: [tables]\n")
    with pytest.raises(ConfigError) as raised:
        opened(folder, copies=2 if change == "copies" else 0)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@needs_duckdb
def test_a_duckdb_file_that_another_program_writes_is_said_to_be_open(built: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = write(tmp_path, built, *LINES)
    holds = f"import duckdb; c = duckdb.connect({str(folder / built.name)!r}); print('in', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ConfigError, match="is open in another program"):
            opened(folder)
        other.communicate(b"\n")
    opened(folder)


# ---- init and check -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "item.csv").write_text("id,name,price,added\n1,cup,3.5,2020-01-01\n2,jug,9,2021-02-03\n3,,,\n")
    (folder / "colour names.csv").write_text("code;name\nr;red\ng;green\n")
    (folder / "sale.tsv.gz").write_bytes(gzip.compress(b"item\tcount\n1\t5\n2\t7\n"))
    pl.DataFrame({"item": [1, 2], "tags": [["a"], ["b", "c"]]}).write_parquet(folder / "tag.parquet")
    (folder / "README").write_text("not a table")
    lines = [{"question": f"Above {n}?", "query": f"SELECT count(*) FROM item WHERE price >= {n}"} for n in range(20)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@needs_duckdb
def test_a_folder_of_tables_becomes_one_duckdb_file_of_the_suite(tables: Path) -> None:
    made = init_sql(tables, Path("questions.jsonl"))
    assert sorted(f.name for f in made.suite.parent.iterdir()) == [
        "config.schema.json",
        "config.yaml",
        "shop.duckdb",
        "suite.yaml",
    ]
    assert made.suite.parent.name == "shop-suite"
    assert is_duckdb(made.suite.parent / "shop.duckdb")
    suite = open_suite(SuiteSection(name="custom", path=str(made.suite.parent), outside=(str(tables.parent),)))
    schema = suite.problems()["prompt"][0].split("\n\n")[0]
    assert set(schema.splitlines()) == {
        '"colour names"(code VARCHAR, name VARCHAR)',
        "item(id BIGINT, name VARCHAR, price DOUBLE, added DATE)",
        "sale(item BIGINT, count BIGINT)",
        "tag(item BIGINT, tags VARCHAR[])",
    }
    before = (made.suite.parent / "shop.duckdb").read_bytes()
    with pytest.raises(UserError, match="exist already"):
        init_sql(tables, Path("questions.jsonl"))
    assert (made.suite.parent / "shop.duckdb").read_bytes() == before


@needs_duckdb
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("item.parquet", b"PAR1", "would both be table item"),
        ("broken.parquet", b"PAR1", "broken.parquet: "),
        ("latin.csv", "name\nMüller\n".encode("latin-1") * 3, "latin.csv, line 2 is not UTF-8 text: byte 0xfc"),
        ("empty.csv", b"\n", "empty.csv: it is empty"),
        ("stray.csv", b'a,b\n1,"x"\n2,"y" z"\n3,"z"\n', 'the cell "x" keeps its quotes'),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-4], "is not a whole gzip file"),
        ("excel.csv", b"PK\3\4", "an Excel file; save it as CSV"),
        ("ragged.csv", b"a,b\n1,2\n3,4,5\n6\n", "ragged.csv: "),
    ],
)
def test_a_table_that_cannot_be_read_is_named_and_nothing_is_written(
    tables: Path, name: str, content: bytes, says: str
) -> None:
    (tables / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        init_sql(tables, Path("questions.jsonl"))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not Path("shop-suite").exists()


@needs_duckdb
@pytest.mark.parametrize(
    ("content", "columns", "first"),
    [
        ("name;preis\nx;1,50\ny;1.250,75\n", "name VARCHAR, preis DOUBLE", ("x", 1.5)),
        ("a,b\n1,NA\nNULL,2.5\n", "a BIGINT, b DOUBLE", (1, None)),
        ("plz;land;n\n01234;NA;1,250\n09999;DE;2,750\n", "plz VARCHAR, land VARCHAR, n VARCHAR", ("01234", "NA", "1,250")),
        ('a,b\n"1,5",x\n"2,5",y\n', "a VARCHAR, b VARCHAR", ("1,5", "x")),  # may be a list
        ("sep=;\r\nid;n\r1;2\n", "id BIGINT, n BIGINT", (1, 2)),
        ('id,n\n1,"""a"""\n2,"b"\n', "id BIGINT, n VARCHAR", (1, '"a"')),
        ("id,n\n1," + "x" * 3_000_000 + "\n", "id BIGINT, n VARCHAR", (1, "x" * 3_000_000)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_table_of_any_program_has_the_cells_and_types_that_are_meant(
    tmp_path: Path, content: str, columns: str, first: tuple[Any, ...], encoding: str
) -> None:
    """Its name is no pattern: `[ab].csv` is not a.csv."""
    import duckdb

    (tmp_path / "[ab].csv").write_bytes(content.encode(encoding))
    (tmp_path / "a.csv").write_text("other\n1\n")
    out = tmp_path / "made/x.duckdb"
    out.parent.mkdir()
    with Reader() as reader:
        reader.make(out, {"t": tmp_path / "[ab].csv"})
    with duckdb.connect(str(out), read_only=True) as made:
        shown = ", ".join(f"{name} {kind}" for name, kind, *_ in made.execute("DESCRIBE t").fetchall())
        assert (shown, made.execute("FROM t").fetchone()) == (columns, first)


@needs_duckdb
@pytest.mark.parametrize("name", ["big.csv", "big.csv.gz", "p*.parquet"])
def test_a_table_that_is_no_text_or_too_much_of_it_is_read_by_duckdb_alone(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codelutra.suites.duck import worker

    monkeypatch.setattr(worker, "MAX_BYTES", 20)
    file = tmp_path / name
    if name.endswith("parquet"):
        pl.DataFrame({"id": range(30)}).write_parquet(file)
    else:
        text = ("id\n" + "\n".join(map(str, range(30)))).encode()
        file.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    (tmp_path / "made").mkdir()
    assert worker.make(str(tmp_path / "made/x.duckdb"), {"t": str(file)}) == 30


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    for name in (".csv", "x.txt", "questions.csv"):
        (tmp_path / name).write_text("a\n1\n")
    with pytest.raises(UserError, match="has no file that ends in"):
        tables_in(tmp_path, tmp_path / "questions.csv")


@needs_duckdb
def test_init_names_every_wrong_line_and_writes_nothing(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(
        '{"question": "a", "query": "SELECT x FROM staff"}\n{"question": "b", "query": "CHECKPOINT"}\n'
    )
    with pytest.raises(UserError) as raised:
        init_sql(built, Path("q.jsonl"), Path("mine"))
    assert [line.split(":")[0].strip() for line in str(raised.value).splitlines()[1:]] == ["line 1", "line 2"]
    assert not Path("mine").exists()
    with pytest.raises(UserError, match="it goes first"):
        init_sql(Path("q.jsonl"), built, Path("mine"))


@needs_duckdb
def test_check_judges_every_reference_over_a_duckdb_file(built: Path, pool: Pool, tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    lines = [{"split": "dev" if n > 4 else "train", **line} for n, line in enumerate(LINES[:8])]
    lines += [{"split": "train", "question": "Now?", "query": "SELECT now()"}]
    folder = write(tmp_path / "firm", built, *lines)
    raw = {"name": "firm", "suite": {"name": "custom", "path": str(folder)}, "model": f"path:{tmp_path / 'model'}"}
    config: RunConfig = parse_config({**raw, "execute": {"workers": 1, "timeout_seconds": 2}})
    report = check(config, tmp_path / "home")
    assert [(f["problem_id"], f["kind"]) for f in report.failures] == [("00009", determined.CLOCK.partition(";")[0])]


def test_the_columns_of_expected_are_those_of_the_schema(suite: SqlSuite, pool: Pool) -> None:
    expected, _ = judged(suite, pool, "SELECT hired FROM staff ORDER BY hired")
    assert set(expected) == set(EXPECTED)
    assert decode(json.loads(expected["expected"]))["rows"][0] == ["2017-05-05"]
