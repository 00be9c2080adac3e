"""Models behind an API, from the command line: measured beside others, and as the teacher of a suite that lacks solutions.

Real HTTP, flow and sandbox.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import load_config
from codelutra.errors import ConfigError, UserError
from codelutra.experiments.evaluate import cost, priced
from codelutra.experiments.solve import solutions
from codelutra.pipeline.startable import require_named
from codelutra.suites.base import open_suite
from tests.helpers.chat import chatting
from tests.helpers.commands import codelutra
from tests.helpers.http import Asked, Raw
from tests.helpers.runs import without_dev

KEY = "sk-secret-0123456789abcdef"


def says_the_key(folder: Path) -> list[str]:
    return [str(f) for f in folder.rglob("*") if f.is_file() and KEY.encode() in f.read_bytes()]


def solver(right: Callable[[int], bool]) -> Callable[[Asked, int], str]:
    """Answers `Write f of I.`, and hands the key back in a comment."""

    def reply(asked: Asked, n: int) -> str:
        found = re.search(r"Write f of (\d+)", asked.prompt)
        assert found
        i = int(found[1])
        return f"```python\ndef f(): return {i if right(i) else -1}  # {asked.authorization}\n```"

    return reply


def test_an_api_model_is_measured_with_its_tokens_and_price_and_its_key_is_nowhere(
    prefect: dict[str, str], tmp_path: Path
) -> None:
    config = without_dev(tmp_path, *["test"] * 5, *["train"] * 2)
    with chatting(solver(lambda i: i < 4)) as (url, asked):
        model = f"api:{url}#teacher"
        args = ("evaluate", str(config), "--home", str(tmp_path), f"--model={model}", "--price-in=2", "--price-out=10")
        done = codelutra(*args, "--json", CODELUTRA_API_KEY=KEY, **prefect)
        assert done.returncode == 0, done.stderr
        (row,) = json.loads(done.stdout)
        assert (row["test"]["correct"], row["test"]["n"]) == (4, 5)
        assert row["api"] == {"tokens_in": 55, "tokens_out": 35, "price": pytest.approx((55 * 2 + 35 * 10) / 1e6)}
        assert {a.body["temperature"] for a in asked} == {0.0}
        again = codelutra(*args, CODELUTRA_API_KEY="", **prefect)
        assert again.returncode == 0, again.stderr
        assert len(asked) == 5  # what was answered is in the store
    assert "0.0005" in again.stdout
    assert "tokens in" in again.stdout
    assert KEY not in done.stdout + done.stderr + again.stdout + again.stderr
    assert says_the_key(tmp_path) == []
    (run,) = (tmp_path / "runs").iterdir()
    for command in (("status", run.name), ("report", run.name)):
        shown = codelutra(*command, "--home", str(tmp_path))
        assert shown.returncode == 0, shown.stderr
    refused = codelutra("run", str(config), "--home", str(tmp_path), "--set", f"model=run:{run.name}", "--set", "name=x")
    assert refused.returncode == 2
    assert "has no weights here" in refused.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("evaluate", "demo", "--model=api:https://h.example/v1#m"), "no key to ask https://h.example/v1 with"),
        (("evaluate", "demo", "--model=path:/x", "--price-in=1"), "--price-in is given 1 times, and 0 of the models"),
        (("solve", "demo", "--model=api:http://h#m"), "a suite of your own (suite.name: custom)"),
        (
            ("plan", "demo", "--set=model='api:http://h#m'", "--set=iterations=0", "--set=warm_start=null"),
            "runs on its server",
        ),
    ],
)
def test_bad_input_is_one_message_before_anything_is_made(args: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = codelutra(*args, "--home", str(tmp_path), CODELUTRA_API_KEY="", OPENAI_API_KEY=KEY, COLUMNS="200")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model='api:h.example#m'",), "not the address of a server; write https://host/path"),
        (("model=api:https://h.example/v1",), "needs the server's name of it behind #"),
        (("model='api:http://h#m'",), "measured and not trained; leave out iterations and warm_start"),
        (("model='api:http://h#m'", "warm_start=null"), "leave out iterations "),
        (("select.held_out=2",), "select.held_out needs the model's weights"),
        (("select.verifier=path:/x", "select.samples=2"), "select.verifier needs the model's weights"),
        (("prompt.thinking=true",), "prompt.thinking needs the model's weights"),
        (("api.connections=0",), "api.connections = 0"),
        (("api.price_in=-1",), "api.price_in = -1"),
    ],
)
def test_what_an_api_model_cannot_do_is_refused_by_the_config(overrides: tuple[str, ...], says: str) -> None:
    asked = ("model='api:http://h#m'", "iterations=0", "warm_start=null")
    with pytest.raises(ConfigError) as caught:
        load_config("demo", overrides if "model" in overrides[0] else (*asked, *overrides))
    assert says in str(caught.value)


def test_an_answer_of_an_api_model_may_be_longer_than_the_engine_s_context() -> None:
    overrides = ("model='api:http://h#m'", "iterations=0", "warm_start=null", "sample.max_tokens=9999")
    assert load_config("demo", overrides).sample.max_tokens == 9999


def test_only_the_model_that_is_measured_may_be_behind_an_api() -> None:
    with pytest.raises(UserError, match=r"suite\.proposals and select\.verifier need a model that has"):
        require_named(load_config("demo", ("select.verifier='api:http://h#m'", "select.samples=2")))


def test_a_refused_key_ends_the_command_with_a_message_without_it(prefect: dict[str, str], tmp_path: Path) -> None:
    config = without_dev(tmp_path, *["test"] * 2)
    with chatting(lambda asked, n: Raw(401, {"error": f"wrong key: {asked.authorization}"})) as (url, _):
        args = ("evaluate", str(config), "--home", str(tmp_path), f"--model=api:{url}#m")
        done = codelutra(*args, CODELUTRA_API_KEY=KEY, **prefect)
    assert done.returncode == 2, done.stderr
    assert '401: {"error": "wrong key: Bearer ***' in done.stderr
    assert "check the key in CODELUTRA_API_KEY" in done.stderr
    assert KEY not in done.stderr
    assert says_the_key(tmp_path) == []


def test_prices_are_one_for_all_or_one_for_each() -> None:
    models = ["path:/x", "api:http://h#a", "api:http://h#b"]
    assert priced(models, [1.5], []) == [("api.price_in=1.5",)] * 2
    assert priced(models, [1, 2], [3]) == [("api.price_in=1", "api.price_out=3"), ("api.price_in=2", "api.price_out=3")]
    with pytest.raises(UserError, match="given 3 times, and 2 of the models"):
        priced(models, [1, 2, 3], [])
    free = load_config("demo").api
    assert cost(10, 10, free) is None
    assert cost(3_000_000, 1_000_000, free.model_copy(update={"price_in": 0.5, "price_out": 2.0})) == 3.5


def write_suite(folder: Path, kind: str, lines: list[dict[str, Any]], **about: Any) -> Path:
    folder.mkdir()
    (folder / "suite.yaml").write_text(json.dumps({"kind": kind} | about))
    (folder / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(json.dumps({"name": "own", "suite": {"name": "custom", "path": "."}}))
    return folder / "config.yaml"


def problem(i: int, split: str = "train", **more: Any) -> dict[str, Any]:
    return {"prompt": f"Write f of {i}.", "split": split} | more


def test_solve_writes_a_suite_in_which_what_a_teacher_solved_has_a_solution(tmp_path: Path) -> None:
    checks = [[f"assert f() == {i}"] for i in range(9)]
    lines = [
        problem(0, asserts=checks[0]),
        problem(1, asserts=checks[1]),  # which the teacher gets wrong
        problem(2, asserts=checks[2], solution="def f(): return 7"),  # whose reference fails
        problem(3, asserts=checks[3], reference="def f(): return 3", id="solved"),
        problem(4, function="f", cases=[[]], reference="def f(: "),  # which nothing judges
        problem(5, "dev", asserts=checks[5]),
        problem(6, "test", asserts=checks[6], reference="def f(): return 6"),
    ]
    lines[4]["reference"] = "raise ValueError"
    config = write_suite(tmp_path / "own", "python-function", lines, licence="mine")
    before = {f.name: f.read_bytes() for f in config.parent.iterdir()}
    with chatting(solver(lambda i: i != 1)) as (url, asked):
        model = f"api:{url}#teacher"
        args = ("solve", str(config), f"--model={model}", "--samples=2", "--home", str(tmp_path), "--price-out=100")
        done = codelutra(*args, "--json", CODELUTRA_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        again = codelutra(*args, CODELUTRA_API_KEY=KEY)
        assert again.returncode == 0, again.stderr
    found = json.loads(done.stdout)
    made = config.parent / "suite-solved.yaml"
    assert {k: found[k] for k in ("without_solution", "asked", "solved", "suite")} == {
        "without_solution": 4,
        "asked": 3,
        "solved": 2,
        "suite": str(made),
    }
    assert len(asked) == 3 * 2  # by both commands
    assert (found["tokens_in"], found["tokens_out"], found["price"]) == (66, 42, pytest.approx(0.0042))
    assert "2 of 3 were solved" in again.stdout
    assert {name: (config.parent / name).read_bytes() for name in before} == before
    assert sorted(p.name for p in config.parent.iterdir() if p.name not in before) == [
        "problems-suite-solved.jsonl",
        "suite-solved.yaml",
    ]
    written = [json.loads(line) for line in (config.parent / "problems-suite-solved.jsonl").read_text().splitlines()]
    assert {w["id"]: w["source"] for w in written if "source" in w} == {"00001": model, "00003": model}
    old, new = (
        {r["problem_id"]: r for r in open_suite(load_config(str(config), more).suite).problems().rows(named=True)}
        for more in ((), (f"suite.path={made}",))
    )
    assert {i: r["split"] for i, r in new.items()} == {i: r["split"] for i, r in old.items()}
    assert {i for i in new if new[i]["reference"] != old[i]["reference"]} == {"00001", "00003"}
    assert new["00003"]["reference"].startswith("def f(): return 2")
    check = codelutra("check", str(config), "--home", str(tmp_path), f"--set=suite.path={made}", "--json")
    by_split = {s["split"]: s for s in json.loads(check.stdout)["splits"]}
    assert by_split["train"]["usable"] == 4  # all but the one that nothing judges
    assert says_the_key(tmp_path) == []
    assert codelutra("status", "--home", str(tmp_path)).returncode == 0
    run = codelutra("status", found["run"], "--home", str(tmp_path))
    assert run.returncode == 0, run.stderr


def test_solve_of_sql_keeps_the_rows_as_judge_and_copies_databases_out(tmp_path: Path) -> None:
    lines = [
        {"question": "How many?", "rows": [[2]], "split": "train"},
        {"question": "Names?", "rows": [["a"], ["b"]], "split": "train"},
        {"question": "Nobody?", "query": "SELECT name FROM t WHERE 0", "split": "train"},
        {"question": "First?", "query": "SELECT min(name) FROM t", "split": "dev"},
    ]
    config = write_suite(tmp_path / "own", "sql", lines, databases=["shop.sqlite"])
    with sqlite3.connect(tmp_path / "own" / "shop.sqlite") as database:
        database.executescript("CREATE TABLE t(name TEXT); INSERT INTO t VALUES ('b'), ('a')")
    database.close()

    def reply(asked: Asked, n: int) -> str:
        return "SELECT count(*) FROM t" if "many" in asked.prompt else "DROP TABLE t"

    with chatting(reply) as (url, _):
        found = solutions(str(config), (), f"api:{url}#t", tmp_path, samples=1, out=tmp_path / "new")
        data = found.data
        assert (data["without_solution"], data["asked"], data["solved"]) == (3, 2, 1)
        solved_itself = solutions(
            str(config), (), f"api:{url}#u", tmp_path, samples=1, unsolved_by=data["run"], out=tmp_path / "new2"
        )
    assert solved_itself.data | {"run": ""} == data | {
        "run": "",
        "model": f"api:{url}#u",
        "without_solution": 2,
        "asked": 1,
        "solved": 0,
        "tokens_in": 11,
        "tokens_out": 7,
        "suite": None,
    }
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["problems.jsonl", "shop.sqlite", "suite.yaml"]
    suite = open_suite(load_config(str(config), (f"suite.path={tmp_path / 'new'}",)).suite)
    count = next(r for r in suite.problems().rows(named=True) if "How many" in r["prompt"])
    assert count["reference"] == "SELECT count(*) FROM t"
    assert "values" in json.loads(count["judge"])
    with chatting(lambda asked, n: "SELECT 2") as (url, _), pytest.raises(UserError, match="holds another suite already"):
        solutions(str(config), (), f"api:{url}#v", tmp_path, samples=1, out=tmp_path / "new")


def test_solve_says_where_there_is_nothing_to_solve_or_no_such_run(tmp_path: Path) -> None:
    lines = [
        problem(i, s, function="f", cases=[[]], reference=f"def f(): return {i}") for i, s in enumerate(("train", "dev"))
    ]
    config = str(write_suite(tmp_path / "own", "python-function", lines))
    with pytest.raises(UserError, match="none of the 1 train problems lacks a usable solution"):
        solutions(config, (), "api:http://127.0.0.1:1#m", tmp_path)
    with pytest.raises(UserError, match="--unsolved-by: no run 'nope' with problems"):
        solutions(config, (), "api:http://127.0.0.1:1#m", tmp_path, unsolved_by="nope")
