"""A run as the loop leaves it, in a second and without a model: real suite, store, judging, scores, pairs and summary.

Only what a model and a trainer would do is played: answers are references, damaged more or less often, and the weights
are those of a given directory. Programs run in this process, in SQLite: they are ours.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from codelutra.config import RunConfig, to_yaml
from codelutra.execution.outcomes import execute
from codelutra.execution.references import judge_references
from codelutra.pipeline import stages
from codelutra.pipeline.recorder import Recorder
from codelutra.pipeline.run import Policy, Run
from codelutra.schema import SAMPLES
from codelutra.store.artifacts import Artifact, Recipe, Step, write_frame
from sandbox.protocol import Result, SqlJob

_JUDGED: dict[tuple[str, int], tuple[pl.DataFrame, Any]] = {}
SKILLS = (0.05, 0.4, 0.5, 0.65)  # chance of an undamaged answer: base, policies 0, 1, 2


@dataclass(frozen=True)
class Sqlite:
    """Runs SQL jobs where nothing needs to be kept out."""

    databases: Mapping[str, Path]

    def map(self, jobs: Iterable[SqlJob]) -> Iterator[Result]:
        for job in jobs:
            with closing(sqlite3.connect(f"file:{self.databases[job.database]}?mode=ro", uri=True)) as connection:
                try:
                    cursor = connection.execute(job.query)
                    columns = [c[0] for c in cursor.description]
                    value = {"columns": columns, "rows": [list(r) for r in cursor], "truncated": False}
                    yield Result(job.id, "ok", value, seconds=0.001)
                except sqlite3.Error as e:
                    kind = "syntax_error" if "syntax error" in str(e) else "runtime_error"
                    yield Result(job.id, kind, error=str(e))


def example_config(**changes: Any) -> RunConfig:
    """`changes` replace whole sections or values."""
    return RunConfig.model_validate(
        {
            "name": "example",
            "model": "hf:example/tiny@main",
            "suite": {"name": "starter-sql", "train": 60, "dev": 40, "test": 20},
            "warm_start": {},
            "sample": {"samples_per_problem": 4},
            "select": {"patience": 9},
        }
        | changes
    )


def example_run(
    home: Path,
    *,
    skills: Sequence[float] = SKILLS,
    weights: Path | None = None,
    name: str = "example",
    finished: bool = True,
    ended: Sequence[float] | None = None,
    drift_alarm_step: int | None = None,
    arm: RunConfig | None = None,
    **changes: Any,
) -> Path:
    """Write runs/NAME with a row for each of `skills`; returns its path. `weights`: a model directory all policies share;
    `ended`: the share of each policy's answers that end by themselves; `drift_alarm_step`: what the trainer says; `arm`: the
    config that the run says it has and takes its name from, whatever was played."""
    name = arm.name if arm else name
    config = example_config(name=name, iterations=max(0, len(skills) - 2), **changes)
    with Run(home, config) as run:
        played = Played(run, weights, drift_alarm_step)
        record = Recorder(run)
        record.prepared(played.problems, played.expected)
        for i, skill in enumerate(skills):
            last, played.ended = i == len(skills) - 1, ended[i] if ended else 1.0
            iteration = i - (1 if config.warm_start else 0)
            label = f"policy-{iteration}" if iteration >= 0 else "base"
            made = played.train(label) if i else None
            policy = Policy.of(label, made) if made else Policy(label, str(weights or "/nowhere"), "base")
            drawn, judged = played.answers("dev", skill, 1)
            scores = run.make(stages.score(run, [judged], played.problems, played.expected, "dev"))
            record.measured(policy, scores, [drawn], [judged], made)
            if iteration >= 0:
                record.decide()
            if iteration >= 0 and not last:
                drawn, judged = played.answers("train", skill, config.sample.samples_per_problem, label)
                scores = run.make(stages.score(run, [judged], played.problems, played.expected, "train"))
                record.sampled(policy, scores, [drawn], [judged])
                lesson = {"grpo": stages.groups, "rft": stages.answers}.get(config.train.objective, stages.pairs)
                record.learned_from(policy, run.make(lesson(run, [judged], played.problems, played.expected)))
        if finished:
            judged = [played.answers("test", skills[-1], k)[1] for k in (1, config.select.samples) if k]
            scores = run.make(stages.score(run, judged, played.problems, played.expected, "test"))
            again = judged[1:]
            votes = run.make(stages.vote(run, again, played.problems, played.expected, "test")) if again else None
            record.tested(scores, votes)
            record.finish()
        if arm:
            (run.dir.path / "run.yaml").write_text(to_yaml(arm))
        return run.dir.path


class Played:
    """What a model and a trainer leave in the store of `run`; `ended`: the share of answers that end by themselves."""

    def __init__(self, run: Run, weights: Path | None = None, drift_alarm_step: int | None = None) -> None:
        self.run, self.weights, self.drift_alarm_step, self.ended = run, weights, drift_alarm_step, 1.0
        self.random = random.Random(7)
        self.pool = Sqlite(run.suite.databases())
        self.problems = run.make(stages.problems(run))
        problems = self.problems.frame("problems")
        expected, facts = self._once(problems, lambda: judge_references(problems, run.suite, self.pool, timeout_seconds=5))
        self.expected = self._put("references", "expected", expected, facts)

    def answers(self, split: str, skill: float, k: int, label: str = "") -> tuple[Artifact, Artifact]:
        asked = self.problems.frame("problems").filter(pl.col("split") == split)
        rows = [
            {
                "problem_id": p,
                "sample": i,
                "greedy": k == 1,
                "completion": code,
                "code": code,
                "finish_reason": "stop",
                "prompt_tokens": 150,
                "completion_tokens": len(code) // 4,
            }
            for p, reference in asked.select("problem_id", "reference").rows()
            for i in range(k)
            for code in [self._code(p, reference, skill)]
        ]
        cut = pl.int_range(pl.len()) >= self.ended * pl.len()
        reason = pl.when(cut).then(pl.lit("length")).otherwise("finish_reason")
        samples = pl.DataFrame(rows, schema=SAMPLES).with_columns(finish_reason=reason)
        facts = {"rows": samples.height, "tokens": int(samples["completion_tokens"].sum()), "seconds": 12.5}
        drawn = self._put("sample", "samples", samples, facts)
        problems, expected = self.problems.frame("problems"), self.expected.frame("expected")
        outcomes, facts = self._once(
            samples, lambda: execute(samples, problems, expected, self.run.suite, self.pool, timeout_seconds=5)
        )
        return drawn, self._put("execute", "outcomes", outcomes, facts, f"{label}/{split}-000")

    def _once(self, judged: pl.DataFrame, judge: Callable[[], tuple[pl.DataFrame, Any]]) -> tuple[pl.DataFrame, Any]:
        """What judging gives. In this process it is judged once where nothing but the suite's settings says what is asked:
        many tests begin with the same run."""
        suite = self.run.config.suite
        key = suite.model_dump_json(), int(judged.hash_rows().sum())
        if suite.name != "starter-sql" or key not in _JUDGED:
            _JUDGED[key] = judge()
        return deepcopy(_JUDGED[key])

    def train(self, label: str) -> Artifact:
        kind = "warm-start" if label == "policy-0" else "train"
        # Drawn also where the store has them: a second start gives the same answers.
        lines = [self._step(kind, step / 30) | {"step": step} for step in range(1, 31)]

        def build(out: Path, work: Path) -> dict[str, Any]:
            if self.weights:
                shutil.copytree(self.weights, out, dirs_exist_ok=True)
            (out / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            last = {k: v for k, v in lines[-1].items() if k.startswith("chosen")}
            alarm = self.drift_alarm_step if kind == "train" else None
            return {"steps": 30, "examples": 200, "seconds": 88.0, "last": last, "drift_alarm_step": alarm}

        config = {"system": self.run.suite.system, "label": label}
        return self.run.make(Step(Recipe(kind, 0, config, {"policy": "before"}), build))

    def _step(self, kind: str, done: float) -> dict[str, float]:
        noise = self.random.gauss(0, 0.1)
        if kind == "warm-start":
            return {"loss": 0.3 + 1.5 * math.exp(-5 * done) + 0.2 * abs(noise), "sft": 0.3}
        chosen, rejected = done + noise, -5 * done + 3 * noise
        return {
            "loss": 1 - 0.3 * done + noise,
            "chosen_log_prob": -4 + chosen,
            "rejected_log_prob": -8 + rejected,
            "chosen_drift": chosen,
            "rejected_drift": rejected,
            "margin": 0.1 * (chosen - rejected),
            "accuracy": 0.5,
            "kl": 0.02 * done,
        }

    def _code(self, problem: str, reference: str, skill: float) -> str:
        """The reference, or what is left of it."""
        hardness = random.Random(problem).uniform(-0.3, 0.3)
        if self.random.random() < skill + hardness:
            return reference
        damages = [
            reference.partition(" WHERE ")[0],
            reference.replace("SELECT", "SELECT DISTINCT", 1).replace(">", "<=").replace(" DESC", ""),
            reference.replace(" FROM ", " FROM the_", 1),
            reference + " WHERE",
            reference.replace("(", "", 1),
            "",
        ]
        return self.random.choice(damages)

    def _put(self, stage: str, name: str, frame: pl.DataFrame, facts: dict[str, Any], label: str = "") -> Artifact:
        def build(out: Path, work: Path) -> dict[str, Any]:
            write_frame(frame, out / f"{name}.parquet")
            return facts

        return self.run.make(
            Step(Recipe(stage, 0, {}, {"policy": "ab" * 32, "rows": str(frame.hash_rows().sum())}), build, label)
        )
