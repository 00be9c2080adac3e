"""Cases from the field: a folder each, with inputs modelled on public reports and files, and what is right for them.

case.json   source, about            where it was seen, and what is right
            kind                     sql | python-function | python-program: a custom suite of `lines`; or extract
            reference                line → what its own reference comes out as; "correct" where it is not named
            answers                  programs for line `line`, and the status (or one of the statuses) they must get
            prompt_has, _lacks       texts that the prompts show, or must not show
            load: refused            the suite is refused, with a message that matches `says` and not `never_says`
            all_ordered              what is expected of every line is what SQLite gives for it, in its order
            shuffle                  the expected rows in another order are wrong, where they do not all tie
            raw                      name of the data file that build.py writes as it lies, instead of `lines`
build.sql, build.py                  make the database, and the raw file
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import UserError
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.prompts import extract_code
from codelutra.schema import SAMPLES
from codelutra.suites.base import Suite, open_suite
from sandbox import Pool, ensure_image
from sandbox.protocol import decode

CASES = {path.parent.name: json.loads(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("*/case.json"))}
EXTRACT = {name: case for name, case in CASES.items() if case["kind"] == "extract"}
JUDGED = {name: case for name, case in CASES.items() if case["kind"] != "extract"}


def one_of(want: str | list[str]) -> list[str]:
    return [want] if isinstance(want, str) else want


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_image("python")


@pytest.fixture(scope="module")
def python_pool(image: str) -> Iterator[Pool]:
    with Pool(image=image, workers=1, run="cases") as pool:
        yield pool


def written(name: str, case: dict[str, Any], folder: Path) -> Path:
    """The case as a suite folder, with its database."""
    here = Path(__file__).parent / name
    if (here / "build.sql").exists():
        with closing(sqlite3.connect(folder / "db.sqlite")) as connection:
            connection.executescript((here / "build.sql").read_text("utf-8"))
            connection.commit()
    if (here / "build.py").exists():
        subprocess.run([sys.executable, here / "build.py"], cwd=folder, check=True)
    lines = case.get("lines", [])
    if case.get("drop_refused"):
        lines = [line for line in lines if SQLite(folder / "db.sqlite").takes(line["query"])]
    if "raw" not in case:
        rows = [{"split": "train", **line} for line in lines]
        (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    databases = "databases: [db.sqlite]\n" if case["kind"] == "sql" else ""
    problems = f"problems: {case.get('raw', 'problems.jsonl')}\n"
    (folder / "suite.yaml").write_text(f"kind: {case['kind']}\n{problems}{databases}", "utf-8")
    return folder


class SQLite:
    """What SQLite itself does with a query."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, query: str) -> list[list[Any]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return [list(row) for row in connection.execute(query)]

    def takes(self, query: str) -> bool:
        try:
            self.rows(query)
        except sqlite3.Error:
            return False
        return True


def opened(folder: Path) -> Suite:
    return open_suite(SuiteSection(name="custom", path=str(folder)))


def samples(suite: Suite, answers: list[dict[str, Any]]) -> pl.DataFrame:
    ids = suite.problems()["problem_id"]
    given = {"greedy": False, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    rows = [
        {"problem_id": ids[a["line"]], "sample": n, "completion": a["code"], "code": a["code"], **given}
        for n, a in enumerate(answers)
    ]
    return pl.DataFrame(rows, schema=SAMPLES)


def turned_is_right(suite: Suite, problem: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether the expected rows are right from the last to the first, though they differ and do not all tie."""
    expected = decode(json.loads(row["expected"]))
    rows = expected["rows"]
    if rows == rows[::-1] or [0, len(rows)] in expected.get("ties", []):
        return False
    return suite.agrees(problem, {**expected, "rows": rows[::-1]}, expected)


def judged(suite: Suite, case: dict[str, Any], pool: Pool, path: Path) -> list[str]:
    """What is not as the case says."""
    problems, seconds = suite.problems(), float(case.get("timeout", 5))
    expected, _ = judge_references(problems, suite, pool, timeout_seconds=seconds)
    faults = []
    for line, row in enumerate(expected.rows(named=True)):
        want = case.get("reference", {}).get(str(line), "correct")
        if want != "any" and row["status"] not in one_of(want):
            faults.append(f"reference of line {line}: {row['status']} ({row['error']}), not {want}")
        elif case.get("all_ordered") and row["status"] == "correct":
            given = decode(json.loads(row["expected"]))["rows"]
            right = SQLite(path).rows(problems["reference"][line])
            if [list(r[: len(s)]) for r, s in zip(given, right, strict=True)] != right:
                faults.append(f"line {line} expects {given}, SQLite gives {right}")
        if (
            case.get("shuffle")
            and row["status"] == "correct"
            and turned_is_right(suite, problems.row(line, named=True), row)
        ):
            faults.append(f"line {line}: its rows are right in another order too")
    if answers := case.get("answers"):
        outcomes, _ = execute(samples(suite, answers), problems, expected, suite, pool, timeout_seconds=seconds)
        for answer, status, error in zip(answers, outcomes["status"], outcomes["error"], strict=True):
            if status not in one_of(answer["want"]):
                faults.append(f"{answer['what'] or answer['code']}: {status} ({error}), not {answer['want']}")
    prompts = "\n".join(problems["prompt"])
    faults += [f"a prompt lacks {text!r}" for text in case.get("prompt_has", []) if text not in prompts]
    faults += [f"a prompt shows {text!r}" for text in case.get("prompt_lacks", []) if text in prompts]
    return faults


@pytest.mark.parametrize("name", JUDGED)
def test_a_case_from_the_field_is_judged_right(name: str, tmp_path: Path, image: str, python_pool: Pool) -> None:
    case = JUDGED[name]
    folder = written(name, case, tmp_path)
    if case.get("load") == "refused":
        with pytest.raises(UserError) as refusal:
            opened(folder)
        said = str(refusal.value)
        assert re.search(case.get("says", ""), said), said
        assert "never_says" not in case or not re.search(case["never_says"], said), said
        return
    suite = opened(folder)
    if case["kind"] == "sql":
        with Pool(image=image, workers=1, databases=suite.databases(), run="cases") as pool:
            faults = judged(suite, case, pool, folder / "db.sqlite")
    else:
        faults = judged(suite, case, python_pool, folder)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", EXTRACT)
def test_the_program_is_found_in_a_completion_from_the_field(name: str) -> None:
    for item in EXTRACT[name]["items"]:
        assert extract_code(item["completion"], item["language"]) in one_of(item["want"]), item["completion"]
