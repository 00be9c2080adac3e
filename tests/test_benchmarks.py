"""The benchmarks import, and the arithmetic of those that only read what a run left is right."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import benchmarks.loop
from benchmarks import reliability
from benchmarks.loop import REST, account
from benchmarks.nights import MOST, START, Rule, year
from benchmarks.planning import compared
from benchmarks.scale import iteration
from codelutra.config import parse_config
from codelutra.errors import UserError
from codelutra.store.run_dir import RunDir
from tests.helpers.example_run import example_run

SCRIPTS = sorted(p.stem for p in Path(benchmarks.loop.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_says_what_it_claims_and_how_to_run_it(name: str) -> None:
    script = importlib.import_module(f"benchmarks.{name}")
    assert callable(script.main)
    assert any(f"python {how}" in (script.__doc__ or "") for how in (f"-m benchmarks.{name}", f"benchmarks/{name}.py"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, parse_config({"name": "r", "suite": {"name": "starter-sql"}}))


def made(run: RunDir, stage: str, start: float, end: float, key: str = "k", **facts: Any) -> None:
    same = {"stage": stage, "key": key, "label": facts.pop("label", ""), "pid": 1}
    run.ledger({"event": "start", "at": start, **same})
    run.ledger({"event": "made", "at": end, "seconds": end - start, "facts": facts, **same})


def test_every_second_of_a_run_belongs_to_one_part(run: RunDir) -> None:
    made(run, "references", 0, 4)
    run.ledger({"event": "note", "at": 5, "pid": 1, "text": "dequantising"})  # and from 10 on the engine starts
    made(run, "sample", 30, 30, "a", seconds=20)
    made(run, "execute", 30, 38, "a")
    made(run, "sample", 40, 40, "b", seconds=10)
    made(run, "execute", 40, 42, "b")
    made(run, "score", 42, 43)
    made(run, "train", 50, 90, label="policy 1")
    made(run, "sample", 100, 100, "c", seconds=8)
    run.ledger({"event": "reused", "at": 5000, "pid": 2, "stage": "problems", "key": "p"})
    got = account(run)
    assert (got["suite"], got["model"]) == (None, None), "it was killed before it wrote a record"
    whole = got["whole"]
    assert whole["wall_seconds"] == 100
    assert {part: s for part, s in whole["seconds"].items() if s} == {
        "reference check": 4,
        "model": 5,
        "sampling": 38,
        "execution in the open": 2,
        "scoring": 1,
        "training": 40,
        REST: 10,
    }
    assert sum(whole["share"].values()) == pytest.approx(1)
    assert (whole["execution_seconds"], whole["execution_hidden"]) == (10, 0.8)
    assert got["claims"] == {REST: False, "execution in the open": True}
    assert list(got["windows"]) == ["policy 1", "last measurement and test"]
    assert got["windows"]["last measurement and test"]["seconds"][REST] == 2


def test_the_suite_and_the_model_are_those_of_the_runs_record(tmp_path: Path) -> None:
    path = example_run(tmp_path)
    got = account(RunDir(path))
    assert (got["suite"], got["model"]) == ("starter-sql", "hf:example/tiny@main")
    assert got["artifacts"]["made"] > 0


def test_a_plan_is_compared_with_what_its_run_took_by_stage_and_for_the_iterations_it_did(run: RunDir) -> None:
    made(run, "references", 0, 4)
    made(run, "sample", 20, 20, "a", seconds=16, label="base/dev-000")
    made(run, "warm-start", 20, 50, "w", peak_memory_gib=4.0)
    made(run, "sample", 60, 60, "b", seconds=8, label="policy-0/dev-000")
    made(run, "sample", 80, 80, "c", seconds=20, label="policy-0/train-000")
    made(run, "train", 80, 120, "t", label="policy 1", peak_memory_gib=5.0)
    made(run, "sample", 130, 130, "d", seconds=9, label="policy-1/dev-000")
    made(run, "sample", 140, 140, "e", seconds=7, label="policy-1/test-000")
    seconds = {"references": 2, "base, on dev": 16, "warm start": 33, "sampling, 4 times": 100, "training, 4 times": 200}
    stages = [
        {"name": name, "seconds": s, "times": 4 if "4" in name else 1, "tokens": 1, "basis": "guess"}
        for name, s in (seconds | {"last policy, on dev": 9, "test": 5}).items()
    ]
    needs = [{"what": "training", "parts": {"weights": 4 * 2**30, "the run's process": 2**30}}]
    found = compared({"stages": stages, "model": "m", "needs": needs}, run)
    assert found["iterations"] == 1
    both = {name: (row["planned"], row["taken"]) for name, row in found["stages"].items()}
    assert both["sampling"] == (25, 28)
    assert both["training"] == (50, 40)
    assert both["last policy, on dev"] == (9, 9)
    assert both["test"] == (5, 7)
    assert (found["whole"]["planned"], found["whole"]["taken"]) == (140, 134)
    assert found["within_25_percent"]
    assert found["peak_gib"] == {"training": {"formula": 4.0, "measured": 5.0}}


def test_a_run_without_work_is_refused(run: RunDir) -> None:
    with pytest.raises(UserError, match="no ledger of work done"):
        account(run)


def test_tests_are_counted_by_the_kind_of_trouble_they_make(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        """<testsuites><testsuite>
        <testcase classname="tests.sandbox.test_wire" name="a"/>
        <testcase classname="tests.sandbox.test_wire" name="b"><failure/></testcase>
        <testcase classname="tests.sandbox.test_canonical" name="c"><skipped/></testcase>
        <testcase classname="tests.cli.test_other" name="d"/>
        </testsuite></testsuites>"""
    )
    rows = {row["tests"]: row for row in reliability.counted(reliability.tests_of(report))}
    row = rows["tests/sandbox/test_canonical.py tests/sandbox/test_wire.py"]
    assert (row["ran"], row["held"], row["skipped"]) == (2, 1, 1)
    assert sum(row["ran"] for row in rows.values()) == 2


def test_every_kind_of_trouble_has_tests() -> None:
    root = Path(benchmarks.loop.__file__).parents[1]
    assert [f for files in reliability.KINDS.values() for f in files.split() if not (root / f).exists()] == []


def test_a_year_of_nights_promotes_by_its_rule() -> None:
    """Nothing is promoted that no p allows; where every candidate is much better, any gain gets to the top."""
    never = year(Rule(alpha=0.0), (1.0, 0.05), problems=50, years=3)
    assert (never["promotions"], never["true accuracy at the end"]) == (0, START)
    assert never["better ones offered"] == never["better ones refused"] > 300
    always = year(Rule(), (1.0, 0.05), problems=200, years=3)
    assert always["true accuracy at the end"] == pytest.approx(MOST)
    assert always["on the guard suite"] < START, "every promotion costs something there"
    guarded = year(Rule(keep=True, margin=5), (1.0, 0.05), problems=200, years=3)
    assert guarded["on the guard suite"] > always["on the guard suite"]


def test_an_iteration_takes_as_long_as_its_slowest_part() -> None:
    assert iteration(6, 1, engine=10, flow=1, judge=2) == 6 * 10 + 1 + 2, "one GPU: the rest is done meanwhile"
    assert iteration(6, 3, engine=10, flow=0, judge=0) == 20
    assert iteration(6, 3, engine=10, flow=5, judge=1) == 10 + 6 * 5 + 1, "the flow, from the first shard on"
    assert iteration(6, 6, engine=10, flow=1, judge=4) == 10 + 1 + 6 * 4
