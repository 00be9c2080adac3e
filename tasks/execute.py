"""One shard of samples through the sandbox."""

from __future__ import annotations

from prefect import task

from codelutra.pipeline import stages
from codelutra.pipeline.run import Run
from codelutra.store.artifacts import Artifact
from tasks.options import HOUR, cached_as, make


@task(task_run_name="execute {label}", **cached_as(stages.execute), timeout_seconds=24 * HOUR)  # with its wait for the pool
def execute(run: Run, samples: Artifact, problems: Artifact, expected: Artifact, label: str) -> Artifact:
    return make(stages.execute, run, samples, problems, expected, label)
