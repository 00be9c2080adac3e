"""Models held against each other on one suite: real flow and sandbox, from answers that are in the store already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codelutra.errors import ConfigError
from codelutra.experiments.evaluate import evaluation
from codelutra.experiments.plan import Arm, conclude
from codelutra.pipeline.run import Run
from tests.helpers.commands import codelutra
from tests.helpers.runs import answer, without_dev
from tests.helpers.tiny_model import write_tiny_model


def arm(config: str, overrides: tuple[str, ...], model: str, home: Path) -> Arm:
    (found,) = evaluation(config, overrides, [model], home).arms
    return found


def test_a_model_is_measured_as_it_is_under_a_name_of_its_own() -> None:
    parsed = arm("demo", ("suite.test=9",), "path:/models/a b", Path("/nowhere")).config
    assert (parsed.iterations, parsed.warm_start, parsed.suite.test) == (0, None, 9)
    assert (parsed.model, parsed.name) == ("path:/models/a b", f"demo-evaluate-path-models-a-b-{parsed.name[-6:]}")
    alike = ["path:a/b", "path:a-b", *(f"path:/{'long/' * 20}{i}" for i in range(3))]
    assert len({arm("demo", (), model, Path("/nowhere")).config.name for model in alike}) == len(alike)
    with pytest.raises(ConfigError):
        arm("demo", ("train.beta=-1",), "path:/x", Path("/nowhere"))


def test_models_are_held_against_the_first_problem_by_problem(prefect: dict[str, str], tmp_path: Path) -> None:
    config = without_dev(tmp_path, *["test"] * 8)
    models = []
    for seed, right in enumerate((1, 7)):
        weights = write_tiny_model(tmp_path / f"model-{seed}", seed=seed)
        models.append(f"path:{weights}")
        with Run(tmp_path, arm(str(config), (), models[-1], tmp_path).config) as run:
            answer(run, weights, right=right)
    done = codelutra(
        "evaluate", str(config), "--home", str(tmp_path), *(f"--model={m}" for m in models), "--json", **prefect
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    first, second = rows
    assert (first["test"]["value"], second["test"]["value"]) == (1 / 8, 7 / 8)
    assert first["against_first"] == {}
    against = second["against_first"]["test"]
    assert (against["gained"], against["lost"]) == (6, 0)
    assert against["p"] == pytest.approx(2 * 0.5**6)
    table = conclude(evaluation(str(config), (), models, tmp_path), tmp_path).table
    assert [r["against the first (test)"] for r in table.records()] == ["", "+6 −0, p = 0.031"]


def test_a_run_that_has_no_policy_to_give_is_refused_before_any_run_is_begun(tmp_path: Path) -> None:
    weights = write_tiny_model(tmp_path / "model")
    for models in (["run:nope"], [f"path:{weights}", "run:nope"]):
        done = codelutra("evaluate", "demo", "--home", str(tmp_path), *(f"--model={m}" for m in models))
        assert done.returncode == 2, done.stderr
        assert "model run:nope: no run 'nope'" in done.stderr
        assert "there: none" in done.stderr
        assert not (tmp_path / "runs").exists()
