"""Promotion waits for the guard suites, and the record says which problems changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.watch import watch_run
from codelutra.errors import UserError
from codelutra.experiments.changes import Flips, Guarded, flips, flips_table, lost_on
from codelutra.experiments.gate import Gate, guards, judged
from codelutra.experiments.retrain import Record, conclude, next_retraining, record_table
from codelutra.pipeline.run import Run
from codelutra.results.summary import PairedTest
from codelutra.scoring.statistics import exact_mcnemar
from tests.helpers.commands import codelutra
from tests.helpers.example_run import example_run
from tests.helpers.nights import due, grow, refined
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model


def guarded(gained: int, lost: int, n: int = 100, margin: float | None = None) -> Guarded:
    p = exact_mcnemar(gained, lost, n).p
    return Guarded(suite="old", against="run:x", paired=PairedTest(gained=gained, lost=lost, p=p, n=n), margin=margin)


@pytest.mark.parametrize(
    ("gained", "lost", "margin", "held"),
    [
        (0, 0, None, True),
        (0, 5, None, True),  # p = 0.0625
        (0, 6, None, False),  # p = 0.031
        (6, 0, None, True),  # a significant gain is none to guard against
        (10, 25, None, False),  # p = 0.017
        (0, 0, 5.0, True),
        (0, 5, 5.0, False),  # may have lost more than 5 points
        (0, 5, 15.0, True),
        (0, 6, 99.0, False),  # a significant loss is one, whatever the margin
    ],
)
def test_a_guard_holds_unless_too_much_was_lost(gained: int, lost: int, margin: float | None, held: bool) -> None:
    assert guarded(gained, lost, margin=margin).held is held


def test_few_problems_rule_no_loss_out() -> None:
    """Without a significant loss, and without the certainty that a margin asks for."""
    assert guarded(1, 1, n=10).held
    assert not guarded(1, 1, n=10, margin=5.0).held
    assert guarded(1, 1, n=1000, margin=5.0).held


def test_flips_are_those_of_a_plain_loop_and_outages_count_for_neither() -> None:
    before = {"a": "correct", "b": "wrong_result", "c": "correct", "d": "infra_error", "e": "runtime_error", "f": "correct"}
    after = {"a": "wrong_result", "b": "correct", "c": "correct", "d": "correct", "e": "wrong_result", "f": "infra_error"}
    asked = {i: f"TABLES {i}\n\nWhich {i}?" for i in ("f", "e", "b", "a", "d", "c", "other")}
    problems = pl.DataFrame({"problem_id": asked.keys(), "prompt": asked.values()})
    scores = [pl.DataFrame({"problem_id": s.keys(), "greedy_status": s.values()}) for s in (before, after)]
    found = flips(problems, *scores)
    said = {"gained": [("b", "Which b?")], "lost": [("a", "Which a?")]}
    assert {k: [(f.problem_id, f.question) for f in getattr(found, k)] for k in said} == said
    assert [r[""] for r in flips_table(found).records()] == ["lost", "gained"]
    assert flips_table(Flips()).records() == []


def night(home: Path, *, guard_before: float, guard_after: float, gate: dict[str, Any]) -> Record:
    """Two retrainings, the second much better on dev; what its guard suite says is given."""
    other = grow(folder(home, "guard"), range(200, 320), name="guard")
    config = grow(folder(home, "shop"), range(100))
    first = due(home, config)
    conclude(home, first, refined(home, first, 0.0, 0.3, 0.4))
    grow(folder(home, "shop"), range(110))
    second = due(home, config)
    summary = refined(home, second, 0.4, 0.9)
    asked = Gate(keep=(str(other),), **gate).checked()
    measured = guards(home, second, summary, asked)
    for experiment in measured:
        for arm in experiment.arms:
            skill = guard_after if arm.label == "run:shop-r002" else guard_before
            changes = arm.config.model_dump(mode="json", exclude={"name", "iterations", "warm_start"})
            example_run(home, name=arm.config.name, skills=(skill,), warm_start=None, **changes)
    conclude(home, second, summary, alpha=asked.alpha, guards=judged(home, measured, asked.margin))
    return Record(home, "shop")


def folder(home: Path, name: str) -> Path:
    (home / name).mkdir(exist_ok=True)
    return home / name


def test_a_better_policy_is_kept_where_it_lost_on_a_guard_suite(tmp_path: Path) -> None:
    record = night(tmp_path, guard_before=0.9, guard_after=0.2, gate={})
    row = record.rows[-1]
    assert row.verdict == "kept"
    assert [(g.suite, g.against, g.held) for g in row.guards] == [
        ("guard", "hf:example/tiny@main", False),
        ("guard", "run:shop-r001", False),
    ]
    assert lost_on(row.guards) == "guard"
    assert record_table(record).records()[-1]["verdict"].endswith("lost on guard")
    assert (tmp_path / "promoted/shop/model").resolve() == Path(record.rows[0].path)
    assert row.paired
    assert (len(row.flips.gained), len(row.flips.lost)) == (row.paired.gained, row.paired.lost)
    assert row.flips.gained[0].question.startswith("Over ")


def test_a_better_policy_that_keeps_the_guard_suite_is_promoted(tmp_path: Path) -> None:
    assert night(tmp_path, guard_before=0.5, guard_after=0.5, gate={}).rows[-1].verdict == "promoted"


def test_a_margin_asks_for_certainty(tmp_path: Path) -> None:
    """No significant loss among so few problems, and none of one point is ruled out."""
    assert night(tmp_path, guard_before=0.5, guard_after=0.5, gate={"margin": 1.0}).rows[-1].verdict == "kept"


def test_nothing_is_measured_for_a_policy_that_is_not_better(tmp_path: Path) -> None:
    config, other = grow(folder(tmp_path, "shop"), range(100)), grow(folder(tmp_path, "guard"), range(60), name="guard")
    first = due(tmp_path, config)
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    grow(folder(tmp_path, "shop"), range(110))
    second = due(tmp_path, config)
    assert guards(tmp_path, second, refined(tmp_path, second, 0.9, 0.1), Gate(keep=(str(other),))) == []


def test_a_record_without_flips_and_guards_is_read_and_goes_on(tmp_path: Path) -> None:
    """One of an earlier version."""
    config = grow(tmp_path, range(100))
    first = due(tmp_path, config)
    conclude(tmp_path, first, refined(tmp_path, first, 0.0, 0.3, 0.9))
    file = tmp_path / "promoted/shop/record.json"
    rows = [{k: v for k, v in row.items() if k not in ("flips", "guards")} for row in json.loads(file.read_text())]
    file.write_text(json.dumps(rows))
    assert Record(tmp_path, "shop").rows[0].flips == Flips()
    assert next_retraining(tmp_path, str(config)) is None


def test_a_gate_that_could_not_be_judged_is_refused_before_the_night(tmp_path: Path) -> None:
    config = grow(folder(tmp_path, "shop"), range(100))
    one, two = (grow(folder(tmp_path, name), range(60), name="same") for name in ("one", "two"))
    with pytest.raises(UserError, match=r"margin of 2 points needs a guard suite"):
        Gate(margin=2.0).checked()
    with pytest.raises(UserError, match=r"two guard suites are called 'same'"):
        Gate(keep=(str(one), str(two))).checked()
    lines = (tmp_path / "one/problems.jsonl").read_text().splitlines()
    only_test = [json.dumps(json.loads(line) | {"split": "test"}) for line in lines]
    (tmp_path / "one/problems.jsonl").write_text("\n".join(only_test))
    with pytest.raises(UserError, match=r"has no dev problem to measure on"):
        Gate(keep=(str(one),)).checked()
    done = codelutra("retrain", str(config), "--home", str(tmp_path), "--keep", "none.yaml")
    assert (done.returncode, "no config 'none.yaml'" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "promoted").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.extended
def test_the_command_measures_the_guard_suite_and_says_what_was_lost(tmp_path: Path) -> None:
    """The real flow and sandbox, from answers that are in the store already; no engine, no training."""
    base, tuned = (write_tiny_model(tmp_path / f"tiny-{seed}", seed=seed) for seed in (0, 1))
    config = without_dev(folder(tmp_path, "shop"), "train", "test", model=f"path:{base}", iterations=0, warm_start={})
    guard = without_dev(
        folder(tmp_path, "guard"), "train", "train", *["dev"] * 8, name="guard", model=f"path:{base}", iterations=0
    )
    found = due(tmp_path, config)
    with Run(tmp_path, found.arm.config) as run:
        answer(run, tuned, right=1)
    summary = watch_run(found.arm.source, found.arm.overrides, tmp_path)
    (experiment,) = guards(tmp_path, found, summary, Gate(keep=(str(guard),)))
    assert [arm.label for arm in experiment.arms] == [f"path:{base}", "run:nodev-r001"]
    for arm, right in zip(experiment.arms, (8, 0), strict=True):
        with Run(tmp_path, arm.config) as run:
            answer(run, base, right=right, split="dev")
    done = codelutra("retrain", str(config), "--home", str(tmp_path), "--keep", str(guard), COLUMNS="200")
    assert done.returncode == 0, done.stderr
    assert f"guard: LOST against path:{base}, −100.0 [−100.0 – −42.8] points, p = 0.0078 (0 gained, 8 lost)" in done.stdout
    assert "lost on guard" in done.stdout
    assert [r.verdict for r in Record(tmp_path, "nodev").rows] == ["kept"]
    assert not (tmp_path / "promoted/nodev/model").exists()
