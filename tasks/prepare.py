"""What a run starts from: its problems, their reference check, its base model."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.store.artifacts import Artifact
from tasks.options import HOUR, cached_as, make


@task(name="problems", **cached_as(stages.problems))
def problems(run: Run) -> Artifact:
    return make(stages.problems, run)


@task(name="reference check", **cached_as(stages.references), timeout_seconds=24 * HOUR)
def references(run: Run, problems: Artifact) -> Artifact:
    return make(stages.references, run, problems)


@task(
    name="base model",
    retries=2,
    retry_delay_seconds=5,
    persist_result=False,
    cache_policy=NO_CACHE,
    timeout_seconds=6 * HOUR,
)
def base_model(run: Run) -> Policy:
    return stages.base_policy(run)
