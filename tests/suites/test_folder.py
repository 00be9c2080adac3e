"""Where data is found: in a folder, or in the hub's cache under a hub id; broken files are refused with their place."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError, UserError
from codelutra.suites.base import open_suite
from codelutra.suites.folder import first_file, located, read_lines


def offline(path: str, home: Path) -> str:
    """What `located` says in a fresh process whose hub cache is `home` and which may not go online."""
    program = (
        "from codelutra.suites.folder import located\nfrom codelutra.errors import ConfigError\n"
        f"try: print(located({path!r}))\nexcept ConfigError as e: print('refused:', e)"
    )
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    return done.stdout.strip()


def test_a_hub_id_is_the_snapshot_of_its_revision_in_the_hubs_own_cache(tmp_path: Path) -> None:
    repo, commit = tmp_path / "hub" / "datasets--org--name", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "test.jsonl").write_text("{}\n")
    (repo / "refs").mkdir()
    (repo / "refs" / "v1").write_text(commit)
    assert offline("hf:org/name@v1", tmp_path) == str(snapshot)
    assert offline(f"hf:org/name@{commit}", tmp_path) == str(snapshot)
    assert offline("hf:org/name@v2", tmp_path).startswith("refused: suite.path hf:org/name@v2 is not in the local hub cache")
    assert "give the folder" in offline("hf:org/other", tmp_path)


def test_what_is_no_hub_id_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(ConfigError, match=r"'hf:name' is not hf:org/name@revision"):
        located("hf:name")


def test_compressed_lines_read_as_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress('{"a": 1}\n\n{"a": "ä"}\n'.encode()))
    path = first_file(tmp_path, "a.jsonl", "a.jsonl.gz")
    assert list(read_lines(path)) == [(1, {"a": 1}), (3, {"a": "ä"})]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"a\.jsonl\.gz is not a whole gzip file: .*; download it again"):
        list(read_lines(path))
    with pytest.raises(ConfigError, match=r"no b\.jsonl or c\.jsonl in .*; check suite\.path"):
        first_file(tmp_path, "b.jsonl", "c.jsonl")


RELEASES: dict[str, dict[str, Any]] = {
    "mbpp": {"mbpp.jsonl": {"task_id": 601, "text": "t", "code": "def f(): return 1", "test_list": ["assert f() == 1"]}},
    "humaneval": {
        "HumanEval.jsonl": {
            "task_id": "HumanEval/0",
            "prompt": "def f():\n",
            "canonical_solution": "    return 1\n",
            "test": "def check(candidate):\n    assert candidate() == 1\n",
            "entry_point": "f",
        }
    },
    "ds1000": {
        "ds1000.jsonl": {
            "prompt": "p",
            "reference_code": "x = 1",
            "code_context": "def test_execution(x): ...",
            "metadata": {"library": "Numpy", "problem_id": 1, "perturbation_origin_id": 1, "perturbation_type": "Origin"},
        }
    },
    "spider": {
        "train_spider.json": [{"db_id": "shop", "question": "q?", "query": "SELECT 1"}],
        "dev.json": [{"db_id": "shop", "question": "p?", "query": "SELECT 2"}],
        "tables.json": [
            {
                "db_id": "shop",
                "table_names_original": ["t"],
                "column_names_original": [[-1, "*"], [0, "a"]],
                "foreign_keys": [[1, 1]],
            }
        ],
    },
    "bird": {"dev.json": [{"db_id": "shop", "question": "q?", "SQL": "SELECT 1", "question_id": 1}]},
}
ODD: list[Any] = [None, 5, "x", "-" * 5000, [], [1], {}, True, "../../shop", "a\0b", "x" * 5000, 1.5, [["x"]], 10**30]


def written(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, "utf-8", "surrogatepass")
    for name in ("database/shop/shop.sqlite", "dev_databases/shop/shop.sqlite"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(folder / name)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    return folder


def opened_or_refused(name: str, folder: Path) -> None:
    with contextlib.suppress(UserError):
        open_suite(SuiteSection(name=name, path=str(folder))).problems()


@pytest.mark.parametrize("name", RELEASES)
@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", "[1]", '["x"]', '{"a": ', "[" * 5000, "[{}]", '"\\ud800"', "-" * 5000, "9" * 5000, "\0"]
)
def test_a_release_whose_file_holds_something_else_is_one_message(tmp_path: Path, name: str, text: str) -> None:
    for file in RELEASES[name]:
        written(tmp_path, RELEASES[name] | {file: text})
        with pytest.raises(UserError):
            open_suite(SuiteSection(name=name, path=str(tmp_path))).problems()


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_with_an_odd_value_anywhere_loads_or_is_one_message(tmp_path: Path, name: str) -> None:
    for file, content in RELEASES[name].items():
        entry = content[0] if isinstance(content, list) else content
        for odd in ODD:
            for key in entry:
                changed = {**entry, key: odd}
                written(tmp_path, RELEASES[name] | {file: [changed] if isinstance(content, list) else changed})
                opened_or_refused(name, tmp_path)
            written(tmp_path, RELEASES[name] | {file: [odd] if isinstance(content, list) else json.dumps(odd)})
            opened_or_refused(name, tmp_path)


@pytest.mark.parametrize("name", ["spider", "bird"])
@pytest.mark.parametrize("way", ["../shop", "../../etc/passwd", "/etc/passwd", "..", "a/b", "a\0b"])
def test_a_database_s_id_is_a_name_and_no_way_to_another_folder(tmp_path: Path, name: str, way: str) -> None:
    files = json.loads(json.dumps(RELEASES[name]))
    for content in files.values():
        content[0]["db_id"] = way
    with pytest.raises(ConfigError, match="which is not the plain name of a folder"):
        open_suite(SuiteSection(name=name, path=str(written(tmp_path, files)))).problems()


def test_a_pipe_for_a_release_s_file_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mbpp.jsonl")
    os.mkfifo(tmp_path / "HumanEval.jsonl")
    for name in ("mbpp", "humaneval"):
        with pytest.raises(ConfigError, match="is a pipe, not a file"):
            open_suite(SuiteSection(name=name, path=str(tmp_path)))


@pytest.mark.parametrize("path", ["x" * 5000, "~nosuchuser/x", "$NOTHING/x", "/dev/null", "\udc80"])
def test_a_path_that_leads_nowhere_is_named(path: str) -> None:
    for name in ("mbpp", "custom"):
        with pytest.raises(ConfigError):
            open_suite(SuiteSection(name=name, path=path))
