"""Samples become outcomes: what is the model's doing, what is ours, and what is not run twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import ExecuteSection, PairsSection, RunConfig, SuiteSection
from codelutra.errors import StageError
from codelutra.execution.cache import OutcomeCache
from codelutra.execution.outcomes import execute, infra_share
from codelutra.execution.references import judge_references
from codelutra.pipeline import stages
from codelutra.pipeline.run import open_run
from codelutra.schema import OUTCOMES, STATUS
from codelutra.scoring.scores import score_problems
from codelutra.suites.base import Job, open_suite
from codelutra.suites.python import PythonSuite, judging
from codelutra.training.pairs import make_pairs
from sandbox import Pool, Result, ensure_image
from tests.helpers.frames import samples_of

SUITE = open_suite(SuiteSection(name="starter-sql", train=8, dev=4, test=0))
PROBLEMS = SUITE.problems()


class Scripted:
    """A pool that answers from a script, and counts; for what a real sandbox cannot be made to do on demand."""

    def __init__(self, *statuses: str) -> None:
        self.statuses, self.jobs = statuses, 0

    def map(self, jobs: Iterable[Job]) -> Iterator[Result]:
        for job in jobs:
            status: Any = self.statuses[self.jobs % len(self.statuses)]
            self.jobs += 1
            yield Result(job.id, status, error="the container went away" if status == "infra_error" else None)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(image=ensure_image(SUITE.image), workers=1, databases=SUITE.databases(), run="test-execute") as opened:
        yield opened


@pytest.fixture(scope="module")
def expected(pool: Pool) -> pl.DataFrame:
    return judge_references(PROBLEMS, SUITE, pool, timeout_seconds=5)[0]


def samples(*codes: str, problem: int = 0) -> pl.DataFrame:
    return samples_of((PROBLEMS["problem_id"][problem], code) for code in codes)


def test_every_reference_of_the_starter_suite_is_usable(expected: pl.DataFrame) -> None:
    assert expected["status"].unique().to_list() == ["correct"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (PROBLEMS["reference"][0], "correct"),
        ("SELECT 'surely not this'", "wrong"),
        ("SELECT absent FROM nowhere", "runtime_error"),
        ("SELEC 1", "syntax_error"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n", "timeout"),
        ("ATTACH ':memory:' AS x", "blocked"),
        ("", "no_code"),
    ],
)
def test_what_a_program_does_is_its_status(pool: Pool, expected: pl.DataFrame, code: str, status: str) -> None:
    (outcome,) = execute(samples(code), PROBLEMS, expected, SUITE, pool, timeout_seconds=1)[0].rows(named=True)
    assert outcome["status"] == status
    assert outcome["mode"] == "sql-strict/v2"
    assert bool(outcome["error"]) == (status in ("runtime_error", "syntax_error", "timeout", "blocked"))


def test_greedy_answers_are_counted_under_the_other_modes_too(pool: Pool, expected: pl.DataFrame, tmp_path: Path) -> None:
    reference = PROBLEMS["reference"][0]
    twice = f"SELECT * FROM ({reference}) UNION ALL SELECT * FROM ({reference})"  # the same set of rows, another bag
    drawn = samples(reference, twice, "SELECT 'no'", "SELEC", "")
    cache = OutcomeCache(tmp_path / "c.sqlite3")
    for greedy, counts in ((True, (2, 1)), (False, (0, 0)), (True, (2, 1))):  # the last from the cache
        asked = drawn.with_columns(greedy=pl.lit(greedy))
        frame, facts = execute(asked, PROBLEMS, expected, SUITE, pool, timeout_seconds=5, cache=cache, machine="i")
        assert frame["status"].to_list() == ["correct", "wrong", "wrong", "syntax_error", "no_code"]
        kind, other = ("greedy", "sampled") if greedy else ("sampled", "greedy")
        assert facts == {
            "rows": 5,
            "statuses": {kind: {"correct": 1, "wrong": 2, "syntax_error": 1, "no_code": 1}, other: {}},
            "other_modes": dict(zip(("bird-ex/official", "spider-testsuite/v1"), counts, strict=True)),
        }


def test_a_reference_that_returns_nothing_makes_its_samples_reference_errors(pool: Pool) -> None:
    broken = PROBLEMS.head(1).with_columns(
        reference=pl.lit("SELECT 1 WHERE 0"), judge=pl.lit(_unkeyed(PROBLEMS["judge"][0]))
    )
    judged, facts = judge_references(broken, SUITE, pool, timeout_seconds=5)
    assert facts == {"problems": 1, "reference_errors": 1}
    assert judged["status"].to_list() == ["reference_error"]
    assert judged["error"][0]
    outcomes, _ = execute(samples("SELECT 1"), broken, judged, SUITE, pool, timeout_seconds=5)
    assert outcomes["status"].to_list() == ["reference_error"]


def test_an_outage_is_infra_error_and_is_not_remembered(tmp_path: Path, expected: pl.DataFrame) -> None:
    cache = OutcomeCache(tmp_path / "c.sqlite3")
    broken = Scripted("infra_error")
    outcomes, _ = execute(samples("SELECT 1", "SELECT 2"), PROBLEMS, expected, SUITE, broken, timeout_seconds=5, cache=cache)
    assert outcomes["status"].to_list() == ["infra_error"] * 2
    assert infra_share(outcomes) == 1.0
    execute(samples("SELECT 1", "SELECT 2"), PROBLEMS, expected, SUITE, broken, timeout_seconds=5, cache=cache)
    assert broken.jobs == 4


# What programs and references gave that once stopped the whole run on the host, and the status it is.
NOISY = "def f(x): return {{frozenset([i * 1e-12 + {0}, str(i % 7)]) for i in range(500)}}"
ODD = {
    "10**5000": ("def f(x): return 10 ** 5000", "def f(x): return 10 ** 5000", "correct"),
    "another integer as large": ("def f(x): return 10 ** 5000", "def f(x): return 10 ** 5000 + 1", "wrong"),
    "a surrogate in an error": ("def f(x): return 1", "def f(x): raise ValueError('\\ud800')", "runtime_error"),
    "a surrogate in a crash": ("def f(x): return 1", "raise ValueError('\\ud800')", "runtime_error"),
    "a surrogate in a value": ("def f(x): return 'a\\ud800'", "def f(x): return 'a\\ud800'", "correct"),
    "too many values": ("def f(x): return [0]", "def f(x): return [0] * 300_000", "resource_limit"),
    "a Decimal too large": (
        "import decimal\ndef f(x): return decimal.Decimal(1)",
        "import decimal\ndef f(x): return decimal.Decimal('1e99999')",
        "resource_limit",
    ),
    "a Fraction of large parts": (
        "from fractions import Fraction\ndef f(x): return Fraction(1, 3)",
        "from fractions import Fraction\ndef f(x): return Fraction(10 ** 5000, 3)",
        "wrong",
    ),
    "a type without data": ("def f(x): return 1", "def f(x): return (i for i in [])", "runtime_error"),
    "7,000 minus signs": ("def f(x): return 1", "def f(x): return " + "-" * 7000 + "1", "resource_limit"),
    "as deep as python3 goes": ("def f(x): return 990", "def f(x, n=990): return n and 1 + f(x, n - 1)", "correct"),
    "too deep": ("def f(x): return 1", "def f(x): return 1 + f(x)", "runtime_error"),
    "what takes too long to match": (NOISY.format("0"), NOISY.format("1e-13"), "undecided"),
}


@pytest.mark.parametrize(("reference", "answer", "status"), ODD.values(), ids=ODD.keys())
def test_no_output_of_a_program_stops_the_judge(
    reference: str, answer: str, status: str, pool: Pool, tmp_path: Path
) -> None:
    row = {"problem_id": "p", "split": "train", "prompt": "", "reference": reference, "language": "python", "group": ""}
    problems = pl.DataFrame([row | {"difficulty": "", "judge": judging(["f(1)"])}], schema=PROBLEMS.schema)
    suite = PythonSuite("s", "1", "", problems)
    expected, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    assert expected["status"].to_list() == ["correct"], expected["error"][0]
    cache = OutcomeCache(tmp_path / "c.sqlite3")
    for _ in range(2):
        outcomes, facts = execute(
            samples_of([("p", answer)]), problems, expected, suite, pool, timeout_seconds=5, cache=cache
        )
        assert outcomes["status"].to_list() == [status], outcomes["error"][0]
        assert facts["statuses"]["sampled"] == {status: 1}
        outcomes.write_parquet(tmp_path / "outcomes.parquet")


def test_an_undecided_answer_is_not_correct_not_wrong_and_in_no_pair(expected: pl.DataFrame) -> None:
    outcomes = samples("SELECT 1", "SELECT 2").with_columns(
        mode=pl.lit(""),
        verdict=pl.lit("host"),
        answer=pl.lit(""),
        output=pl.lit(""),
        seconds=0.1,
        error=pl.lit("too long"),
        status=pl.Series(["correct", "undecided"], dtype=STATUS),
    )
    pairs, facts = make_pairs(outcomes.select(list(OUTCOMES)), PROBLEMS, expected, PairsSection(), seed=0)
    assert (pairs.height, facts["samples"]) == (0, 1)
    assert infra_share(outcomes) == 0
    scores, _ = score_problems(outcomes.select(list(OUTCOMES)), PROBLEMS, expected, PROBLEMS["split"][0])
    assert scores.row(0, named=True)["samples"] == 2
    assert scores.row(0, named=True)["correct"] == 1


def test_an_outage_during_the_reference_check_stops_it(expected: pl.DataFrame) -> None:
    with pytest.raises(StageError, match="the sandbox failed while checking"):
        judge_references(PROBLEMS, SUITE, Scripted("infra_error"), timeout_seconds=5)


def test_timeouts_are_not_remembered_but_errors_are(tmp_path: Path, expected: pl.DataFrame) -> None:
    cache = OutcomeCache(tmp_path / "c.sqlite3")
    for status, runs in (("timeout", 2), ("runtime_error", 1)):
        scripted = Scripted(status)
        for _ in range(2):
            execute(samples(f"SELECT '{status}'"), PROBLEMS, expected, SUITE, scripted, timeout_seconds=5, cache=cache)
        assert scripted.jobs == runs, status


def test_equal_programs_run_once_and_all_get_the_verdict(expected: pl.DataFrame) -> None:
    scripted = Scripted("runtime_error")
    outcomes, _ = execute(
        samples("SELECT 7", "SELECT 8", "SELECT 7"), PROBLEMS, expected, SUITE, scripted, timeout_seconds=5
    )
    assert scripted.jobs == 2
    assert outcomes["sample"].to_list() == [0, 1, 2]
    assert outcomes.schema == OUTCOMES


def test_the_cache_tells_problems_and_images_apart(tmp_path: Path, expected: pl.DataFrame) -> None:
    cache, scripted = OutcomeCache(tmp_path / "c.sqlite3"), Scripted("runtime_error")
    for problem, image in ((0, "a"), (1, "a"), (0, "b"), (0, "a")):
        execute(
            samples("SELECT 9", problem=problem),
            PROBLEMS,
            expected,
            SUITE,
            scripted,
            timeout_seconds=5,
            cache=cache,
            machine=image,
        )
    assert scripted.jobs == 3


@pytest.mark.parametrize(
    ("checks", "status", "why"),
    [
        (["assert f(2) == 2 * 2", "assert f(1) in (1, 2)", "assert not f(0)"], "correct", ""),
        (["assert f(2) == 1 / 0"], "reference_error", "case 1 of its checks raises ZeroDivisionError"),
        (["assert f(2) == random.random()"], "reference_error", "differs from one run to the next"),
        (["assert f(f(2)) == f(4)", "assert f(3) == given(9)", "assert given(4) == f(2)"], "correct", ""),
    ],
)
def test_checks_judge_without_a_reference(pool: Pool, tmp_path: Path, checks: list[str], status: str, why: str) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function")
    line = {
        "id": "f",
        "split": "train",
        "prompt": "Write f.",
        "asserts": checks,
        "setup": "import random\ndef given(n): return n",
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(line))
    suite = open_suite(SuiteSection(name="custom", path=str(tmp_path)))
    problems = suite.problems()
    wanted, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    assert wanted["status"].to_list() == [status]
    assert why in wanted["error"][0]
    if not why:
        tried = samples("def f(n): return n * n", "def f(n): return -n", "x = 1").with_columns(problem_id=pl.lit("f"))
        judged, _ = execute(tried, problems, wanted, suite, pool, timeout_seconds=5)
        assert judged["status"].to_list() == ["correct", "wrong", "runtime_error"]


STACK = """class Stack:
    def __init__(self): self.x = []
    def push(self, v): self.x.append(v)
    def pop(self): return self.x.pop()
"""


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ("assert s.pop() == 1", "correct"),
        ("return True", "correct"),
        ("return s.pop() == 1", "correct"),
        ("assert s.pop() == 2", "wrong"),
        ("return s.pop() == 2", "wrong"),
    ],
)
@pytest.mark.parametrize("reference", ["", STACK])
def test_steps_of_a_class_judge_with_a_reference_and_without(
    pool: Pool, tmp_path: Path, last: str, status: str, reference: str
) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function")
    steps = f"def check(candidate):\n    s = candidate()\n    s.push(1)\n    {last}\n"
    line = {"id": "f", "split": "train", "prompt": "Write Stack.", "function": "Stack", "asserts": steps}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line | {"reference": reference}))
    suite = open_suite(SuiteSection(name="custom", path=str(tmp_path)))
    problems = suite.problems()
    wanted, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    if reference and status == "wrong":
        why = "gives False for the reference" if "return" in last else "case 1 of the reference raises AssertionError"
        assert why in wanted["error"][0]
        return
    assert wanted["error"].to_list() == [""]
    tried = samples(STACK, "class Stack: pass", "x = 1").with_columns(problem_id=pl.lit("f"))
    judged, _ = execute(tried, problems, wanted, suite, pool, timeout_seconds=5)
    assert judged["status"].to_list() == [status if not reference else "correct", "runtime_error", "runtime_error"]


def test_asserts_alone_judge_with_neither_reference_nor_setup(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function")
    line = {"id": "f", "split": "train", "prompt": "Write area(w, h).", "asserts": ["assert area(2, 3) == 6"]}
    (tmp_path / "problems.jsonl").write_text(json.dumps(line))
    suite = open_suite(SuiteSection(name="custom", path=str(tmp_path)))
    wanted, _ = judge_references(suite.problems(), suite, pool, timeout_seconds=5)
    assert wanted["error"].to_list() == [""]
    tried = samples("def area(w, h): return w * h", "def area(w, h): return w").with_columns(problem_id=pl.lit("f"))
    judged, _ = execute(tried, suite.problems(), wanted, suite, pool, timeout_seconds=5)
    assert judged["status"].to_list() == ["correct", "wrong"]


def test_checks_that_an_empty_program_passes_are_no_use(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-program")
    silent = {"id": "s", "split": "train", "prompt": "Say nothing.", "tests": [{"stdin": "", "stdout": ""}]}
    loud = silent | {"id": "l", "prompt": "Say it.", "tests": [{"stdin": "", "stdout": ""}, {"stdin": "a", "stdout": "a"}]}
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, (silent, loud))))
    suite = open_suite(SuiteSection(name="custom", path=str(tmp_path)))
    judged, _ = judge_references(suite.problems(), suite, pool, timeout_seconds=5)
    assert judged["error"].to_list() == ["its checks pass an empty program", ""]


def test_a_call_that_wants_more_memory_than_there_is_hit_a_limit_and_is_not_remembered(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("kind: python-function")
    line = {
        "id": "f",
        "split": "dev",
        "prompt": "Write f.",
        "reference": "def f(n): return n",
        "function": "f",
        "cases": [[1]],
    }
    (tmp_path / "problems.jsonl").write_text(json.dumps(line))
    suite = open_suite(SuiteSection(name="custom", path=str(tmp_path)))
    problems, cache = suite.problems(), OutcomeCache(tmp_path / "c.sqlite3")
    wanted, _ = judge_references(problems, suite, pool, timeout_seconds=5)
    greedy = samples("def f(n): return len(bytearray(10**12))").with_columns(problem_id=pl.lit("f"))
    (outcome,) = execute(greedy, problems, wanted, suite, pool, timeout_seconds=5, cache=cache, machine="m")[0].rows(
        named=True
    )
    assert outcome["status"] == "resource_limit"
    again = Scripted("timeout")
    execute(greedy, problems, wanted, suite, again, timeout_seconds=5, cache=cache, machine="m")
    assert again.jobs == 1


@pytest.mark.parametrize("other", [{"timeout_seconds": 9.0}, {"memory_mb": 2048}, {"runtime": "runsc"}])
def test_what_programs_may_use_is_in_the_key_of_all_that_depends_on_it(tmp_path: Path, other: dict[str, Any]) -> None:
    """A reference that failed for want of memory is judged again with more; one that needed it does not judge with less."""
    keys = []
    for name, limits in (("one", {}), ("two", other)):
        config = RunConfig(
            name=name, suite=SuiteSection(name="starter-sql", train=8, dev=4, test=0), execute=ExecuteSection(**limits)
        )
        with open_run(tmp_path, config) as run:
            asked = run.make(stages.problems(run))
            keys.append((stages.references(run, asked).recipe.key, stages.execute(run, asked, asked, asked).recipe.key))
    assert all(a != b for a, b in zip(*keys, strict=True))


def _unkeyed(judge: str) -> str:
    kept = {k: v for k, v in json.loads(judge).items() if k != "values"}
    return json.dumps(kept | {"ordered": False})
