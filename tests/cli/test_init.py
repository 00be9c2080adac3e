"""`codelutra init`: what it writes loads and runs as it is; what is wrong is said before anything is written."""

from __future__ import annotations

import importlib.util
import json
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from codelutra.cli.init import _config_text, init_python, init_sql, sizes
from codelutra.config import load_config
from codelutra.errors import UserError
from codelutra.suites.base import open_suite
from tests.helpers.commands import codelutra

EXAMPLE = Path(__file__).parents[2] / "docs/example/library"
FUNCTION = {"prompt": "Add {n}.", "reference": "def f(x): return x + {n}", "function": "f", "cases": [[1]]}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    spec = importlib.util.spec_from_file_location("build", EXAMPLE / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build(tmp_path / "library.sqlite")
    (tmp_path / "questions.jsonl").write_text((EXAMPLE / "questions.jsonl").read_text())
    return tmp_path


def test_the_example_becomes_a_suite_and_a_config_that_load_from_where_they_were_made(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    made = init_sql(Path("library.sqlite"), Path("questions.jsonl"))
    config = load_config(made.config)
    problems = open_suite(config.suite).problems()
    assert Counter(problems["split"].to_list()) == made.splits == {"train": 25, "dev": 15, "test": 10}
    assert (config.name, config.suite.path) == ("library", "library")
    written = {p.name for p in library.iterdir()} - {"library"}
    assert written == {"library.sqlite", "questions.jsonl"}, "the database is used where it lies"


def test_any_folder_and_any_name_do(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strange = library / "my: data, [1]"
    strange.mkdir()
    for name in ("library.sqlite", "questions.jsonl"):
        (library / name).rename(strange / name)
    monkeypatch.chdir(library)
    made = init_sql(strange / "library.sqlite", strange / "questions.jsonl", Path("deep/er/my: run"))
    config = load_config(made.config)
    assert config.name == "my-run"
    assert open_suite(config.suite).problems().height == 50


def test_nothing_is_overwritten(library: Path) -> None:
    made = init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite")
    made.config.write_text("mine")
    with pytest.raises(UserError, match=r"config\.yaml exist already and are kept; name another folder"):
        init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite")
    assert made.config.read_text() == "mine"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("", "questions.jsonl is empty"),
        ('{"question": "x", "query": "SELECT 1"}\n', "has 1 problems; give at least 10"),
        ('{"question": "x"}\n{"que\n{"question": "x", "query": "SELECT nam FROM book"}\n', "line 2: not JSON"),
        ('{"question": "x"}\n{"que\n{"question": "x", "query": "SELECT nam FROM book"}\n', "line 3: SQLite refuses"),
        ('{"question": "x"}\n{"que\n', "line 1: give `query`, or `rows`"),
        ('{"question": "x", "query": "SELECT TOP 1 title FROM book"}\n', "it reads as tsql, in SQLite it would be: SELECT"),
        ('{"question": "x", "query": "UPDATE book SET pages = 0"}\n', "the reference writes (UPDATE …)"),
    ],
)
def test_bad_lines_are_all_named_and_nothing_is_written(library: Path, lines: str, says: str) -> None:
    (library / "questions.jsonl").write_text(lines)
    done = codelutra(
        "init", "sql", str(library / "library.sqlite"), str(library / "questions.jsonl"), str(library / "suite")
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (library / "suite").exists()


@pytest.mark.parametrize("offset", [24 + 4, 4096 * 3])
def test_a_damaged_database_is_refused_before_anything_is_written(library: Path, offset: int) -> None:
    with (library / "library.sqlite").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 4096)
    with pytest.raises(UserError, match=r"library\.sqlite.*(damaged|cannot be read)"):
        init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite")
    assert not (library / "suite").exists()


def test_a_locked_database_is_said_to_be_locked(library: Path) -> None:
    with closing(sqlite3.connect(library / "library.sqlite")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="locked by another program"):
            init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite")


def test_functions_and_programs_are_told_apart(tmp_path: Path) -> None:
    program = {"prompt": "Add {n}.", "reference": "print(int(input()) + {n})", "tests": [{"stdin": "1"}]}
    for kind, line in (("python-function", FUNCTION), ("python-program", program)):
        lines = [{k: v.replace("{n}", str(n)) if isinstance(v, str) else v for k, v in line.items()} for n in range(12)]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        made = init_python(tmp_path / f"{kind}.jsonl", tmp_path / kind)
        assert yaml.safe_load(made.suite.read_text())["kind"] == kind
        assert open_suite(load_config(made.config).suite).problems().height == 12


def test_problems_that_have_only_checks_get_a_config_without_a_warm_start(tmp_path: Path) -> None:
    lines = [{"prompt": f"Add {n}.", "asserts": [f"assert add(1) == {n + 1}"]} for n in range(12)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = load_config(init_python(tmp_path / "tasks.jsonl", tmp_path / "tasks").config)
    assert (config.warm_start, config.sample.max_tokens) == (None, 256)
    some = [line | ({"reference": f"def add(x): return x + {n}"} if n < 6 else {}) for n, line in enumerate(lines)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, some)))
    known = load_config(init_python(tmp_path / "some.jsonl", tmp_path / "some").config)
    assert known.warm_start is not None
    assert not known.train.replay_references
    few = [line | ({"reference": f"def add(x): return x + {n}"} if n < 5 else {}) for n, line in enumerate(lines)]
    (tmp_path / "few.jsonl").write_text("\n".join(map(json.dumps, few)))
    config = load_config(init_python(tmp_path / "few.jsonl", tmp_path / "few").config)
    assert config.warm_start is not None
    assert (config.train.epochs, config.train.replay_references) == (4, True)


@pytest.mark.parametrize(
    ("dev", "says"),
    [
        (15, "15 dev problems: a pass@1 is known to about ±25 points; only more questions make that smaller"),
        (500, "500 dev problems: a pass@1 is known to about ±4 points; only more questions make that smaller"),
        (750, "500 dev problems: a pass@1 is known to about ±4 points; up to 750 make that smaller"),
    ],
)
def test_the_config_tells_how_sure_a_number_is_with_the_problems_it_measures_on(dev: int, says: str) -> None:
    fit = sizes(round(dev / 0.15), 800, 120)
    text = _config_text(Path("mine"), fit, {"train": 7 * dev, "dev": dev, "test": dev})
    assert (fit.dev == 500) == (dev == 750)
    assert says in text


def test_the_config_says_from_which_size_on_its_warm_start_does_not_fit_one_gpu(library: Path) -> None:
    text = init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite").config.read_text()
    assert "above some 3B (on 80 GB) leave warm_start out and set train.method to lora" in text
    assert not re.search(r"learning_rate: 1\.0e-4 .*7B", text), "no learning rate for a model that this section cannot train"


def test_problems_that_leave_no_dev_split_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    lines = [{**FUNCTION, "prompt": f"Add {n}.", "split": "train" if n else "test"} for n in range(12)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"11 train, 0 dev, 1 test problems; a run needs .* 1 of dev"):
        init_python(tmp_path / "tasks.jsonl", tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_sizes_follow_the_number_of_problems() -> None:
    few, some, many = (sizes(n, 800, 120) for n in (50, 400, 9000))
    assert few.shares["dev"] > some.shares["dev"] > many.shares["dev"], "few problems: a larger part must measure"
    assert few.samples_per_problem > some.samples_per_problem > many.samples_per_problem
    assert few.iterations < some.iterations < many.iterations
    assert 5 == few.warm_epochs > some.warm_epochs > many.warm_epochs
    assert (few.dev, many.dev) == (None, 500)
    assert sizes(50, 8000, 120).max_length > 8000 / 3, "a long schema gets room"
