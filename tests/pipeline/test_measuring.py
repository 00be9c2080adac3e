"""A suite without dev problems can be measured on test: the real flow, from answers and weights that are there already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from codelutra.cli.tables import list_runs
from codelutra.config import RunConfig, load_config
from codelutra.pipeline import stages
from codelutra.pipeline.check import check
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import measure_plan
from codelutra.reporting.export import export
from codelutra.schema import SAMPLES
from codelutra.store.artifacts import Step, write_frame
from tests.cli.test_bad_input import codelutra, without_dev
from tests.helpers.tiny_model import write_tiny_model


def answer(run: Run, weights: Path, right: int) -> None:
    """Put into the store what a model would do there: answers to the test problems, `right` of them the reference, and the
    weights a warm start would leave."""
    asked = run.make(stages.problems(run))
    expected = run.make(stages.references(run, asked))
    policy = stages.base_policy(run)
    if run.config.warm_start and "train" in asked.facts["splits"]:

        def train(out: Path, work: Path) -> dict[str, Any]:
            shutil.copytree(weights, out, dirs_exist_ok=True)
            return {"steps": 1}

        recipe = stages.warm_start(run, policy, asked, expected).recipe
        policy = Policy.of("policy-0", run.make(Step(recipe, train)))
    test = asked.frame("problems").filter(pl.col("split") == "test")
    with measure_plan(run, policy, asked, expected, "test") as sampling:
        (step,) = sampling.steps
    rows = [
        {
            "problem_id": p,
            "sample": 0,
            "greedy": True,
            "completion": code,
            "code": code,
            "finish_reason": "stop",
            "prompt_tokens": 9,
            "completion_tokens": 5,
        }
        for i, (p, reference) in enumerate(test.select("problem_id", "reference").rows())
        for code in [reference if i < right else "def f(): pass"]
    ]

    def draw(out: Path, work: Path) -> dict[str, Any]:
        write_frame(pl.DataFrame(rows, schema=SAMPLES), out / "samples.parquet")
        return {"rows": len(rows), "seconds": 1.0, "tokens": 5 * len(rows)}

    run.make(Step(step.recipe, draw))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def measurable(folder: Path, weights: Path, *splits: str, **changes: Any) -> tuple[Path, RunConfig]:
    file = without_dev(folder, *splits, iterations=0, model=f"path:{weights}", **changes)
    return file, load_config(file)


@pytest.mark.parametrize(
    ("splits", "warm", "measured"),
    [
        (["test"] * 4, None, ("policy-0", "base", "")),
        (["test"] * 4, {}, ("base", "base", " It has no train problem either: there was no warm start.")),
        (["train", "train", *["test"] * 4], {}, ("policy-0", "warm start", "")),
    ],
)
def test_without_iterations_the_start_is_measured_on_test(
    splits: list[str], warm: Any, measured: tuple[str, str, str], weights: Path, tmp_path: Path
) -> None:
    file, config = measurable(tmp_path, weights, *splits, warm_start=warm)
    with Run(tmp_path, config) as run:
        answer(run, weights, right=3)
    done = codelutra("run", str(file), "--home", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    label, title, more = measured
    summary = json.loads(done.stdout)
    assert (summary["state"], summary["best"]) == ("finished", label)
    assert summary["reason"] == "The suite has no dev problem: one policy was measured, on test." + more
    assert (summary["test"]["value"], summary["test"]["n"], summary["test"]["policy"]) == (0.75, 4, label)
    (row,) = summary["policies"]
    assert (row["title"], row["dev"]["n"], row["tokens"]) == (title, 0, 20)

    assert list_runs(tmp_path / "runs")[0]["dev_pass_at_1"] is None, "no problem is no share of problems"
    shown = codelutra("status", "nodev", "--home", str(tmp_path), COLUMNS="150").stdout
    assert f"test, touched once with {label}: 75.0%" in shown
    assert "0.0%" not in shown
    drawn = codelutra("report", "nodev", "--home", str(tmp_path))
    assert drawn.returncode == 0, drawn.stderr
    page = (tmp_path / "runs/nodev/report/index.html").read_text()
    assert f"{title} is measured on the test split alone" in page
    assert "75.0%" in page
    assert "0.0 – 100.0" not in page
    card = (export(tmp_path / "runs/nodev", tmp_path / "out") / "README.md").read_text()
    assert f"| **{title}** | no dev problems |" in card
    assert "dev pass@1 (" not in card


def test_check_says_that_there_is_no_dev_problem(weights: Path, tmp_path: Path) -> None:
    _, config = measurable(tmp_path, weights, "test", "test")
    report = check(config, tmp_path)
    assert report.notes == ["there are no dev problems: a run can measure its model on test, but not choose among policies"]
    assert report.spoilt == []
