"""One question: the prompt is the run's, the program runs in the real sandbox, and nothing that is said does harm."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import RunConfig, parse_config
from codelutra.errors import ConfigError, UserError
from codelutra.pipeline.ask import _database, _prompt, ask
from codelutra.prompts import prompt_ids
from codelutra.suites.base import open_suite
from codelutra.suites.sql import SYSTEM, SqlSuite
from tests.helpers.chat import chatting
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.http import Asked, Raw, answering
from tests.helpers.tiny_model import tiny_tokenizer, write_tiny_model


@contextmanager
def serving(policy: str, text: str) -> Iterator[tuple[str, list[Any]]]:
    """A server that says it serves `policy` and answers everything with `text`; its address, and what it was asked."""
    bodies: list[Any] = []

    def answer(asked: Asked) -> Raw:
        if asked.method == "GET":
            return Raw(200, {"data": [{"id": "any", "root": policy}]})
        bodies.append(asked.body)
        return Raw(200, {"choices": [{"text": text, "finish_reason": "stop"}], "usage": {"completion_tokens": 5}})

    with answering(answer, "") as url:
        yield url, bodies


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "the-policy")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the user's own, with something in it that a terminal must not get."""
    file = tmp_path_factory.mktemp("db") / "shop.sqlite"
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, price REAL, picture BLOB)")
        db.execute("INSERT INTO product VALUES (1, 'lamp', 9.5, x'00ff'), (2, ?, NULL, NULL)", ("\x1b[2Jrug",))
    return file


def config(**suite: Any) -> RunConfig:
    section = {"name": "starter-sql", "databases": ["library"], "train": 8, "dev": 4, "test": 0}
    return parse_config({"name": "asks", "suite": section | suite, "prompt": {}})


def test_the_prompt_is_the_one_the_suite_writes_over_the_same_database(policy: Path) -> None:
    known = config()
    problem = open_suite(known.suite).problems().row(0, named=True)
    question = problem["prompt"].rpartition("\n\n")[2]
    with serving(str(policy), "```sql\nSELECT 1 AS one\n```") as (url, asked):
        answer = ask(known, policy, question, server=url)
    assert answer.prompt == problem["prompt"]
    assert asked[0]["prompt"] == prompt_ids(tiny_tokenizer(), SYSTEM, problem["prompt"])
    assert asked[0]["temperature"] == 0
    assert (answer.status, answer.columns, answer.rows, answer.code) == ("ok", ["one"], [[1]], "SELECT 1 AS one")
    assert not answer.failed


def test_worked_examples_stand_in_the_prompt_where_the_run_s_prompts_had_them(policy: Path) -> None:
    known = config(shots=2)
    with serving(str(policy), "SELECT 1") as (url, _):
        answer = ask(known, policy, "Which is new?", server=url)
    train = open_suite(known.suite).problems().filter(split="train")
    shown = [r for r in train["reference"] if r in answer.prompt]
    assert len(shown) == 2
    assert answer.prompt.endswith("\n\nWhich is new?")


def test_another_database_is_asked_by_its_own_schema(policy: Path, shop: Path) -> None:
    with serving(str(policy), "SELECT name, price, picture FROM product ORDER BY id") as (url, _):
        answer = ask(config(), policy, "What is there?", database=str(shop), server=url)
    assert answer.prompt == "product(id, name, price, picture)\n\nWhat is there?"
    assert answer.rows == [["lamp", 9.5, b"\x00\xff"], ["\x1b[2Jrug", None, None]]
    assert answer.plain_rows[0][2] == "x'00ff'"


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("SELECT nowhere FROM product", "runtime_error"),
        ("SELEC name", "syntax_error"),
        ("DELETE FROM product", "blocked"),
        ("ATTACH '/etc/passwd' AS p", "blocked"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n", "timeout"),
        ("```sql\n```", "no_code"),
    ],
)
def test_a_query_that_fails_is_told_and_changes_nothing(text: str, status: str, policy: Path, shop: Path) -> None:
    before = shop.read_bytes()
    short = config().model_copy(update={"execute": config().execute.model_copy(update={"timeout_seconds": 0.5})})
    with serving(str(policy), text) as (url, _):
        answer = ask(short, policy, "What is there?", database=str(shop), server=url)
    assert answer.status == status
    assert answer.failed
    assert answer.error
    assert shop.read_bytes() == before


def test_a_python_suite_s_program_is_shown_and_not_run(policy: Path) -> None:
    python = parse_config({"name": "py", "suite": {"name": "starter-python", "train": 8, "dev": 4, "test": 0}})
    with serving(str(policy), "```python\nraise SystemExit(9)\n```") as (url, asked):
        answer = ask(python, policy, "Write f.", server=url)
        assert (answer.status, answer.code, answer.failed) == ("not run", "raise SystemExit(9)", False)
        with pytest.raises(UserError, match="asks for Python programs, which have no database"):
            ask(python, policy, "Write f.", database="x.sqlite", server=url)
    assert len(asked) == 1


def test_what_cannot_be_asked_is_said_before_the_policy_is_asked(policy: Path, tmp_path: Path) -> None:
    (tmp_path / "no.sqlite").write_text("name,price\n")
    two = config(databases=["library", "school"])
    with serving(str(policy), "SELECT 1") as (url, asked):
        for question, database, says in (
            ("  ", "library", "the question is empty"),
            ("Who?", "", "has 2 databases; give one with --db: library, school"),
            ("Who?", "libary", "'libary' is no file and no database of the suite; there: library, school"),
            ("Who?", str(tmp_path), "is no file and no database"),
            ("Who?", str(tmp_path / "no.sqlite"), "is not a SQLite database"),
        ):
            with pytest.raises((UserError, ConfigError), match=says):
                ask(two, policy, question, database=database, server=url)
        assert asked == []
        with pytest.raises(UserError, match=r"the prompt has \d+ tokens, and the run's engine.max_model_len leaves 768"):
            ask(two, policy, "Who? " * 2000, database="library", server=url)
    with serving("/somewhere/else", "SELECT 1") as (url, _), pytest.raises(UserError, match="serves /somewhere/else"):
        ask(two, policy, "Who?", database="library", server=url)


def test_the_command_shows_query_and_rows_escaped_and_exits_1_where_the_query_fails(
    policy: Path, shop: Path, tmp_path: Path
) -> None:
    run = example_run(tmp_path, weights=policy, skills=(0.2, 0.6))
    best = json.loads((run / "summary.json").read_text())
    path = next(p["path"] for p in best["policies"] if p["label"] == best["best"])
    base = ("ask", run.name, "What is there?", "--db", str(shop), "--home", str(tmp_path))
    with serving(path, "SELECT name, price FROM product ORDER BY id -- \x1b]0;t\x07") as (url, _):
        shown = codelutra(*base, "--server", url)
        data = codelutra(*base, "--server", url, "--json")
    assert (shown.returncode, data.returncode) == (0, 0), shown.stderr + data.stderr
    assert "\x1b" not in shown.stdout + data.stdout
    assert "SELECT name, price FROM product ORDER BY id" in shown.stdout
    assert "lamp" in shown.stdout
    assert "NULL" in shown.stdout
    assert "2 rows" in shown.stdout
    said = json.loads(data.stdout)
    assert (said["status"], said["policy"]) == ("ok", best["best"])
    assert said["rows"] == [["lamp", 9.5], ["\x1b[2Jrug", None]]
    with serving(path, "SELECT nowhere FROM product") as (url, _):
        failed = codelutra(*base, "--server", url)
    assert failed.returncode == 1
    assert "SELECT nowhere FROM product" in failed.stdout
    assert "codelutra: runtime_error: OperationalError: no such column: nowhere" in failed.stderr
    with chatting(lambda asked, n: Raw(404, {})) as (url, _):
        refused = codelutra(*base, "--server", url)
    assert refused.returncode == 2
    assert "refused /models with 404" in refused.stderr
    unknown = codelutra("ask", "nope", "Who?", "--home", str(tmp_path))
    assert unknown.returncode == 2
    assert "no run 'nope' with results" in unknown.stderr


def test_a_policy_of_duckdb_is_asked_over_duckdb_alone(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as made:
        made.execute("CREATE TABLE item (name VARCHAR, price DECIMAL(6, 2)); INSERT INTO item VALUES ('pen', 1.5)")
    lines = [
        {"question": f"Which cost more than {n}?", "query": f"SELECT name FROM item WHERE price > {n} - 1"} for n in range(2)
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "suite.yaml").write_text("kind: sql\nproblems: problems.jsonl\ndatabases: [shop.duckdb]\n")
    sqlite3.connect(tmp_path / "other.sqlite").close()
    config = parse_config({"name": "r", "suite": {"name": "custom", "path": str(tmp_path)}})
    suite = open_suite(config.suite)
    assert isinstance(suite, SqlSuite)
    file, digest = _database(suite, "")
    assert "DECIMAL(6,2)" in _prompt(config, suite, file, digest, "What is there?")
    assert _database(suite, str(tmp_path / "shop.duckdb"))[1] == digest
    with pytest.raises(UserError, match=r"writes DuckDB; give a database of that kind"):
        _database(suite, str(tmp_path / "other.sqlite"))
