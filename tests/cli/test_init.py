"""`codelutra init`: what it writes loads and runs as it is; what is wrong is said before anything is written."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from codelutra.cli.init import _config_text, init_python, init_sql, sizes
from codelutra.config import SuiteSection, load_config, parse_config
from codelutra.errors import UserError
from codelutra.store.run_dir import RunDir
from codelutra.suites.base import open_suite
from sandbox.protocol import PythonJob
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
    assert config.name == "library"
    assert config.suite.path is not None
    assert Path(config.suite.path).samefile("library")
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


IO = {"inputs": ["1\n", "2\n"], "outputs": ["1", "2"]}


@pytest.mark.parametrize(
    ("line", "columns", "solved"),
    [
        ({"input_output": IO, "solutions": ["print(input(), 'NN')", "no"]}, [], True),
        ({"input_output": json.dumps(IO), "solutions": json.dumps(["print(input(), 'NN')"])}, [], True),
        ({"input_output": {"inputs": IO["inputs"]}, "solutions": ["print(input(), 'NN')"]}, [], True),
        ({"public": {"input": IO["inputs"], "output": IO["outputs"]}, "solutions": []}, ["tests=public"], False),
        ({"all": {"tests": [{"input": "1", "output": "1", "testtype": "stdin"}]}}, ["tests=all.tests"], False),
    ],
)
def test_contests_are_read_as_they_write_their_tests(
    line: dict[str, Any], columns: list[str], solved: bool, tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").write_text(
        "\n".join(json.dumps({"question": "Print NN."} | line).replace("NN", str(n)) for n in range(12))
    )
    made = init_python(tmp_path / "c.jsonl", tmp_path / "suite", columns)
    assert yaml.safe_load(made.suite.read_text())["kind"] == "python-program"
    suite = open_suite(load_config(made.config).suite)
    assert suite.problems()["reference"].str.starts_with("print(input(), ").unique().to_list() == [solved]
    jobs = [suite.answer_job(row, "pass", "a", 1.0) for row in suite.problems().rows(named=True)]
    assert {job.inputs for job in jobs if isinstance(job, PythonJob)} == {("1\n", "2\n") if "all" not in line else ("1",)}


def test_inputs_without_their_outputs_are_counted(tmp_path: Path) -> None:
    line = {"question": "Print.", "input_output": {"inputs": ["1", "2"], "outputs": ["1"]}}
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(line | {"id": str(n)}) for n in range(12)))
    with pytest.raises(UserError, match="2 inputs and 1 outputs; each input needs its output"):
        init_python(tmp_path / "c.jsonl", tmp_path / "suite", ["tests=input_output"])


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
    assert "Above some 3B (on 80 GB) set `method: lora`, here and in train" in text
    assert not re.search(r"learning_rate: 1\.0e-4 .*7B", text), "no learning rate for a model that this section cannot train"


def test_a_model_that_is_named_is_trained_as_an_adapter_from_what_it_knows(library: Path) -> None:
    made = init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite", model="qwen2.5-coder-0.5b")
    config = load_config(made.config)
    assert (config.model, config.warm_start, config.train.method) == ("qwen2.5-coder-0.5b", None, "lora")
    assert (config.train.sft_on, config.train.learning_rate) == (
        "right+references",
        load_config("spider-lora").train.learning_rate,
    )
    small = load_config(init_sql(library / "library.sqlite", library / "questions.jsonl", library / "small").config)
    same = init_sql(library / "library.sqlite", library / "questions.jsonl", library / "same", model="SmolLM2-135M")
    assert small.warm_start
    assert load_config(same.config).model_copy(update={"name": "small", "suite": small.suite}) == small


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("qwen2.5-coder-0.5", "did you mean qwen2.5-coder-0.5b"),
        ("path:no/where", "is not there; give the directory that holds config.json"),
        ("api:http://127.0.0.1:1/v1#large", "a model behind an API cannot be trained"),
        ("hf:one", "is not hf:org/name@revision"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_written(library: Path, model: str, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        init_sql(library / "library.sqlite", library / "questions.jsonl", library / "suite", model=model)
    assert not (library / "suite").exists()


def test_a_folder_of_weights_is_named_so_that_the_config_finds_it(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (library / "weights").mkdir()
    monkeypatch.chdir(library)
    made = init_sql(Path("library.sqlite"), Path("questions.jsonl"), Path("suite"), model="path:weights")
    config = made.config.absolute()
    monkeypatch.chdir("/")
    assert load_config(config).model == f"path:{library / 'weights'}"


def test_problems_that_leave_no_dev_split_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    lines = [{**FUNCTION, "prompt": f"Add {n}.", "split": "train" if n else "test"} for n in range(12)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=r"11 train, 0 dev, 1 test problems; a run needs .* 1 of dev"):
        init_python(tmp_path / "tasks.jsonl", tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize("name", ["ü [1]", "true", "2024-01-01", "1e5", "null", "a b"])
def test_a_folder_of_any_name_gives_a_run_a_name_that_is_text(library: Path, name: str) -> None:
    made = init_sql(library / "library.sqlite", library / "questions.jsonl", library / name)
    assert load_config(made.config).name == re.sub("[^A-Za-z0-9-]+", "-", name).strip("-")


def test_sizes_follow_the_number_of_problems() -> None:
    few, some, many = (sizes(n, 800, 120) for n in (50, 400, 9000))
    assert few.shares["dev"] > some.shares["dev"] > many.shares["dev"], "few problems: a larger part must measure"
    assert few.samples_per_problem > some.samples_per_problem > many.samples_per_problem
    assert few.iterations < some.iterations < many.iterations
    assert 5 == few.warm_epochs > some.warm_epochs > many.warm_epochs
    assert (few.dev, many.dev) == (None, 500)
    assert sizes(50, 8000, 120).max_length > 8000 / 3, "a long schema gets room"
    assert all(sizes(50, 800, long).max_tokens >= long / 3 for long in (120, 3000, 9000)), "and so does a long reference"
    assert [sizes(50, 800, long).cut for long in (9000, 90_000)] == [False, True]


def test_the_config_says_where_max_tokens_is_from(library: Path) -> None:
    lines = [json.loads(line) for line in (library / "questions.jsonl").read_text().splitlines()]
    lines[0]["query"] = f"SELECT title FROM book WHERE 1 IN ({', '.join(map(str, range(4000)))})"
    (library / "long.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for questions, said in (
        ("questions", r"\d+  # from your longest reference"),
        ("long", "4096  # your longest references are"),
    ):
        text = init_sql(library / "library.sqlite", library / f"{questions}.jsonl", library / questions).config.read_text()
        assert re.search(rf"max_tokens: {said}", text)


def test_the_config_works_from_every_folder_and_goes_on_from_where_a_run_was_begun(
    library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(library)
    config = init_sql(Path("library.sqlite"), Path("questions.jsonl")).config.absolute()
    begun = load_config("library/config.yaml")
    for folder in (library, library / "library", tmp_path_factory.mktemp("elsewhere"), Path("/")):
        monkeypatch.chdir(folder)
        found = load_config(config)
        assert found == begun
        assert open_suite(found.suite).problems().height == 50
        RunDir.create(library / "runs", found)


def test_a_config_with_a_path_from_the_current_folder_works_there_as_before(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    made = init_sql(Path("library.sqlite"), Path("questions.jsonl"))
    made.config.write_text(made.config.read_text().replace("path: .", "path: library"))
    (library / "mine.yaml").write_text(made.config.read_text())
    before = parse_config(yaml.safe_load(made.config.read_text()))
    for source in (made.config, library / "mine.yaml"):
        config = load_config(source)
        assert open_suite(config.suite).problems().height == 50
        RunDir.create(library / "runs", before)
        run = RunDir.create(library / "runs", config)
        (run.path / "dev-scores").mkdir(exist_ok=True)  # something to lose
    with pytest.raises(UserError, match=r"another config \(suite\.path"):
        RunDir.create(library / "runs", load_config(made.config, ("suite.path=elsewhere",)))


def test_files_from_anywhere_are_named_in_the_config_and_nothing_else_is(
    library: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path_factory.mktemp("far")
    (library / "library.sqlite").rename(far / "books.sqlite")
    (library / "link.sqlite").symlink_to(far / "books.sqlite")
    monkeypatch.chdir(library)
    for database in ("link.sqlite", f"{far}/books.sqlite", os.path.relpath(far / "books.sqlite")):
        made = init_sql(Path(database), Path("questions.jsonl"), Path(f"suite of {len(database)}"))
        assert "outside: [" in made.config.read_text()
        assert open_suite(load_config(made.config).suite).problems().height == 50
        with pytest.raises(UserError, match="outside its folder"):
            open_suite(SuiteSection(name="custom", path=str(made.suite.parent)))


@pytest.mark.parametrize(
    "name", ["History", "export $HOME.sqlite", "a\nb.db", "größe.sqlite", "123", "~x.db", "-d.db", "x.y z.db"]
)
def test_any_name_of_a_database_becomes_a_suite_and_a_config_that_load(
    library: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (library / "library.sqlite").rename(library / name)
    monkeypatch.chdir(library)
    made = init_sql(Path(name), Path("questions.jsonl"))
    assert open_suite(load_config(made.config).suite).problems().height == 50
    assert made.suite.parent == Path(Path(name).stem if "." in name else f"{name}-suite")


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_table_or_a_list_of_questions_is_read(library: Path, suffix: str) -> None:
    rows = [json.loads(line) for line in (library / "questions.jsonl").read_text().splitlines()]
    file = library / f"questions{suffix}"
    if suffix == ".csv":
        with file.open("w", encoding="utf-8-sig", newline="") as out:
            writer = csv.DictWriter(out, ["question", "query"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        file.write_text(json.dumps(rows, indent=1))
    made = init_sql(library / "library.sqlite", file, library / "suite")
    assert open_suite(load_config(made.config).suite).problems().height == 50


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("sql", "questions.jsonl", "library.sqlite"), "library.sqlite is a SQLite database: it goes first"),
        (("library.sqlite", "questions.jsonl"), "codelutra init sql library.sqlite questions.jsonl"),
        (("questions.jsonl",), "codelutra init python questions.jsonl"),
        (("none.db", "questions.jsonl"), "codelutra init sql none.db questions.jsonl"),
        (("sql", "library.sqlite", "questions.jsonl", "questions.jsonl"), "questions.jsonl is a file"),
        (("sql", "library.sqlite", "questions.jsonl", "/proc/no/suite"), "nothing can be written to /proc/no/suite"),
        (("sql", "library.sqlite", "pipe"), "pipe is a pipe, not a file"),
        (("sql", "pipe", "questions.jsonl"), "pipe is a pipe, not a file"),
        (("python", "library.sqlite"), "is not text: it is a SQLite database"),
        (("sql", "none.sqlite", "questions.jsonl"), "no database at"),
        (("sql", ".", "questions.jsonl"), ". has no file that ends in .csv, .tsv"),
    ],
)
def test_arguments_that_cannot_be_meant_are_answered_with_what_can(library: Path, args: tuple[str, ...], says: str) -> None:
    os.mkfifo(library / "pipe")
    done = subprocess.run(
        [sys.executable, "-m", "codelutra.cli", "init", *args],
        capture_output=True,
        text=True,
        cwd=library,
        env=os.environ | {"PYTHONPATH": str(EXAMPLE.parents[2]), "COLUMNS": "999"},
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert {p.name for p in library.iterdir()} == {"library.sqlite", "questions.jsonl", "pipe"}
