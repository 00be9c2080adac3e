"""Every stage as a Prefect task: its name in the UI, how long it may take, whether it is tried again.

`sample` and `execute` have no timeout: they run in threads, where Prefect cannot end them and warns at every task.
"""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from codelutra.pipeline import copies as copying
from codelutra.pipeline import likelihoods as likely
from codelutra.pipeline import stages
from codelutra.pipeline.run import Policy, Run
from codelutra.pipeline.sampler import Sampling
from codelutra.store.artifacts import Artifact
from tasks.options import HOUR, cache_key, cached_as, is_transient


@task(name="problems", **cached_as(stages.problems))
def problems(run: Run) -> Artifact:
    return run.make(stages.problems(run))


@task(name="reference check", **cached_as(stages.references), timeout_seconds=24 * HOUR)
def references(run: Run, problems: Artifact) -> Artifact:
    return run.make(stages.references(run, problems))


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


def _shard_key(context: Any, parameters: dict[str, Any]) -> str:
    sampling, i = parameters["sampling"], parameters["i"]
    return cache_key(sampling.run.store, sampling.steps[i])


@task(
    task_run_name="sample {label}", cache_key_fn=_shard_key, persist_result=True, retries=1, retry_condition_fn=is_transient
)
def sample(sampling: Sampling, i: int, label: str) -> Artifact:
    """One shard. The engine behind all shards of a policy belongs to `Sampling`, not to a task."""
    return sampling.shard(i)


@task(task_run_name="execute {label}", **cached_as(stages.execute))
def execute(run: Run, samples: Artifact, problems: Artifact, expected: Artifact, label: str) -> Artifact:
    return run.make(stages.execute(run, samples, problems, expected, label))


@task(name="copies", **cached_as(copying.copies))
def copies(run: Run, problems: Artifact, split: str = "train") -> Artifact:
    return run.make(copying.copies(run, problems, split))


@task(name="references on copies", **cached_as(copying.references_on_copies), timeout_seconds=24 * HOUR)
def references_on_copies(
    run: Run, copies: Artifact, problems: Artifact, expected: Artifact, split: str = "train"
) -> Artifact:
    return run.make(copying.references_on_copies(run, copies, problems, expected, split))


@task(task_run_name="confirm {label}", **cached_as(copying.confirmed))
def confirmed(
    run: Run, outcomes: Artifact, copies: Artifact, problems: Artifact, there: Artifact, label: str, split: str = "train"
) -> Artifact:
    return run.make(copying.confirmed(run, outcomes, copies, problems, there, label, split))


@task(task_run_name="score {split}", **cached_as(stages.score))
def score(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact, split: str) -> Artifact:
    return run.make(stages.score(run, outcomes, problems, expected, split))


@task(task_run_name="vote {split}", **cached_as(stages.vote))
def vote(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact, split: str) -> Artifact:
    return run.make(stages.vote(run, outcomes, problems, expected, split))


@task(task_run_name="rank {split}", **cached_as(likely.ranked), timeout_seconds=24 * HOUR)
def ranked(
    run: Run, policy: Policy, outcomes: list[Artifact], problems: Artifact, expected: Artifact, split: str
) -> Artifact:
    return run.make(likely.ranked(run, policy, outcomes, problems, expected, split))


@task(name="held-out pairs", **cached_as(likely.held_out_pairs))
def held_out_pairs(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return run.make(likely.held_out_pairs(run, outcomes, problems, expected))


@task(name="likelihoods", **cached_as(likely.likelihoods), timeout_seconds=24 * HOUR)
def likelihoods(run: Run, policy: Policy, pairs: Artifact) -> Artifact:
    return run.make(likely.likelihoods(run, policy, pairs))


@task(name="pairs", **cached_as(stages.pairs))
def pairs(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return run.make(stages.pairs(run, outcomes, problems, expected))


@task(name="right answers", **cached_as(stages.answers))
def answers(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return run.make(stages.answers(run, outcomes, problems, expected))


@task(name="groups", **cached_as(stages.groups))
def groups(run: Run, outcomes: list[Artifact], problems: Artifact, expected: Artifact) -> Artifact:
    return run.make(stages.groups(run, outcomes, problems, expected))


@task(name="warm start", **cached_as(stages.warm_start), timeout_seconds=24 * HOUR)
def warm_start(run: Run, policy: Policy, problems: Artifact, expected: Artifact, fold: int = 0) -> Artifact:
    return run.make(stages.warm_start(run, policy, problems, expected, fold))


@task(task_run_name="train {label}", **cached_as(stages.train), timeout_seconds=48 * HOUR)
def train(
    run: Run,
    policy: Policy,
    lesson: Artifact,
    problems: Artifact,
    expected: Artifact,
    label: str,
    imitated: Artifact | None = None,
) -> Artifact:
    return run.make(stages.train(run, policy, lesson, problems, expected, label, imitated))
