"""DS-1000: perturbations stay together, the benchmark's own checks decide, in the answer's process."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.suites.ds1000 import load, piece
from codelutra.suites.python import PythonSuite
from sandbox import Pool
from tests.helpers.frames import samples_of
from tests.helpers.splits import overlaps

REAL = Path(os.environ.get("CODELUTRA_DATA", "/nowhere")) / "ds1000"
needs_ds1000 = pytest.mark.skipif(not REAL.is_dir(), reason="set CODELUTRA_DATA to the folder that holds ds1000/")

CONTEXT = '''
exec_context = r"""
def f(x):
[insert]
result = f(test_input)
"""

def test_execution(solution: str):
    env = {"test_input": 20}
    exec(exec_context.replace("[insert]", solution), env)
    assert env["result"] == 41

def test_string(solution: str):
    assert "while" not in solution
'''


def entry(number: int, origin: int, library: str = "Numpy") -> dict[str, Any]:
    kind = "Origin" if number == origin else "Semantic"
    about = {"problem_id": number, "library": library, "perturbation_type": kind, "perturbation_origin_id": origin}
    return {
        "prompt": f"Problem:\nHow would one do {library} {number}?\nBEGIN SOLUTION\n<code>\n",
        "reference_code": "    y = 2 * x\n    return y + 1\n",
        "metadata": about,
        "code_context": CONTEXT,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [entry(n, n - n % 3, library) for library in ("Numpy", "Pandas") for n in range(60)]
    path = tmp_path_factory.mktemp("ds1000")
    (path / "ds1000.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return path


def section(folder: Path, **more: Any) -> SuiteSection:
    return SuiteSection(name="ds1000", path=str(folder), **more)


@pytest.fixture(scope="module")
def suite(folder: Path) -> PythonSuite:
    return load(section(folder))


def test_perturbations_of_one_origin_are_on_one_side_and_libraries_are_dealt_alike(suite: PythonSuite) -> None:
    problems = suite.problems()
    origin = problems.select(pl.format("{} {}", "group", pl.col("problem_id").str.slice(-4).cast(pl.Int32) // 3)).to_series()
    assert overlaps(problems, origin) == []
    for (_,), rows in problems.group_by("group"):
        assert Counter(rows["split"].to_list()) == {"train": 30, "dev": 6, "test": 24}


def test_another_seed_splits_otherwise(folder: Path, suite: PythonSuite) -> None:
    other = load(section(folder, seed=1)).problems()
    assert other["problem_id"].equals(suite.problems()["problem_id"])
    assert not other["split"].equals(suite.problems()["split"])


def test_libraries_can_be_chosen(folder: Path) -> None:
    assert set(load(section(folder, libraries=("Pandas",))).problems()["group"]) == {"Pandas"}
    with pytest.raises(ConfigError, match=r"suite\.libraries: pandas not in DS-1000; known: Numpy, Pandas"):
        load(section(folder, libraries=("pandas",)))


@pytest.mark.parametrize(
    ("written", "inserted"),
    [
        ("y = 2 * x\n    return y + 1", "    y = 2 * x\n    return y + 1"),  # extraction took the first line's blanks
        ("y = 2 * x\nreturn y", "    y = 2 * x\n    return y"),
        ("for i in x:\n    y = i\nreturn y", "    for i in x:\n        y = i\n    return y"),
        ("    return x", "    return x"),
        ("<code>\n    return x\n</code>\nIt works because", "    return x"),
        ("return x\nEND SOLUTION\n<code>", "    return x"),
        ("return x\n```\nThis", "    return x"),
    ],
)
def test_pieces_continue_the_function_they_stand_in(written: str, inserted: str) -> None:
    assert piece(written, "    return 1") == inserted


def test_pieces_at_the_top_stay_as_they_are() -> None:
    assert piece("if a:\n    b = 1", "result = 1") == "if a:\n    b = 1"


def test_verdicts_are_in_process_and_say_what_the_answer_did(suite: PythonSuite, pool: Pool) -> None:
    one = suite.problems().head(1)
    codes = {
        "y = 2 * x\n    return y + 1": "correct",
        "return 40": "wrong",
        "while False: pass\nreturn 41": "wrong",
        "return nope": "runtime_error",
        "return (": "syntax_error",
        "while True: pass": "timeout",
    }
    expected, _ = judge_references(one, suite, pool, timeout_seconds=2)
    assert expected["status"].to_list() == ["correct"]
    outcomes, _ = execute(
        samples_of((one["problem_id"][0], code) for code in codes), one, expected, suite, pool, timeout_seconds=2
    )
    assert dict(outcomes.select("code", pl.col("status").cast(pl.String)).rows()) == codes
    assert set(outcomes["verdict"]) == {"in-process"}


def test_a_file_of_the_old_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text('{"prompt": "x", "reference_code": "y"}')
    with pytest.raises(ConfigError, match=r"not DS-1000's current format \(no 'metadata'\); take ds1000\.jsonl\.gz"):
        load(section(tmp_path))
    with pytest.raises(ConfigError, match=r"no ds1000\.jsonl or ds1000\.jsonl\.gz or test\.jsonl or test\.jsonl\.gz"):
        load(section(tmp_path / ".."))


@needs_ds1000
def test_the_real_benchmark_loads_whole() -> None:
    problems = load(section(REAL)).problems()
    assert problems.height == 1000
    assert problems["problem_id"].is_unique().all()
    assert Counter(problems["group"].to_list())["Pandas"] == 291
    counts = Counter(problems["split"].to_list())
    assert abs(counts["train"] - 500) < 25
    for problem in problems.filter(pl.col("reference").str.starts_with(" ")).rows(named=True):
        assert piece(problem["reference"].strip(), problem["reference"]) == problem["reference"]
