"""One shard of samples. The engine behind all shards of a policy belongs to `Sampling`, not to a task."""

from __future__ import annotations

from typing import Any

from prefect import task

from codelutra.pipeline.sampler import Sampling
from codelutra.store.artifacts import Artifact
from tasks.options import HOUR, cache_key, is_transient


def _key(context: Any, parameters: dict[str, Any]) -> str:
    sampling, i = parameters["sampling"], parameters["i"]
    return cache_key(sampling.run.store, sampling.steps[i])


@task(
    task_run_name="sample {label}",
    cache_key_fn=_key,
    persist_result=True,
    retries=1,
    retry_condition_fn=is_transient,
    timeout_seconds=24 * HOUR,
)
def sample(sampling: Sampling, i: int, label: str) -> Artifact:
    return sampling.shard(i)
