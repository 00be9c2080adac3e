"""Training: the warm start, and one iteration's step from policy t-1 to policy t. Both run in a process of their own."""

from __future__ import annotations

from prefect import task

from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.store.artifacts import Artifact
from tasks.options import HOUR, cached_as, make


@task(name="warm start", **cached_as(stages.warm_start), timeout_seconds=24 * HOUR)
def warm_start(run: Run, policy: Policy, problems: Artifact, expected: Artifact) -> Artifact:
    return make(stages.warm_start, run, policy, problems, expected)


@task(task_run_name="train {label}", **cached_as(stages.train), timeout_seconds=48 * HOUR)
def train(run: Run, policy: Policy, lesson: Artifact, problems: Artifact, expected: Artifact, label: str) -> Artifact:
    return make(stages.train, run, policy, lesson, problems, expected, label)
