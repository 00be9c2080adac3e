"""Generated cases: what the reference settles is kept, what it does not is dropped, and wrong programs are caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.config import EngineSection, RunConfig, SuiteSection
from codelutra.errors import ConfigError
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.execution.testgen import PROPOSING, Call, candidates, extend, proposed_calls, take
from codelutra.pipeline import stages
from codelutra.pipeline.run import open_run
from codelutra.suites.base import open_suite
from codelutra.suites.python import PythonSuite, calls_of, judging
from sandbox import Pool
from tests.helpers.frames import samples_of
from tests.helpers.tiny_model import write_tiny_model

SLOW = "import time\ndef f(n):\n    time.sleep(9 if n > 20 else 0)\n    return n * 2"
REFERENCES = {
    "plain": ("def f(n):\n    return abs(n) // 2", "f", [[4], [-6], [0]]),
    "random": ("import random\ndef f(n):\n    return n + random.random()", "f", [[1], [2], [3]]),
    "slow": (SLOW, "f", [[4], [16], [9]]),
    "slowish": ("import time\ndef f(n):\n    time.sleep(0.05 * n)\n    return n", "f", [[1], [2]]),
    "picky": ("def f(s):\n    return s.index('a')", "f", [["cat"], ["a"], ["bab"]]),
    "none": ("def f():\n    return 1", "f", [[]]),
}


def section(folder: Path, cases: int = 0) -> SuiteSection:
    lines = [
        {"id": name, "split": "train", "prompt": f"Write {name}.", "reference": r, "function": f, "cases": c}
        for name, (r, f, c) in REFERENCES.items()
    ]
    asserted = {
        "id": "asserted",
        "split": "dev",
        "prompt": "Write g.",
        "reference": "def g(x):\n    return [*x, *x]",
        "asserts": ["assert set(g([1, 2])) == {1, 2}", "assert set(g([5])) == {5}"],
    }
    (folder / "suite.yaml").write_text("kind: python-function")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, [*lines, asserted])))
    return SuiteSection(name="custom", path=str(folder), generated_cases=cases)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> PythonSuite:
    opened = open_suite(section(tmp_path_factory.mktemp("functions")))
    assert isinstance(opened, PythonSuite)
    return opened


@pytest.fixture(scope="module")
def extended(suite: PythonSuite, pool: Pool) -> pl.DataFrame:
    return extend(suite.problems(), suite, pool, per_problem=6, seed=0, timeout_seconds=2)


def added(before: pl.DataFrame, after: pl.DataFrame, problem: str) -> list[str]:
    one, two = (calls_of(f.filter(pl.col("problem_id") == problem)["judge"].item()) for f in (before, after))
    assert two[: len(one)] == one
    return two[len(one) :]


def test_only_what_the_reference_settles_is_kept(suite: PythonSuite, extended: pl.DataFrame) -> None:
    counts = {name: len(added(suite.problems(), extended, name)) for name in REFERENCES}
    assert counts["plain"] == 6
    assert (counts["random"], counts["none"]) == (0, 0)
    assert counts["slow"] > 0
    assert all(int(call[2:-1]) <= 20 for call in added(suite.problems(), extended, "slow"))
    assert all("a" in call[2:] for call in added(suite.problems(), extended, "picky"))
    assert 0 < sum(0.05 * int(call[2:-1]) for call in added(suite.problems(), extended, "slowish")) <= 0.4, "they add up"


def test_a_wrapper_around_the_call_stays_around_new_ones(suite: PythonSuite, extended: pl.DataFrame) -> None:
    calls = added(suite.problems(), extended, "asserted")
    assert calls
    assert all(call.startswith("set(g([") for call in calls)


def test_a_wrong_program_that_passed_is_caught_and_the_reference_still_right(
    suite: PythonSuite, extended: pl.DataFrame, pool: Pool
) -> None:
    wrong = "def f(n):\n    return {4: 2, -6: 3, 0: 0}.get(n, n)"
    outcomes = {}
    for name, problems in (("given", suite.problems()), ("more", extended)):
        plain = problems.filter(pl.col("problem_id") == "plain")
        expected, _ = judge_references(plain, suite, pool, timeout_seconds=5)
        asked = samples_of(("plain", program) for program in (wrong, REFERENCES["plain"][0]))
        judged, _ = execute(asked, plain, expected, suite, pool, timeout_seconds=5)
        outcomes[name] = judged["status"].to_list()
    assert outcomes == {"given": ["correct", "correct"], "more": ["wrong", "correct"]}


def test_the_same_seed_makes_the_same_cases_and_another_one_others(suite: PythonSuite) -> None:
    row = suite.problems().row(0, named=True)
    assert candidates(row, 20, 0) == candidates(row, 20, 0)
    assert candidates(row, 20, 0) != candidates(row, 20, 1)


def test_a_call_of_very_many_arguments_is_left_alone() -> None:
    """Its arguments are compared two by two: a hundred took half a minute, a thousand would take hours."""
    row = {"problem_id": "p", "reference": "def f(*a): ...", "judge": judging([f"f({'1, ' * 1000})"])}
    assert candidates(row, 9, 0, "f(1)") == []
    assert candidates(row | {"judge": judging([f"f({'1, ' * 19}2)"])}, 9, 0)


def test_what_a_model_proposes_comes_first_where_it_is_like_the_known(suite: PythonSuite, pool: Pool) -> None:
    picky = suite.problems().filter(pl.col("problem_id") == "picky")
    asked: list[str] = []

    def propose(prompts: Any) -> list[str]:
        asked.extend(prompts)
        return ["Sure:\n1. `f('banana')`\n2. f(12)\n3. f('cat')\n4. assert f('nnnah') == 3"]

    made = extend(picky, suite, pool, per_problem=3, seed=0, timeout_seconds=5, propose=propose)
    assert added(picky, made, "picky")[:2] == ["f('banana')", "f('nnnah')"]
    assert "Write picky." in asked[0]
    assert "f('cat')" in asked[0]


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("f([1], 'a')", Call("", "f", ([1], "a"))),
        ("set(f(1))", Call("set(", "f", (1,), ")")),
        ("round(f(2.5), 2)", Call("round(", "f", (2.5,), ", 2)")),
        ("not not f(-1)", Call("not not ", "f", (-1,))),
        ("not not math.isclose(f(2), 3.0)", None),  # a tolerance for 3.0 says nothing about other values
        ("f(x)", None),
        ("f(n=1)", None),
        ("g(1)", None),
        ("f(1) + 1", None),
    ],
)
def test_calls_with_literal_arguments_are_understood_and_no_others(text: str, call: Call | None) -> None:
    assert take(text, {"f"}) == call


def test_proposed_calls_are_found_wherever_they_stand() -> None:
    text = "- f([1, (2)], ')') gives 3\n>>> f(\n  4)\nf(oops)\nprint(f(5))  # half_f(6)"
    assert [str(c) for c in proposed_calls(text, {"f"})] == ["f([1, 2], ')')", "f(4)", "f(5)"]


def test_a_suite_without_functions_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generated_cases 3: starter-sql has no problems judged by calls"):
        open_suite(SuiteSection(name="starter-sql", generated_cases=3))


def test_a_run_makes_them_once_and_says_so(tmp_path: Path) -> None:
    suite = section(tmp_path, 4)
    assert open_suite(suite).version.endswith("+4cases")
    config = RunConfig(name="cases", suite=suite)
    with open_run(tmp_path, config) as run:
        asked = run.make(stages.problems(run))
        assert asked.facts["with_generated_cases"] >= 4
        assert run.store.find(stages.problems(run).recipe) == asked
        right = run.make(stages.references(run, asked)).frame("expected")
    assert right.filter(pl.col("status") != "correct")["problem_id"].to_list() == ["random"]
    with open_run(tmp_path, RunConfig(name="none", suite=section(tmp_path))) as run:
        assert run.make(stages.problems(run)).key != asked.key


def test_a_model_is_asked_for_them_and_is_part_of_what_was_asked(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    suite = section(tmp_path, 4)
    heard: dict[str, tuple[int, int]] = {}
    proposed = suite.model_copy(update={"proposals": f"path:{model}"})
    with open_run(tmp_path, RunConfig(name="mutated", suite=suite)) as run:
        mutated = stages.problems(run).recipe.key
    with open_run(tmp_path, RunConfig(name="proposed", suite=proposed, engine=EngineSection(cache_gib=0.5))) as run:
        run.on_progress = lambda stage, done, total, *_: heard.update({stage: (done, total)})
        step = stages.problems(run)
        assert step.recipe.key != mutated
        assert run.make(step).facts["with_generated_cases"] >= 4, "a model with no ideas leaves room for mutation"
    asked = len(REFERENCES) + 1
    assert heard["propose cases"] == (PROPOSING.samples_per_problem * asked, PROPOSING.samples_per_problem * asked)


def test_proposals_without_generated_cases_are_refused() -> None:
    with pytest.raises(ValueError, match=r"generated_cases is 0; set it to 20"):
        SuiteSection(name="mbpp", proposals="run:demo")
