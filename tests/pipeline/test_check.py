"""`codelutra check`: every reference judged for real, leaks found, and a verdict that exit codes carry."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import RunConfig, SuiteSection, load_config, parse_config
from codelutra.errors import ConfigError
from codelutra.pipeline import stages
from codelutra.pipeline.check import FLAKY, Report, check, leaks_between, leaks_within, reference_failures
from codelutra.pipeline.run import open_run
from codelutra.schema import EXPECTED, PROBLEMS
from codelutra.suites.base import open_suite
from codelutra.suites.determined import CHANCE
from codelutra.suites.python import PythonSuite, judging
from codelutra.suites.splits import digests
from codelutra.suites.sql import judging as sql_judging
from sandbox.protocol import encode
from tests.helpers.commands import codelutra
from tests.helpers.tiny_model import write_tiny_model

LOOP = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
LINES = [
    ("train", "How many?", "SELECT COUNT(*) FROM item"),
    ("train", "Dear ones?", "SELECT name FROM item WHERE price > 5"),
    ("train", "Any answer?", "SELECT abs(random())"),
    ("train", "None?", "SELECT name FROM item WHERE price > 500"),
    ("dev", "For ever?", LOOP),
    ("dev", "Names?", "SELECT name FROM item"),
    ("dev", "Longest? " + "word " * 400, "SELECT MAX(price) FROM item"),
]


def write(folder: Path, lines: list[tuple[str, str, str]]) -> RunConfig:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "shop.sqlite")) as connection, connection:
        connection.executescript(
            "DROP TABLE IF EXISTS item; CREATE TABLE item (id, name, price);"
            "INSERT INTO item VALUES (1, 'cup', 3), (2, 'jug', 9)"
        )
    (folder / "suite.yaml").write_text("kind: sql\ndatabases: [shop.sqlite]\n")
    rows = [{"split": s, "question": q, "query": r} for s, q, r in lines]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = {"name": "shop", "suite": {"name": "custom", "path": str(folder)}, "execute": {"timeout_seconds": 1, "workers": 1}}
    (folder / "config.yaml").write_text(json.dumps({**raw, "model": f"path:{folder.parent}/model"}))
    return parse_config(json.loads((folder / "config.yaml").read_text()))


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig, Report]:
    folder = tmp_path_factory.mktemp("check")
    write_tiny_model(folder / "model")
    config = write(folder / "shop", LINES)
    return folder, config, check(config, folder / "home")


def test_a_limit_that_cuts_a_tie_is_noted(checked: tuple[Path, RunConfig, Report], tmp_path: Path) -> None:
    lines = [
        ("dev" if n > 5 else "train", f"Which {n}?", f"SELECT name FROM item ORDER BY id > {n} LIMIT 1") for n in range(8)
    ]
    config = write(checked[0] / "ties", lines)
    (note,) = [n for n in check(config, tmp_path).notes if "tie" in n]
    assert note.startswith("7 references have a LIMIT that cuts rows that tie (00001, 00003, 00004, 00005, 00006, …):")


def test_each_failing_reference_is_named_with_its_reason(checked: tuple[Path, RunConfig, Report]) -> None:
    kinds = {(f["split"], f["problem_id"]): f["kind"] for f in checked[2].failures}
    assert kinds.pop(("train", "00003")) == CHANCE
    assert kinds == {("train", "00004"): "the reference returns no rows", ("dev", "00005"): "timeout"}


@pytest.mark.parametrize(
    "reference",
    [
        "def f(k): return 3 * 10 ** k",
        "def f(k): return [{k: -(7 ** k)}, {2 ** k}]",
        "from fractions import Fraction\ndef f(k): return Fraction(10 ** k + 1, 3)",
        "def f(k): return range(10 ** k, 10 ** (k + 1), 2)",
    ],
)
def test_references_that_give_integers_of_thousands_of_digits_are_usable(reference: str, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function\n")
    line = {"reference": reference, "function": "f", "cases": [[3], [5000]]}
    rows = [{"split": side, "prompt": f"{side} {n}", **line} for side in ("train", "dev") for n in range(2)]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    raw = {"name": "big", "suite": {"name": "custom", "path": str(tmp_path)}, "model": f"path:{tmp_path}/model"}
    report = check(parse_config(raw | {"execute": {"workers": 1}}), tmp_path / "home")
    assert [(row["problems"], row["usable"]) for row in report.splits] == [(2, 2)] * 2
    assert report.failures == []


def test_counts_are_by_split_and_prompts_are_counted_in_tokens(checked: tuple[Path, RunConfig, Report]) -> None:
    train, dev = checked[2].splits
    assert (train["problems"], train["usable"], train["too_long"]) == (4, 2, 0)
    assert (dev["problems"], dev["usable"], dev["too_long"]) == (3, 2, 1)
    assert checked[2].notes == []


def test_the_run_finds_its_references_judged_and_no_run_is_left_behind(checked: tuple[Path, RunConfig, Report]) -> None:
    folder, config, report = checked
    assert not (folder / "home/runs").exists()
    with open_run(folder / "home", config) as run:
        asked = run.store.find(stages.problems(run).recipe)
        assert asked
        assert run.store.find(stages.references(run, asked).recipe)
        assert asked.facts["digests"] == {s["split"]: s["digest"] for s in report.splits}


def test_few_failing_references_spoil_nothing_but_a_split_without_any_does(checked: tuple[Path, RunConfig, Report]) -> None:
    assert checked[2].spoilt == []
    nothing = [{**s, "usable": 0} for s in checked[2].splits]
    assert Report({}, nothing, [], [], []).spoilt == ["no reference of train is usable", "no reference of dev is usable"]


LEAKY = [
    ("train", "How many?", "SELECT COUNT(*) FROM item"),
    ("train", "Names?", "SELECT name FROM item"),
    ("dev", "how MANY", "SELECT COUNT(id) FROM item"),
    ("test", "All names?", "select  NAME from item;"),
]


def test_the_command_exits_1_on_a_leak_and_says_where(tmp_path: Path) -> None:
    write(tmp_path / "leaky", LEAKY)
    done = codelutra("check", str(tmp_path / "leaky/config.yaml"), "--home", str(tmp_path), "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert {(k["split"], k["problem_id"], k["shares"], k["train_id"]) for k in found["leaks"]} == {
        ("dev", "00003", "prompt", "00001"),
        ("test", "00004", "program", "00002"),
    }
    assert found["spoilt"] == [f"1 problems of custom-leaky {split} are in train" for split in ("dev", "test")]
    assert "prompts were not counted: no tokenizer of path:" in found["notes"][0]


CONTRADICTING = [
    ("train", "Which names are there?", "SELECT name FROM item"),
    ("train", "which NAMES are there", "SELECT id FROM item"),
    ("train", "Dear ones?", "SELECT name FROM item WHERE price > 5"),
    ("dev", "Dear ones?", "SELECT name FROM item WHERE price > 4"),
    ("dev", "Names with id > 1?", "SELECT name FROM item WHERE id > 1"),
    ("dev", "Names with id <= 1?", "SELECT name FROM item WHERE id <= 1"),
    ("dev", "How many", "SELECT COUNT(*) FROM item"),
    ("dev", "How many?", "SELECT 5 - 2"),
    ("train", "Names with price > 4?", "SELECT name FROM item WHERE price > 4 AND id"),
    ("dev", "Names with price <= 4?", "SELECT name FROM item WHERE price <= 4"),
    ("test", "Never right?", "SELECT name FROM item WHERE 0"),
    ("test", "Never right?", "SELECT name FROM item WHERE price > 500"),
]


def test_one_question_with_two_answers_is_named_and_one_asked_in_two_ways_is_not(tmp_path: Path) -> None:
    write(tmp_path / "shop", CONTRADICTING)
    done = codelutra("check", str(tmp_path / "shop/config.yaml"), "--home", str(tmp_path), "--json")
    found = json.loads(done.stdout)
    pairs = {(c["first_split"], c["first_id"], c["split"], c["problem_id"]) for c in found["contradictions"]}
    assert pairs == {("train", "00001", "train", "00002"), ("dev", "00007", "dev", "00008")}
    assert done.returncode == 1
    assert "2 problems contradict another that asks the same" in found["spoilt"]
    assert {k["problem_id"] for k in found["leaks"]} == {"00004"}
    told = codelutra("check", str(tmp_path / "shop/config.yaml"), "--home", str(tmp_path), COLUMNS="999")
    assert "contradiction: train 00002 asks what train 00001 asks, and another answer is right" in told.stdout


@pytest.mark.parametrize("more", [{}, {"warm_start": {}}, {"iterations": 3}])
def test_a_suite_that_only_measures_is_checked_without_train_problems(tmp_path: Path, more: dict[str, Any]) -> None:
    for splits in (["test"] * 3, ["dev", "test", "test"]):
        config = write(tmp_path / "shop", [(s, q, r) for s, (_, q, r) in zip(splits, LINES, strict=False)])
        raw = json.loads((tmp_path / "shop/config.yaml").read_text()) | more
        (tmp_path / "shop/config.yaml").write_text(json.dumps(raw))
        report = check(load_config(tmp_path / "shop/config.yaml"), tmp_path)
        assert sum(s["problems"] for s in report.splits) == 3
        assert report.spoilt == []
        assert report.notes[0].startswith("there are no train problems: a run can only measure")
        assert config.iterations, "by default there are iterations"


def test_the_command_exits_0_on_a_few_failing_references_and_1_when_held_against_what_train_is_from(
    checked: tuple[Path, RunConfig, Report],
) -> None:
    folder, config, _ = checked
    fine = codelutra("check", str(folder / "shop/config.yaml"), "--home", str(folder / "home"), "--set", "model=path:/none")
    assert (fine.returncode, "3 references failed" in fine.stdout) == (0, True), fine.stderr
    other = write(folder / "other", LEAKY)
    assert other.suite.path
    report = check(config, folder / "home", [f"{folder}/other/config.yaml"])
    assert {(k["suite"], k["problem_id"]) for k in report.leaks} == {
        (f"{folder}/other/config.yaml", i) for i in ("00001", "00003")
    }
    assert report.spoilt


def test_an_unknown_suite_to_hold_against_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config 'spidr'"):
        check(write(tmp_path / "shop", LINES), tmp_path, ["spidr"])
    assert not (tmp_path / "store").exists()


# ---- pure parts ------------------------------------------------------------------------------------------------------


def problems(*rows: tuple[str, str, str, str, str]) -> pl.DataFrame:
    names = ("problem_id", "split", "prompt", "reference", "group")
    known = {"language": "sql", "difficulty": ""}
    return pl.DataFrame(
        [{**dict(zip(names, r, strict=True)), **known, "judge": sql_judging(r[3], f"file of {r[4]}")} for r in rows],
        schema=PROBLEMS,
    )


SQL = open_suite(SuiteSection(name="starter-sql", train=2, dev=1, test=1))


def test_a_query_over_another_database_is_no_leak_and_one_in_other_words_is_none_we_see() -> None:
    mixed = problems(
        ("a", "train", "x", "SELECT name FROM t", "one"),
        ("b", "dev", "y", "SELECT name FROM t", "two"),
        ("c", "dev", "z", "select  NAME from t;", "one"),
        ("d", "dev", "w", "SELECT name FROM t WHERE 1", "one"),
    )
    assert [(k["problem_id"], k["train_id"]) for k in leaks_within(mixed, SQL)] == [("c", "a")]


def test_the_same_query_over_the_same_database_is_a_leak_whatever_its_group() -> None:
    asked = problems(("a", "train", "x", "SELECT name FROM t", "one"), ("b", "dev", "y", "select NAME from t", "one"))
    hard = pl.when(pl.col("problem_id") == "b").then(pl.lit("hard")).otherwise(pl.lit("easy"))
    found = leaks_within(asked.with_columns(group=hard), SQL)
    assert [(k["problem_id"], k["shares"]) for k in found] == [("b", "program")]


def test_only_train_is_held_against_another_suite() -> None:
    ours = problems(("a", "train", "x", "SELECT 1", "g"), ("b", "test", "y", "SELECT 2", "g"))
    theirs = problems(("p", "test", "X!", "SELECT 3", "g"), ("q", "test", "y", "SELECT 2", "g"))
    found = leaks_between(ours, SQL, theirs, SQL, "theirs")
    assert found == [{"train_id": "a", "shares": "prompt", "suite": "theirs", "split": "test", "problem_id": "p"}]


def test_a_reference_that_changes_between_runs_is_flaky() -> None:
    rows = [
        {
            "problem_id": str(i),
            "split": "train",
            "prompt": "",
            "reference": "",
            "language": "python",
            "group": "",
            "difficulty": "",
            "judge": judging(["f()"]),
        }
        for i in range(4)
    ]
    suite = PythonSuite("p", "1", "", pl.DataFrame(rows, schema=PROBLEMS))

    def came_out(*values: Any) -> pl.DataFrame:
        rows = [
            {"problem_id": str(i), "status": "reference_error", "expected": "", "error": "timeout: late"}
            if value is None
            else {"problem_id": str(i), "status": "correct", "expected": json.dumps(encode([{"value": value}])), "error": ""}
            for i, value in enumerate(values)
        ]
        return pl.DataFrame(rows, schema=EXPECTED)

    found = reference_failures(suite.problems(), came_out({1, 2}, 1, 1, None), came_out({2, 1}, 2, None, None), suite)
    assert [(f["problem_id"], f["kind"]) for f in found] == [("1", FLAKY), ("2", FLAKY), ("3", "timeout")]


def test_a_digest_knows_content_and_not_order() -> None:
    one = problems(
        ("a", "train", "x", "SELECT 1", "g"), ("b", "train", "y", "SELECT 2", "g"), ("c", "dev", "z", "SELECT 3", "g")
    )
    changed = one.with_columns(prompt=pl.col("prompt").replace("y", "Y"))
    assert digests(one) == digests(one.reverse())
    assert digests(changed)["dev"] == digests(one)["dev"]
    assert digests(changed)["train"] != digests(one)["train"]
