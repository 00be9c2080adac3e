"""The embedded Python suite: same bytes everywhere, every reference right, near misses caught, splits apart."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter

import polars as pl
import pytest

from codelutra.config import SuiteSection
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.suites.python import PythonSuite
from codelutra.suites.splits import normalise_prompt
from codelutra.suites.starter_python.functions import library
from codelutra.suites.starter_python.pipelines import neighbours
from codelutra.suites.starter_python.sources import read_sources
from codelutra.suites.starter_python.suite import load, program_of
from sandbox import Pool
from tests.helpers.frames import samples_of
from tests.helpers.splits import overlaps


@pytest.fixture(scope="module")
def suite() -> PythonSuite:
    return load(SuiteSection(name="starter-python"))


@pytest.fixture(scope="module")
def expected(suite: PythonSuite, pool: Pool) -> pl.DataFrame:
    return judge_references(suite.problems(), suite, pool, timeout_seconds=10)[0]


def statuses(suite: PythonSuite, expected: pl.DataFrame, pool: Pool, programs: list[tuple[str, str]]) -> Counter[str]:
    """What becomes of (problem_id, program)s."""
    judged, _ = execute(samples_of(programs), suite.problems(), expected, suite, pool, timeout_seconds=2)
    return Counter(judged["status"].to_list())


def test_two_makings_in_two_processes_are_equal_byte_for_byte(suite: PythonSuite) -> None:
    program = (
        "import sys; from codelutra.config import SuiteSection; from codelutra.suites.starter_python.suite import load\n"
        "sys.stdout.write(load(SuiteSection(name='starter-python')).problems().write_ndjson())"
    )
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
        assert done.stdout == suite.problems().write_ndjson()
    assert hashlib.sha256(done.stdout.encode()).hexdigest().startswith(suite.version.removeprefix("1-"))


def test_there_are_enough_problems_of_every_topic_on_every_side(suite: PythonSuite) -> None:
    counts = Counter(suite.problems()["split"].to_list())
    assert counts["train"] >= 300
    assert counts["dev"] >= 100
    assert counts["test"] >= 100
    assert len(library()) >= 100
    topics = suite.problems().group_by("split").agg(pl.col("group").n_unique())["group"].to_list()
    assert topics == [len(read_sources()) + 4] * 3


def test_splits_share_no_prompt_and_no_program_whatever_its_name(suite: PythonSuite) -> None:
    problems = suite.problems()
    assert problems["problem_id"].is_unique().all()
    assert problems["prompt"].is_unique().all()
    assert overlaps(problems, pl.Series([normalise_prompt(p) for p in problems["prompt"]])) == []
    programs = pl.Series([program_of(r) for r in problems["reference"]])
    assert programs.is_unique().all()
    renamed = pl.Series([re.sub(r"\b(n|i|d|c|word)\b", "x", p) for p in programs])
    assert renamed.n_unique() == problems.height


def test_every_reference_is_correct_and_no_stub_is(suite: PythonSuite, expected: pl.DataFrame, pool: Pool) -> None:
    assert expected.filter(pl.col("status") != "correct").rows() == []
    heads = [(p, r.split("\n")[0]) for p, r in suite.problems().select("problem_id", "reference").rows()]
    made = statuses(suite, expected, pool, [(p, f"{h} return None") for p, h in heads])
    assert made == {"wrong": len(heads)}


def test_nine_of_ten_near_misses_are_caught(suite: PythonSuite, expected: pl.DataFrame, pool: Pool) -> None:
    """Of the others most are no misses: `range(2, n + 1)` where only numbers above 10 pass."""
    composed = suite.problems().filter(pl.col("group").is_in(list(read_sources())))
    near = [(p, near) for p, r in composed.select("problem_id", "reference").rows() for near in neighbours(r)]
    assert len(near) > 2 * composed.height
    assert statuses(suite, expected, pool, near)["correct"] < 0.1 * len(near)


def test_prompts_show_one_call_that_is_true_and_does_not_judge(suite: PythonSuite) -> None:
    for problem in suite.problems().rows(named=True):
        shown = re.search(r"For example, `(.*)` is `(.*)`\.$", problem["prompt"])
        assert shown, problem["prompt"]
        names: dict[str, object] = {}
        exec(problem["reference"], names)
        assert repr(eval(shown[1], names)) == shown[2]
        calls = json.loads(problem["judge"])["calls"]
        assert shown[1] not in calls
        assert 3 <= len(calls) == len(set(calls))


def test_questions_are_worded_in_many_ways_and_answers_are_short(suite: PythonSuite) -> None:
    problems = suite.problems()
    openings = Counter(" ".join(re.sub(r"`.*?`", "`", p).split()[:3]) for p in problems["prompt"])
    assert openings.most_common(1)[0][1] < 0.3 * problems.height
    assert not problems["prompt"].str.split("\n").list.first().str.contains(r"\{\}|  |``").any()
    words = problems["reference"].str.count_matches(r"\w+|[^\w\s]")
    assert words.mean() < 40
    assert words.max() < 100


def test_a_cap_keeps_proportions_and_smaller_caps_are_inside_larger_ones() -> None:
    small = load(SuiteSection(name="starter-python", train=60, dev=30, test=0)).problems()
    large = load(SuiteSection(name="starter-python", train=200, dev=30, test=0)).problems()
    assert Counter(small["split"].to_list()) == {"train": 60, "dev": 30}
    assert set(small["problem_id"]) <= set(large["problem_id"])
    assert small["group"].n_unique() == len(read_sources()) + 4
