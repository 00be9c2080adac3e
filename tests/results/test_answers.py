"""All failures of a policy, filtered; and what changed between two policies, problem by problem."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest

from codelutra.cli.__main__ import main
from codelutra.errors import UserError
from codelutra.results.answers import answers, as_csv, failures
from codelutra.results.changes import _together, changes
from codelutra.results.findings import Findings, policy_row, question, read_findings
from codelutra.scoring.scores import mcnemar
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.terminal import on_terminal


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    example_run(home)
    example_run(home, name="next", skills=(0.1, 0.2, 0.6), suite={"name": "starter-sql", "train": 60, "dev": 30, "test": 20})
    return home


@pytest.fixture(scope="module")
def found(home: Path) -> Findings:
    return read_findings(home / "runs/example")


@pytest.mark.parametrize("label", ["base", "policy-1", "policy-2"])
def test_failures_are_the_problems_that_the_record_does_not_count_as_solved(found: Findings, label: str) -> None:
    row = policy_row(found, label)
    every = answers(found, row)
    failed = failures(every)
    assert (every.height, failed.height) == (row.dev.n, row.dev.n - row.dev.correct)
    scores = found.dev_scores(row)
    assert scores is not None
    unsolved = scores.filter(pl.col("greedy_status") != "correct")
    assert dict(failed.select("problem_id", pl.col("status").cast(pl.String)).rows()) == dict(
        unsolved.select("problem_id", pl.col("greedy_status").cast(pl.String)).rows()
    )


def test_filters_leave_what_they_name_and_all_of_it(found: Findings) -> None:
    every = answers(found, policy_row(found, "base"))
    failed = failures(every)
    parts = [failures(every, statuses=[s]) for s in failed["status"].unique()]
    assert len(parts) > 1
    assert sum(p.height for p in parts) == failed.height
    group = str(failed["group"][0])
    assert failures(every, groups=[group]).equals(failed.filter(pl.col("group") == group))
    one = pl.DataFrame(
        {
            "problem_id": list("abcd"),
            "group": ["g"] * 4,
            "status": pl.Series(["wrong", "wrong", "wrong", "correct"], dtype=every.schema["status"]),
            "reference": ["SELECT * FROM Loan", "SELECT * FROM loans", "SELECT 1", "SELECT 1 FROM loan"],
            "program": ["", "", "select x from (loan)", ""],
        }
    )
    assert failures(one, words=["LOAN"])["problem_id"].to_list() == ["a", "c"]
    assert failures(one, words=["a.b", "loans"])["problem_id"].to_list() == ["b"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("failures", "nope"), "no run 'nope'"),
        (("failures", "example", "--status", "wrng"), "no status 'wrng'; known: wrong, runtime_error"),
        (("failures", "example", "--status", "correct"), "no status 'correct'"),
        (("failures", "example", "--db", "nope"), "no group 'nope'; known: "),
        (("failures", "example", "--policy", "policy-9"), "no policy 'policy-9'; there: base, policy-0"),
        (("failures", "example", "--csv", "--json"), "--csv and --json together"),
        (("diff", "example", "nope"), "no run 'nope'"),
        (("diff", "example:policy-9"), "no policy 'policy-9'"),
        (("diff", "example:base"), "began with base, so there is nothing to compare it with"),
        (("diff", ":policy-1"), "':policy-1' names no run; write RUN or RUN:POLICY"),
    ],
)
def test_bad_input_is_told_with_the_way_out(home: Path, args: tuple[str, ...], says: str) -> None:
    done = codelutra(*args, "--home", str(home), COLUMNS="999")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


ODD_NAMES = [".", "..", "/", "a/b", "/tmp", "../runs/example", "a\0b", "x" * 256, "é" * 128, "nope", "exmple", "example/x"]
ASKED = [
    ("status",), ("status", "--json"), ("failures",), ("report",), ("report", "example", "--beside"), ("diff",),
    ("diff", "example"), ("export",), ("export", "--data"), ("ask",), ("serve",), ("prune",), ("runs", "show"),
    ("runs", "rm", "--yes"), ("evaluate", "few-references", "--model"),
]  # fmt: skip


@pytest.mark.parametrize("asked", ASKED, ids=" ".join)
def test_what_is_no_runs_name_is_told_and_makes_nothing(
    asked: tuple[str, ...], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(home.rglob("*"))
    more = {"export": ("out",), "ask": ("how many?", "--db", "shop")}.get(asked[0], ())
    for name in ODD_NAMES:
        given = f"run:{name}" if asked[0] == "evaluate" else name
        monkeypatch.setattr(sys, "argv", ["codelutra", *asked, given, *more, "--home", str(home)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2, (asked, name)
        out, err = capfd.readouterr()
        assert out == ""
        assert "there: example" in err, (asked, name, err)
    assert sorted(home.rglob("*")) == before
    assert list(tmp_path.rglob("*")) == []


def test_csv_and_json_hold_every_failure_whole(home: Path, found: Findings) -> None:
    failed = failures(answers(found, policy_row(found, "base")), statuses=["wrong"])
    asked = ("failures", "example", "--policy", "base", "--status", "wrong", "--home", str(home))
    rows = list(csv.DictReader(io.StringIO(codelutra(*asked, "--csv").stdout)))
    assert [r["program"] for r in rows] == failed["program"].to_list()
    assert json.loads(codelutra(*asked, "--json").stdout) == failed.to_dicts()


def test_csv_holds_no_formula() -> None:
    frame = pl.DataFrame({"program": ["=HYPERLINK(1)", "-- SELECT", "@x", "SELECT 1 = 1"], "n": [-1, 2, 3, 4]})
    cells = [row["program"] for row in csv.DictReader(io.StringIO(as_csv(frame)))]
    assert cells == ["'=HYPERLINK(1)", "'-- SELECT", "'@x", "SELECT 1 = 1"]
    assert as_csv(frame.head(1)) == "program,n\n'=HYPERLINK(1),-1\n"


def test_a_terminal_shows_ten_and_says_how_many_more_and_a_pipe_all(home: Path, found: Findings) -> None:
    asked = ("failures", "example", "--policy", "base", "--home", str(home))
    failed = failures(answers(found, policy_row(found, "base")))
    ids = set(failed["problem_id"])
    piped = [line for line in codelutra(*asked, COLUMNS="80").stdout.splitlines() if line.split("  ")[0] in ids]
    assert len(piped) == failed.height > 10
    lines = on_terminal(*asked, columns=80)
    assert len([line for line in lines if line.split("  ")[0] in ids]) == 10
    assert any(line.startswith(f"… and {failed.height - 10} more") for line in lines)


def test_changes_are_those_of_the_paired_test_of_the_scores(home: Path, found: Findings) -> None:
    for before, after in (("policy-0", "policy-2"), ("policy-2", "base")):
        c = changes(home / "runs", f"example:{before}", f"example:{after}")
        scores = [found.dev_scores(policy_row(found, label)) for label in (before, after)]
        assert c.paired == mcnemar(*filter(lambda s: s is not None, scores))
        assert (c.gained.height, c.lost.height) == (c.paired.gained, c.paired.lost)
        assert c.settings == {}
    ours = found.dev_outcomes(policy_row(found, "policy-2"))
    assert ours is not None
    wrote = dict(ours.select("problem_id", "code").rows())
    c = changes(home / "runs", "example")
    assert c.moved.height == c.paired.gained + c.paired.lost > 0
    assert {r["problem_id"]: r["program_after"] for r in c.moved.to_dicts()}.items() <= wrote.items()


def test_two_runs_are_compared_on_what_both_were_asked_with_the_settings_that_differ(home: Path) -> None:
    c = changes(home / "runs", "example", "next")
    assert (c.both.height, c.only_before, c.only_after) == (30, 10, 0)
    assert c.settings["suite.dev"] == (40, 30)
    back = changes(home / "runs", "next", "example")
    assert (back.only_before, back.only_after) == (0, 10)
    assert sorted(back.gained["problem_id"]) == sorted(c.lost["problem_id"])
    said = codelutra("diff", "example", "next", "--home", str(home), COLUMNS="80").stdout
    assert "suite.dev: 40 → 30" in said
    assert f"lost: {c.lost.height}" in said


def asked(*rows: tuple[str, str, str, str]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["problem_id", "group", "prompt", "reference"], orient="row")
    last = pl.col("prompt").str.split("\n").list.last()
    rest = {c: pl.lit("") for c in ("expected", "program", "output", "error")}
    return frame.with_columns(question=last, status=pl.lit("correct"), **rest)


def test_a_problem_is_known_again_when_ids_move_or_the_schema_changes_and_no_other_is_taken_for_it() -> None:
    before = asked(
        ("1", "g", "schema\nhow many", "SELECT 1"),
        ("2", "g", "schema\nwho", "SELECT 2"),
        ("3", "g", "schema\nwhere", "SELECT 3"),
        ("4", "g", "schema\nwho", "SELECT 2"),  # asked twice
        ("5", "g", "schema\nwhen", ""),
    )
    after = asked(
        ("1", "g", "schema\nnew one", "SELECT 9"),  # put in above: ids move
        ("2", "g", "schema\nhow many", "SELECT 1"),
        ("3", "g", "other schema\nwhere", "SELECT 3"),
        ("6", "g", "other schema\nwho", "SELECT 2"),
        ("7", "g", "other schema\nwhen", ""),  # neither id nor reference: it may be another
    )
    assert _together(before, after)["problem_id"].to_list() == ["1", "2", "3"]


def test_answers_that_are_gone_are_told_with_the_command_that_makes_them(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path, symlinks=True, dirs_exist_ok=True)
    other = tmp_path / "runs/other"
    shutil.copytree(tmp_path / "runs/next", other, symlinks=True)
    for label in ("base", "policy-0", "policy-1"):
        (other / label / "dev-scores").unlink()
        for link in other.glob(f"{label}/dev-outcomes-*"):
            link.unlink()
    with pytest.raises(UserError, match="no answers of policy 1 to dev problems here; `codelutra run"):
        changes(tmp_path / "runs", "example", "other")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("CREATE TABLE a (b text);\n\nFrom which city are they? ", "From which city are they?"),
        ("CREATE TABLE a (b text);\n\n# of rows", "# of rows"),
        ("表 a (b)\n有多少行?", "有多少行?"),
        (
            "Write a function to add.\nYour code should pass these tests:\n\nassert add(1, 2) == 3",
            "Write a function to add.",
        ),
        (
            "Problem:\nHow can I sort this array?\n\nA:\n<code>\na = 1\n</code>\nBEGIN SOLUTION\n<code>",
            "How can I sort this array?",
        ),
        (
            'from typing import List\n\ndef f(a: List[int]) -> int:\n    """ The sum of all.\n    >>> f([1])\n    """',
            "The sum of all.",
        ),
        (
            "Problem:\nHow can I sort this array?\n\nA:\n<code>\ndef f(a):\n    # return it\n    ### BEGIN SOLUTION",
            "How can I sort this array?",
        ),
        ("Problem:\n'a': ['one', 'two', 'three'],\nHow can I sort this?\n<code>", "How can I sort this?"),
        ("## write a function to sort\n\nassert f(1) == 2", "## write a function to sort"),
        ("Write a program that adds.\nIt reads two numbers a line.", "It reads two numbers a line."),
        ("assert f(1) == 2", "assert f(1) == 2"),
        ("???", "???"),
        ("", ""),
    ],
)
def test_what_a_prompt_asks_is_one_line_of_it(prompt: str, asked: str) -> None:
    assert question(prompt) == asked
