"""`codelutra init` takes data as it lies: the same rows in any format are the same problems, or one message says why."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import datasets
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codelutra.cli.init import Made, init_python, init_sql
from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.suites.base import open_suite
from codelutra.suites.sources import _from_hub, read_source
from tests.helpers.commands import codelutra

Rows = list[dict[str, Any]]
datasets.disable_progress_bars()


def text_of(cell: Any) -> Any:
    return cell if isinstance(cell, str) or cell is None else json.dumps(cell)


def table(rows: Rows, separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(k for row in rows for k in row)), delimiter=separator)
    writer.writeheader()
    writer.writerows({k: text_of(v) for k, v in row.items()} for row in rows)
    return out.getvalue()


def lines(rows: Rows) -> str:
    return "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def data_set(rows: Rows) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows)


def saved(file: Path, rows: Rows) -> None:
    data_set(rows).save_to_disk(str(file))


def saved_as_one_of_several(file: Path, rows: Rows) -> None:
    datasets.DatasetDict(all=data_set(rows)).save_to_disk(str(file))


def folder_of_parquet(file: Path, rows: Rows) -> None:
    (file / "data").mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(file / "data/train-00000-of-00001.parquet")


FORMS: dict[str, Callable[[Path, Rows], Any]] = {
    "rows.csv": lambda file, rows: file.write_text(table(rows), "utf-8-sig", newline=""),
    "rows.tsv": lambda file, rows: file.write_text(table(rows, "\t"), "utf-16", newline=""),
    "list.json": lambda file, rows: file.write_text(json.dumps(rows, indent=1), "utf-8"),
    "lines.jsonl": lambda file, rows: file.write_text(lines(rows), "utf-8-sig"),
    "rows.parquet": lambda file, rows: pl.DataFrame(rows, infer_schema_length=None).write_parquet(file),
    "saved": saved,
    "several": saved_as_one_of_several,
    "folder": folder_of_parquet,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    with closing(sqlite3.connect(file)) as made, made:
        made.executescript("CREATE TABLE item (id, name, price); INSERT INTO item VALUES (1, 'cup', 3), (2, 'jug', 9)")
    return file


def rows_of(count: int = 12, **more: Callable[[int], Any]) -> Rows:
    asked: dict[str, Callable[[int], Any]] = {
        "question": "How many items cost more than {}?".format,
        "query": "SELECT count(*) FROM item WHERE price > {}".format,
        **more,
    }
    return [{key: value(n) for key, value in asked.items()} for n in range(count)]


def problems_of(made: Made) -> pl.DataFrame:
    found = open_suite(load_config(made.config).suite).problems()
    return found.drop("problem_id", "split").sort("prompt", "reference")  # rows of a table are numbered by their line in it


CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t")
WORDS = st.text(CHARACTERS, min_size=1, max_size=20).map("a{}z".format)
ROW = st.fixed_dictionaries(
    {
        "Frage": WORDS,
        "sql_query": WORDS.map(lambda w: "SELECT id FROM item WHERE name <> '{}'".format(w.replace("'", "''"))),
    },
    optional={"hint": st.none() | WORDS, "hardness": st.sampled_from(["easy", "hard"]), "remark": WORDS},
)


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=10, max_size=12))
def test_any_rows_are_the_same_problems_in_every_format(shop: Path, rows: Rows) -> None:
    keys = sorted({key for row in rows for key in row})
    rows = [{**row, "Frage": f"{row['Frage']} {n}", "sql_query": f"{row['sql_query']} OR {n}"} for n, row in enumerate(rows)]
    whole = [{key: row.get(key) for key in keys} for row in rows]
    whole[0]["hardness"] = "easy"
    whole[0]["hint"] = whole[0].get("hint") or "a hint"
    wanted = None
    for name, write in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder, name), whole)
            made = init_sql(shop, Path(folder, name), Path(folder, "suite"), ["question=Frage"])
            assert made.columns["question"] == ["Frage"]
            assert made.columns["query"] == ["sql_query"]
            found = problems_of(made)
            wanted = found if wanted is None else wanted
            assert found.equals(wanted), name
    assert wanted is not None
    assert sorted(wanted["reference"]) == sorted(row["sql_query"] for row in rows)


@pytest.mark.parametrize("name", FORMS)
def test_several_queries_and_rows_of_values_come_through_every_format(name: str, shop: Path, tmp_path: Path) -> None:
    rows = rows_of(10, query=lambda n: [f"SELECT {n}", f"SELECT {n} + 0"])
    FORMS[name](tmp_path / name, rows)
    judged = problems_of(init_sql(shop, tmp_path / name, tmp_path / "suite"))["judge"]
    assert [json.loads(judge)["also"][0]["query"] for judge in judged] == [f"SELECT {n} + 0" for n in range(10)]
    given = rows_of(10, query=lambda n: None, rows=lambda n: [[n], [n + 1]])
    FORMS[name](tmp_path / f"values-{name}", [{k: v for k, v in row.items() if v is not None} for row in given])
    judged = problems_of(init_sql(shop, tmp_path / f"values-{name}", tmp_path / "values"))["judge"]
    assert [json.loads(judge)["values"] for judge in judged] == [f"VALUES ({n}), ({n + 1})" for n in range(10)]


@pytest.mark.parametrize("name", FORMS)
def test_functions_and_programs_come_through_every_format(name: str, tmp_path: Path) -> None:
    task = "Add the number {} to x.".format
    function = [
        {"text": task(n), "code": f"def f(x):\n    return x + {n}", "test_list": [f"assert f(1) == {n + 1}"]}
        for n in range(10)
    ]
    program = [{"Aufgabe": task(n), "tests": [{"input": "4\n", "output": f"{n + 4}\n"}]} for n in range(10)]
    for kind, rows, columns in (("function", function, ()), ("program", program, ["prompt=Aufgabe"])):
        FORMS[name](tmp_path / f"{kind}-{name}", rows)
        made = init_python(tmp_path / f"{kind}-{name}", tmp_path / kind, columns)
        assert f"kind: python-{kind}\n" in made.suite.read_text()
        assert sorted(problems_of(made)["prompt"]) == sorted(map(task, range(10)))


def test_cases_with_tuples_stay_tuples(tmp_path: Path) -> None:
    rows = [
        {
            "Aufgabe": f"Add {n} to a pair.",
            "reference": f"def f(p): return p, {n}",
            "function": "f",
            "cases": "[[(1, 2)], [{3}]]",
        }
        for n in range(10)
    ]
    (tmp_path / "p.csv").write_text(table(rows))
    made = init_python(tmp_path / "p.csv", tmp_path / "suite", ["prompt=Aufgabe"])
    assert json.loads(problems_of(made)["judge"][0])["calls"] == ["f((1, 2))", "f({3})"]


def test_the_splits_of_a_data_set_are_the_problems(shop: Path, tmp_path: Path) -> None:
    parts = {"train": rows_of(10), "validation": rows_of(4), "test": rows_of(3)}
    for number, part in enumerate(parts.values()):
        for row in part:
            row["question"] += f" ({number})"
            row["query"] += f" AND id <> {number}"
    datasets.DatasetDict({k: data_set(v) for k, v in parts.items()}).save_to_disk(str(tmp_path / "parts"))
    assert init_sql(shop, tmp_path / "parts", tmp_path / "a").splits == {"train": 10, "dev": 4, "test": 3}
    alone = init_sql(shop, f"{tmp_path}/parts:train", tmp_path / "b")
    assert sum(alone.splits.values()) == 10
    assert alone.splits["dev"] > 0, "the rows of one split are dealt"


def test_files_whose_columns_are_known_stay_where_they_lie_and_others_are_written(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text(
        table(rows_of(SQL=lambda n: f"SELECT {n}", query=lambda n: None, db_id=lambda n: "shop"))
    )
    made = init_sql(shop, tmp_path / "plain.csv", tmp_path / "a")
    assert made.problems is None
    assert [p.name for p in sorted((tmp_path / "a").iterdir())] == ["config.schema.json", "config.yaml", "suite.yaml"]
    assert made.columns == {"question": ["question"], "query": ["SQL"], "database": ["db_id"]} | made.columns
    (tmp_path / "more.csv").write_text(table(rows_of(created=lambda n: f"2024-01-{n + 1:02d}")))
    made = init_sql(shop, tmp_path / "more.csv", tmp_path / "b")
    assert made.problems == tmp_path / "b/problems.jsonl"
    assert made.left_out == ["created"]
    written = [json.loads(line) for line in made.problems.read_text().splitlines()]
    assert written == rows_of()


def test_columns_without_a_known_name_are_told_by_what_they_hold_and_it_is_said(shop: Path, tmp_path: Path) -> None:
    rows = [{"Frage": r["question"], "Abfrage": r["query"], "Nr": str(n)} for n, r in enumerate(rows_of())]
    (tmp_path / "deutsch.csv").write_text(table(rows, ";"), "utf-8-sig")
    done = codelutra("init", "sql", str(shop), str(tmp_path / "deutsch.csv"), str(tmp_path / "suite"))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "columns: question ← Frage, query ← Abfrage; left out: Nr"
    assert said[1].startswith(f"wrote {tmp_path}/suite/problems.jsonl, ")


@pytest.mark.parametrize("place", ["all/a.sqlite", "all/a/a.sqlite"])
def test_a_folder_of_databases_is_told_from_one_of_tables(place: str, shop: Path, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(shop.read_bytes())
    (tmp_path / "q.csv").write_text(table(rows_of()))
    with pytest.raises(UserError, match=rf"It holds databases: give one, .*{place}; several go into a suite\.yaml"):
        init_sql(tmp_path / "all", tmp_path / "q.csv", tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


NESTED = [{"in": {"text": r["question"], "n": n}, "out": [{"sql": r["query"]}]} for n, r in enumerate(rows_of())]
CHAT = [
    {"messages": [{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["query"]}]}
    for r in rows_of()
]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (NESTED, "question=in.text,query=out.0.sql"),
        (CHAT, "question=messages.0.content,query=messages.1.content"),
        ([{"in.text": r["question"], "q": r["query"]} for r in rows_of()], "question=in.text,query=q"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_within_columns_are_named_by_their_way(
    rows: list[dict[str, Any]], columns: str, kind: str, shop: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"nested.{kind}"
    if kind == "jsonl":
        file.write_text(lines(rows))
    else:
        pl.DataFrame(rows).write_parquet(file)
    made = init_sql(shop, file, tmp_path / "suite", [columns])
    assert made.problems is not None
    assert [json.loads(line) for line in made.problems.read_text().splitlines()] == rows_of()
    assert not {"in", "out", "messages"} & {*made.left_out}


def test_a_column_without_a_name_takes_no_others_place(shop: Path, tmp_path: Path) -> None:
    rows = [f'a{n};{r["question"]};{r["query"]};"SELECT {n}"' for n, r in enumerate(rows_of())]
    (tmp_path / "q.csv").write_text("\n".join([" ;question;query;", *rows]))
    made = init_sql(shop, tmp_path / "q.csv", tmp_path / "suite")
    assert made.problems is not None
    assert [json.loads(line) for line in made.problems.read_text().splitlines()] == rows_of()
    assert made.left_out == ["column 1", "column 4"]


GOOD = table(rows_of())
STRANGE = [{"a": str(n), "b": "x y z", "c": "u v w"} for n in range(12)]
NO_QUESTION = (
    "no column is known as the question and the query or the rows; its columns are: a, b, c. Say which is: --columns "
)
TWO = "'question' and 'text' could both be the question, and they differ; its columns are: question, query, text. Say which"
Q = ("question=question",)
SEVERAL = "one object that holds all problems (under 'question', …); give a list of them, or one a line"
BAD: list[tuple[str, str | bytes, tuple[str, ...], str]] = [
    ("a.csv", GOOD, ("question=Frage",), "has no column 'Frage'; its columns are: question, query"),
    ("a.csv", GOOD, ("question=questin",), "has no column 'questin'; did you mean question?"),
    ("a.csv", GOOD, ("questoin=question",), "there is no key 'questoin'; known: id, split"),
    ("a.csv", GOOD, ("question",), "write key=column"),
    ("a.csv", GOOD, ("question=query,question=question",), "gives the question twice"),
    ("a.csv", GOOD.partition("\n")[2], (), "its first row holds a query, 'SELECT "),
    ("a.csv", table(rows_of(evidnce=str)), (), "evidnce: unknown key; known here"),
    ("a.csv", table(STRANGE), (), NO_QUESTION),
    ("a.csv", table(rows_of(text=str)), (), TWO),
    ("a.jsonl", lines(NESTED), (), "its columns are: in.text, in.n, out.0.sql. Say which is"),
    ("a.jsonl", lines(NESTED), ("question=in.txt,query=out.0.sql",), "no column 'in.txt'; did you mean in.text?"),
    ("a.jsonl", lines(NESTED), ("question=in.text,query=out.1.sql",), "no column 'out.1.sql'"),
    ("a.jsonl", lines(NESTED), ("question=in,query=out.0.sql",), "12 lines (1, 3, 5, …); line 1: question: Input should be"),
    ("a.json", json.dumps([[*r.values()] for r in rows_of()]), (), "a list of lists; give a list of objects with keys"),
    ("a.csv", "My questions;;\n" + table(rows_of(note=str), ";"), (), "its first row names 1 of 3 columns ('My questions')"),
    ("a.csv", GOOD.encode().replace(b"items", b"St\xfccke"), (), "line 2 is not UTF-8 text: byte 0xfc"),
    ("a.csv", table(rows_of(query="SELECT nope{}".format)), Q, "row 2: SQLite refuses the query: no such column: nope0"),
    ("a.json", json.dumps(rows_of())[:-1], (), "not JSON"),
    ("a.jsonl", lines(rows_of()) + '\n{"question": "x', Q, "line 24: not JSON"),
    ("a.jsonl", "", (), "is empty"),
    ("a.csv", GOOD + '"say "hi" to x","SELECT 99"', (), "line 14: ',' expected after '\"'; a quote within a quoted cell"),
    ("a.csv", GOOD + 'say,"SELECT ""a""","', (), "line 14: unexpected end of data; a quote within"),
    ("a.csv", GOOD.replace("than 3?", "than 3, 4?"), (), "line 5: 3 cells, the header has 2"),
    ("a.csv", GOOD + r'"say \"hi\" to x",SELECT 99', (), "a quote within a quoted cell is written twice"),
    ("a.csv", "version https://git-lfs.github.com/spec/v1\n", (), "a pointer of Git LFS in the place of the file"),
    ("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", (), "an old Excel file (.xls); save it as CSV"),
    ("a.json", json.dumps({k: {str(n): r[k] for n, r in enumerate(rows_of())} for k in rows_of()[0]}), (), SEVERAL),
    ("a.json", json.dumps({k: [r[k] for r in rows_of()] for k in rows_of()[0]}), (), SEVERAL),
    ("a.json", json.dumps(dict(enumerate(rows_of())), indent=1), (), "one object that holds all problems (under '0', …)"),
    ("a.csv", table(rows_of(query=lambda n: "", rows=lambda n: "[1]")), (), "rows: give a list of rows, each a list of its"),
    ("a.parquet", b"PAR1 and no more", (), "is no whole parquet file"),
    ("a.parquet", GOOD, (), "is no whole parquet file"),
    ("a.xlsx", b"PK\3\4....", (), "an Excel file; save it as CSV or JSONL"),
]


@pytest.mark.parametrize(("name", "content", "columns", "says"), BAD, ids=range(len(BAD)))
def test_what_is_wrong_is_one_message_and_nothing_is_written(
    name: str, content: str | bytes, columns: tuple[str, ...], says: str, shop: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as refused:
        init_sql(shop, tmp_path / name, tmp_path / "suite", columns)
    assert says in str(refused.value)
    assert refused.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "content",
    [
        GOOD.replace("\r\n", "\r"),
        GOOD.replace("question,query", " question ,query"),
        "sep=;\n" + table(rows_of(), ";"),
        table(rows_of(), ";").replace("question", '"question, as asked, once"', 1),
        table(rows_of(), ";").replace("question;query", "question, as asked;query", 1),
        GOOD.replace("\r\n", ",,\r\n"),
        "question, query\n" + "\n".join(f'"{r["question"]}", "{r["query"]}"' for r in rows_of()),
        GOOD.replace("question,query", "question,query,hint").replace("\r\n", ",NULL\r\n").replace("hint,NULL", "hint"),
        "\n" + GOOD,
        "\ufeff\ufeff" + GOOD,
    ],
)
def test_a_table_is_read_however_programs_write_it(content: str, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(content, "utf-8", newline="")
    columns = ["question=question, as asked, once"] if "once" in content else []
    columns = columns or (["question=question, as asked"] if "as asked" in content else [])
    found = problems_of(init_sql(shop, tmp_path / "q.csv", tmp_path / "s", columns))
    (tmp_path / "good.csv").write_text(GOOD)
    assert found.equals(problems_of(init_sql(shop, tmp_path / "good.csv", tmp_path / "good")))


def test_quotes_within_cells_are_kept_as_they_are(shop: Path, tmp_path: Path) -> None:
    rows = rows_of(question='Which "size" is {}" wide?'.format, query='SELECT "name" FROM item WHERE id <> {}'.format)
    plain = "question;query\n" + "\n".join(f"Of {r['question']};{r['query']}" for r in rows)
    for name, content in {"quoted": table(rows), "plain": plain}.items():
        (tmp_path / f"{name}.csv").write_text(content)
        found = problems_of(init_sql(shop, tmp_path / f"{name}.csv", tmp_path / name))
        assert sorted(found["reference"]) == sorted(r["query"] for r in rows)
        assert found["prompt"].str.contains('Which "size" is', literal=True).all()


def test_a_folder_s_text_files_are_read_as_one_alone_is(shop: Path, tmp_path: Path) -> None:
    """Not with types guessed: 007 would be 7, and rows that differ in their cells' types no column at all."""
    (tmp_path / "q").mkdir()
    half = rows_of(id="{:03d}".format)
    (tmp_path / "q/train.csv").write_bytes(table(half[:8], ";").encode("utf-16"))
    answers = [{"id": f"{n:03d}", "question": f"{n}?", "rows": [[n, "a"], [None, "b"]]} for n in range(12, 16)]
    (tmp_path / "q/dev.csv").write_text(table(answers))
    made = init_sql(shop, tmp_path / "q", tmp_path / "s")
    assert made.splits == {"train": 8, "dev": 4, "test": 0}
    found = open_suite(load_config(made.config).suite).problems()
    assert sorted(found["problem_id"]) == [f"{n:03d}" for n in (*range(8), *range(12, 16))]
    (tmp_path / "j").mkdir()
    (tmp_path / "j/a.jsonl").write_text(
        lines([{**a, "rows": [[1, "a"], ["b", None]]} for a in answers * 3]).replace('"id"', '"n"')
    )
    assert sum(init_sql(shop, tmp_path / "j", tmp_path / "t", ["question=question,rows=rows"]).splits.values()) == 12


def test_a_column_that_is_not_used_may_hold_anything(shop: Path, tmp_path: Path) -> None:
    data = {"image": pa.array([b"\xff"] * 12), "day": pa.array([2**31 - 1] * 12, pa.int32()).cast(pa.date32())}
    asked = {key: [r[key] for r in rows_of()] for key in ("question", "query")}
    pq.write_table(pa.table({**asked, **data}), tmp_path / "q.parquet")
    made = init_sql(shop, tmp_path / "q.parquet", tmp_path / "s")
    assert made.left_out == ["image", "day"]
    with pytest.raises(UserError, match="evidence: a cell holds bytes that are no text"):
        init_sql(shop, tmp_path / "q.parquet", tmp_path / "t", ["evidence=image"])
    with pytest.raises(UserError, match="evidence: a cell cannot be read: days=2147483647"):
        init_sql(shop, tmp_path / "q.parquet", tmp_path / "t", ["evidence=day"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.sqlite", b"", "it is empty"),
        ("a.sqlite.gz", b"\x1f\x8b\x08", "packed with gzip; unpack it"),
        ("dump.sql", b"-- SQLite dump\nCREATE TABLE a (b);", "it is SQL; `sqlite3 dump.sqlite < dump.sql`"),
        ("a.csv", b"a,b\n1,2\n", "put such files into a folder, a file a table"),
        ("a.sqlite", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.db", b"\0" * 64, "its first bytes say otherwise"),
        ("a\udcff.sqlite", None, "is not UTF-8, so no problem can hold it; rename it"),
        ("names.sqlite", b"\xff", "cannot be read as a SQLite database"),
    ],
)
def test_a_database_that_is_none_is_named_for_what_it_is(
    name: str, content: bytes | None, says: str, shop: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(shop.read_bytes() if content in (None, b"\xff") else content or b"")
    if content == b"\xff":  # a schema whose table has a name that is no UTF-8, so that no message of SQLite's is text
        (tmp_path / name).write_bytes(shop.read_bytes().replace(b"CREATE TABLE item (", b"CREATE TABLE \xfftem ("))
    (tmp_path / "q.csv").write_text(GOOD)
    with pytest.raises(UserError, match=says):
        init_sql(tmp_path / name, tmp_path / "q.csv", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_other_things_that_are_no_problems_are_refused(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing").mkdir()
    two = datasets.DatasetDict(train=data_set(rows_of()), test=data_set(rows_of()))
    two.save_to_disk(str(tmp_path / "two"))
    datasets.DatasetDict(train=data_set(rows_of()), spam=data_set(rows_of())).save_to_disk(str(tmp_path / "odd"))
    saved(tmp_path / "torn", rows_of())
    next((tmp_path / "torn").glob("*.arrow")).write_bytes(b"ARROW and no more")
    pl.DataFrame({"question": [b"\xff\xfe"] * 12, "query": ["SELECT 1"] * 12}).write_parquet(tmp_path / "bytes.parquet")
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"])] * 3, names=["question", "query", "query"]), tmp_path / "twice.parquet"
    )
    monkeypatch.chdir(tmp_path)
    for given_, says in {
        "nothing": "is a folder without a data set",
        "two": r"has the splits train, test: train and dev are needed, or one alone.* Name one split.*two:train",
        "odd": "spam is none of train, dev, test",
        "two:tran": "there is no split tran; there are train, test",
        "torn": "cannot be opened by datasets|cannot be read",
        "bytes.parquet": r"12 rows \(1, 2, 3, …\): question: a cell holds bytes that are no text",
        "twice.parquet": "the column 'query' is there twice; keep one",
        "hf:name": "is not hf:owner/name",
        "hf:../..": "is not hf:owner/name",
        "hf:./x": "is not hf:owner/name",
        "hf:x/.": "is not hf:owner/name",
        "none.parquet": "No such file",
    }.items():
        with pytest.raises(UserError, match=says):
            init_sql(shop, given_, Path("suite"))
    with pytest.raises(UserError, match=r"it goes first, then the questions"):
        init_sql(Path("hf:owner/name"), shop)
    (tmp_path / "q.csv").write_text(GOOD)
    with pytest.raises(UserError, match=r"give the database, too: codelutra init sql DATABASE q\.csv"):
        init_python("q.csv", Path("suite"))
    assert not Path("suite").exists()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"asserts": 5}, r"asserts: give a list \(got 5\)"),
        ({"reference": "def f(x): return x", "function": "f", "cases": [1]}, r"cases\.0: give a list \(got 1\)"),
        ({"tests": [{"stdin": ["1"], "stdout": "2"}]}, r"tests\.0\.stdin: Input should be a valid string \(got \['1'\]\)\Z"),
    ],
)
def test_what_is_no_list_is_said_once_in_plain_words(line: dict[str, Any], says: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(lines([{"prompt": "Add 1.", **line}]))
    with pytest.raises(UserError, match=says):
        init_python(tmp_path / "q.jsonl", tmp_path / "s")


def test_the_commands_that_follow_can_be_given_as_they_stand(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-q.csv").write_text(GOOD)
    done = codelutra("init", "sql", str(shop), "--", "-q.csv", "-s")
    assert "codelutra check ./-s/config.yaml\n" in done.stdout, done.stderr


def test_a_kept_file_of_problems_is_not_overwritten(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite/problems.jsonl").write_text("mine")
    (tmp_path / "q.csv").write_text(GOOD)
    with pytest.raises(UserError, match=r"problems\.jsonl exist already and are kept"):
        init_sql(shop, tmp_path / "q.csv", tmp_path / "suite", ["question=question"])
    assert [p.name for p in (tmp_path / "suite").iterdir()] == ["problems.jsonl"]


def test_a_data_set_of_the_hub_is_named_by_its_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On this disk: `datasets` takes a folder owner/name in the current one for the data set of that name."""
    monkeypatch.chdir(tmp_path)
    folder_of_parquet(Path("owner/name"), rows_of())
    for named in ("hf:owner/name", "hf:owner/name:train"):
        assert [r.value for r in read_source(named).records.found] == rows_of()
    with pytest.raises(UserError, match="no split dev; there are train"):
        _from_hub("hf:owner/name:dev")


def test_a_damaged_table_ends_no_process(tmp_path: Path) -> None:
    """Every byte of a parquet file may be another: what it says is rows or one message."""
    file = tmp_path / "rows.parquet"
    FORMS["rows.parquet"](file, rows_of())
    good, chance = file.read_bytes(), random.Random(0)
    for _ in range(300):
        raw = bytearray(good)
        for _ in range(3):
            raw[chance.randrange(4, len(raw))] = chance.randrange(256)
        file.write_bytes(raw if chance.random() < 0.8 else raw[: chance.randrange(5, len(raw))])
        with contextlib.suppress(UserError):
            read_source(str(file))
