"""Runs that need no engine and no training: a suite of few problems, and a model's answers put into the store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import measure_plan
from codelutra.schema import SAMPLES
from codelutra.store.artifacts import Step, write_frame


def without_dev(folder: Path, *splits: str, **changes: Any) -> Path:
    """A config over a custom suite with a problem for each of `splits`."""
    lines = [
        {"prompt": f"Write f of {i}.", "reference": f"def f(): return {i}", "function": "f", "cases": [[]], "split": s}
        for i, s in enumerate(splits)
    ]
    (folder / "suite.yaml").write_text("kind: python-function")
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "none").mkdir(exist_ok=True)  # the model: there, and as good as empty
    (folder / "none/config.json").write_text("{}")
    raw = {"name": "nodev", "model": f"path:{folder}/none", "suite": {"name": "custom", "path": str(folder)}} | changes
    (folder / "nodev.yaml").write_text(json.dumps(raw))
    return folder / "nodev.yaml"


def answer(run: Run, weights: Path, right: int, split: str = "test") -> None:
    """Put into the store what a model would do there: answers to the problems of a split, `right` of them the reference, and
    the weights a warm start would leave."""
    asked = run.make(stages.problems(run))
    expected = run.make(stages.references(run, asked))
    policy = stages.base_policy(run)
    if run.config.warm_start and "train" in asked.facts["splits"]:

        def train(out: Path, work: Path) -> dict[str, Any]:
            shutil.copytree(weights, out, dirs_exist_ok=True)
            return {"steps": 1}

        recipe = stages.warm_start(run, policy, asked, expected).recipe
        policy = Policy.of("policy-0", run.make(Step(recipe, train)))
    problems = asked.frame("problems").filter(pl.col("split") == split)
    with measure_plan(run, policy, asked, expected, split) as sampling:
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
        for i, (p, reference) in enumerate(problems.select("problem_id", "reference").rows())
        for code in [reference if i < right else "def f(): pass"]
    ]

    def draw(out: Path, work: Path) -> dict[str, Any]:
        write_frame(pl.DataFrame(rows, schema=SAMPLES), out / "samples.parquet")
        return {"rows": len(rows), "seconds": 1.0, "tokens": 5 * len(rows)}

    run.make(Step(step.recipe, draw))
