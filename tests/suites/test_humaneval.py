"""HumanEval: asserts are taken apart where they can be, and what cannot be is marked."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.errors import ConfigError
from codelutra.execution.references import judge_references
from codelutra.suites.humaneval import load
from codelutra.suites.python import PythonSuite
from sandbox import Pool

REAL = Path(os.environ.get("CODELUTRA_DATA", "/nowhere")) / "humaneval"
needs_humaneval = pytest.mark.skipif(not REAL.is_dir(), reason="set CODELUTRA_DATA to the folder that holds humaneval/")

FLAT = '''METADATA = {}

def check(candidate):
    """Flat."""
    assert candidate(3.5) == [1, 2], "why"
    assert abs(candidate(1.25) - 0.25) < 1e-6
    assert abs(candidate(1.25) - 0.25) < 0.1
    assert tuple(candidate([1])) == tuple([1])
    assert not candidate('')
    assert True
'''
LOOP = """def check(candidate):
    import random
    for _ in range(9):
        n = random.randint(0, 9)
        assert candidate(n) == 2 * n
"""


def entry(test: str, **more: Any) -> dict[str, Any]:
    prompt = 'from typing import List\n\ndef half(x):\n    return x / 2\n\n\ndef scaled(x: List[int]):\n    """ Twice. """\n'
    return {
        "task_id": "HumanEval/0",
        "prompt": prompt,
        "entry_point": "scaled",
        "canonical_solution": "    return x * 2\n",
        "test": test,
        **more,
    }


def suite(folder: Path, *entries: dict[str, Any]) -> PythonSuite:
    (folder / "HumanEval.jsonl").write_text("\n".join(map(json.dumps, entries)))
    return load(SuiteSection(name="humaneval", path=str(folder)))


def test_flat_asserts_are_taken_apart_and_expected_values_stay_outside(tmp_path: Path) -> None:
    made = suite(tmp_path, entry(FLAT))
    problem = made.problems().row(0, named=True)
    answer = made.answer_job(problem, "def scaled(x): ...", "a", 2.0)
    assert answer.calls == ("scaled(3.5)", "scaled(1.25)", "scaled(1.25)", "tuple(scaled([1]))", "not not (scaled(''))")
    assert made.expected_job(problem, "e", 2.0).calls == ("[1, 2]", "0.25", "0.25", "tuple([1])", "False")
    assert answer.program == "from typing import List\n\ndef half(x):\n    return x / 2\ndef scaled(x): ..."
    for got, right in ((0.25 + 5e-7, True), (0.25 + 2e-6, False)):
        values = [{"value": v} for v in ([1, 2], got, 0.3, (2,), False)]
        wanted = [{"value": v} for v in ([1, 2], 0.25, 0.25, (2,), False)]
        assert made.agrees(problem, values, wanted) is right
    assert not answer.in_process
    assert not made.in_process(problem)


def test_a_check_that_is_more_than_asserts_runs_in_the_answers_process_and_says_so(tmp_path: Path) -> None:
    made = suite(tmp_path, entry(LOOP))
    problem = made.problems().row(0, named=True)
    job = made.answer_job(problem, problem["reference"], "a", 2.0)
    assert (job.calls, job.in_process, made.in_process(problem)) == (("check(scaled)",), True, True)
    assert "def check(candidate)" in job.program


@pytest.mark.parametrize(
    "body",
    [
        "try:\n        candidate(-1)\n    except ValueError:\n        return\n    assert False",
        "with suppress(ValueError):\n        candidate(-1)\n        assert False",
        "if candidate(1) != 2:\n        raise AssertionError",
        "def twice(x): return x * 2\n    assert candidate(3) == twice(3)",
        "x: int = 3\n    assert candidate(x) == 6",
        "x = [3]\n    x += [4]\n    assert candidate(x[0]) == 6",
        "candidate.seen = 1\n    assert candidate(1) == 2",
        "while candidate(1) != 2: pass\n    assert candidate(1) == 2",
    ],
)
def test_no_statement_of_a_check_is_passed_over(tmp_path: Path, body: str) -> None:
    made = suite(tmp_path, entry(f"def check(candidate):\n    {body}\n"))
    job = made.answer_job(made.problems().row(0, named=True), "def scaled(x): ...", "a", 2.0)
    assert (job.calls, job.in_process) == (("check(scaled)",), True)


def test_what_asserts_use_of_the_text_around_check_comes_with_them(tmp_path: Path) -> None:
    test = """METADATA = {}
import math
from math import pi as circle
LIMIT = 2 * circle
def near(a): return math.isclose(a, LIMIT)
def unused(): ...
def check(candidate):
    print('checking')
    assert near(candidate(3.14159265358979))
    pass
"""
    made = suite(tmp_path, entry(test))
    job = made.answer_job(made.problems().row(0, named=True), "def scaled(x): ...", "a", 2.0)
    assert job.program.endswith(
        "import math\nfrom math import pi as circle\nLIMIT = 2 * circle\ndef near(a):\n"
        "    return math.isclose(a, LIMIT)\ndef scaled(x): ..."
    )


def test_decorators_stay_with_their_function(tmp_path: Path) -> None:
    prompt = "from functools import cache\n\n@cache\ndef scaled(x):\n"
    made = suite(tmp_path, entry(FLAT, prompt=prompt))
    job = made.answer_job(made.problems().row(0, named=True), "def scaled(x): ...", "a", 2.0)
    assert job.program == "from functools import cache\ndef scaled(x): ..."


def test_every_problem_is_a_test_problem_and_asks_for_the_whole_function(tmp_path: Path) -> None:
    problem = suite(tmp_path, entry(FLAT)).problems().row(0, named=True)
    assert problem["split"] == "test"
    assert problem["prompt"].startswith("Complete this function:\n\n```python\nfrom typing import List")
    assert problem["reference"].endswith("return x * 2")


def test_broken_files_are_refused_with_their_place(tmp_path: Path) -> None:
    without = {k: v for k, v in entry(FLAT).items() if k != "test"}
    for broken, says in (
        (without, r"line 1: no 'test'"),
        (entry("x = 1"), r"line 1 \(HumanEval/0\): its test defines no check"),
        (entry(FLAT, entry_point="other"), r"line 1 \(HumanEval/0\): its prompt defines no function other"),
        (entry(FLAT, prompt="def f(:"), r"line 1 \(HumanEval/0\): "),
    ):
        with pytest.raises(ConfigError, match=says):
            suite(tmp_path, broken)
    (tmp_path / "HumanEval.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no HumanEval\.jsonl or HumanEval\.jsonl\.gz in "):
        load(SuiteSection(name="humaneval", path=str(tmp_path)))
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(ConfigError, match=r"HumanEval\.jsonl\.gz is empty"):
        load(SuiteSection(name="humaneval", path=str(tmp_path)))


@needs_humaneval
def test_every_real_reference_is_correct(pool: Pool) -> None:
    made = load(SuiteSection(name="humaneval", path=str(REAL)))
    expected, _ = judge_references(made.problems(), made, pool, timeout_seconds=10)
    assert expected.filter(pl.col("status") != "correct")["problem_id"].to_list() == []
    assert expected.height == 164
    assert sum(map(made.in_process, made.problems().rows(named=True))) == 7
