"""Two methods over several suites: what is pooled, what it is held against, and what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from codelutra.errors import UserError
from codelutra.experiments.method_table import comparison
from codelutra.experiments.plan import conclude
from codelutra.experiments.pooled import pooled
from codelutra.scoring.statistics import exact_mcnemar, pooled_gain
from tests.helpers.example_run import example_run

METHODS = ("control", "codelutra")


def solved(gained: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One seed each, on n problems."""
    first, second = np.zeros((n, 1)), np.zeros((n, 1))
    second[:gained], first[gained : gained + lost] = 1, 1
    return first, second


def test_one_suite_and_one_seed_are_mcnemars_test() -> None:
    found = pooled_gain([solved(24, 8, 100)])
    assert (found.value, found.n) == (pytest.approx(0.16), 100)
    assert found.p == pytest.approx(exact_mcnemar(24, 8, 100).p, rel=0.3)


def test_every_problem_counts_the_same_or_every_suite() -> None:
    large, small = solved(10, 0, 900), solved(0, 20, 100)
    assert pooled_gain([large, small]).value == pytest.approx(-10 / 1000)
    assert pooled_gain([large, small], alike=True).value == pytest.approx((10 / 900 - 20 / 100) / 2)


def test_pooled_problems_of_one_kind_are_as_one_large_suite() -> None:
    """The same problems, cut into three suites of one size: both ways of pooling agree with the uncut one."""
    rng = np.random.default_rng(3)
    first, second = (rng.random((300, 2)) < share for share in (0.4, 0.5))
    whole = pooled_gain([(first, second)])
    parts = [(first[i : i + 100], second[i : i + 100]) for i in (0, 100, 200)]
    for alike in (False, True):
        found = pooled_gain(parts, alike=alike)
        assert (found.value, found.p) == (pytest.approx(whole.value), pytest.approx(whole.p, abs=0.01))


def test_the_interval_narrows_with_more_suites_that_agree() -> None:
    """Suites are drawn apart from each other: four of them have half the spread of one."""
    one, four = pooled_gain([solved(30, 20, 200)]), pooled_gain([solved(30, 20, 200)] * 4)
    assert (four.high - four.low) / (one.high - one.low) == pytest.approx(0.5, rel=0.06)
    assert four.p < one.p


def test_seeds_are_averaged_before_problems_are_counted() -> None:
    once = pooled_gain([solved(12, 4, 60)])
    thrice = pooled_gain([tuple(np.repeat(side, 3, axis=1) for side in solved(12, 4, 60))])  # type: ignore[list-item]
    assert (thrice.value, thrice.p, thrice.n) == (once.value, once.p, once.n)


def _compared(home: Path, name: str, suite: str) -> None:
    """A comparison of control and codelutra with one seed; in its record the suite is called `suite`."""
    config = home / f"{name}.yaml"
    config.write_text(f"name: {name}\nsuite: {{name: starter-sql}}\n")
    experiment = comparison(str(config), (), METHODS, [0])
    for arm, skill in zip(experiment.arms, (0.3, 0.9), strict=True):
        example_run(home, arm=arm.config, skills=(0.05, 0.4, skill))
    conclude(experiment, home)
    file = home / "comparisons" / name / "comparison.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"suite": suite}))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for name, suite in (("one", "starter-sql"), ("two", "other"), ("again", "starter-sql")):
        _compared(home, name, suite)
    return home


def test_comparisons_are_pooled_from_their_runs(home: Path) -> None:
    table, data = pooled(home, ["one", "two"], METHODS)
    each = [c["value"] for c in data["comparisons"]]
    assert each[0] == each[1] > 0
    assert data["every_problem_alike"]["n"] == 2 * data["comparisons"][0]["n"]
    assert data["every_problem_alike"]["value"] == pytest.approx(each[0])
    assert data["every_problem_alike"]["p"] <= data["comparisons"][0]["p"]
    assert [r["comparison"] for r in table.records()] == ["one", "two", "every problem alike", "every suite alike"]
    turned = pooled(home, ["one", "two"], METHODS[::-1])[1]
    assert turned["every_problem_alike"]["value"] == pytest.approx(-each[0])


@pytest.mark.parametrize(
    ("names", "methods", "told"),
    [
        (["one", "tow"], METHODS, "did you mean two"),
        (["one", "../comparisons/two"], METHODS, "no comparison '../comparisons/two'"),
        (["one", ""], METHODS, "no comparison ''"),
        (["one"], METHODS, "name two comparisons or more"),
        (["one", "one"], METHODS, "name two comparisons or more"),
        (["one", "again"], METHODS, "test problems of starter-sql in common"),
        (["one", "two"], ("control", "codelutr"), "did you mean codelutra"),
        (["one", "two"], ("control",), "two different methods"),
        (["one", "two"], ("control", "control"), "two different methods"),
    ],
)
def test_what_cannot_be_pooled_is_told(home: Path, names: list[str], methods: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        pooled(home, names, methods)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"methods": 3, "suite": "x"}', '{"methods": [{"runs": [1]}], "suite": ""}']
)
def test_a_damaged_comparison_is_told_with_the_way_out(home: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "comparisons" / "odd").mkdir(parents=True)
    (tmp_path / "comparisons" / "odd" / "comparison.json").write_text(text)
    with pytest.raises(UserError, match=r"is damaged .*--table"):
        pooled(tmp_path, ["odd", "odd2"], METHODS)


def test_a_method_that_is_no_more_is_pooled_by_its_greedy_answers(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home", symlinks=True)
    for name in ("one", "two"):
        file = tmp_path / "home" / "comparisons" / name / "comparison.json"
        file.write_text(file.read_text().replace('"method": "control"', '"method": "plain"'))
    table, data = pooled(tmp_path / "home", ["one", "two"], ("plain", "codelutra"))
    assert data["every_problem_alike"] == pooled(home, ["one", "two"], METHODS)[1]["every_problem_alike"]
    assert "plain" in table.columns


def test_runs_that_are_gone_are_named(tmp_path: Path) -> None:
    made = {"suite": "x", "methods": [{"method": m, "runs": [{"seed": 0, "run": f"gone-{m}"}]} for m in METHODS]}
    for name in ("one", "two"):
        (tmp_path / "comparisons" / name).mkdir(parents=True)
        (tmp_path / "comparisons" / name / "comparison.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match="no run 'gone-control'"):
        pooled(tmp_path, ["one", "two"], METHODS)
