"""How results look on a terminal and in a pipe: nothing that says which run it is gets lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from codelutra.cli.doctor import Check
from codelutra.cli.tables import by_stage, checks_table, runs_table, show, show_check, show_run
from codelutra.pipeline.check import Report
from codelutra.results.load import load_summary
from codelutra.results.summary import RunSummary
from codelutra.results.table import Table, policies_table
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.terminal import on_terminal

LONG = "run-" + "x" * 196  # a name of 200 characters
WIDEST = "e" * 64  # as long as a config lets a name be


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of the same results under a short name, the longest a config can have, and a longer one still."""
    home = tmp_path_factory.mktemp("home")
    run = example_run(home, name="short")
    read = json.loads((run / "summary.json").read_text())
    for name in (WIDEST, LONG):
        shutil.copytree(run, home / "runs" / name, symlinks=True)
        (home / "runs" / name / "summary.json").write_text(json.dumps(read | {"run": name}))
    return home


def summary(reason: str = "", suite: str = "starter-sql") -> RunSummary:
    return RunSummary(run="r", suite=suite, suite_version="1", mode="m", model="hf:x/y", state="failed", reason=reason)


@pytest.mark.parametrize("text", ["no [/opt/cuda/lib]", "see [core.py:45]", "pip install 'codelutra[prefect]'"])
def test_reasons_and_paths_are_shown_as_they_are(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = summary(text, suite=text)
    show_run(told, tmp_path / "home/runs/r")
    assert capsys.readouterr().out.count(text) == 2
    show(runs_table([told]))
    show(checks_table([Check("x", False, "none", "any", text)]))
    assert capsys.readouterr().out.count(text) == 2


def test_in_a_pipe_names_are_whole_and_a_row_is_a_line(home: Path) -> None:
    done = codelutra("status", "--home", str(home), COLUMNS="80", TERM="xterm")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines() if " finished " in line]
    assert sorted(rows) == sorted(["short", WIDEST, LONG])
    assert "\x1b" not in done.stdout, "no colours"
    one = codelutra("status", LONG, "--home", str(home), COLUMNS="80").stdout.splitlines()
    assert one[0].startswith(f"{LONG}: starter-sql (60 train, 40 dev, 20 test)")
    assert [line.split("  ")[0].strip() for line in one[4:8]] == ["base", "policy 0", "policy 1", "policy 2"]
    assert all(f"codelutra report {LONG} --home {home}" in line for line in one if line.startswith("files: "))


def test_on_80_columns_a_table_of_ordinary_names_fits(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs/short", tmp_path / "runs/short", symlinks=True)
    lines = on_terminal("status", "--home", str(tmp_path), columns=80)
    (row,) = [line for line in lines if "short" in line]
    assert row.split() == ["short", "starter-sql", "finished", "policy", "2", *row.split()[5:]]
    assert all(len(line) <= 80 for line in lines)
    assert any("%" in line and "–" in line for line in lines), "with its interval"


def test_on_80_columns_no_name_is_cut_and_no_column_is_lost(home: Path) -> None:
    rows = [line for line in on_terminal("status", "--home", str(home), columns=80) if " finished " in line]
    assert sorted(row.split()[0] for row in rows) == sorted(["short", WIDEST, LONG])
    for row in rows:
        assert row.split()[1:5] == ["starter-sql", "finished", "policy", "2"], "the terminal breaks the line, not we"


def test_on_80_columns_the_table_of_policies_has_names_numbers_and_intervals_whole(home: Path) -> None:
    read = load_summary(home / "runs/short")
    assert read
    lines = on_terminal("status", "short", "--home", str(home), columns=80)
    for name, rate in [row[:2] for row in policies_table(read).rows]:
        assert any(line.strip().startswith(name) and rate in line for line in lines), (name, rate)
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("base: "))]
    assert all(len(line) <= 80 for line in table)
    assert not any(" tokens" in line for line in table), "left out where it is narrow"
    wide = on_terminal("status", "short", "--home", str(home), columns=160)
    assert any(" tokens" in line for line in wide)


def test_the_known_models_fit_80_columns() -> None:
    wide, narrow = on_terminal("models", columns=160), on_terminal("models", columns=80)
    assert any("licence" in line for line in wide)
    rows = [line.rstrip() for line in narrow if "." in line and ": " not in line]
    assert len(rows) >= 11
    assert all(len(line) <= 80 for line in rows)


def test_words_wrap_where_a_terminal_is_narrow_and_names_and_numbers_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(["name", "words", "n"], [["a-name-of-its-own", "some words " * 12, "1 000 000"]], frozenset({"n"}))
    show(table)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a-name" in line]
    assert "some words " * 11 in line, "in a pipe nothing wraps"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    show(table)
    lines = capsys.readouterr().out.splitlines()
    assert sum("some" in line for line in lines) > 1
    assert [("a-name-of-its-own" in line, "1 000 000" in line) for line in lines].count((True, True)) == 1


def test_a_check_tells_counts_failures_and_what_they_come_to(capsys: pytest.CaptureFixture[str]) -> None:
    split = {
        "split": "train",
        "problems": 4,
        "usable": 3,
        "too_long": None,
        "reference_errors": 1,
        "flaky": 0,
        "digest": "d",
    }
    failure = {
        "problem_id": "p1",
        "split": "train",
        "group": "g",
        "kind": "timeout",
        "why": "timeout",
        "reference": "SELECT",
    }
    leak = {"train_id": "t1", "shares": "prompt", "suite": "s", "split": "dev", "problem_id": "p2"}
    about = {"name": "s", "version": "1", "mode": "m"}
    show_check(Report(about, [split], [failure], [], ["a note"]))
    said = capsys.readouterr().out
    assert "not counted" in said
    assert "1 × timeout" in said
    assert "train p1" in said
    assert "a note" in said
    assert "1 reference failed: a problem with such a reference" in said
    assert "OK: no leaks; every split has usable references." in said
    show_check(Report(about, [split], [], [leak] * 12, []))
    said = capsys.readouterr().out
    assert "leak: s dev p2 has the prompt of train t1" in said
    assert "… and 2 more leaks (--json lists all)" in said
    assert "not OK: 1 problems of s dev are in train" in said


def test_what_can_be_pruned_is_summed_up_by_stage() -> None:
    table = by_stage([(Path("/s/train/a"), 2**30), (Path("/s/train/b"), 2**29), (Path("/s/sample/c"), 0)])
    assert table.records() == [
        {"stage": "sample", "artifacts": "1", "GiB": "0.00"},
        {"stage": "train", "artifacts": "2", "GiB": "1.50"},
    ]
